"""The shared maths, the global batch, and seeds."""

import threading

import keras
import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance import ops

VARIANCES = np.float32([1e-6, 1e-3, 0.5, 1.0, 3.0, 1e3])


def float32(*arrays):
    return [np.asarray(a, "float32") for a in arrays]


def extremes(rng, n=40, size=6):
    """Means from -30 to 30, and variances from 1e-6 to 1e3 in any combination."""
    means = rng.normal(size=(n, size)) * 10.0 ** rng.integers(-3, 2, size=(n, size))
    return float32(means, rng.choice(VARIANCES, size=(n, size)))


# --------------------------------------------------------------------------------------
# Densities


def test_sum_event():
    t = np.arange(24.0, dtype="float32").reshape(2, 3, 2, 2)
    np.testing.assert_array_equal(ops.sum_event(t), [66, 210])
    np.testing.assert_array_equal(ops.sum_event(t[:, 0, 0, 0]), [0, 12])
    # A replica may get an empty share of a batch.
    signature = [tf.TensorSpec((None, 3, 2, 2))]
    assert tf.function(ops.sum_event, signature)(t[:0]).shape == (0,)


def test_gaussian_kl_against_tfp():
    rng = np.random.default_rng(0)
    mean, variance = extremes(rng)
    prior_mean, prior_variance = extremes(rng)
    expected = oracles.gaussian_kl(mean, variance, prior_mean, prior_variance)
    actual = ops.gaussian_kl(mean, variance, prior_mean, prior_variance)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prior_variance", VARIANCES)
def test_gaussian_kl_of_one_dimension(variance, prior_variance):
    mean, prior_mean = float32([[0.0], [0.5], [-30.0]], [[0.25]])
    arguments = mean, variance[None, None], prior_mean, prior_variance[None, None]
    # Where the distributions are close, terms of size 1 cancel: hence the atol.
    np.testing.assert_allclose(
        ops.gaussian_kl(*arguments), oracles.gaussian_kl(*arguments), 1e-5, 1e-6
    )


def test_gaussian_kl_is_zero_at_the_prior_alone():
    mean, variance = extremes(np.random.default_rng(0))
    np.testing.assert_array_equal(ops.gaussian_kl(mean, variance, mean, variance), 0)
    for moved in ((1.01 * mean, variance), (mean, 1.01 * variance)):
        assert np.all(ops.gaussian_kl(*moved, mean, variance) > 1e-5)


def test_gaussian_kl_shares_what_has_a_leading_one():
    mean, variance = extremes(np.random.default_rng(0))
    zeros, ones = np.zeros((1, 6), "float32"), np.ones((1, 6), "float32")
    shared = ops.gaussian_kl(mean, variance[:1], zeros, ones)
    every = ops.gaussian_kl(
        mean, np.repeat(variance[:1], 40, 0), 0 * mean, 0 * mean + 1
    )
    assert shared.shape == (40,)
    np.testing.assert_allclose(shared, every, rtol=1e-6)


def test_gaussian_log_prob_against_scipy():
    rng = np.random.default_rng(0)
    mean, variance = extremes(rng)
    draws = mean + np.sqrt(variance) * rng.normal(size=mean.shape).astype("float32")
    for x in (draws, np.zeros_like(mean), np.ones_like(mean)):
        expected = -oracles.gaussian_nll(x, mean, variance)
        actual = ops.gaussian_log_prob(x, mean, variance)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_gaussian_log_prob_sums_over_any_event():
    rng = np.random.default_rng(0)
    x, mean = float32(*rng.normal(size=(2, 5, 4, 3, 2)))
    variance = np.float32(0.5 * np.ones((1, 1, 1, 2)))
    expected = -oracles.gaussian_nll(x, mean, variance)
    actual = ops.gaussian_log_prob(x, mean, variance)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


# --------------------------------------------------------------------------------------
# Soft clipping

POINTS = np.float32([-300, -30, -6.5, -6, -5.5, -2, 0, 1.5, 2, 2.5, 30, 300])


@pytest.mark.parametrize("bounds", [(-6, None), (None, 2), (-6, 2), (None, None)])
def test_soft_clip(bounds):
    expected = oracles.soft_clip(POINTS, *bounds)
    np.testing.assert_allclose(ops.soft_clip(POINTS, *bounds), expected, 1e-6, 1e-6)


def test_soft_clip_at_and_near_its_bounds():
    """What the docstring says of the bias."""
    lower, upper = (np.asarray(ops.soft_clip(POINTS, *b)) for b in ((-6,), (None, 2)))
    assert np.all(lower >= POINTS) and np.all(lower >= -6)
    assert np.all(upper <= POINTS) and np.all(upper <= 2)
    at = list(POINTS)
    assert lower[at.index(-6)] + 6 == pytest.approx(np.log(2), rel=1e-6)
    assert upper[at.index(2)] - 2 == pytest.approx(-np.log(2), rel=1e-6)
    both = np.asarray(ops.soft_clip(POINTS, 0.0, 1.0))
    assert both[-1] == pytest.approx(1 + np.log1p(np.exp(-1)), rel=1e-6)


def test_soft_clip_has_a_finite_gradient_everywhere():
    t = tf.Variable(POINTS)
    with tf.GradientTape() as tape:
        clipped = ops.soft_clip(t, -6.0, 2.0)
    gradient = tape.gradient(clipped, t).numpy()
    points = oracles.float64(POINTS)
    inner = oracles.soft_clip(points, None, 2.0)
    expected = scipy.special.expit(inner + 6) * scipy.special.expit(2 - points)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-30)


# --------------------------------------------------------------------------------------
# The global batch


def test_batch_mean_is_weighted():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 3, 2)).astype("float32")
    weights = np.array([0.0, 0.5, 2.0, 1.0])
    with ops.batch(values, weights) as batch:
        actual = ops.batch_mean(values)
    assert (float(batch.total), float(batch.count)) == (3.5, 3)
    expected = np.average(values, axis=0, weights=weights)[None]
    assert actual.shape == (1, 3, 2)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_batch_mean_without_a_scope_or_weights():
    values = np.float32([[1.0, 2.0], [3.0, 6.0]])
    np.testing.assert_array_equal(ops.batch_mean(values), [[2.0, 4.0]])
    with ops.batch(values):
        np.testing.assert_array_equal(ops.batch_mean(values), [[2.0, 4.0]])


def test_mean_of_no_example_is_zero():
    signature = [tf.TensorSpec((None, 2))]
    mean = tf.function(ops.batch_mean, signature)(np.zeros((0, 2), "float32"))
    np.testing.assert_array_equal(mean, [[0.0, 0.0]])
    with ops.batch(np.ones((2, 2)), [0.0, 0.0]):
        values = tf.Variable(np.ones((2, 2), "float32"))
        with tf.GradientTape() as tape:
            mean = ops.batch_mean(values)
    np.testing.assert_array_equal(mean, [[0.0, 0.0]])
    np.testing.assert_array_equal(tape.gradient(mean, values), np.zeros((2, 2)))


def test_the_batch_is_a_scope():
    values = np.float32([[1.0], [3.0]])

    def mean():
        return float(ops.batch_mean(values)[0, 0])

    with ops.batch(values, [1.0, 0.0]):
        assert mean() == 1
        with ops.batch(values, [0.0, 1.0]):
            assert mean() == 3
        assert mean() == 1
        with pytest.raises(RuntimeError), ops.batch(values, [0.0, 1.0]):
            raise RuntimeError
        assert mean() == 1
        # Replicas are traced by threads of their own.
        others = []
        thread = threading.Thread(target=lambda: others.append(mean()))
        thread.start()
        thread.join()
        assert others == [2]
    assert mean() == 2


def test_all_reduce_of_one_replica():
    t = tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        total = ops.all_reduce(t * t)
    np.testing.assert_array_equal(total, [1.0, 4.0])
    np.testing.assert_array_equal(tape.gradient(total, t), [2.0, 4.0])
    assert ops.num_replicas() == 1


def test_concrete_value_in_a_graph():
    variable = keras.Variable(3.0)
    seen = []
    tf.function(lambda: seen.append(ops.concrete(variable)))()
    assert seen == [3.0] and isinstance(seen[0], np.ndarray)


def test_jvp_and_jacobian():
    """Of tanh(z A) B, by rows."""
    random = np.random.default_rng(0)
    z, v = random.normal(size=(2, 5, 3)).astype("float32")
    a, b = (random.normal(size=size).astype("float32") for size in ((3, 4), (4, 6)))

    def function(z):
        return tf.reshape(tf.tanh(z @ a) @ b, (-1, 3, 2))

    expected = np.einsum("ij,nj,jk->nik", a, 1 - np.tanh(z @ a) ** 2, b)
    for compile in (lambda f: f, ops.compiled):
        sizes = ((None, 3),) * 2 if compile is ops.compiled else ()
        jvp = compile(lambda z, v: ops.jvp(function, z, v), *sizes)
        y, tangent = jvp(tf.constant(z), tf.constant(v))
        np.testing.assert_allclose(y, function(z), rtol=1e-6)
        along = np.einsum("nik,ni->nk", expected, v)
        np.testing.assert_allclose(np.reshape(tangent, (5, 6)), along, 1e-5, 1e-6)
        jacobian = compile(lambda z: ops.jacobian(function, z), *sizes[:1])
        result = jacobian(tf.constant(z))
        assert result.shape == (5, 3, 3, 2)
        np.testing.assert_allclose(np.reshape(result, (5, 3, 6)), expected, 1e-5, 1e-6)


def test_compiled_traces_once_for_all_sizes():
    traces = []
    double = ops.compiled(lambda x: traces.append(1) or 2.0 * x, (None, 3))
    for size in (1, 4):
        for x in (np.ones((size, 3)), np.ones((size, 3), "int32"), tf.ones((size, 3))):
            result = double(x)
            assert result.dtype == "float32"
            np.testing.assert_array_equal(result, np.full((size, 3), 2.0))
    assert len(traces) == 1


def test_build_once():
    layer = keras.layers.Dense(2)
    ops.build_once(layer, [None, 3])
    kernel = layer.kernel
    ops.build_once(layer, [None, 3])
    assert layer.kernel is kernel and kernel.shape == (3, 2)


# --------------------------------------------------------------------------------------
# Seeds


def draw(seed):
    return ops.normal((1000,), seed).numpy()


def test_normal_is_standard_normal_noise_in_float32():
    keras.config.set_floatx("float16")
    try:
        noise = draw(0)
    finally:
        keras.config.set_floatx("float32")
    assert noise.dtype == "float32"
    assert scipy.stats.kstest(noise, "norm").pvalue > 1e-3


def test_seeds_of_every_form():
    words = tf.constant([3, 4])
    for seed in (7, np.int64(7), words, tf.cast(words, "int64")):
        np.testing.assert_array_equal(draw(seed), draw(seed))
        assert np.all(draw(seed) != draw(8))
    np.testing.assert_array_equal(draw(7), draw(np.int64(7)))
    generator, twin = (keras.random.SeedGenerator(7) for _ in range(2))
    first, second = draw(generator), draw(generator)
    assert np.all(first != second)
    np.testing.assert_array_equal(first, draw(twin))


@pytest.mark.parametrize(
    "make",
    [lambda: 7, lambda: tf.constant([3, 4]), lambda: keras.random.SeedGenerator(7)],
    ids=["integer", "tensor", "generator"],
)
def test_split_seeds_differ_and_repeat(make):
    first, again = ([draw(s) for s in ops.split_seed(make(), 3)] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for i in range(3):
        assert np.all(first[i] != first[i - 1])


@pytest.mark.parametrize(
    "likelihood", [kvv.likelihoods.StudentT(), kvv.likelihoods.LogisticMixture(2)]
)
def test_draws_without_a_seed_differ(likelihood):
    assert ops.split_seed(None, 2) == [None, None]
    rng = np.random.default_rng(0)
    likelihood.build((None, 2, 2, 1))
    parameters = {
        name: rng.random((3, *head[0]), "float32")
        for name, head in likelihood.heads((2, 2, 1)).items()
    }
    first, second = (np.asarray(likelihood.sample(parameters)) for _ in range(2))
    assert first.shape == (3, 2, 2, 1) and not np.array_equal(first, second)


def test_fold_replica_draws_from_the_generator():
    generator, twin = (keras.random.SeedGenerator(7) for _ in range(2))
    seeds = [ops.fold_replica(generator) for _ in range(2)]
    assert np.all(draw(seeds[0]) != draw(seeds[1]))
    # One replica draws what it would without any fold.
    np.testing.assert_array_equal(draw(seeds[0]), draw(twin))
