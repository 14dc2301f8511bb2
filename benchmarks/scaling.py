"""Training against replicas, batch size and image size.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --parts replicas --rounds 9

Part `replicas`: the P0 MNIST network at a global batch of 256 on 1 and 2 parts of this
CPU under `MirroredStrategy`, with a fixed variance, which takes nothing over the batch,
and with Iso-I, whose mean over the batch goes over all replicas. On one machine's CPU
two replicas share the cores that one has, so that what is seen is what they cost beside
each other, not what several devices gain.

Part `batch`: the same network without a strategy at batches of 16 to 1024. Part `size`:
`depth_to_space` for colour images of 16 to 64 pixels a side at batch 64.

Each configuration is a process of its own; those of a part take turns in rounds of some
seconds, one at work at a time. Printed are medians over rounds of the processor time
and the wall time of a step, and images a second by the latter.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

PARTS = {
    "replicas": {
        f"{variance}, {replicas} replicas": {
            "variance": variance,
            "replicas": replicas,
            "batch": 256,
        }
        for variance in ("fixed", "Iso-I")
        for replicas in (0, 1, 2)  # 0 is no strategy
    },
    "batch": {
        f"batch {batch}": {"variance": "Iso-I", "batch": batch}
        for batch in (16, 64, 256, 1024)
    },
    "size": {
        f"{side}x{side}x3": {"variance": "Iso-I", "batch": 64, "shape": (side, side, 3)}
        for side in (16, 32, 64)
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2048, help="in a round")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(*options.work, options.images)
    for part in options.parts:
        print(f"\n{part} (load {os.getloadavg()[0]:.1f})")
        print(f"{'':22}{'processor ms':>14}{'wall ms':>10}{'images/s':>10}")
        for name, times in compare(part, options).items():
            cpu, wall = (
                statistics.median(column) for column in zip(*times, strict=True)
            )
            rate = PARTS[part][name]["batch"] / wall
            print(f"{name:22}{1e3 * cpu:14.1f}{1e3 * wall:10.1f}{rate:10.0f}")


def compare(part, options):
    """Seconds of processors and of the clock a step, by configuration and round."""
    workers = {name: start(part, name, options) for name in PARTS[part]}
    rounds = {name: [] for name in workers}
    for _ in range(options.rounds):
        for name, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            rounds[name].append(answer(worker))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return rounds


def start(part, name, options):
    worker = subprocess.Popen(
        [sys.executable, __file__, "--work", part, name]
        + ["--images", str(options.images)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    answer(worker)  # it is ready, before the next one begins
    return worker


def answer(worker):
    for line in worker.stdout:
        if line.startswith("["):
            return json.loads(line)
    raise RuntimeError(f"a worker ended: {worker.wait()}")


def work(part, name, images):
    """Trains for a round at each line of input; prints the seconds of a step."""
    settings = PARTS[part][name]
    vae, batch = make(**settings), settings["batch"]
    steps = max(images // batch, 2)
    shape = (batch * steps, *vae.event_shape)
    x = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    vae.fit(x, batch_size=batch, verbose=0)
    print(json.dumps([]), flush=True)
    for _ in sys.stdin:
        processed, started = time.process_time(), time.time()
        vae.fit(x, batch_size=batch, verbose=0)
        times = time.process_time() - processed, time.time() - started
        print(json.dumps([t / steps for t in times]), flush=True)


def make(variance, batch, shape=(28, 28, 1), replicas=0):
    import contextlib

    import keras
    import tensorflow as tf

    import keras_vae_variance as kvv

    scope = contextlib.nullcontext()
    if replicas:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(cpu, parts)
        names = [f"CPU:{i}" for i in range(replicas)]
        scope = tf.distribute.MirroredStrategy(names).scope()
    recipe = {"fixed": kvv.recipes.vae, "Iso-I": kvv.recipes.iso_i}[variance]
    with scope:
        vae = recipe(shape, 16, backbone=kvv.backbones.depth_to_space, seed=0)
        vae.compile(keras.optimizers.Adam(1e-4))
    return vae


if __name__ == "__main__":
    main()
