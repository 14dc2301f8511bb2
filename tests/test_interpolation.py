"""Spherical interpolation, and images between images."""

import keras
import numpy as np
import pytest
import scipy.spatial
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance import ops
from keras_vae_variance.metrics import interpolate


def linear(a, b, ratio):
    return (1 - ratio) * a + ratio * b


def slerp(a, b, ratio):
    result = ops.slerp(np.float32(a), np.float32(b), np.float32(ratio))
    return keras.ops.convert_to_numpy(result)


# --------------------------------------------------------------------------------------
# slerp


@pytest.mark.parametrize("size", [2, 3, 64])
def test_slerp_on_the_sphere(size):
    """SciPy's, for vectors of length 1; length times length for others."""
    rng = np.random.default_rng(size)
    a, b = rng.normal(size=(2, 30, size))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    ratio = rng.uniform(size=30)
    expected = np.stack(
        [
            scipy.spatial.geometric_slerp(*pair, t)
            for *pair, t in zip(a, b, ratio, strict=True)
        ]
    )
    # float32, and angles up to 3.1, where 1/sin is 20.
    np.testing.assert_allclose(slerp(a, b, ratio), expected, atol=1e-5)
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-6)
    np.testing.assert_allclose(slerp(a, b, 1.0), b, atol=1e-6)
    np.testing.assert_allclose(slerp(b, a, 1 - ratio), expected, atol=1e-5)
    np.testing.assert_allclose(slerp(7 * a, 7 * b, ratio), 7 * expected, atol=1e-4)


def test_slerp_of_different_lengths():
    """The weights depend on the angle alone: at a right angle, cos and sin."""
    a, b = np.array([[3.0, 0, 0]]), np.array([[0, 5.0, 0]])
    for ratio in (0.0, 0.2, 0.5, 1.0):
        angle = ratio * np.pi / 2
        expected = [[3 * np.cos(angle), 5 * np.sin(angle), 0]]
        np.testing.assert_allclose(slerp(a, b, ratio), expected, atol=1e-6)


def test_slerp_without_an_arc():
    """Equal, parallel and opposite vectors, and zero: the straight line."""
    x = np.random.default_rng(0).normal(size=(5, 8))
    zero = np.zeros_like(x)
    pairs = [(x, x), (x, 3 * x), (x, -x), (x, -0.2 * x), (x, zero), (zero, x)]
    pairs += [(zero, zero), (1e-20 * x, 1e20 * x)]
    for a, b in pairs:
        for ratio in (0.0, 0.25, 0.5, 1.0):
            expected = linear(a, b, ratio)
            np.testing.assert_allclose(slerp(a, b, ratio), expected, 1e-5, 1e-6)
    # Of one latent variable there is no other case.
    a, b = x[:, :1], x[:, 1:2]
    np.testing.assert_allclose(slerp(a, b, 0.3), linear(a, b, 0.3), 1e-5, 1e-6)


def test_slerp_near_those_cases():
    """At small angles it meets the straight line, and everywhere it is finite."""
    angles = np.concatenate([np.logspace(-8, -1, 40), np.pi - np.logspace(-8, -1, 40)])
    a = np.tile([1.0, 0.0], (len(angles), 1))
    b = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    middle = slerp(a, b, 0.5)
    assert np.isfinite(middle).all()
    exact = np.stack([np.cos(angles / 2), np.sin(angles / 2)], axis=1)
    np.testing.assert_allclose(middle[:40], exact[:40], atol=1e-6)
    # The last digits of b decide the plane of nearly opposite vectors.
    arcs = angles < np.pi - 2e-3
    assert arcs.sum() > 40
    np.testing.assert_allclose(middle[arcs], exact[arcs], atol=2e-4)


# --------------------------------------------------------------------------------------
# Images


@pytest.fixture
def vae():
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    networks = kvv.backbones.mlp((4, 4, 1), 3, likelihood)
    return kvv.VAE(*networks, kvv.posteriors.DiagonalGaussian(3), likelihood, seed=0)


def pairs(n=300):
    x = np.random.default_rng(0).integers(0, 256, (2, n, 4, 4, 1), dtype="uint8")
    return x[0], x[1]


def by_hand(vae, x1, x2, ratio):
    """In float64 NumPy, from the posterior means."""
    a, b = (np.float64(vae.encode(x).mean) for x in (x1, x2))
    cosine = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    angle = np.arccos(cosine)[:, None]
    ratio = np.reshape(ratio, (-1, 1))
    z = np.sin((1 - ratio) * angle) * a + np.sin(ratio * angle) * b
    return np.asarray(vae.decode(np.float32(z / np.sin(angle)))["mean"])


def test_interpolates_between_the_posterior_means(vae):
    x1, x2 = pairs()
    state = keras.ops.convert_to_numpy(vae.seed_generator.state)
    for ratio in (0.5, 0.2):
        result = interpolate(vae, x1, x2, ratio)
        assert isinstance(result, np.ndarray) and result.shape == x1.shape
        np.testing.assert_allclose(result, by_hand(vae, x1, x2, ratio), atol=1e-4)
    for ratio, x in ((0, x1), (1.0, x2)):
        expected = vae.reconstruct(x)["mean"]
        np.testing.assert_allclose(interpolate(vae, x1, x2, ratio), expected, atol=1e-5)
    np.testing.assert_array_equal(state, vae.seed_generator.state)


def test_random_ratios(vae):
    x1, x2 = pairs()
    result = interpolate(vae, x1, x2, "random", seed=4)
    key = np.random.SeedSequence(4).generate_state(2, np.uint64)
    ratios = np.random.Generator(np.random.Philox(key=key)).random(300, np.float32)
    np.testing.assert_allclose(result, by_hand(vae, x1, x2, ratios), atol=1e-4)
    assert ratios.min() < 0.05 and ratios.max() > 0.95
    np.testing.assert_array_equal(result, interpolate(vae, x1, x2, "random", seed=4))
    assert np.any(result != interpolate(vae, x1, x2, "random", seed=5))


def test_streams_of_any_batches(vae):
    x1, x2 = pairs()
    expected = interpolate(vae, x1, x2, "random", seed=4)
    dataset = tf.data.Dataset.from_tensor_slices((x1, np.zeros(300))).batch(77)
    batches = (x2[i : i + 50] for i in range(0, 300, 50))
    result = interpolate(vae, dataset, batches, "random", seed=4)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_bad_input(vae):
    x1, x2 = pairs(10)
    for ratio in (-0.1, 1.5, np.nan, True, "half", None):
        with pytest.raises(ValueError, match="Received: ratio="):
            interpolate(vae, x1, x2, ratio)
    with pytest.raises(ValueError, match="Received: x1 with 10, x2 with 9"):
        interpolate(vae, x1, x2[:9])
