"""Anomaly scores: minus the bounds that they are, and what they tell apart."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

import keras_vae_variance as kvv
from keras_vae_variance import likelihoods, posteriors, variances
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.metrics import anomaly_scores, base, log_likelihood

EVENT, L, N = (4, 3, 2), 2, 30
KINDS = ["elbo", "log_likelihood", "reconstruction"]


def make(likelihood=None, posterior=posteriors.DiagonalGaussian):
    keras.utils.set_random_seed(0)
    likelihood = likelihood or likelihoods.Gaussian(variances.Predicted(floor=0.05))
    networks = kvv.backbones.mlp(EVENT, L, likelihood, hidden=())
    # A deterministic posterior has no KL.
    terms = [] if posterior is posteriors.Deterministic else None
    return kvv.VAE(*networks, posterior(L), likelihood, regularizers=terms, seed=0)


def images(n=N):
    return np.random.default_rng(0).uniform(size=(n, *EVENT)).astype("float32")


@pytest.mark.parametrize(
    "posterior", [posteriors.DiagonalGaussian, posteriors.ConstantGaussian]
)
@pytest.mark.parametrize("variance", [None, "iso_d"])
def test_minus_the_elbo(posterior, variance, monkeypatch):
    """`VAE.elbo` with the noise that belongs to the seed."""
    likelihood = None
    if variance:
        iso_d = variances.MaximumLikelihood(per_example=True)
        likelihood = likelihoods.Gaussian(iso_d)
    vae, x = make(likelihood, posterior), images()
    sources = base.streams(base.key(3), 0, N)
    noise = np.stack([base.noise(sources, (L,)) for _ in range(4)])
    found = {k: anomaly_scores(vae, x, k, 4, seed=3) for k in ("elbo", KINDS[-1])}
    monkeypatch.setattr(kvv_ops, "normal", lambda shape, seed: tf.constant(noise))
    terms = vae.elbo(x, num_samples=4)
    for kind, expected in (("elbo", -terms["elbo"]), (KINDS[-1], terms[KINDS[-1]])):
        assert found[kind].dtype == np.float64 and found[kind].shape == (N,)
        np.testing.assert_allclose(found[kind], expected, rtol=1e-5, atol=1e-4)


def test_minus_the_log_likelihood():
    vae, x = make(), images()
    expected = -log_likelihood(vae, x, 7, seed=3)
    found = anomaly_scores(vae, x, "log_likelihood", 7, seed=3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_order_batches_and_streams(kind):
    vae, x = make(), images()
    expected = anomaly_scores(vae, x, kind, 3, seed=1)
    for given in (
        (x, np.zeros(N)),
        tf.data.Dataset.from_tensor_slices(x).batch(8),
        (x[i : i + 10] for i in range(0, N, 10)),
    ):
        found = anomaly_scores(vae, given, kind, 3, seed=1, batch_size=7)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.any(anomaly_scores(vae, x, kind, 3, seed=2) == expected)
    assert not np.any(anomaly_scores(vae, x, kind, 3) == expected)


def test_deterministic_posterior():
    """An autoencoder has a reconstruction, in units of its variance, and no more."""
    vae = make(likelihoods.Gaussian(variances.Fixed(0.5)), posteriors.Deterministic)
    x = images()
    mean = keras.ops.convert_to_numpy(vae.reconstruct(x)["mean"])
    expected = np.sum((x - mean) ** 2 + 0.5 * np.log(np.pi), axis=(1, 2, 3))
    found = anomaly_scores(vae, x, "reconstruction", 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for kind in ("elbo", "log_likelihood"):
        with pytest.raises(ValueError, match="deterministic.*Received: posterior="):
            anomaly_scores(vae, x, kind)


def test_wrong_arguments():
    vae, x = make(), images()
    with pytest.raises(ValueError, match="one of elbo.*Received: kind='mse'"):
        anomaly_scores(vae, x, "mse")
    for kind in KINDS:
        with pytest.raises(ValueError, match="Received: num_samples=0"):
            anomaly_scores(vae, x, kind, 0)
    with pytest.raises(ValueError, match="at least one example"):
        anomaly_scores(vae, x[:0])


@pytest.fixture(scope="module")
def trained():
    """A VAE of digits, digits that it has not seen, and what are none."""
    keras.utils.set_random_seed(0)
    (x, _), (unseen, _) = kvv.datasets.digits()
    likelihood = likelihoods.Gaussian(variances.Learned())
    networks = kvv.backbones.mlp(x.shape[1:], 8, likelihood, hidden=(64,))
    vae = kvv.VAE(*networks, posteriors.DiagonalGaussian(8), likelihood, seed=0)
    vae.compile(keras.optimizers.Adam(3e-3), steps_per_execution=11)
    vae.fit(x, batch_size=128, epochs=10, verbose=0)
    noise = np.random.default_rng(0).uniform(size=unseen.shape).astype("float32")
    return vae, unseen, {"noise": noise, "rotated": np.rot90(unseen, axes=(1, 2))}


@pytest.mark.parametrize("kind", KINDS)
def test_digits_against_others(trained, kind):
    vae, unseen, others = trained
    known = anomaly_scores(vae, unseen, kind, 5, seed=0)
    areas = {
        name: roc_auc_score(
            np.repeat([0, 1], [len(known), len(x)]),
            np.concatenate([known, anomaly_scores(vae, x, kind, 5, seed=1)]),
        )
        for name, x in others.items()
    }
    assert areas["noise"] > 0.999
    assert areas["rotated"] > 0.99
