"""The posteriors: their links, shapes, draws, and what they refuse."""

import math

import numpy as np
import oracles
import pytest
import scipy.stats
import tensorflow as tf
from contracts import FEATURES, L, cases, make, vae_with

from keras_vae_variance import ops as kvv_ops
from keras_vae_variance import posteriors
from keras_vae_variance.posteriors import (
    ConstantGaussian,
    Deterministic,
    DiagonalGaussian,
    IsotropicGaussian,
    SpatialGaussian,
)

each_posterior = pytest.mark.parametrize("cls, arguments", cases(posteriors))

LINKS = {
    "log_variance": np.exp,
    "softplus": lambda a: np.logaddexp(0, a) ** 2,
    "relu": lambda a: (np.maximum(a, 0) + 1e-3) ** 2,
    "bounded": lambda a: np.exp(10 * np.tanh(a / 10)),
}


def built(posterior, shape=(FEATURES,)):
    kvv_ops.build_once(posterior, (None, *shape))
    return posterior


def features(n, shape=(FEATURES,)):
    return np.random.default_rng(0).normal(size=(n, *shape)).astype("float32")


@pytest.mark.parametrize("link", LINKS)
def test_links_of_the_diagonal_gaussian(link):
    posterior = built(DiagonalGaussian(3, link))
    a = np.float32([[-30, -5, -1], [-1e-3, 0, 1e-3], [1, 5, 20]])
    posterior.spread.kernel.assign(np.zeros((FEATURES, 3)))
    for row in a:
        posterior.spread.bias.assign(row)
        _, variance = posterior(features(2))
        expected = np.broadcast_to(LINKS[link](row.astype("float64")), (2, 3))
        np.testing.assert_allclose(variance, expected, rtol=1e-5)
        assert np.all(np.isfinite(np.log(variance)))


@pytest.mark.parametrize("link", LINKS)
def test_mean_and_spread_are_dense_heads(link):
    posterior = built(DiagonalGaussian(3, link))
    x = features(4)
    mean, variance = posterior(x)
    for head, actual, f in (
        (posterior.mean, mean, lambda a: a),
        (posterior.spread, variance, LINKS[link]),
    ):
        kernel, bias = (np.asarray(w, "float64") for w in head.get_weights())
        np.testing.assert_allclose(actual, f(x @ kernel + bias), rtol=1e-5, atol=1e-7)


def test_a_relu_starts_where_it_has_a_gradient():
    """One below 0 for all examples would leave the variance at 1e-6 for good."""
    posterior = built(DiagonalGaussian(64, "relu"))
    _, variance = posterior(np.full((1, FEATURES), 0.1, "float32"))
    assert np.all(variance > 1e-2)


def test_the_isotropic_variance_is_one_number():
    posterior = built(IsotropicGaussian(3, rate=5.0))
    (parameter,) = [w for w in posterior.weights if "parameter" in w.path]
    assert parameter.shape == ()
    _, variance = posterior(features(4))
    np.testing.assert_array_equal(variance, np.ones((1, 3)))
    parameter.assign(math.log(0.05) / 5.0)
    _, variance = posterior(features(4))
    np.testing.assert_allclose(variance, np.full((1, 3), 0.05), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, "1"])
def test_wrong_rates(rate):
    with pytest.raises(ValueError, match="`rate` must be.*Received: rate="):
        IsotropicGaussian(3, rate=rate)


@pytest.mark.parametrize("value", [1.0, 0.01, 10])
def test_the_constant_variance_is_what_was_given(value):
    posterior = built(ConstantGaussian(3, value))
    _, variance = posterior(features(4))
    np.testing.assert_array_equal(variance, np.full((1, 3), value, "float32"))
    assert len(posterior.trainable_variables) == 2  # of the mean alone


@each_posterior
def test_what_a_posterior_says_of_itself(cls, arguments):
    posterior = built(make(cls, arguments))
    _, variance = posterior(features(4))
    assert posterior.shared_variance == (variance.shape[0] == 1)
    assert posterior.deterministic == bool(np.all(variance == 0))
    assert posterior.latent_dim == L


@each_posterior
def test_draws(cls, arguments):
    """Mean, variance and shape of a normal's; independent; repeated by the seed."""
    posterior = built(make(cls, arguments))
    mean, variance = posterior(np.repeat(features(1), 4000, axis=0))
    z = posterior.sample(mean, variance, seed=5).numpy()
    if posterior.deterministic:
        np.testing.assert_array_equal(z, mean)
        return
    noise = (z - mean) / np.sqrt(variance)
    for column in noise.numpy().T:
        assert scipy.stats.kstest(column, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise.numpy().T)[0, 1]) < 4 / np.sqrt(4000)
    np.testing.assert_array_equal(z, posterior.sample(mean, variance, seed=5))
    assert np.all(z != posterior.sample(mean, variance, seed=6))


@each_posterior
def test_gradient_of_a_draw(cls, arguments):
    """z = mean + sqrt(variance) noise: dz/dmean = 1, dz/dvariance = noise / 2 sd."""
    if issubclass(cls, Deterministic):
        return  # z is the mean: `test_draws`
    posterior = built(make(cls, arguments))
    mean = tf.Variable(features(4, (L,)))
    variance = tf.Variable(np.float32([[0.04, 4.0]]))
    with tf.GradientTape() as tape:
        z = posterior.sample(mean, variance, seed=5)
    slopes = tape.gradient(z, (mean, variance))
    noise = (z - mean) / tf.sqrt(variance)
    np.testing.assert_array_equal(slopes[0], np.ones((4, L)))
    expected = tf.reduce_sum(noise / 2 / tf.sqrt(variance), axis=0, keepdims=True)
    np.testing.assert_allclose(slopes[1], expected, rtol=1e-5)


@each_posterior
def test_features_of_any_rank(cls, arguments):
    """Maps are flattened."""
    if cls is SpatialGaussian:
        return  # below
    posterior, flat = (
        built(make(cls, arguments), (2, 3, 1)),
        built(make(cls, arguments), (6,)),
    )
    flat.set_weights(posterior.get_weights())
    x = features(4, (2, 3, 1))
    for actual, expected in zip(posterior(x), flat(x.reshape(4, 6)), strict=True):
        np.testing.assert_array_equal(actual, expected)
    signature = [tf.TensorSpec((None, 2, 3, 1))]
    mean, _ = tf.function(posterior.__call__, signature)(x[:0])  # an empty share
    assert mean.shape == (0, L)


@each_posterior
def test_as_the_encoding_of_a_vae(cls, arguments):
    """`encode` has the posterior's own mean, variance and draws."""
    vae = vae_with(cls, arguments)
    x = np.random.default_rng(0).uniform(size=(3, 4, 3, 2)).astype("float32")
    mean, variance = vae.posterior(vae.encoder(x))
    latent = vae.encode(x)
    for actual, expected in (
        (latent.sample, mean),
        (latent.mean, mean),
        (latent.variance, variance),
        (
            vae.encode(x, sample=True, seed=3).sample,
            vae.posterior.sample(mean, variance, seed=3),
        ),
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_a_map_has_heads_at_each_position():
    posterior = built(SpatialGaussian(3), (2, 4, 5))
    assert posterior.event_shape == (2, 4, 3) and posterior.latent_dim == 24
    x = features(4, (2, 4, 5))
    mean, variance = posterior(x)
    np.testing.assert_array_equal(variance, np.ones((4, 24)))  # where it starts
    kernel = posterior.mean.kernel
    posterior.spread.set_weights([0.5 * kernel, np.array([0.1, 0.2, 0.3])])
    _, variance = posterior(x)
    mean_of_position = oracles.float64(x) @ oracles.float64(kernel)
    expected = np.exp(0.5 * mean_of_position + [0.1, 0.2, 0.3])
    np.testing.assert_allclose(mean, mean_of_position.reshape(4, 24), atol=1e-5)
    np.testing.assert_allclose(variance, expected.reshape(4, 24), rtol=1e-5)
    copy = SpatialGaussian.from_config(posterior.get_config())
    assert built(copy, (1, 1, 2)).event_shape == (1, 1, 3)


@each_posterior
@pytest.mark.parametrize("number", [0, -1, 2.0, "2", None, True])
def test_wrong_number(cls, arguments, number):
    name = "channels" if cls is SpatialGaussian else "latent_dim"
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received: {name}="):
        cls(**{**arguments, name: number})


@pytest.mark.parametrize("link", ["exp", "", None])
def test_wrong_link(link):
    with pytest.raises(
        ValueError, match="`link` must be log_variance.*Received: link="
    ):
        DiagonalGaussian(2, link)


@pytest.mark.parametrize("variance", [0, -1.0, math.inf, math.nan, "1", None])
def test_wrong_constant_variance(variance):
    with pytest.raises(ValueError, match="Deterministic. Received: variance="):
        ConstantGaussian(2, variance)


def test_a_posterior_says_what_it_must_override():
    with pytest.raises(NotImplementedError):
        built(posteriors.Posterior(2))(features(1))
