"""Time and peak memory of mixtures: of fits, of densities and draws, of many codes.

    python benchmarks/mixture.py fit
    python benchmarks/mixture.py density
    python benchmarks/mixture.py memory --sizes 100000x64x4 1000000x64x4
    python benchmarks/mixture.py --smoke

- `fit`: expectation maximisation beside scikit-learn's, k-means included, on codes of a
  mixture with half as many components.
- `density`: log densities and draws of a mixture beside TFP's own
  `MixtureSameFamily`; the best of three calls after a first.
- `memory`: `samplers.GaussianMixture.fit` on a stream of codes in clusters far apart,
  so that it takes few iterations.

A size is CODESxDIMENSIONSxCOMPONENTS, and every measurement runs in a process of its
own. Printed are the seconds, those of all processors, and the largest resident memory
of the process beyond that before: for `memory` before are 1,000 codes, which have
compiled what is to be compiled, and for the others the imports and the data.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

SIZES = {
    "fit": ["60000x16x32", "162000x64x100"],
    "density": ["10000x64x500"],
    "memory": ["100000x64x4", "1000000x64x4", "10000000x64x4"],
}
SMALL = {"fit": ["2000x4x3"], "density": ["100x4x3"], "memory": ["3000x4x3"]}


def mixture(dimensions, components):
    """Weights, means and Cholesky factors of overlapping components."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(components, dimensions))
    trils = np.tril(rng.normal(size=(components, dimensions, dimensions)))
    trils *= 0.3 / np.sqrt(dimensions)
    trils += 0.5 * np.eye(dimensions)
    arrays = rng.dirichlet(np.ones(components)), means, trils
    return [array.astype("float32") for array in arrays]


def draws(count, dimensions, components):
    weights, means, trils = mixture(dimensions, components)
    rng = np.random.default_rng(1)
    index = rng.choice(components, count, p=weights / np.float64(weights).sum())
    z = rng.normal(size=(count, dimensions)).astype("float32")
    for k in range(components):
        z[index == k] = means[k] + z[index == k] @ trils[k].T
    return z


def fit_ours(count, dimensions, components):
    from sklearn import cluster  # noqa: F401, imported before time is taken

    from keras_vae_variance.samplers.expectation_maximization import (
        expectation_maximization,
    )

    z = draws(count, dimensions, max(components // 2, 1))

    def run():
        bounds = expectation_maximization(z, components, seed=0).lower_bounds
        return f"{len(bounds)} iterations, {bounds[-1]:.4f} nats"

    return run


def fit_sklearn(count, dimensions, components):
    from sklearn.mixture import GaussianMixture

    z = np.float64(draws(count, dimensions, max(components // 2, 1)))

    def run():
        fit = GaussianMixture(components, random_state=0).fit(z)
        return f"{fit.n_iter_} iterations, {fit.lower_bound_:.4f} nats"

    return run


def fit_kmeans(count, dimensions, components):
    from sklearn.cluster import KMeans

    z = np.float64(draws(count, dimensions, max(components // 2, 1)))

    def run():
        fit = KMeans(components, n_init=1, random_state=0).fit(z)
        return f"{fit.n_iter_} iterations"

    return run


def distribution(ours, dimensions, components):
    import tensorflow as tf
    from tensorflow_probability import distributions as tfd

    from keras_vae_variance.samplers.gaussian_mixture import TriangularMixture

    weights, means, trils = map(tf.constant, mixture(dimensions, components))
    family = TriangularMixture if ours else tfd.MixtureSameFamily
    return family(
        tfd.Categorical(probs=weights), tfd.MultivariateNormalTriL(means, trils)
    )


def log_prob(ours):
    def prepare(count, dimensions, components):
        family = distribution(ours, dimensions, components)
        z = draws(count, dimensions, components)
        return lambda: f"mean {family.log_prob(z).numpy().mean():.4f} nats"

    return prepare


def sample(ours):
    def prepare(count, dimensions, components):
        family = distribution(ours, dimensions, components)
        return lambda: f"mean {family.sample(count, seed=0).numpy().mean():.4f}"

    return prepare


class Clusters:
    """A VAE of which the images are codes without noise."""

    def __init__(self, latent_dim):
        self.latent_dim = latent_dim
        self.posterior = types.SimpleNamespace(deterministic=True)

    def encode(self, x):
        return types.SimpleNamespace(mean=x, variance=0.0 * x[:1])


def stream(count, dimensions, components, size=4096):
    """Batches of codes in clusters, made as they are read."""
    rng = np.random.default_rng(0)
    centres = 10.0 * rng.standard_normal((components, dimensions), np.float32)
    for start in range(0, count, size):
        n = min(size, count - start)
        index = rng.integers(components, size=n)
        yield centres[index] + rng.standard_normal((n, dimensions), np.float32)


def memory(count, dimensions, components):
    import keras_vae_variance as kvv

    vae = Clusters(dimensions)
    sampler = kvv.samplers.GaussianMixture(components)
    sampler.fit(vae, stream(1000, dimensions, components), seed=0)

    def run():
        sampler.fit(vae, stream(count, dimensions, components), seed=0)
        return f"weights {np.sort(sampler.distribution.mixture_distribution.probs)}"

    return run


# Function that prepares one, and how often it is called.
MEASUREMENTS = {
    "fit": {
        "ours": (fit_ours, 1),
        "scikit-learn": (fit_sklearn, 1),
        "k-means alone": (fit_kmeans, 1),
    },
    "density": {
        "log_prob, ours": (log_prob(True), 4),
        "log_prob, TFP": (log_prob(False), 4),
        "sample, ours": (sample(True), 4),
        "sample, TFP": (sample(False), 4),
    },
    "memory": {"ours": (memory, 1)},
}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(part, name, size):
    """In a process of its own."""
    prepare, calls = MEASUREMENTS[part][name]
    run = prepare(*map(int, size.split("x")))
    before, wall, cpu = peak(), [], []
    for _ in range(calls):
        started, processed = time.perf_counter(), time.process_time()
        result = run()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - processed)
    print(
        f"{part:8s}  {size:14s}  {name:14s}  {min(wall):8.3f}  {min(cpu):8.3f}", end=""
    )
    print(f"  {before:10.0f}  {peak() - before:8.0f}  {result}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(SIZES))
    parser.add_argument("--sizes", nargs="+", metavar="NxDxK", help="of one part")
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(*options.work)
    parts = options.parts or list(SIZES)
    if not set(parts) <= set(SIZES):
        parser.error(f"parts are {', '.join(SIZES)}")
    if options.sizes and len(parts) != 1:
        parser.error("--sizes are those of one part: name it")
    print("part      size            what             seconds    of CPU", end="")
    print("  MiB before  MiB more", flush=True)
    for part in parts:
        sizes = options.sizes or (SMALL if options.smoke else SIZES)[part]
        for size in sizes:
            for name in MEASUREMENTS[part]:
                command = [sys.executable, __file__, "--work", part, name, size]
                result = subprocess.run(
                    command, stdout=subprocess.PIPE, text=True, check=True
                )
                print(result.stdout, end="", flush=True)


if __name__ == "__main__":
    main()
