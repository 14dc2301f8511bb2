"""MMD: against double loops, in blocks and by gradient; without bias; its draws."""

import numpy as np
import oracles
import pytest
import tensorflow as tf
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.regularizers import MMD, mmd
from keras_vae_variance.types import Latent

L = 2


def normal(n, seed=0, size=L):
    return np.random.default_rng(seed).normal(size=(n, size)).astype("float32")


PRIOR = np.float32([[0.3, -0.2]]), np.float32([[2.0, 0.5]])


def latent_of(z, mean=PRIOR[0], variance=PRIOR[1]):
    return Latent(z, z, np.zeros((1, L), "float32"), mean, variance)


@pytest.fixture
def noise(monkeypatch):
    """The standard normal noise of every draw from the prior, known."""
    values = normal(9, seed=3)
    monkeypatch.setattr(kvv_ops, "normal", lambda shape, seed: values[: int(shape[0])])
    return values


def draws(noise, mean=PRIOR[0], variance=PRIOR[1]):
    return oracles.float64(mean) + np.sqrt(oracles.float64(variance)) * noise


# --------------------------------------------------------------------------------------
# Value and gradient


@pytest.mark.parametrize("rows", [256, 4, 1])
def test_against_double_loops(noise, monkeypatch, rows):
    """In blocks of at most so many rows; by all that z and the prior depend on."""
    monkeypatch.setattr(mmd, "_ROWS", rows)
    regularizer = MMD()
    for n in (2, 4, 8, 9):
        variables = [tf.Variable(a) for a in (1.5 * normal(n) + 0.5, *PRIOR)]
        with tf.GradientTape() as tape:
            z, mean, variance = variables
            term = regularizer(z, latent_of(z, mean, variance), training=True)

        def expected(z, mean, variance, n=n):
            return oracles.mmd(z, draws(noise[:n], mean, variance))

        arrays = [v.numpy() for v in variables]
        assert term.shape == ()
        # Sums of numbers up to 7, which float32 resolves to 5e-7.
        assert float(term) == pytest.approx(expected(*arrays), rel=1e-5, abs=5e-6)
        slopes = oracles.numeric_gradient(expected, *arrays, step=1e-5)
        for actual, slope in zip(tape.gradient(term, variables), slopes, strict=True):
            np.testing.assert_allclose(actual, slope, rtol=1e-4, atol=1e-5)
            assert np.abs(slope).max() > 1e-2


def test_in_a_graph_of_any_batch_size(monkeypatch):
    monkeypatch.setattr(mmd, "_ROWS", 4)
    regularizer = MMD(seed=1)

    @tf.function(input_signature=[tf.TensorSpec((None, L))])
    def step(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            term = regularizer(z, latent_of(z))
        return term, tape.gradient(term, z)

    for n in (0, 1, 4, 9):
        z, before = tf.constant(normal(n)), regularizer.seed_generator.state.numpy()
        actual = step(z)
        regularizer.seed_generator.state.assign(before)
        with tf.GradientTape() as tape:
            tape.watch(z)
            expected = regularizer(z, latent_of(z))
        np.testing.assert_allclose(actual[0], expected, rtol=1e-5, atol=5e-6)
        slope = tape.gradient(expected, z)
        np.testing.assert_allclose(actual[1], slope, rtol=1e-4, atol=1e-6)
        assert bool(np.any(slope)) is (n > 1) is bool(expected != 0)


def test_counts_are_repeated_examples(noise):
    """With the pairs of the repetitions; the draws of the prior have no weights."""
    z, counts = normal(5) + 0.5, np.array([2, 1, 0, 3, 1])
    with kvv_ops.batch(z, counts):
        actual = MMD()(z, latent_of(z))
    p = draws(noise)
    repeated = np.repeat(z, counts, axis=0)
    expected = oracles.mmd(repeated, p[:5])
    assert float(actual) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e-2])
def test_small_weights_are_a_weighted_mean_over_pairs(noise, scale):
    """Whatever their scale."""
    z, weights = normal(5) + 0.5, np.array([0.2, 0.1, 0.0, 0.5, 0.9])
    with kvv_ops.batch(z, weights * scale):
        actual = MMD()(z, latent_of(z))

    expected = oracles.mmd(z, draws(noise)[:5], weights)
    assert float(actual) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize("weights", [[0, 0, 0], [0, 1, 0], [0, 2.5, 0], [1, 1e-9, 0]])
def test_without_pairs(weights):
    """Nothing, or the pairs of one that hardly counts: finite."""
    z = tf.Variable(normal(3))
    with tf.GradientTape() as tape, kvv_ops.batch(z, weights):
        term = MMD()(z, latent_of(z))
    gradient = tape.gradient(term, z)
    assert np.all(np.isfinite(gradient)) and np.isfinite(term)
    if np.count_nonzero(weights) < 2:
        assert float(term) == 0 and not np.any(gradient)


def test_memory_grows_with_the_batch_and_not_with_its_square():
    """No tensor of a training step, its loops included, is a matrix of all pairs."""
    n, regularizer = 4096, MMD()

    @tf.function(input_signature=[tf.TensorSpec((n, L))])
    def step(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            term = regularizer(z, latent_of(z))
        return tape.gradient(term, z)

    graph = step.get_concrete_function().graph
    functions = graph.as_graph_def(add_shapes=True).library.function
    bodies = [function_def_to_graph(f) for f in functions]
    sizes = [
        [t.shape.num_elements() or 0 for op in g.get_operations() for t in op.outputs]
        for g in (graph, *bodies)
    ]
    # A block of rows is there, in a loop too, so this would see more.
    assert max(map(max, sizes)) <= n * mmd._ROWS
    assert max(map(max, sizes[1:])) >= n * mmd._ROWS / 2


# --------------------------------------------------------------------------------------
# Laws


def test_is_unbiased_and_grows_with_the_distance():
    """Of equal distributions 0 on average, of others more the further apart."""
    regularizer, n, runs = MMD(seed=0), 8, 400

    @tf.function
    def term(z):
        return regularizer(z, latent_of(z))

    p = draws(normal(n * runs, seed=1)).astype("float32").reshape(runs, n, L)
    equal = np.array([term(tf.constant(z)) for z in p])
    # With the pairs of a draw with itself it would be 2 * (7 - 3) / 8 = 1.
    assert abs(equal.mean()) < 4 * equal.std() / np.sqrt(runs) < 0.15
    assert equal.min() < 0
    shifted = [
        np.mean([term(tf.constant(z + np.float32(shift))) for z in p[:60]])
        for shift in (0.0, 1.0, 2.0, 4.0, 16.0)
    ]
    assert np.all(np.diff(shifted) > 0.3)


def test_draws_are_new_each_time_and_a_function_of_the_seed():
    z = normal(6)
    values = {}
    for seed in (1, 2):
        for again in range(2):
            regularizer = MMD(seed=seed)
            values[seed, again] = [
                float(regularizer(z, latent_of(z), training=t)) for t in (True, False)
            ]
    assert values[1, 0] == values[1, 1] and values[2, 0] == values[2, 1]
    assert len({*values[1, 0], *values[2, 0]}) == 4
    assert MMD().seed != MMD().seed


def test_order_of_the_examples():
    z, order = normal(6), [3, 1, 0, 5, 4, 2]
    one, other = (MMD(seed=1)(t, latent_of(t)) for t in (z, z[order]))
    assert float(one) == pytest.approx(float(other), abs=5e-6)


@pytest.mark.parametrize("seed", [1.5, "1"])
def test_wrong_seed(seed):
    with pytest.raises(ValueError, match="`seed` must be.*Received: seed="):
        MMD(seed=seed)
