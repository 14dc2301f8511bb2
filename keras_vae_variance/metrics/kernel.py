"""The kernel distance between sets of images, by their features."""

import numpy as np

from .base import Estimate, check_integer, key, streams
from .features.base import Reader

__all__ = ["kernel_distance"]


def kernel_distance(
    real,
    generated,
    features,
    num_subsets=10,
    subset_size=1000,
    seed=None,
    batch_size=64,
):
    """Squared maximum mean discrepancy of the features of two sets of images.

        1/(m(m-1)) sum_{i != j} [ k(x_i, x_j) + k(y_i, y_j) ] - 2/m^2 sum_ij k(x_i, y_j)
        k(a, b) = (a . b / F + 1)^3

    Binkowski et al. (2018), "Demystifying MMD GANs": with the features of
    `Inception2015` it is their KID. It is unbiased at any number of images, where the
    Frechet distance is not, and can therefore come out below 0.

    The value is the mean over subsets of `m` images of each set. They are drawn without
    replacement and share no image, other than in the public code, so that their spread
    gives the standard error of the value over repetitions with other images. Sets are
    read once; kept are the features of a random sample, of up to three times
    `num_subsets * subset_size` images of each set while it is drawn.

    Args:
        real: images in any form that `VAE.fit` takes. Labels and weights are ignored.
        generated: the same, of the same shape and range.
        features: as in `frechet_distance`.
        num_subsets: number of subsets, at least 2.
        subset_size: the most images `m` of each set in a subset; fewer where there are
            not enough for all subsets.
        seed: int, or None for a fresh one from Python's `random`, which
            `keras.utils.set_random_seed` seeds.
        batch_size: the most images that `features` is given at a time.

    Returns:
        An `Estimate`.

    Raises:
        TypeError: as `frechet_distance`.
        ValueError: as `frechet_distance`, and for fewer than two images a subset.

    Example:

    >>> import keras, numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((500, 4, 4, 1), dtype="float32")
    >>> layers = [keras.Input((4, 4, 1)), keras.layers.Flatten()]
    >>> features = keras.Sequential(layers, name="pixels")
    >>> distance = kvv.metrics.kernel_distance(x[:250], x[250:] / 2, features, seed=0)
    >>> bool(distance.value > 4 * distance.standard_error)
    True
    """
    check_integer("num_subsets", num_subsets, least=2)
    check_integer("subset_size", subset_size, least=2)
    reader = Reader(features, batch_size)
    most = num_subsets * subset_size
    of_real, of_generated = streams(key(seed), 0, 2)
    real = _sample(reader(real, "real"), most, of_real)
    generated = _sample(reader(generated, "generated"), most, of_generated)
    size = min(len(real), len(generated)) // num_subsets
    if size < 2:
        raise ValueError(
            f"Both sets must hold two images for each of {num_subsets} subsets. "
            f"Received: real with {len(real)}, generated with {len(generated)}"
        )
    parts = (slice(i * size, (i + 1) * size) for i in range(num_subsets))
    return Estimate.of([_discrepancy(real[part], generated[part]) for part in parts])


def _sample(batches, size, stream):
    """A uniform sample of `size` rows, or of all, in random order, float32 `(n, F)`."""
    # The rows of the smallest of random numbers, which are drawn row by row.
    numbers, rows = np.zeros(0), None
    for batch in batches:
        numbers = np.append(numbers, stream.random(len(batch)))
        batch = batch.astype(np.float32)
        rows = [batch] if rows is None else [*rows, batch]
        if len(numbers) > 2 * size:
            numbers, rows = _smallest(numbers, rows, size)
    return _smallest(numbers, rows, size)[1][0] if rows else np.zeros((0, 1))


def _smallest(numbers, rows, size):
    order = np.argsort(numbers)[:size]
    return numbers[order], [np.concatenate(rows)[order]]


def _discrepancy(x, y):
    """The unbiased estimate from two samples of equal size, `(m, F)`."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    size = len(x)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    within = kernel(x, x) + kernel(y, y)
    np.fill_diagonal(within, 0.0)
    return within.sum() / (size * (size - 1)) - 2.0 * kernel(x, y).mean()
