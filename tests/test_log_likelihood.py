"""The importance-weighted log likelihood: exact cases, laws, chunks, inputs."""

import warnings

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance.metrics import base, log_likelihood

D, L = 6, 2
VARIANCE = 0.3
NORMS = np.array([2.0, 0.7])
# Orthogonal columns: the posterior of the linear model is then diagonal.
COLUMNS = np.linalg.qr(np.random.default_rng(0).normal(size=(D, L)))[0] * NORMS
BIAS = np.linspace(-1, 1, D)
POSTERIOR = VARIANCE / (VARIANCE + NORMS**2)  # exact posterior variance


class Given(kvv.posteriors.Posterior):
    """A posterior whose features are the mean, with a variance that is given."""

    def __init__(self, latent_dim, variance, deterministic=False):
        super().__init__(latent_dim)
        self.given = np.float32(variance)
        self.deterministic = deterministic

    def build(self, shape):
        pass

    def call(self, features):
        return features, tf.constant(self.given[None])


class Decoder(keras.layers.Layer):
    """The linear decoder, which records how many latents it is given at a time."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def compute_output_shape(self, shape):
        return (shape[0], D)

    def call(self, z):
        z = tf.numpy_function(lambda z: self.rows.append(len(z)) or z, [z], tf.float32)
        return tf.ensure_shape(z, (None, L)) @ tf.constant(COLUMNS.T, tf.float32) + BIAS


def linear_vae(widen=1.0, prior=None, deterministic=False, variance=None):
    """`x = W z + b + noise`, with the exact posterior, its variance times `widen`."""
    x = keras.Input((D,))
    weights = (COLUMNS / (NORMS**2 + VARIANCE)).astype("float32")
    mean = keras.layers.Lambda(lambda x: (x - BIAS) @ tf.constant(weights))(x)
    z = keras.Input((L,))
    return kvv.VAE(
        keras.Model(x, mean),
        keras.Model(z, Decoder()(z)),
        Given(L, POSTERIOR * widen, deterministic),
        kvv.likelihoods.Gaussian(variance or kvv.variances.Fixed(VARIANCE)),
        prior=prior,
        seed=0,
    )


def data(n=37):
    random = np.random.default_rng(1)
    z = random.normal(size=(n, L))
    noise = VARIANCE**0.5 * random.normal(size=(n, D))
    return (z @ COLUMNS.T + BIAS + noise).astype("float32")


def evidence(x, prior_variance=1.0):
    covariance = prior_variance * COLUMNS @ COLUMNS.T + VARIANCE * np.eye(D)
    return scipy.stats.multivariate_normal(BIAS, covariance).logpdf(x)


def rows(vae):
    """Takes what the decoder has recorded."""
    recorded = vae.decoder.layers[-1].rows
    result = list(recorded)
    recorded.clear()
    return result


def image_vae(likelihood=None, latent_dim=2):
    keras.utils.set_random_seed(0)
    likelihood = likelihood or kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.05))
    encoder, decoder = kvv.backbones.mlp((4, 4, 1), latent_dim, likelihood)
    posterior = kvv.posteriors.DiagonalGaussian(latent_dim)
    return kvv.VAE(encoder, decoder, posterior, likelihood, seed=0)


def images(n=11):
    return np.random.default_rng(2).integers(0, 256, size=(n, 4, 4, 1), dtype="uint8")


@pytest.mark.parametrize("num_samples", [1, 7, 40])
@pytest.mark.parametrize("chunk_size", [5, 16, 512])
def test_exact_posterior_gives_the_evidence(num_samples, chunk_size):
    """Every weight is p(x), so neither draws nor chunks matter, nor is one lost."""
    x = data()
    result = log_likelihood(linear_vae(), x, num_samples, chunk_size=chunk_size)
    assert result.dtype == np.float64 and result.shape == (37,)
    np.testing.assert_allclose(result, evidence(x), atol=1e-4)


def test_floating_prior():
    """p(z) is the running prior; the posterior is no longer exact, the limit is."""
    prior = kvv.priors.Floating()
    vae = linear_vae(prior=prior)
    prior.running.value.assign(np.full((1, L), 1.5))
    x = data()
    result = log_likelihood(vae, x, 2000, seed=0)
    np.testing.assert_allclose(result, evidence(x, 1.5), atol=0.05)


def test_one_sample_is_the_elbo():
    x = data(4000)
    vae = linear_vae(widen=2.0)
    result = log_likelihood(vae, x, num_samples=1, seed=0, chunk_size=4000)
    # The KL to the exact posterior: 1/2 sum (r - 1 - log r) with r = 2.
    gap = 0.5 * L * (2.0 - 1.0 - np.log(2.0))
    difference = result - evidence(x)
    error = difference.std() / np.sqrt(len(x))
    assert abs(difference.mean() + gap) < 4 * error
    elbo = keras.ops.convert_to_numpy(vae.elbo(x, num_samples=20, seed=0)["elbo"])
    assert abs(np.mean(result - elbo)) < 5 * error


def test_more_samples_are_tighter():
    x = data(2000)
    vae = linear_vae(widen=3.0)
    gaps = [
        np.mean(evidence(x) - log_likelihood(vae, x, k, seed=0, chunk_size=4000))
        for k in (1, 4, 16, 64)
    ]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 8 * gaps[3] > 0
    assert gaps[3] < 0.02


def test_errors_of_each_estimate():
    """Those of many seeds; 0 where every weight is the same, 1 where one is all."""
    x, vae = data(20), linear_vae(widen=1.5)
    runs = [
        log_likelihood(vae, x, 200, seed=seed, return_errors=True) for seed in range(60)
    ]
    values, errors = np.swapaxes(runs, 0, 1)
    np.testing.assert_array_equal(values[3], log_likelihood(vae, x, 200, seed=3))
    ratio = values.std(axis=0, ddof=1) / errors.mean(axis=0)
    # A deviation of 60 runs is known to 9 %, and there are 20.
    assert np.all(np.abs(ratio - 1.0) < 0.45) and abs(ratio.mean() - 1.0) < 0.1
    _, chunked = log_likelihood(vae, x, 200, seed=0, chunk_size=7, return_errors=True)
    np.testing.assert_allclose(chunked, errors[0], rtol=1e-3)
    _, none = log_likelihood(linear_vae(), x, 50, seed=0, return_errors=True)
    assert np.all(none < 1e-3)
    _, one = log_likelihood(vae, x, 1, seed=0, return_errors=True)
    assert np.isnan(one).all()
    wide = linear_vae(widen=1e4)
    _, far = log_likelihood(wide, x, 10, seed=0, return_errors=True)
    assert np.all(far <= 1.0 + 1e-9) and np.median(far) > 0.9
    values, errors = log_likelihood(vae, x[:0], return_errors=True)
    assert values.shape == errors.shape == (0,)


def test_seed():
    x = data()
    vae = linear_vae(widen=2.0)
    first = log_likelihood(vae, x, 3, seed=5)
    np.testing.assert_array_equal(first, log_likelihood(vae, x, 3, seed=5))
    for seed in (6, None):
        assert not np.any(first == log_likelihood(vae, x, 3, seed=seed))
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        drawn.append(log_likelihood(vae, x, 3))
    np.testing.assert_array_equal(*drawn)


def test_noise_belongs_to_the_example_and_the_sample():
    """Chunks and batches change nothing, and every sample is another draw."""
    x = data()
    vae = linear_vae(widen=2.0)
    expected = log_likelihood(vae, x, 12, seed=5)
    streams = [tf.data.Dataset.from_tensor_slices(x).batch(size) for size in (4, 30)]
    for given, chunk_size in ((x, 5), (x, 100), (streams[0], 512), (streams[1], 7)):
        result = log_likelihood(vae, given, 12, seed=5, chunk_size=chunk_size)
        np.testing.assert_allclose(result, expected, atol=1e-4)
    np.testing.assert_allclose(
        log_likelihood(vae, x[:3], 12, seed=5), expected[:3], atol=1e-4
    )
    # Equal images at different places have different noise.
    same = log_likelihood(vae, np.repeat(x[:1], 30, axis=0), 1, seed=5, chunk_size=4)
    assert len(np.unique(same)) == 30
    # One draw alone would leave the estimate where K = 1 has it.
    assert np.all(expected != log_likelihood(vae, x, 1, seed=5))


def test_memory_does_not_grow_with_the_samples():
    vae = linear_vae()
    x = data(50)
    rows(vae)
    for num_samples in (1, 20, 200):
        log_likelihood(vae, x, num_samples, chunk_size=64)
        sizes = rows(vae)
        assert max(sizes) <= 64
        assert sum(sizes) == 50 * num_samples
    # Few images take many samples at a time.
    log_likelihood(vae, x[:2], 200, chunk_size=64)
    assert rows(vae) == [64] * 6 + [16]


def test_the_likelihood_is_compiled_once():
    vae = linear_vae()
    traces = []
    call = vae.likelihood.call

    def counting(*args, **kwargs):
        traces.append(1)
        return call(*args, **kwargs)

    vae.likelihood.call = counting
    log_likelihood(vae, data(), 12, chunk_size=30)
    assert len(traces) == 1


def test_sampler_as_prior():
    x = data()
    vae = linear_vae(widen=2.0)
    prior = log_likelihood(vae, x, 5, seed=0, chunk_size=16)
    sampler = kvv.samplers.Prior().fit(vae)
    result = log_likelihood(vae, x, 5, sampler, seed=0, chunk_size=16)
    np.testing.assert_allclose(result, prior, atol=1e-4)
    # A prior that fits the codes makes the data likelier.
    x = data(400) + 10 * COLUMNS.T[0].astype("float32")
    sampler = kvv.samplers.GaussianMixture(2).fit(vae, x, seed=0)
    fitted = log_likelihood(vae, x, 20, sampler, seed=0)
    assert fitted.mean() > log_likelihood(vae, x, 20, seed=0).mean() + 10


def test_by_hand():
    """Against the definition in float64 NumPy and SciPy, on images."""
    vae = image_vae()
    x = images()
    result = log_likelihood(vae, x, 3, seed=4, chunk_size=8)
    latent = [keras.ops.convert_to_numpy(t) for t in vae.encode(x)]
    _, mean, variance, _, _ = latent
    key = np.random.SeedSequence(4).generate_state(2, np.uint64)
    for index, image in enumerate(x / 255.0):
        philox = np.random.Philox(key=key, counter=[0, 0, 0, index])
        noise = np.random.Generator(philox).standard_normal((3, 2), np.float32)
        z = mean[index] + np.sqrt(variance[index]) * noise
        decoded = keras.ops.convert_to_numpy(vae.decode(z)["mean"])
        log_p_x = scipy.stats.norm(decoded, 0.05**0.5).logpdf(image).sum((1, 2, 3))
        log_p = scipy.stats.norm.logpdf(z).sum(1)
        log_q = scipy.stats.norm(mean[index], variance[index] ** 0.5).logpdf(z).sum(1)
        expected = np.log(np.mean(np.exp(log_p_x + log_p - log_q)))
        np.testing.assert_allclose(result[index], expected, rtol=1e-5)


def test_a_variance_of_each_example_and_draw():
    """Iso-D under importance weights: the variance is that of `x` at each `z_k`."""
    iso_d = kvv.variances.MaximumLikelihood(per_example=True, epsilon=0.0)
    vae = image_vae(kvv.likelihoods.Gaussian(iso_d))
    x = images() / np.float32(255)
    with pytest.warns(UserWarning, match="not a normalised density"):
        result = log_likelihood(vae, x, 3, seed=4, chunk_size=8)
    latent = vae.encode(x)
    mean, deviation = latent.mean.numpy(), np.sqrt(latent.variance)
    noise = base.noise(base.streams(base.key(4), 0, len(x)), (3, 2))
    for k in range(len(x)):
        z = mean[k] + deviation[k] * noise[k]
        r2 = (x[k] - vae.decode(z)["mean"].numpy()) ** 2
        log_p_x = -8 * (np.log(2 * np.pi * r2.mean((1, 2, 3), dtype="float64")) + 1)
        log_p = scipy.stats.norm.logpdf(z).sum(1)
        log_q = scipy.stats.norm(mean[k], deviation[k]).logpdf(z).sum(1)
        expected = np.log(np.mean(np.exp(log_p_x + log_p - log_q)))
        np.testing.assert_allclose(result[k], expected, rtol=1e-5, atol=1e-4)


def test_uint8_and_labels():
    vae = image_vae()
    x = images()
    expected = log_likelihood(vae, x, 3, seed=0)
    labels = np.zeros(len(x))

    class Dataset(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            part = slice(3 * index, 3 * index + 3)
            return x[part], labels[part]

    floats = x / np.float32(255)
    for given in (
        floats,
        floats.astype("float64"),
        (x, labels),
        (x, labels, labels),
        tf.data.Dataset.from_tensor_slices((x, labels)).batch(4),
        Dataset(),
    ):
        result = log_likelihood(vae, given, 3, seed=0)
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_a_density_that_is_not_normalised_warns():
    with pytest.warns(UserWarning, match="not a normalised density.*Received"):
        log_likelihood(image_vae(kvv.likelihoods.Bernoulli()), images(), 2)
    iso_d = kvv.variances.MaximumLikelihood(per_example=True)
    with pytest.warns(UserWarning, match="not a normalised density.*Received"):
        log_likelihood(linear_vae(variance=iso_d), data(), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        log_likelihood(linear_vae(), data(), 2)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="deterministic.*Received: posterior="):
        log_likelihood(linear_vae(deterministic=True), data())
    for arguments in ({"num_samples": 0}, {"num_samples": 2.0}, {"chunk_size": 0}):
        with pytest.raises(ValueError, match=f"Received: {next(iter(arguments))}="):
            log_likelihood(linear_vae(), data(), **arguments)
    with pytest.raises(ValueError, match="Call `fit"):
        log_likelihood(linear_vae(), data(), sampler=kvv.samplers.Prior())
    with pytest.raises(ValueError, match="shape"):
        log_likelihood(linear_vae(), np.zeros((3, D + 1), "float32"))
    assert log_likelihood(linear_vae(), data()[:0]).shape == (0,)


def test_a_density_by_draws_gets_a_seed_for_each_block():
    """Of equal draws for all samples of an example the error would not fall with K."""

    class Drawn:
        draws_density = True

        def __init__(self):
            self.seeds = []

        def log_prob(self, z, seed):
            self.seeds.append(tuple(seed.tolist()))
            return np.zeros(len(z))

    x, runs = data(), [Drawn() for _ in range(3)]
    for sampler, seed in zip(runs, (0, 0, 1), strict=True):
        log_likelihood(linear_vae(), x, 4, sampler, seed=seed, chunk_size=len(x))
    first, again, other = (sampler.seeds for sampler in runs)
    assert len(set(first)) == 4 and first == again and not set(first) & set(other)


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_wrong_seeds(seed):
    with pytest.raises(ValueError, match="`seed` must be an integer of at least 0"):
        base.key(seed)
