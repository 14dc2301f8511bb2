"""Data that break likelihoods: the answer is right, or the error is clear."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

import keras_vae_variance as kvv

pytestmark = pytest.mark.slow

variances = kvv.variances
MODELS = {
    "learned": variances.Learned,
    "learned per pixel": lambda: variances.Learned(per_pixel=True),
    "iso_i": variances.MaximumLikelihood,
    "iso_d": lambda: variances.MaximumLikelihood(per_example=True),
    "diag_i": lambda: variances.MaximumLikelihood(per_pixel=True),
    "diag_d": lambda: variances.MaximumLikelihood(per_pixel=True, per_example=True),
    "predicted": lambda: variances.Predicted(bounds=(1e-4, None)),
    "predicted, no bound": lambda: variances.Predicted(link="exp"),
}
DEAD = 1, 2, 0  # the pixel


def with_a_dead_pixel():
    x = tiny.images(32)
    x[:, *DEAD] = 0.25
    return x


def all_the_same():
    return np.repeat(tiny.images(1), 32, axis=0)


def trained(variance, x, rate=1e-2, epochs=25):
    """A model after 100 steps, or the error that ended its training."""
    vae = tiny.compiled(keras.optimizers.Adam(rate), variance=variance)
    try:
        vae.fit(x, batch_size=8, epochs=epochs, verbose=0)
    except kvv.NonFiniteLossError as error:
        assert "floor" in str(error)  # among what to try
        return vae, error
    return vae, None


@pytest.mark.parametrize("data", [with_a_dead_pixel, all_the_same])
@pytest.mark.parametrize("model", MODELS)
def test_pixels_without_noise(model, data):
    x = data()
    vae, error = trained(MODELS[model], x)
    result = {k: ops.convert_to_numpy(v) for k, v in vae.reconstruct(x).items()}
    # Also where training has ended, the model is that of its last good step.
    for name, value in result.items():
        assert np.isfinite(value).all(), name
    assert np.isfinite(vae.elbo(x, seed=0)["elbo"]).all()
    assert (result["variance"] >= 0).all()
    if error is None:
        # It has learned what there is to learn, at that pixel at least.
        distance = np.abs(result["mean"] - x)[:, *DEAD]
        assert distance.max() < 0.1
    if model in ("diag_i", "diag_d", "learned per pixel") and error is None:
        other = np.delete(result["variance"].reshape(len(x), -1), 8, axis=1)
        if data is with_a_dead_pixel:
            assert result["variance"][:, *DEAD].mean() < 0.5 * other.mean()


@pytest.mark.parametrize("model", ["learned", "iso_i", "diag_i", "predicted"])
def test_a_variance_that_explodes(model):
    # Data far away from what the networks can give: values of 1e6.
    x = 1e6 * tiny.images(32)
    vae, error = trained(MODELS[model], x, epochs=3)
    if error is None:
        variance = ops.convert_to_numpy(vae.reconstruct(x)["variance"])
        assert np.isfinite(variance).all()
        if model != "predicted":  # a head that starts near 1 moves slowly
            assert variance.mean() > 1e9


def test_constant_data_are_an_error_before_training():
    vae = tiny.compiled()
    with pytest.raises(ValueError, match="must vary"):
        vae.fit(np.full((8, *tiny.SHAPE), 0.5, "float32"))
