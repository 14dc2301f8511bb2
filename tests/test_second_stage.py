"""The second-stage VAE: codes of a known density, quadrature, and a slow twin."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tiny
from scipy.special import logsumexp
from test_samplers import Codes

import keras_vae_variance as kvv
from keras_vae_variance import samplers
from keras_vae_variance.samplers import second_stage
from keras_vae_variance.samplers.base import stateless_seed

VARIANCE = 0.5  # of the posteriors
MEAN, TRIL = np.array([0.5, -1.0]), np.array([[1.0, 0.0], [0.6, 0.7]])
CODES = scipy.stats.multivariate_normal(MEAN, TRIL @ TRIL.T + VARIANCE * np.eye(2))


def posterior_means(n=4000, seed=0):
    noise = np.random.default_rng(seed).normal(size=(n, 2))
    return (MEAN + noise @ TRIL.T).astype("float32")


def sampler(**arguments):
    return samplers.SecondStage(
        **{"hidden": (8,), "epochs": 1, "verbose": 0, **arguments}
    )


@pytest.fixture(scope="module")
def fitted():
    keras.utils.set_random_seed(0)
    model = sampler(hidden=(32,), epochs=16, batch_size=200, learning_rate=0.01)
    return model.fit(Codes(VARIANCE, latent_dim=2), posterior_means(), seed=0)


def parts(model):
    """The fitted VAE, and its decoder's mean and variance, in float64."""
    vae = model._distribution
    variance = float(vae.likelihood.variance_model.predict({}))
    return vae, lambda u: np.float64(vae.decode(u)["mean"]), variance


def test_draws_and_bound_are_of_the_codes(fitted):
    """Posterior draws: of the means alone the variances would be 0.5 smaller."""
    draws = fitted.sample(20_000, seed=1).numpy()
    # 4000 codes know mean and variance to 1.6 and 2.2 %; 320 steps of Adam add to it.
    stddev = np.sqrt(np.diag(CODES.cov))
    np.testing.assert_allclose(draws.mean(0), CODES.mean, atol=0.06 * stddev.min())
    np.testing.assert_allclose(np.cov(draws.T), CODES.cov, rtol=0, atol=0.1)
    # Without the noise of p(z|u) they would be narrower by far.
    _, decode, variance = parts(fitted)
    narrow = np.cov(decode(np.random.default_rng(0).normal(size=(20_000, 2))).T)
    assert variance > 0.2
    np.testing.assert_allclose(
        np.cov(draws.T), narrow + variance * np.eye(2), rtol=0, atol=0.04
    )
    # The mean of the bound is below that of the density, by the KL divergence of the
    # fit from the truth and little more.
    z = CODES.rvs(20_000, random_state=0)
    gap = CODES.logpdf(z) - fitted.log_prob(z, num_samples=20, seed=0).numpy()
    error = gap.std() / np.sqrt(len(z))
    assert -4 * error < gap.mean() < 0.02


def test_bound_and_draws_by_quadrature(fitted):
    """The model's own density on a grid: p(z) = sum_u p(z|u) p(u) du."""
    _, decode, variance = parts(fitted)
    points = np.linspace(-6, 6, 161)  # steps of 0.075 under widths of 0.5 and 1
    u = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 2)
    weights = scipy.stats.norm.pdf(u).prod(1) * (points[1] - points[0]) ** 2
    mean = decode(u)
    z = fitted.sample(200, seed=2).numpy()
    exact = logsumexp(
        scipy.stats.norm.logpdf(z[:, None], mean, np.sqrt(variance)).sum(-1),
        b=weights,
        axis=1,
    )
    gaps = [
        exact - np.mean([fitted.log_prob(z, k, seed=s) for s in range(50)], axis=0)
        for k in (1, 10)
    ]
    # Of 10,000 terms, each with an error of 0.1: 0.001.
    assert gaps[0].mean() > gaps[1].mean() > -0.005
    many = fitted.log_prob(z, num_samples=2000, seed=0)
    np.testing.assert_allclose(many, exact, rtol=0, atol=0.03)
    # The distribution of the first coordinate of draws.
    draws = fitted.sample(5000, seed=3).numpy()[:, 0]
    grid = np.linspace(-6, 6, 301)
    cdf = weights @ scipy.stats.norm.cdf(grid, mean[:, :1], np.sqrt(variance))
    test = scipy.stats.kstest(draws, lambda z: np.interp(z, grid, cdf))
    assert test.pvalue > 1e-3


def test_bound_by_its_slow_twin(fitted, monkeypatch, tmp_path):
    """With the same noise, in NumPy; in chunks; in a graph."""
    vae, decode, variance = parts(fitted)
    z, seed = posterior_means(5, seed=1), 7
    noise = tf.random.stateless_normal((5, 4, 2), stateless_seed(seed)).numpy()
    latent = vae.encode(z)
    expected = np.zeros(5)
    for i in range(5):
        mean, stddev = np.float64(latent.mean[i]), np.sqrt(latent.variance[i])
        terms = []
        for e in noise[i]:
            u = mean + stddev * e
            log_p = scipy.stats.norm.logpdf(z[i], decode(u[None])[0], variance**0.5)
            log_p += scipy.stats.norm.logpdf(u)
            terms.append(np.sum(log_p - scipy.stats.norm.logpdf(u, mean, stddev)))
        expected[i] = logsumexp(terms) - np.log(4)
    bound = fitted.log_prob(z, 4, seed=seed)
    np.testing.assert_allclose(bound, expected, rtol=1e-5, atol=1e-5)
    compiled = tf.function(lambda z, seed: fitted.log_prob(z, 4, seed))
    again = compiled(tf.constant(z), stateless_seed(seed))
    np.testing.assert_array_equal(again, bound)
    assert fitted.log_prob(z[:0], 4).shape == (0,)
    # Other chunks change results by rounding alone.
    fitted.save(tmp_path / "sampler.npz")
    monkeypatch.setattr(second_stage, "_CHUNK", 9)
    chunked = samplers.SecondStage.load(tmp_path / "sampler.npz")
    np.testing.assert_allclose(
        chunked.log_prob(z, 4, seed=seed), bound, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        chunked.sample(20, seed=1), fitted.sample(20, seed=1), rtol=1e-5, atol=1e-5
    )


def test_batches_are_fresh_draws_of_all_codes():
    mean = np.arange(10, dtype="float32")[:, None]
    still = second_stage._Codes(mean, 0.0 * mean, batch_size=4, seed=3)
    orders = []
    for _ in range(3):
        assert len(still) == 3 and [len(batch) for batch in still] == [4, 4, 2]
        orders.append(np.concatenate(list(still))[:, 0].tolist())
        assert sorted(orders[-1]) == list(range(10))
        still.on_epoch_end()
    assert orders[0] != orders[1] != orders[2] != orders[0]
    # Equal for equal epochs, however often Keras reads a batch, else independent.
    mean = np.zeros((4000, 2), "float32")
    first, twin = (second_stage._Codes(mean, mean + 4.0, 500, 3) for _ in range(2))
    draws = np.concatenate([first[i] for i in range(8)])
    np.testing.assert_array_equal(twin[0], first[0])
    first.on_epoch_end()
    draws = np.stack([*draws.T, *np.concatenate([first[i] for i in range(8)]).T])
    assert draws.dtype == np.float32
    # Five standard errors of variances, 4 sqrt(2/4000), and covariances, 4/sqrt(4000).
    np.testing.assert_allclose(np.cov(draws), 4.0 * np.eye(4), rtol=0, atol=0.45)


def test_fit_is_a_function_of_the_seed():
    x, vae = posterior_means(300), Codes(VARIANCE, latent_dim=2)
    fits = []
    for seed in (5, 5, 6):
        keras.utils.set_random_seed(len(fits))  # of no effect
        fits.append(sampler().fit(vae, x, seed=seed))
    first, again, other = (model._arrays for model in fits)
    assert list(first) == list(again) == list(other)
    for name in first:
        np.testing.assert_allclose(first[name], again[name], rtol=1e-5, atol=1e-6)
    assert np.abs(first["weight_0"] - other["weight_0"]).max() > 0.1  # initial weights
    with pytest.raises(ValueError, match="no closed form.*Received: sampler="):
        _ = fits[0].distribution
    for count in (0, 2.5):
        with pytest.raises(ValueError, match="Received: num_samples="):
            fits[0].log_prob(x, num_samples=count)


def test_in_an_exported_vae(tmp_path):
    """Of uint8 images, and of a first stage whose codes are points."""
    vae = tiny.make(posterior=kvv.posteriors.Deterministic, regularizers=list)
    x = np.round(255 * tiny.images(40)).astype("uint8")
    model = sampler().fit(vae, x, seed=0)
    vae.export(tmp_path / "vae", sampler=model, verbose=False)
    seed = tf.constant([3, 4])
    loaded = tf.saved_model.load(tmp_path / "vae")
    served = loaded.generate(tf.constant(5), seed)
    expected = vae.generate(5, sampler=model, seed=seed)
    assert served["mean"].shape == (5, *tiny.SHAPE)
    for name in expected:
        np.testing.assert_allclose(served[name], expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name, value",
    [
        ("hidden", 1024),
        ("hidden", (0,)),
        ("hidden", (8, 2.5)),
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", np.nan),
        ("learning_rate", "fast"),
        ("verbose", "yes"),
    ],
)
def test_wrong_arguments(name, value):
    where = rf"{name}(\[\d\])?"  # which one of several
    with pytest.raises(ValueError, match=f"`{where}` must .*Received: {where}="):
        samplers.SecondStage(**{name: value})


def clusters(n, seed):
    """Codes of one dimension: 1/4 around -2, 3/4 around 1."""
    random = np.random.default_rng(seed)
    left, right = random.normal(-2.0, 0.3, n), random.normal(1.0, 0.6, n)
    return np.where(random.random(n) < 0.25, left, right)[:, None].astype("float32")


@pytest.mark.slow
def test_learns_what_is_not_normal():
    vae = Codes(0.0, latent_dim=1, deterministic=True)
    x, z = clusters(4000, seed=0), clusters(4000, seed=1)
    model = sampler(hidden=(32,), epochs=30, batch_size=200, learning_rate=0.02)
    bound = model.fit(vae, x, seed=0).log_prob(z, num_samples=50, seed=0).numpy()
    terms = [
        np.log(weight) + scipy.stats.norm.logpdf(z[:, 0], mean, stddev)
        for weight, mean, stddev in ((0.25, -2.0, 0.3), (0.75, 1.0, 0.6))
    ]
    gap = np.mean(logsumexp(terms, axis=0) - bound)
    normal = samplers.GaussianMixture(1).fit(vae, x, seed=0).log_prob(z)
    normal_gap = np.mean(logsumexp(terms, axis=0) - normal)
    # The best normal is off by 0.4 nats.
    assert -0.02 < gap < 0.5 * normal_gap


def test_the_order_and_the_first_noise_of_an_epoch_are_of_different_streams():
    mean = np.zeros((5, 2), "float32")
    codes = second_stage._Codes(mean, mean + 1.0, batch_size=5, seed=3)
    stream = np.random.default_rng((3, 0))  # which is that of (3, 0, 0) too
    assert codes.order.tolist() == stream.permutation(5).tolist()
    again = np.random.default_rng((3, 0)).standard_normal((5, 2), np.float32)
    assert not np.array_equal(codes[0], again)
