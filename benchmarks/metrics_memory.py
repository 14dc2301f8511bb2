"""Time and peak memory of the metrics against the number of images.

    python benchmarks/metrics_memory.py
    python benchmarks/metrics_memory.py --metric frechet_distance --sizes 1000 10000

Each size runs in a process of its own, which makes its images, 28x28 and grey, batch by
batch. Printed are the seconds, those of all processors, and the largest resident memory
of the process beyond that of a run with 256 images, which has compiled all that is to
be compiled. The features of the distances between sets are cheap: 98 random
projections, relu; and so is the model of all others, three dense layers on each side
and 16 latents, so that what is seen is the metric's own.
"""

import argparse
import functools
import resource
import subprocess
import sys
import time


@functools.cache
def features():
    import keras

    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((28, 28, 1)),
        keras.layers.AveragePooling2D(2),
        keras.layers.Conv2D(2, 2, 2, activation="relu"),
        keras.layers.Flatten(),
    ]
    return keras.Sequential(layers, name="projections")


def images(count, seed, size=256):
    """Batches of smooth images, uint8."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for start in range(0, count, size):
        shape = min(size, count - start), 7, 7, 1
        x = rng.integers(0, 256, shape, dtype="uint8")
        yield x.repeat(4, axis=1).repeat(4, axis=2)


def of_sets(name):
    """A metric of real and generated images, by its name."""

    def metric(count):
        import keras_vae_variance as kvv

        function = getattr(kvv.metrics, name)
        return function(images(count, 0), images(count, 1), features())

    return metric


@functools.cache
def vae():
    """A small model with 16 latents, untrained: no metric's cost depends on that."""
    import keras

    import keras_vae_variance as kvv

    keras.utils.set_random_seed(0)
    return kvv.recipes.vae((28, 28, 1), 16, backbone=kvv.backbones.mlp, seed=0)


def of_model(name, *arguments, **options):
    """A metric of a model and images, by its name."""

    def metric(count):
        import keras_vae_variance as kvv

        function = getattr(kvv.metrics, name)
        return function(vae(), images(count, 0), *arguments, **options)

    return metric


def interpolate(count):
    import keras_vae_variance as kvv

    return kvv.metrics.interpolate(vae(), images(count, 0), images(count, 1))


def optimal_decoder(count):
    import numpy as np

    import keras_vae_variance as kvv

    z = np.random.default_rng(0).standard_normal((100, 16)).astype("float32")
    return kvv.metrics.optimal_decoder(vae(), images(count, 0), z)


def kl_to_prior(count):
    """Of a fitted mixture: the images are those that it is fitted to."""
    import keras_vae_variance as kvv

    mixture = kvv.samplers.GaussianMixture(8).fit(vae(), images(count, 0), seed=0)
    return kvv.metrics.kl_to_prior(mixture, vae(), seed=0)


def region_variance(count):
    import numpy as np

    upper = (np.arange(28) < 14)[:, None, None]
    return of_model("region_variance", {"upper": upper, "lower": ~upper})(count)


METRICS = {
    **{
        name: of_sets(name)
        for name in ("frechet_distance", "kernel_distance", "precision_recall")
    },
    **{
        name: of_model(name)
        for name in (
            "log_likelihood",
            "anomaly_scores",
            "calibration",
            "coverage",
            "active_units",
            "marginal_kl",
            "mutual_information",
            "mutual_information_bound",
            "expected_gap",
            "log_evidence",
            "linearized_elbo",
            "constant_variance_penalty",
        )
    },
    "local_smoothness": of_model("local_smoothness"),
    "local_smoothness_by_a_probe": of_model("local_smoothness", num_probes=1),
    "kl_to_prior": kl_to_prior,
    "interpolate": interpolate,
    "optimal_decoder": optimal_decoder,
    "region_variance": region_variance,
}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(name, count):
    """In a process of its own."""
    METRICS[name](256)
    before, started, processed = peak(), time.time(), time.process_time()
    METRICS[name](count)
    print(time.time() - started, time.process_time() - processed, before, peak())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--metric", nargs="+", default=list(METRICS), choices=METRICS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 10000, 60000])
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.metric[0], options.sizes[0])
    print("metric                     images  seconds  of CPU  MiB with 256  MiB more")
    for name in options.metric:
        for count in options.sizes:
            command = [sys.executable, __file__, "--work"]
            command += ["--metric", name, "--sizes", str(count)]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, cpu, before, after = map(float, result.stdout.split())
            print(f"{name:25s}  {count:6d}  {seconds:7.1f}  {cpu:6.1f}", end="")
            print(f"  {before:12.0f}  {after - before:8.0f}", flush=True)


if __name__ == "__main__":
    main()
