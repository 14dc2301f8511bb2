"""The priors: the standard normal, and the one that floats with the batch."""

import numpy as np
import oracles
import pytest
import tensorflow as tf
from contracts import EVENT, L

import keras_vae_variance as kvv
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.priors import Floating, Prior, StandardNormal


def posteriors(n, seed=0, shared=False):
    random = np.random.default_rng(seed)
    mean = random.normal(size=(n, L)) * [1.0, 3.0]
    variance = random.uniform(0.1, 2.0, size=(1 if shared else n, L))
    return mean.astype("float32"), variance.astype("float32")


def second_moment(mean, variance, weights=None):
    """P4, Eq. 4, diagonal."""
    moments = np.broadcast_to(oracles.float64(mean) ** 2 + variance, mean.shape)
    return np.average(moments, axis=0, weights=weights)[None]


def built(prior):
    kvv_ops.build_once(prior, (None, L))
    return prior


def floating_vae(decay=0.99):
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.3))
    networks = kvv.backbones.mlp(EVENT, L, likelihood, hidden=())
    posterior = kvv.posteriors.DiagonalGaussian(L)
    return kvv.VAE(*networks, posterior, likelihood, Floating(decay), seed=0)


def images(n, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, *EVENT)).astype("float32")


@pytest.mark.parametrize("training", [False, True])
def test_standard_normal(training):
    mean, variance = StandardNormal()(*posteriors(5), training=training)
    np.testing.assert_array_equal(mean, np.zeros((1, L)))
    np.testing.assert_array_equal(variance, np.ones((1, L)))
    assert not StandardNormal.floating and Floating.floating


@pytest.mark.parametrize("shared", [False, True])
def test_floating_prior(shared):
    """The second moment of the posteriors of the batch; its running average beside."""
    prior = built(Floating(decay=0.9))
    np.testing.assert_array_equal(prior(*posteriors(3))[1], np.ones((1, L)))
    moments = []
    for seed, n in enumerate((5, 2, 8)):
        batch = posteriors(n, seed, shared)
        moments.append(second_moment(*batch))
        mean, variance = prior(*batch, training=True)
        np.testing.assert_array_equal(mean, np.zeros((1, L)))
        np.testing.assert_allclose(variance, moments[-1], rtol=1e-5)
        _, running = prior(*posteriors(4, seed=9), training=False)
        expected = oracles.running_average(moments, 0.9)
        np.testing.assert_allclose(running, expected, rtol=1e-5)


def test_floating_prior_has_the_least_kl():
    """No other variance of a shared prior gives the batch a lower mean (P4, Eq. 4)."""
    mean, variance = posteriors(6)
    zeros, best = built(Floating())(mean, variance, training=True)
    least = oracles.gaussian_kl(mean, variance, zeros, best).mean()
    random = np.random.default_rng(1)
    for _ in range(10):
        other = best * np.exp(random.normal(scale=0.05, size=(1, L)))
        assert oracles.gaussian_kl(mean, variance, zeros, other).mean() > least


def test_gradient_flows_through_the_floating_prior():
    mean, variance = (tf.Variable(t) for t in posteriors(5))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(built(Floating())(mean, variance, training=True)[1])
    slopes = tape.gradient(total, (mean, variance))
    np.testing.assert_allclose(slopes[0], 2 / 5 * mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(slopes[1], np.full((5, L), 1 / 5), rtol=1e-5)


def test_weights_enter_the_floating_prior():
    mean, variance = posteriors(4)
    weights = np.float32([0, 0.5, 2, 1])
    prior = built(Floating())
    with kvv_ops.batch(mean, weights):
        _, actual = prior(mean, variance, training=True)
    expected = second_moment(mean, variance, weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    np.testing.assert_allclose(prior(mean, variance)[1], expected, rtol=1e-5)


def test_an_empty_share_of_a_batch():
    prior = built(Floating())
    prior(*posteriors(5), training=True)
    before = prior(*posteriors(5))[1].numpy()
    signature = [tf.TensorSpec((None, L))] * 2
    call = tf.function(lambda *batch: prior(*batch, training=True)[1], signature)
    np.testing.assert_array_equal(call(*posteriors(0)), before)
    np.testing.assert_array_equal(prior(*posteriors(5))[1], before)


def test_evaluation_and_generation_take_the_running_prior():
    vae = floating_vae()
    for seed in range(3):
        vae.objective(images(6, seed), training=True)
    running = vae.prior.running.value.numpy()
    x = images(5, seed=7)
    latent = vae.encode(x)
    np.testing.assert_array_equal(latent.prior_variance, running)
    expected = oracles.gaussian_kl(latent.mean, latent.variance, 0.0, running)
    np.testing.assert_allclose(vae.elbo(x)["kl"], expected, rtol=1e-5)
    np.testing.assert_allclose(vae.objective(x)["kl"], expected, rtol=1e-5)
    np.testing.assert_array_equal(vae.prior.running.value, running)
    # Latents of generated images have its variance.
    seen = []
    decoder, vae.decoder = vae.decoder, lambda z, **_: seen.append(z) or decoder(z)
    try:
        vae.generate(5000, seed=0)
    finally:
        vae.decoder = decoder
    z = np.concatenate(seen)
    assert np.all(np.abs(z.var(axis=0) / running - 1) < 5 * np.sqrt(2 / 5000))


@pytest.mark.parametrize("n", [9, 12])
def test_exact_after_calibration(n):
    """One pass, with the means of the whole data set: no draw enters it."""
    vae = floating_vae()
    vae.objective(images(4, seed=1), training=True)
    x = images(n)
    latent = vae.encode(x)
    expected = second_moment(latent.mean.numpy(), latent.variance)
    vae.calibrate(x, batch_size=4)
    np.testing.assert_allclose(vae.encode(x).prior_variance, expected, rtol=1e-5)


@pytest.mark.parametrize("decay", [0, 1, 1.5, float("nan"), "0.9"])
def test_wrong_decay(decay):
    with pytest.raises(ValueError, match="`decay` must lie.*Received: decay="):
        Floating(decay=decay)


def test_a_prior_says_what_it_must_override():
    class Half(Prior):
        pass

    with pytest.raises(NotImplementedError):
        Half()(*posteriors(2))
