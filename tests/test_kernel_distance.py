"""The kernel distance: exact values, its error, its sample, bad input."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from extractors import Features, pixels
from sklearn.metrics.pairwise import polynomial_kernel

from keras_vae_variance.metrics import Estimate, kernel, kernel_distance


def images(n, seed=0, low=0.0):
    x = np.random.default_rng(seed).uniform(low, 1.0, size=(n, 2, 2, 1))
    return x.astype("float32")


def polynomial(x, y):
    x, y = (a.reshape(len(a), -1).astype("float64") for a in (x, y))
    return polynomial_kernel(x, y, degree=3, gamma=None, coef0=1)


def unbiased(x, y):
    """The definition, with scikit-learn's kernel."""
    within = [polynomial(a, a)[~np.eye(len(a), dtype=bool)].mean() for a in (x, y)]
    return sum(within) - 2 * polynomial(x, y).mean()


def test_of_two_points():
    """Sets of one image over and over: k(x, x) + k(y, y) - 2 k(x, y), no error."""
    x, y = images(1), images(1, seed=1)
    result = kernel_distance(
        np.repeat(x, 30, 0), np.repeat(y, 50, 0), pixels, num_subsets=3
    )
    assert isinstance(result, Estimate)
    expected = (polynomial(x, x) + polynomial(y, y) - 2 * polynomial(x, y)).item()
    np.testing.assert_allclose(result.value, expected, rtol=1e-10)
    assert result.standard_error < 1e-12


def test_is_the_mean_over_a_partition():
    """Of four images by two there are few partitions: it must be one of them."""
    x, y = images(4), images(4, seed=1)
    halves = list(itertools.combinations(range(4), 2))
    possible = {}
    for i, j in itertools.product(halves, halves):
        rest = [sorted(set(range(4)) - set(part)) for part in (i, j)]
        values = unbiased(x[list(i)], y[list(j)]), unbiased(x[rest[0]], y[rest[1]])
        possible[round(np.mean(values), 9)] = abs(values[0] - values[1]) / 2
    found = set()
    for seed in range(20):
        result = kernel_distance(x, y, pixels, 2, seed=seed)
        value = min(possible, key=lambda v: abs(v - result.value))
        np.testing.assert_allclose(result.value, value, atol=2e-9)
        np.testing.assert_allclose(result.standard_error, possible[value], atol=1e-9)
        found.add(value)
    assert len(found) > 5


def test_unbiased_with_an_honest_error():
    """Draws from a few images each, for which the distance is a finite sum."""
    x, y = images(6), images(5, seed=1, low=0.2)
    kernels = [polynomial(*pair).mean() for pair in ((x, x), (y, y), (x, y))]
    exact = kernels[0] + kernels[1] - 2 * kernels[2]
    rng = np.random.default_rng(0)
    values, errors = [], []
    for seed in range(60):
        real, generated = x[rng.integers(0, 6, 300)], y[rng.integers(0, 5, 200)]
        result = kernel_distance(real, generated, pixels, 10, seed=seed)
        values.append(result.value)
        errors.append(result.standard_error)
    spread = np.std(values, ddof=1)
    assert abs(np.mean(values) - exact) < 4 * spread / np.sqrt(60)
    # A standard deviation of 60 values is known to 9 %, of 10 subsets to 24 %.
    assert 0.7 < np.sqrt(np.mean(np.square(errors))) / spread < 1.4


def test_of_one_distribution():
    x = images(2000)
    result = kernel_distance(x[:1000], x[1000:], pixels, seed=0)
    assert abs(result.value) < 4 * result.standard_error < 0.01
    itself = kernel_distance(x, x, pixels, seed=0)
    assert abs(itself.value) < 4 * itself.standard_error
    other = kernel_distance(x, images(1000, seed=1, low=0.3), pixels, seed=0)
    assert other.value > 8 * other.standard_error


def test_seed_and_batches():
    x, y = images(300), images(200, seed=1)
    expected = kernel_distance(x, y, pixels, seed=3)
    for size in (7, 64, 500):
        stream = tf.data.Dataset.from_tensor_slices((x, np.zeros(300))).batch(size)
        assert kernel_distance(stream, y, pixels, seed=3, batch_size=50) == expected
    assert kernel_distance(x, y, pixels, seed=4) != expected
    # Of a larger set, a sample is kept while it is read.
    few = [
        kernel_distance(x, y, pixels, 2, 10, seed=3, batch_size=size)
        for size in (9, 300)
    ]
    assert few[0] == few[1]


def test_the_sample_is_uniform_and_in_random_order():
    """Each of 40 rows is as likely in each of 10 places, however they are cut."""
    counts = np.zeros((10, 40))
    for seed in range(2000):
        stream = np.random.default_rng(seed)
        parts = (np.arange(i, i + 8, dtype=float)[:, None] for i in range(0, 40, 8))
        sample = kernel._sample(parts, 10, stream)
        assert sample.dtype == np.float32 and len(set(sample[:, 0])) == 10
        counts[np.arange(10), sample[:, 0].astype(int)] += 1
    # 2000 draws of probability 1/40: 50 +- 7, and the largest of 400 within 5 times it.
    assert np.abs(counts - 50).max() < 5 * 7


def test_memory_does_not_grow_with_the_set():
    sizes = []
    smallest = kernel._smallest

    def recorded(numbers, rows, size):
        sizes.append(sum(map(len, rows)))
        return smallest(numbers, rows, size)

    batches = (np.zeros((5, 1)) for _ in range(400))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "_smallest", recorded)
        assert len(kernel._sample(batches, 20, np.random.default_rng(0))) == 20
    assert max(sizes) <= 2 * 20 + 5


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_subsets": 1}, "at least 2. Received: num_subsets=1"),
        ({"subset_size": 1.5}, "Received: subset_size=1.5"),
        ({"num_subsets": 20}, "20 subsets. Received: real with 30, generated with 50"),
        ({"generated": iter([])}, "generated with 0"),
        ({"generated": images(9, low=0.9) + 1}, "Received: values from"),
        ({"generated": np.zeros((9, 2, 2, 1), "uint8")}, "Received: generated of"),
        ({"features": Features(lambda x: x)}, "Received: features of shape"),
    ],
)
def test_bad_input(arguments, message):
    defaults = {"real": images(30), "generated": images(50), "features": pixels}
    with pytest.raises(ValueError, match=message):
        kernel_distance(**{**defaults, **arguments})
