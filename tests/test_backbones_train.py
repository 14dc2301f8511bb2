"""Every backbone trains, with every likelihood; is saved, reloaded and exported."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts import ARGUMENTS, FAMILIES, classes, make
from networks import DENSE, SMALL

import keras_vae_variance as kvv

L = 2
# The smallest image that all of them take.
SHAPE = (8, 8, 3)
STEPS = 3
LIKELIHOODS = [c for c in classes() if issubclass(c, FAMILIES[kvv.likelihoods])]
# A traced step and an export take about 10 s. These two are dense, and convolutional
# with batch normalisation; other tests export depth_to_space and mlp.
FAST = ["infogan", "residual_mlp"]


def vae_with(name, likelihood, shape=SHAPE):
    keras.utils.set_random_seed(0)
    encoder, decoder = SMALL[name](shape, L, likelihood)
    posterior = kvv.posteriors.DiagonalGaussian(L)
    return kvv.VAE(encoder, decoder, posterior, likelihood, seed=0)


def images(shape=SHAPE):
    """Black and white images, which all likelihoods take: 8-bit and binary at once."""
    x = np.random.default_rng(0).integers(0, 2, (4 * STEPS, *shape))
    return x.astype("float32")


def fit(vae, x, **arguments):
    """Three steps, after which every trained weight has moved."""
    vae.compile(keras.optimizers.Adam(1e-3), **arguments)
    before = [w.value.numpy() for w in vae.trainable_variables]
    history = vae.fit(x, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert vae.optimizer.iterations.numpy() == STEPS
    for weight, old in zip(vae.trainable_variables, before, strict=True):
        assert not np.array_equal(weight.value, old), weight.path


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in SMALL
    ],
)
def test_trains_saves_and_exports(name, tmp_path):
    shape = (2,) if name in DENSE else SHAPE
    x = images(shape)
    vae = vae_with(name, kvv.likelihoods.Gaussian(kvv.variances.Predicted()), shape)
    fit(vae, x)
    expected = vae.reconstruct(x)
    assert expected["mean"].shape == expected["variance"].shape == x.shape
    vae.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").reconstruct(x)
    vae.export(str(tmp_path / "exported"), verbose=False)
    module = tf.saved_model.load(str(tmp_path / "exported"))
    exported = module.reconstruct(x)
    for key, value in expected.items():
        np.testing.assert_array_equal(loaded[key], value)
        # Its graph may order sums otherwise.
        np.testing.assert_allclose(exported[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("cls", LIKELIHOODS)
@pytest.mark.parametrize("name", SMALL)
def test_trains_with_every_likelihood(name, cls):
    likelihood = make(cls, ARGUMENTS[cls][0])
    vae = vae_with(name, likelihood)
    x = images()
    fit(vae, x, run_eagerly=True)
    assert vae.reconstruct(x)["mean"].shape == x.shape
