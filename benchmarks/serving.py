"""Latency and throughput of an exported model, by TensorFlow alone and by a server.

    python benchmarks/serving.py
    python benchmarks/serving.py --triton PYTHON

The P0 MNIST network with a variance a pixel is exported with a mixture of 32 components
behind `generate`; then processes that have nothing of this package answer. `loader`
calls what `tf.saved_model.load` gives. With `--triton`, `http` and `grpc` ask NVIDIA's
Triton server on this machine, which hands requests to the same loader, those that wait
for `encode` or `reconstruct` joined up to 256 images. PYTHON is the interpreter of an
environment with TensorFlow and a wheel of the server, which needs a libpython of the
same version as the interpreter, as Debian's has it:

    /usr/bin/python3.11 -m venv serving
    serving/bin/pip install nvidia-pytriton==0.7.0 tensorflow==2.21.0
    python benchmarks/serving.py --triton serving/bin/python

Latency is that of one client, one request after the other: median and 95th percentile.
Throughput is that of four clients at a time. The server's answers are compared with the
loader's.
"""

import argparse
import concurrent.futures
import contextlib
import importlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

SHAPE, LATENTS = (28, 28, 1), 16
ENDPOINTS = {"encode": (LATENTS,), "reconstruct": SHAPE, "generate": SHAPE}
RESULTS = ("mean", "variance")
BATCHES = (1, 32, 256)
CLIENTS = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--triton", metavar="PYTHON")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a measurement")
    parser.add_argument("--smoke", action="store_true", help="a few requests only")
    # Of the processes that this one starts.
    parser.add_argument("--role", choices=("export", "serve", *ASK))
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--ports", type=int, nargs=3)
    options = parser.parse_args()
    if options.smoke:
        options.seconds = 0.0
    if options.role == "export":
        export(options.folder)
    elif options.role == "serve":
        serve(options.folder, *options.ports)
    elif options.role:
        ask = ASK[options.role](options.folder, options.ports)
        print(json.dumps(measured(ask, options.folder, options.seconds)))
    else:
        compare(options)


def compare(options):
    """Starts the processes one after the other, and prints their table."""

    def command(role, python=sys.executable):
        words = [python, __file__, "--role", role, "--folder", folder]
        return [*words, "--seconds", str(options.seconds), "--ports", *map(str, ports)]

    def ask(role, python=sys.executable):
        done = subprocess.run(command(role, python), stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    with contextlib.ExitStack() as stack:
        free = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(3)
        ]
        ports = [s.getsockname()[1] for s in free]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command("export"), check=True)
        load = os.getloadavg()[0]
        columns = {"loader": ask("loader")}
        if options.triton:
            log = pathlib.Path(folder) / "server.log"
            with (
                log.open("w") as file,
                subprocess.Popen(
                    command("serve", options.triton),
                    stdin=subprocess.PIPE,  # when it closes, the server stops
                    stdout=file,
                    stderr=file,
                ) as server,
            ):
                try:
                    wait(server, ports[0], log)
                    for role in ("http", "grpc"):
                        columns[role] = ask(role, options.triton)
                finally:
                    server.stdin.close()
    print(f"load of the machine: {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    titles = (f"{role}: median ms, 95 %, images/s" for role in columns)
    print(" | ".join(["endpoint", "batch", *titles]))
    for rows in zip(*columns.values(), strict=True):
        cells = (
            f"{median:.1f}, {late:.1f}, {rate:.0f}" for *_, median, late, rate in rows
        )
        print(" | ".join([rows[0][0], str(rows[0][1]), *cells]))


# --------------------------------------------------------------------------------------
# Who answers


def export(folder):
    """The one process with the package."""
    import keras

    import keras_vae_variance as kvv

    keras.utils.set_random_seed(0)
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
    networks = kvv.backbones.depth_to_space(SHAPE, LATENTS, likelihood)
    posterior = kvv.posteriors.DiagonalGaussian(LATENTS)
    vae = kvv.VAE(*networks, posterior, likelihood, seed=0)
    sampler = kvv.samplers.GaussianMixture(32).fit(vae, images(1000), seed=0)
    vae.export(folder / "model", sampler=sampler, verbose=False)


def loader(folder, ports=None):
    """A function of an endpoint and its arguments: TensorFlow in this process."""
    import tensorflow as tf

    model = tf.saved_model.load(str(folder / "model"))
    assert "keras_vae_variance" not in sys.modules

    def answer(endpoint, arguments):
        arguments = [tf.constant(argument) for argument in arguments.values()]
        results = getattr(model, endpoint)(*arguments)
        return {name: value.numpy() for name, value in results.items()}

    return lambda: answer


def serve(folder, http, grpc, metrics):
    """Triton in front of the loader, until the standard input is closed."""
    from pytriton.decorators import batch
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    answer = loader(folder)()

    def batched(endpoint):
        return batch(lambda x: answer(endpoint, {"x": x}))

    def generate(requests):
        return [
            answer("generate", {"count": r["num_samples"][0], "seed": r["seed"]})
            for r in requests
        ]

    images = [Tensor(name="x", shape=SHAPE, dtype=np.float32)]
    draws = [
        Tensor(name="num_samples", shape=(1,), dtype=np.int32),
        Tensor(name="seed", shape=(2,), dtype=np.int32),
    ]
    config = TritonConfig(http_port=http, grpc_port=grpc, metrics_port=metrics)
    with Triton(config=config) as triton:
        for endpoint, shape in ENDPOINTS.items():
            drawn = endpoint == "generate"
            shape = (-1, *shape) if drawn else shape
            triton.bind(
                endpoint,
                generate if drawn else batched(endpoint),
                inputs=draws if drawn else images,
                outputs=[
                    Tensor(name=n, shape=shape, dtype=np.float32) for n in RESULTS
                ],
                config=ModelConfig(not drawn, max_batch_size=max(BATCHES)),
            )
        triton.run()
        sys.stdin.read()


def client(transport):
    """What asks the server over HTTP or gRPC; each thread has a connection."""

    def connect(folder, ports):
        module = importlib.import_module(f"tritonclient.{transport}")
        port = ports[transport == "grpc"]

        def connected():
            server = module.InferenceServerClient(f"127.0.0.1:{port}")

            def answer(endpoint, arguments):
                inputs = []
                for name, value in arguments.items():
                    value = np.atleast_1d(value)
                    kind = {"f": "FP32", "i": "INT32"}[value.dtype.kind]
                    inputs.append(module.InferInput(name, value.shape, kind))
                    inputs[-1].set_data_from_numpy(value)
                results = server.infer(endpoint, inputs)
                return {name: results.as_numpy(name) for name in RESULTS}

            return answer

        return connected

    return connect


ASK = {"loader": loader, "http": client("http"), "grpc": client("grpc")}


def wait(server, port, log):
    """Until the server is ready for all models."""
    for _ in range(120):
        if server.poll() is not None:
            sys.exit(f"the server stopped:\n{log.read_text()[-3000:]}")
        try:
            for endpoint in ENDPOINTS:
                address = f"http://127.0.0.1:{port}/v2/models/{endpoint}/ready"
                urllib.request.urlopen(address)
            return
        except OSError:
            time.sleep(1)
    sys.exit(f"the server was not ready in time:\n{log.read_text()[-3000:]}")


# --------------------------------------------------------------------------------------
# What is asked


def images(n):
    return np.random.default_rng(n).random((n, *SHAPE), "float32")


def arguments(endpoint, n):
    if endpoint == "generate":
        seed = np.array([3, 4], "int32")
        return {"num_samples": np.array(n, "int32"), "seed": seed}
    return {"x": images(n)}


def measured(connect, folder, seconds):
    """Rows of endpoint, batch, median and 95th percentile in ms, images a second."""
    rows = []
    for endpoint in ENDPOINTS:
        for n in BATCHES:
            asked = arguments(endpoint, n)
            check(connect()(endpoint, asked), folder / f"{endpoint}_{n}.npz")
            times = latencies(connect, endpoint, asked, seconds)
            median, late = 1e3 * np.percentile(times, (50, 95))
            rate = n * together(connect, endpoint, asked, seconds)
            rows.append((endpoint, n, median, late, rate))
    return rows


def latencies(connect, endpoint, asked, seconds, least=5):
    """Seconds of each of at least five requests, one after the other."""
    answer = connect()
    answer(endpoint, asked)
    times = []
    while sum(times) < seconds or len(times) < least:
        started = time.perf_counter()
        answer(endpoint, asked)
        times.append(time.perf_counter() - started)
    return times


def together(connect, endpoint, asked, seconds):
    """Requests a second of several clients."""
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        jobs = [
            pool.submit(latencies, connect, endpoint, asked, seconds)
            for _ in range(CLIENTS)
        ]
    return sum(1.0 / np.mean(job.result()) for job in jobs)


def check(results, path):
    """Keeps the loader's answer; compares the server's with it."""
    if not path.exists():
        np.savez(path, **results)
    for name, expected in np.load(path).items():
        # Joined requests are another batch, and so another order of sums.
        np.testing.assert_allclose(results[name], expected, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    main()
