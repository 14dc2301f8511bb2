"""DIP: against `np.cov`, by gradient, and where it is 0."""

import math

import numpy as np
import oracles
import pytest
import tensorflow as tf

from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.regularizers import DIP
from keras_vae_variance.types import Latent

L = 3
each_kind = pytest.mark.parametrize("kind, factor", [("I", 10.0), ("II", 1.0)])


def means(n, seed=0):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(n, L)) @ random.normal(size=(L, L)) + 2
    return mixed.astype("float32")


def latent_of(mean, variance):
    shared = np.ones((1, L), "float32")
    return Latent(mean + 9.0, mean, variance, 0 * shared, shared)


@each_kind
@pytest.mark.parametrize("given", [None, 0.0, 3.0])
@pytest.mark.parametrize("rows", [1, 6])
def test_against_numpy(kind, factor, given, rows):
    """In value and gradient; of a variance of each example, or a shared one."""
    s2 = np.random.default_rng(1).uniform(0.1, 2, size=(rows, L)).astype("float32")
    mean, variance = tf.Variable(means(6)), tf.Variable(s2)
    regularizer = DIP(kind, diagonal_factor=given)
    with tf.GradientTape(persistent=True) as tape:
        term = regularizer(mean, latent_of(mean, variance), training=True)

    def expected(mean, s2):
        return oracles.dip(mean, s2, kind, factor if given is None else given)

    assert term.shape == ()
    assert float(term) == pytest.approx(expected(mean.numpy(), s2), rel=1e-5)
    slopes = oracles.numeric_gradient(expected, mean.numpy(), s2)
    np.testing.assert_allclose(tape.gradient(term, mean), slopes[0], 1e-4, 1e-4)
    actual = tape.gradient(term, variance)
    if kind == "I":
        assert actual is None
    else:
        np.testing.assert_allclose(actual, slopes[1], 1e-4, 1e-4)


@each_kind
def test_counts_are_repeated_examples(kind, factor):
    counts = np.array([2, 1, 0, 3, 1])
    mean, s2 = means(5), np.exp(means(5, seed=1))
    with kvv_ops.batch(mean, counts):
        actual = DIP(kind)(mean, latent_of(mean, s2))
    repeated = (np.repeat(a, counts, axis=0) for a in (mean, s2))
    expected = oracles.dip(*repeated, kind, factor)
    assert float(actual) == pytest.approx(expected, rel=1e-5)


@each_kind
def test_zero_where_the_covariance_is_the_identity_alone(kind, factor):
    mean = oracles.float64(means(8))
    centred = mean - mean.mean(axis=0)
    white = centred @ np.linalg.inv(np.linalg.cholesky(np.cov(mean.T, bias=True))).T
    s2 = np.full((1, L), 0.25, "float32")
    if kind == "II":
        white = white * 0.75**0.5

    def value(mean):
        mean = np.float32(mean + 5)
        return float(DIP(kind)(mean, latent_of(mean, s2)))

    assert value(white) < 1e-9
    scaled, mixed = white.copy(), white.copy()
    scaled[:, 1] *= 1.1
    mixed[:, 1] += 0.1 * white[:, 0]
    assert value(scaled) > 1e-2 and value(mixed) > 1e-2


@each_kind
@pytest.mark.parametrize("weights", [None, [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
def test_without_two_examples_it_is_zero(kind, factor, weights):
    mean = tf.Variable(means(1 if weights is None else 3))
    with tf.GradientTape() as tape, kvv_ops.batch(mean, weights):
        term = DIP(kind)(mean, latent_of(mean, np.ones((1, L), "float32")))
    assert float(term) == 0
    assert not np.any(tape.gradient(term, mean))


@pytest.mark.parametrize("kind", ["III", 1, None, "i"])
def test_wrong_kind(kind):
    with pytest.raises(ValueError, match="`kind` must be I or II.*Received: kind="):
        DIP(kind)


@pytest.mark.parametrize("factor", [-1.0, math.inf, math.nan, "1"])
def test_wrong_diagonal_factor(factor):
    with pytest.raises(ValueError, match="`diagonal_factor` must.*Received: diag"):
        DIP(diagonal_factor=factor)
