"""Training on several devices of one machine, or on several machines.

    python examples/distributed.py
    python examples/distributed.py --devices 2
    python examples/distributed.py --workers HOST0:PORT,HOST1:PORT --index 0

The first line takes all GPUs, the second so many parts of the CPU, to try it. The third
is started on each machine with its own `--index`; the folder of `--output-dir` must be
one that all share, and machines must reach each other at these ports. On one machine
`--workers 127.0.0.1:20001,127.0.0.1:20002` in two shells shows that it works.

The model is made in the scope of the strategy, with a seed; all else is as on one
device. Batches, here of 256, are split over the replicas: objectives that are functions
of the batch, as the variance of P1's Iso-I here, are those of the whole of it, so that
the weights are those of one device up to rounding. Killed and started again, on all
machines, the run goes on where it was.

Data are scikit-learn's digits. `--smoke` shrinks it to seconds.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = pathlib.Path("distributed_output")
    parser.add_argument("--output-dir", type=pathlib.Path, default=folder)
    parser.add_argument("--devices", type=int, help="parts of the CPU")
    parser.add_argument("--workers", help="HOST:PORT of each, separated by commas")
    parser.add_argument("--index", type=int, default=0, help="of this worker")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    options = parser.parse_args()
    if options.smoke:
        options.epochs, options.devices = 1, 2
    return options


def make_strategy(options):
    """Before TensorFlow has used any device."""
    if options.workers:
        # What a cluster's scheduler usually sets.
        cluster = {"worker": options.workers.split(",")}
        task = {"type": "worker", "index": options.index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    import tensorflow as tf

    if options.workers:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if options.devices:
        parts = [tf.config.LogicalDeviceConfiguration()] * options.devices
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, parts)
        names = [f"CPU:{i}" for i in range(options.devices)]
        return tf.distribute.MirroredStrategy(names)
    return tf.distribute.MirroredStrategy()


def main():
    options = parse()
    strategy = make_strategy(options)
    import keras
    import numpy as np

    import keras_vae_variance as kvv

    print(f"{strategy.num_replicas_in_sync} replicas")
    keras.utils.set_random_seed(options.seed)
    (x_train, _), (x_test, _) = kvv.datasets.digits()
    if options.smoke:
        x_train, x_test = x_train[:300], x_test[:64]
    with strategy.scope():
        vae = kvv.recipes.iso_i(x_train.shape[1:], 8, seed=options.seed)
        vae.compile(keras.optimizers.Adam(2e-3))

    chief = strategy.extended.should_checkpoint
    started = time.time()
    history = vae.fit(
        x_train,
        batch_size=256,
        epochs=options.epochs,
        validation_data=x_test,
        callbacks=[kvv.callbacks.Resume(options.output_dir / "state")],
        verbose=2 if chief else 0,
    )
    seconds = time.time() - started

    # All workers take part in what runs on the replicas, one writes.
    numbers = vae.evaluate(x_test, batch_size=256, return_dict=True, verbose=0)
    vae.calibrate(x_train)
    numbers["log_likelihood"] = float(
        np.mean(kvv.metrics.log_likelihood(vae, x_test, num_samples=10, seed=0))
    )
    if not chief:
        return
    vae.save(options.output_dir / "vae.keras")
    for name, value in numbers.items():
        print(f"{name:15} {value:.4f}")
    record = {
        "replicas": strategy.num_replicas_in_sync,
        "seed": options.seed,
        "epochs": len(history.epoch),
        "seconds": round(seconds, 1),
        "numbers": numbers,
    }
    (options.output_dir / "distributed.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
