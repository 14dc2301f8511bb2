"""Baggins: its information, its running averages, and images fitted exactly.

Equations 29 and 30 and the scale invariance are in `test_papers.py`.
"""

import math

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.types import Latent
from keras_vae_variance.variances import Baggins

EVENT, L = (4, 3, 2), 2
D = 24


def built(**arguments):
    variance = Baggins(**arguments)
    kvv_ops.build_once(variance, (None, *EVENT))
    return variance


def squared_errors(n=6, seed=0):
    random = np.random.default_rng(seed)
    sizes = random.uniform(0.1, 3.0, size=(n, 1, 1, 1))
    return (sizes * random.normal(size=(n, *EVENT)) ** 2).astype("float32")


def latent_of(variance, prior_variance=((2.0, 0.3),)):
    variance, prior_variance = np.float32(variance), np.float32(prior_variance)
    zeros = 0 * prior_variance
    return Latent(zeros, zeros, variance, zeros, prior_variance)


SHARED = latent_of([[0.5, 0.1]])  # 4 + 3


def totals(r2):
    return oracles.sum_event(r2).reshape(-1, 1, 1, 1)


def bilbo_vae():
    keras.utils.set_random_seed(0)
    likelihood = kvv.likelihoods.Gaussian(Baggins())
    networks = kvv.backbones.mlp(EVENT, L, likelihood, hidden=())
    posterior = kvv.posteriors.ConstantGaussian(L, 0.5)
    bilbo = [kvv.regularizers.BILBO()]
    return kvv.VAE(
        *networks, posterior, likelihood, kvv.priors.Floating(), bilbo, seed=0
    )


def images(n, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, *EVENT)).astype("float32")


# --------------------------------------------------------------------------------------
# The variance of a batch


@pytest.mark.parametrize("tau", [0.2, 1.0])
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0, 0.5, 1.0, 3.0]])
def test_information_of_a_variance_of_each_example(tau, weights):
    """The mean over the examples, by weight, of the sum of the ratios."""
    s2 = np.random.default_rng(0).uniform(0.1, 2, size=(6, L)).astype("float32")
    latent, r2 = latent_of(s2), squared_errors()
    information = np.average(
        np.sum(latent.prior_variance / oracles.float64(s2), axis=1), weights=weights
    )
    variance = built(information_factor=tau)
    with kvv_ops.batch(r2, weights):
        v = variance(r2, {}, latent, training=True)
        shared = variance(r2, {}, SHARED, training=True)
    assert v.shape == shared.shape == (6, 1, 1, 1)
    np.testing.assert_allclose(v, tau * totals(r2) / information, rtol=1e-5)
    np.testing.assert_allclose(shared, tau * totals(r2) / 7, rtol=1e-5)


def test_gradient_flows_through_numerator_and_denominator():
    """Of the nll, by the residuals and by all of the latent that v depends on."""
    r = np.random.default_rng(0).normal(size=(3, *EVENT)).astype("float32")
    s2, prior_s2 = np.float32([[0.5, 0.4]]), np.float32([[2.0, 0.7]])

    def nll(r, s2, prior_s2):
        information = np.sum(prior_s2 / s2)
        v = 0.2 * np.sum(r**2, axis=(1, 2, 3), keepdims=True) / information
        return oracles.gaussian_nll(r, 0.0, v).sum()

    variables = [tf.Variable(a) for a in (r, s2, prior_s2)]
    likelihood = kvv.likelihoods.Gaussian(built())
    with tf.GradientTape() as tape:
        x, s2_now, prior_now = variables
        zeros = tf.zeros((1, L))
        latent = Latent(zeros, zeros, s2_now, zeros, prior_now)
        loss = tf.reduce_sum(
            likelihood(x, {"mean": tf.zeros_like(x)}, latent, training=True)
        )
    actual = tape.gradient(loss, variables)
    expected = oracles.numeric_gradient(nll, r, s2, prior_s2)
    for one, other in zip(actual, expected, strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_every_image_has_the_same_standardised_error():
    """|r_n|^2 / v_n = information / tau."""
    r2 = squared_errors()
    v = built()(r2, {}, SHARED, training=True)
    np.testing.assert_allclose(totals(r2) / v, 7 / 0.2, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_an_exact_fit_is_finite(training):
    """Its v is that of |r|^2 = 1e-20; others are as they were."""
    r = tf.Variable(np.sqrt(squared_errors()))
    r[1].assign(tf.zeros(EVENT))
    r[2].assign(tf.fill(EVENT, 1e-12))
    variance = built()
    likelihood = kvv.likelihoods.Gaussian(variance)
    variance(squared_errors(), {}, SHARED, training=True)
    with tf.GradientTape() as tape:
        nll = likelihood(r, {"mean": 0.0 * r}, SHARED, training=training)
        loss = tf.reduce_sum(nll)
    gradient = tape.gradient(loss, r).numpy()
    assert np.isfinite(gradient).all()
    assert not gradient[1].any() and gradient[0].any()
    smallest = D / 2 * np.log(2 * np.pi * 0.2 * 1e-20 / 7)
    np.testing.assert_allclose(nll[1], smallest, rtol=1e-5)
    # Beside it |r|^2 / v: 24e-24 / 1e-20 * 7 / 0.2 = 0.084.
    np.testing.assert_allclose(nll[2], smallest + 0.042, rtol=1e-5)
    assert np.all(nll.numpy()[[0, 3, 4, 5]] > smallest + 100)


def test_an_exact_fit_of_every_image_gives_a_variance():
    variance = built()
    zeros = np.zeros((2, *EVENT), "float32")
    for training in (True, False):
        v = variance(zeros, {}, SHARED, training=training)
        assert np.all(v > 0) and np.all(np.isfinite(np.log(v)))
    assert np.all(variance.predict({}) > 0)


# --------------------------------------------------------------------------------------
# Without the batch


def test_evaluation_takes_the_error_of_x_and_the_running_information():
    variance = built(decay=0.9)
    before = squared_errors(1)
    np.testing.assert_allclose(
        variance(before, {}, None), totals(before) / 5, rtol=1e-5
    )
    np.testing.assert_allclose(variance.predict({}), np.ones((1, 1, 1, 1)), rtol=1e-6)
    first, second = squared_errors(seed=1), squared_errors(seed=2)
    variance(first, {}, SHARED, training=True)
    variance(second, {}, latent_of([[1.0, 0.3]]), training=True)  # 2 + 1
    # The average with bias correction: weights 0.09 and 0.1.
    information = np.average([7, 3], weights=[0.09, 0.1])
    error = np.average(
        [totals(first).mean(), totals(second).mean()], weights=[0.09, 0.1]
    )
    for latent in (SHARED, None):
        v = variance(before, {}, latent, training=False)
        np.testing.assert_allclose(v, 0.2 * totals(before) / information, rtol=1e-5)
    predicted = variance.predict({})
    assert predicted.shape == (1, 1, 1, 1)
    np.testing.assert_allclose(predicted, 0.2 * error / information, rtol=1e-5)


def test_predicts_the_weighted_mean_of_a_batch():
    variance, r2 = built(), squared_errors()
    weights = np.float32([1, 0, 2, 0.5, 1, 3])
    with kvv_ops.batch(r2, weights):
        v = variance(r2, {}, SHARED, training=True)
    expected = np.average(oracles.float64(v).ravel(), weights=weights)
    np.testing.assert_allclose(np.ravel(variance.predict({})), expected, rtol=1e-5)


def test_calibrate_gives_the_mean_over_the_data():
    """Whatever the batches, of the variances that evaluation then has."""
    x = images(11)
    for batch_size in (11, 4):
        vae = bilbo_vae().calibrate(x, batch_size=batch_size)
        variance = vae.likelihood.variance_model
        second_moment = np.mean(oracles.float64(vae.encode(x).mean) ** 2, axis=0)
        information = np.sum(1 + second_moment / 0.5)
        np.testing.assert_allclose(variance.information.value, information, rtol=1e-5)
        # The draws of z that calibrate makes, in the order of its batches.
        seed = keras.random.SeedGenerator(0)
        r2 = []
        for start in range(0, 11, batch_size):
            z = vae.encode(x[start : start + batch_size], sample=True, seed=seed).sample
            r2.append((x[start : start + batch_size] - vae.decode(z)["mean"]) ** 2)
        v = variance(np.concatenate(r2), {}, training=False)
        np.testing.assert_allclose(np.mean(v), np.ravel(variance.predict({})), 1e-5)


def test_a_batch_without_examples_changes_nothing():
    variance, r2 = built(), squared_errors()
    variance(r2, {}, SHARED, training=True)
    before = [w.numpy() for w in variance.variables]
    with kvv_ops.batch(r2, np.zeros(6)):
        v = variance(r2, {}, latent_of([[1.0, 1.0]]), training=True)
    np.testing.assert_allclose(v, 0.2 * totals(r2) / 7, rtol=1e-5)
    for variable, value in zip(variance.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


# --------------------------------------------------------------------------------------
# In a model


def test_trains_and_generates():
    x = images(32)
    vae = bilbo_vae()
    vae.compile("sgd")
    history = vae.fit(x, batch_size=8, epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    generated = vae.generate(3, seed=0)["variance"].numpy()
    assert np.ptp(generated) == 0 and 1e-3 < generated[0, 0, 0, 0] < 1
    with pytest.raises(ValueError, match=r"`batch_size` must be.*Gaussian, Floating"):
        vae.fit(x, batch_size=1)


# --------------------------------------------------------------------------------------
# Wrong arguments


def test_a_deterministic_posterior_is_refused():
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Baggins())
    networks = kvv.backbones.mlp((4,), 2, likelihood)
    with pytest.raises(ValueError, match="Received: posterior="):
        kvv.VAE(*networks, kvv.posteriors.Deterministic(2), likelihood, regularizers=[])


def test_training_needs_a_latent():
    r2 = squared_errors()
    with pytest.raises(ValueError, match="(?s)from `latent`.*Received: latent=None"):
        built()(r2, {}, training=True)
    assert built()(r2, {}).shape == (6, 1, 1, 1)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "1", None])
def test_wrong_information_factor(value):
    with pytest.raises(ValueError, match="`information_factor` must.*Received: info"):
        Baggins(value)


@pytest.mark.parametrize("decay", [0, 1, "0.9"])
def test_wrong_decay(decay):
    with pytest.raises(ValueError, match="`decay` must.*Received: decay="):
        Baggins(decay=decay)
