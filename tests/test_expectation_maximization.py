"""Expectation maximisation, beside scikit-learn's from the same start."""

import tempfile
import types

import numpy as np
import pytest
import tensorflow as tf
import tiny
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from keras_vae_variance import samplers
from keras_vae_variance.samplers import expectation_maximization as em
from keras_vae_variance.samplers import gaussian_mixture
from keras_vae_variance.types import Latent


def draw(n, latent_dim=3, seed=0, distance=1.0):
    """Correlated codes about four centres, in no order."""
    random = np.random.default_rng(seed)
    mixing = np.tril(random.normal(size=(latent_dim, latent_dim)))
    centres = distance * random.normal(size=(4, latent_dim))
    noise = random.normal(size=(n, latent_dim)) @ mixing
    return (centres[random.integers(4, size=n)] + noise).astype("float32")


def set_rows(monkeypatch, rows, latent_dim, components):
    """Sets how many codes a chunk has."""
    features = latent_dim * (latent_dim + 3) // 2
    monkeypatch.setattr(em, "CHUNK", rows * (features + components))


def check_equal(fit, weights, means, covariances, rtol=1e-8):
    """Equal to the rounding of float64; in `rtol` is what iterations make of it."""
    scale = np.abs(means).max()
    np.testing.assert_allclose(fit.weights, weights, rtol=rtol)
    np.testing.assert_allclose(fit.means, means, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(
        fit.covariances, covariances, rtol=rtol, atol=rtol * scale**2
    )


def check_is_that_of_scikit_learn(z, components, seed=0):
    fit = em.expectation_maximization(z, components, seed)
    twin = GaussianMixture(components, random_state=seed).fit(np.float64(z))
    assert len(fit.lower_bounds) == twin.n_iter_
    assert fit.lower_bounds[-1] == pytest.approx(twin.lower_bound_, rel=1e-10)
    check_equal(fit, twin.weights_, twin.means_, twin.covariances_)
    return fit


@pytest.mark.parametrize(
    "n, latent_dim, components, rows",
    [
        (203, 3, 4, 50),  # the last chunk has 3 codes
        (60, 1, 2, 1),
        (150, 8, 3, 1000),
        (40, 2, 1, 40),
    ],
)
def test_is_that_of_scikit_learn(n, latent_dim, components, rows, monkeypatch):
    set_rows(monkeypatch, rows, latent_dim, components)
    fit = check_is_that_of_scikit_learn(draw(n, latent_dim), components)
    if components > 1:
        assert len(fit.lower_bounds) > 3


def test_far_from_zero():
    """A distance of 1000 deviations costs no digits."""
    check_is_that_of_scikit_learn(draw(100) + np.float32(1000.0), 2)


@pytest.mark.slow
def test_is_that_of_scikit_learn_at_length():
    fit = check_is_that_of_scikit_learn(draw(20_001, latent_dim=32, distance=2.0), 5)
    assert len(fit.lower_bounds) > 3


def test_one_component_is_mean_and_covariance():
    z = np.float64(draw(50))
    fit = em.expectation_maximization(z, 1, seed=0, reg_covar=0.5)
    covariance = np.cov(z.T, bias=True) + 0.5 * np.eye(3)
    check_equal(fit, [1.0], z.mean(0)[None], covariance[None], rtol=1e-12)


def by_mean(fit):
    order = np.argsort(fit.means[:, 0])
    return [array[order] for array in fit[:3]]


def test_chunks_order_and_subset_of_k_means_change_nothing(monkeypatch):
    """Of clusters so far apart that k-means finds the same from every start."""
    z = draw(200, distance=30.0)
    expected = by_mean(em.expectation_maximization(z, 4, seed=0))
    set_rows(monkeypatch, 33, 3, 4)
    order = np.random.default_rng(1).permutation(len(z))
    fits = [
        em.expectation_maximization(z, 4, seed=0),
        em.expectation_maximization(z[order], 4, seed=0),
    ]
    monkeypatch.setattr(em, "SUBSET", 50)
    fits.append(em.expectation_maximization(z, 4, seed=0))
    for fit in fits:
        check_equal(em.Fit(*by_mean(fit), []), *expected, rtol=1e-9)


def test_log_density_never_falls_and_steps_are_compiled_once(monkeypatch):
    traces, sums = [], em._sums
    monkeypatch.setattr(em, "_sums", lambda *a: traces.append(a) or sums(*a))
    set_rows(monkeypatch, 30, 3, 6)
    with pytest.warns(ConvergenceWarning, match="in 25 iterations"):
        fit = em.expectation_maximization(draw(100), 6, seed=0, tol=0.0, max_iter=25)
    assert len(fit.lower_bounds) == 25
    assert np.diff(fit.lower_bounds).min() > -1e-12
    assert fit.lower_bounds[-1] > fit.lower_bounds[0] + 0.01
    assert len(traces) == 1


def test_repeated_codes():
    """An error, or the distribution of the codes; never NaN."""
    z = np.repeat(np.eye(3), 20, axis=0)
    fit = em.expectation_maximization(z, 3, seed=0)
    np.testing.assert_allclose(fit.weights, 1 / 3)
    np.testing.assert_allclose(fit.means @ fit.means.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(fit.covariances, [1e-6 * np.eye(3)] * 3, atol=1e-12)
    with (
        pytest.warns(ConvergenceWarning, match="distinct clusters"),
        pytest.raises(ValueError, match="no codes.*fewer.*num_components=4"),
    ):
        em.expectation_maximization(z, 4, seed=0)
    flat = draw(50) * np.float32([1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="singular covariance.*num_components=1"):
        em.expectation_maximization(flat, 1, seed=0, reg_covar=0.0)


# The sampler


class Model:
    """A VAE whose data are the posterior means."""

    def __init__(self, variance=0.5, latent_dim=3):
        self.variance, self.latent_dim = variance, latent_dim
        self.posterior = types.SimpleNamespace(deterministic=variance == 0.0)

    def encode(self, x):
        mean = tf.cast(x, tf.float32)
        variance = tf.fill((1, self.latent_dim), self.variance)
        return Latent(mean, mean, variance, 0.0 * mean, 1.0 + 0.0 * mean)


@pytest.fixture
def files(monkeypatch, tmp_path):
    """The temporary files that were made, in `tmp_path`."""
    made, make = [], tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(
        tempfile,
        "TemporaryFile",
        lambda *a, **k: made.append(make(*a, **k)) or made[-1],
    )
    return made


@pytest.mark.parametrize("method", ["em", "variational"])
def test_codes_in_a_file(method, files, monkeypatch, tmp_path):
    x = draw(100)
    sampler = samplers.GaussianMixture(2, method)
    expected = sampler.fit(Model(), x, seed=0)._arrays
    assert files == []
    monkeypatch.setattr(gaussian_mixture, "MEMORY", 1000)
    for data in (x, tf.data.Dataset.from_tensor_slices(x).batch(40)):
        arrays = sampler.fit(Model(), data, seed=0)._arrays
        for name, array in expected.items():
            np.testing.assert_allclose(arrays[name], array, rtol=1e-5, atol=1e-6)
    assert len(files) == 2
    # After an error too, of the data and of the fit.
    broken = tf.data.Dataset.from_tensor_slices([x, x * np.nan])
    for data, components in ((broken, 2), (x, len(x) + 1)):
        with pytest.raises(ValueError):
            samplers.GaussianMixture(components, method).fit(Model(), data)
    assert len(files) == 4 and all(file.closed for file in files)
    assert list(tmp_path.iterdir()) == []


def test_codes(files, monkeypatch):
    monkeypatch.setattr(gaussian_mixture, "MEMORY", 40)
    z = draw(20)
    with gaussian_mixture.Codes(3) as codes:
        for part in np.split(z, [2, 3, 11]):
            codes.append(np.float64(part))
            # Reads between do not disturb.
            np.testing.assert_array_equal(codes[1:2], z[1:2])
        assert codes.shape == z.shape
        for rows in (slice(None), slice(4, 7), slice(18, 99), slice(20, 30)):
            np.testing.assert_array_equal(codes[rows], z[rows])
        assert codes[:].dtype == np.float32
    assert [file.closed for file in files] == [True]


def test_identical_images():
    x = np.ones((30, 3), "float32")
    sampler = samplers.GaussianMixture(1).fit(Model(variance=0.0), x, seed=0)
    np.testing.assert_allclose(sampler.distribution.mean(), x[0])
    assert np.isfinite(sampler.log_prob(x)).all()
    with (
        pytest.warns(ConvergenceWarning, match="distinct clusters"),
        pytest.raises(ValueError, match="no codes"),
    ):
        samplers.GaussianMixture(2).fit(Model(variance=0.0), x, seed=0)


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path):
    tiny.run_worker("mixture", tmp_path / "results.json")
    one, two = tiny.read_json(tmp_path / "results.json")
    assert one.pop("seen") == [[7, ""]]
    assert two.pop("seen") == [[7, "0"], [7, "1"]]
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-5, atol=1e-6)
