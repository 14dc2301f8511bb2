"""The terms of regularised autoencoders: norms of latents and of the Jacobian."""

import numpy as np
import oracles
import pytest
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.regularizers import DecoderGradientPenalty, LatentNorm
from keras_vae_variance.types import Latent

L, HIDDEN, EVENT = 2, 5, (3, 2)


def array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def latent_of(z):
    ones = np.ones((1, L), "float32")
    return Latent(z, 0.0 * z, 0 * ones, 0 * ones, ones)


def test_latent_norm():
    z = array(4, L)
    expected = [0.5 * np.linalg.norm(oracles.float64(row)) ** 2 for row in z]
    np.testing.assert_allclose(LatentNorm()(z, latent_of(z)), expected, rtol=1e-6)


# --------------------------------------------------------------------------------------
# The Jacobian of m = tanh(z A) B

A, B = array(L, HIDDEN, seed=1), array(HIDDEN, 6, seed=2)


def decoder(a=A, b=B):
    def decode(z):
        return {"raw_variance": z, "mean": tf.reshape(tf.tanh(z @ a) @ b, (-1, *EVENT))}

    return decode


def jacobian(z, a=A, b=B):
    """Of one example, `(6, L)`."""
    z, a, b = map(oracles.float64, (z, a, b))
    return (a * (1 - np.tanh(z @ a) ** 2)) @ b


def test_is_unbiased():
    """Its mean over draws is the squared norm, and not that of the sum's gradient."""
    regularizer, runs = DecoderGradientPenalty(seed=0), 20_000
    for row in array(2, L):
        z = np.broadcast_to(row, (runs, L))
        terms = regularizer(z, latent_of(z), decode=decoder()).numpy()
        j = jacobian(row)
        error = 4 * terms.std() / np.sqrt(runs)
        assert abs(terms.mean() - np.sum(j**2)) < error
        assert abs(np.sum(j.sum(axis=1) ** 2) - np.sum(j**2)) > 4 * error


@pytest.mark.parametrize("compiled", [False, True])
def test_value_and_gradient_of_one_draw(monkeypatch, compiled):
    """|J^T u|^2, by the decoder's weights and the latents."""
    u = array(4, *EVENT, seed=3)
    monkeypatch.setattr(kvv_ops, "normal", lambda shape, seed: u)
    regularizer = DecoderGradientPenalty()
    variables = [tf.Variable(t) for t in (array(4, L), A, B)]

    def step():
        z, a, b = variables
        with tf.GradientTape() as tape:
            # Not a variable itself, as in a model.
            terms = regularizer(z, latent_of(1.0 * z), decode=decoder(a, b))
            loss = tf.reduce_sum(terms)
        return terms, tape.gradient(loss, variables)

    def expected(z, a, b):
        js = [jacobian(row, a, b) for row in z]
        return [
            np.sum((j @ oracles.float64(u_n).ravel()) ** 2)
            for j, u_n in zip(js, u, strict=True)
        ]

    terms, gradients = (tf.function(step, jit_compile=True) if compiled else step)()
    arrays = [v.numpy() for v in variables]
    np.testing.assert_allclose(terms, expected(*arrays), rtol=1e-4)
    slopes = oracles.numeric_gradient(lambda *a: sum(expected(*a)), *arrays, step=1e-5)
    for actual, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(actual, slope, rtol=1e-3, atol=1e-3)
        assert np.abs(slope).max() > 0.1


def test_draws_differ_between_examples_and_calls_and_follow_the_seed():
    z = np.broadcast_to(array(1, L), (3, L))
    terms = []
    for _ in range(2):
        regularizer = DecoderGradientPenalty(seed=1)
        calls = [regularizer(z, latent_of(z), decode=decoder()) for _ in range(2)]
        terms.append(np.concatenate(calls))
    np.testing.assert_array_equal(*terms)
    assert len(set(terms[0])) == 6


# --------------------------------------------------------------------------------------
# In a model


def test_takes_the_only_output_of_a_decoder():
    """Bernoulli's logits; a linear decoder has its kernel as the Jacobian."""
    likelihood = kvv.likelihoods.Bernoulli()
    networks = kvv.backbones.mlp((3, 2, 1), L, likelihood, hidden=())
    posterior = kvv.posteriors.Deterministic(L)
    penalty = DecoderGradientPenalty(seed=0)
    vae = kvv.VAE(*networks, posterior, likelihood, regularizers=[penalty], seed=0)
    x = np.zeros((8000, 3, 2, 1), "float32")
    terms = vae.objective(x)["decoder_gradient_penalty"].numpy()
    kernel = oracles.float64(vae.decoder.get_weights()[0])
    assert kernel.shape == (L, 6)
    error = 4 * terms.std() / np.sqrt(len(x))
    assert abs(terms.mean() - np.sum(kernel**2)) < error


def test_refuses_a_decoder_without_a_mean():
    z = array(4, L)
    with pytest.raises(ValueError, match="(?s)named `mean`.*Received: par.*=a, b"):
        DecoderGradientPenalty()(z, latent_of(z), decode=lambda z: {"a": z, "b": z})
    with pytest.raises(ValueError, match="(?s)needs `decode`.*Received: decode=None"):
        DecoderGradientPenalty()(z, latent_of(z))
