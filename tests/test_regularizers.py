"""The latent terms: KL against TFP, BILBO against the floating prior, the checks."""

import math

import numpy as np
import oracles
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from contracts import EVENT, L, cases, make, vae_with

import keras_vae_variance as kvv
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.posteriors import (
    ConstantGaussian,
    Deterministic,
    DiagonalGaussian,
    IsotropicGaussian,
)
from keras_vae_variance.priors import Floating, StandardNormal
from keras_vae_variance.regularizers import BILBO, KL
from keras_vae_variance.types import Latent

each_regularizer = pytest.mark.parametrize("cls, arguments", cases(kvv.regularizers))


def means(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, L)).astype("float32") * 2


def latent_of(mean, variance, prior, training=True):
    return Latent(mean, mean, variance, *prior(mean, variance, training=training))


def floating():
    prior = Floating()
    kvv_ops.build_once(prior, (None, L))
    return prior


def images(n, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, *EVENT)).astype("float32")


# --------------------------------------------------------------------------------------
# KL


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_kl_against_tfp(shared, training):
    random = np.random.default_rng(0)
    mean, variance = means(6), random.choice([1e-6, 0.3, 1e3], size=(6, L))
    variance = np.float32(variance[:1] if shared else variance)
    for prior in (StandardNormal(), floating()):
        prior(means(6, seed=1), variance, training=True)
        latent = latent_of(mean, variance, prior, training)
        expected = oracles.gaussian_kl(*latent[1:])
        actual = KL()(mean, latent, training=training)
        assert actual.shape == (6,)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_kl_is_the_mean_log_ratio_of_draws():
    mean, variance = means(1), np.float32([[0.2, 3.0]])
    posterior = tfp.distributions.MultivariateNormalDiag(mean[0], np.sqrt(variance[0]))
    prior = tfp.distributions.MultivariateNormalDiag(tf.zeros(L), tf.ones(L))
    z = posterior.sample(40_000, seed=0)
    ratios = (posterior.log_prob(z) - prior.log_prob(z)).numpy()
    kl = float(KL()(mean, latent_of(mean, variance, StandardNormal()))[0])
    assert abs(kl - ratios.mean()) < 5 * ratios.std() / 200


# --------------------------------------------------------------------------------------
# BILBO


@pytest.mark.parametrize("s2", [1.0, 0.01, 10.0])
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0, 0.5, 1.0, 3.0]])
def test_bilbo_is_the_mean_kl_to_the_floating_prior(s2, weights):
    """With a constant variance, in value and in gradient (P4, Section 4.3)."""
    mean, log_s2 = (
        tf.Variable(means(6)),
        tf.Variable(np.log([[s2, 2 * s2]]), tf.float32),
    )
    results = []
    for regularizer in (BILBO(), KL()):
        with tf.GradientTape() as tape, kvv_ops.batch(mean, weights) as batch:
            latent = latent_of(mean, tf.exp(log_s2), floating())
            term = regularizer(images(6), latent, training=True)
            if len(term.shape):
                term = batch.mean(term)[0]
        results.append((term, *tape.gradient(term, (mean, log_s2))))
        assert term.shape == ()
    for bilbo, kl in zip(*results, strict=True):
        np.testing.assert_allclose(bilbo, kl, rtol=1e-5, atol=1e-6)
    assert np.all(np.abs(results[0][1]).max(axis=0) > 0)


def test_bilbo_in_evaluation_is_the_kl_to_the_running_prior():
    prior, s2 = floating(), np.full((1, L), 0.5, "float32")
    prior(means(8, seed=1), s2, training=True)
    mean = means(6)
    latent = latent_of(mean, s2, prior, training=False)
    actual = BILBO()(images(6), latent, training=False)
    expected = oracles.gaussian_kl(mean, s2, 0.0, prior.running.value)
    assert actual.shape == (6,)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("posterior", [ConstantGaussian(L, 0.1), IsotropicGaussian(L)])
def test_bilbo_and_kl_train_the_same_vae(posterior):
    """Loss and every gradient of whole models."""
    results = []
    for regularizer in (BILBO, KL):
        likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.3))
        networks = kvv.backbones.mlp(EVENT, L, likelihood, hidden=())
        own = type(posterior).from_config(posterior.get_config())
        vae = kvv.VAE(*networks, own, likelihood, Floating(), [regularizer()], seed=0)
        random = np.random.default_rng(0)
        for variable in vae.trainable_variables:
            variable.assign(random.normal(scale=0.3, size=variable.shape))
        with tf.GradientTape() as tape:
            terms = vae.objective(images(6), training=True)
            loss = tf.reduce_mean(terms["reconstruction"])
            loss += tf.reduce_mean(terms[regularizer.term])
        results.append([loss, *tape.gradient(loss, vae.trainable_variables)])
    for bilbo, kl in zip(*results, strict=True):
        np.testing.assert_allclose(bilbo, kl, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------
# What fits together


def check(regularizer, posterior, prior, words):
    """The check itself, and the VAE that makes it."""
    with pytest.raises(ValueError, match=rf"(?s){words}"):
        regularizer.check(posterior, prior)
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.3))
    networks = kvv.backbones.mlp(EVENT, L, likelihood, hidden=())
    with pytest.raises(ValueError, match=rf"(?s){words}"):
        kvv.VAE(*networks, posterior, likelihood, prior, [regularizer])


def test_kl_refuses_a_deterministic_posterior():
    words = "KL divergence.*infinite.*Received: posterior=<Deterministic"
    check(KL(), Deterministic(L), StandardNormal(), words)


def test_bilbo_refuses_a_prior_that_is_given():
    words = r"priors\.Floating\(\).*Received: prior=<StandardNormal"
    check(BILBO(), ConstantGaussian(L), StandardNormal(), words)


@pytest.mark.parametrize("posterior", [DiagonalGaussian, Deterministic])
def test_bilbo_refuses_a_variance_of_each_example(posterior):
    words = rf"that all examples share.*Received: posterior=<{posterior.__name__}"
    check(BILBO(), posterior(L), Floating(), words)


@pytest.mark.parametrize("posterior", [ConstantGaussian, IsotropicGaussian])
def test_bilbo_takes_a_shared_variance(posterior):
    BILBO().check(posterior(L), Floating())
    for prior in (StandardNormal(), Floating()):
        KL().check(posterior(L), prior)
    KL().check(DiagonalGaussian(L), Floating())


def test_bilbo_refuses_variances_of_each_example_in_a_call():
    mean = means(6)
    latent = latent_of(mean, np.exp(mean), floating())
    with pytest.raises(ValueError, match="(?s)leading size of 1.*Received: latent.var"):
        BILBO()(images(6), latent, training=True)


def test_a_vae_refuses_two_of_a_kind():
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.3))
    networks = kvv.backbones.mlp(EVENT, L, likelihood, hidden=())
    with pytest.raises(ValueError, match="different kinds.*Received: terms kl, kl"):
        kvv.VAE(
            *networks, DiagonalGaussian(L), likelihood, regularizers=[KL(), KL(2.0)]
        )


# --------------------------------------------------------------------------------------
# Every regularizer


@each_regularizer
def test_the_weight_is_a_variable_of_the_loss(cls, arguments):
    """`loss = reconstruction + weight * term`, also once a schedule has changed it."""
    vae = vae_with(cls, arguments)
    (regularizer,) = vae.regularizers
    vae.compile("sgd")
    logs = {}
    for weight in (arguments["weight"], 0.0, 7.0):
        regularizer.weight.assign(weight)
        logs[weight] = vae.evaluate(images(6), return_dict=True, verbose=0)
        term = logs[weight][cls.term]
        expected = logs[weight]["reconstruction"] + weight * term
        assert logs[weight]["loss"] == pytest.approx(expected, rel=1e-5)
        assert abs(term) > 1e-3
    assert not regularizer.trainable_variables


@each_regularizer
def test_the_term_is_unweighted(cls, arguments):
    terms = [
        vae_with(cls, {**arguments, "weight": weight}).objective(images(6))[cls.term]
        for weight in (1.0, 5.0)
    ]
    np.testing.assert_array_equal(*terms)


@each_regularizer
@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan, "1", None])
def test_wrong_weight(cls, arguments, weight):
    with pytest.raises(ValueError, match="`weight` must be.*Received: weight="):
        make(cls, {**arguments, "weight": weight})


def test_a_regularizer_says_what_it_must_override():
    class Half(kvv.regularizers.Regularizer):
        pass

    Half().check(Deterministic(L), StandardNormal())
    with pytest.raises(NotImplementedError):
        Half()(images(1), None)
