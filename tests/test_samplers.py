"""The samplers: densities by NumPy, SciPy, scikit-learn and TFP; laws of draws."""

import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from scipy.special import logsumexp
from tensorflow_probability import distributions as tfd

import keras_vae_variance as kvv
from keras_vae_variance import samplers
from keras_vae_variance.priors import StandardNormal
from keras_vae_variance.samplers import mixtures
from keras_vae_variance.types import Latent

L = 3
SAMPLERS = [
    samplers.Prior(),
    samplers.OptimalPrior(),
    samplers.GaussianMixture(2),
    samplers.GaussianMixture(2, method="variational"),
    samplers.AggregatePosterior(),
]
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
# One without a closed density keeps the laws of fits, draws and files.
EVERY = [*SAMPLERS, samplers.SecondStage(hidden=(8,), epochs=1, verbose=0)]
every_sampler = pytest.mark.parametrize("sampler", EVERY, ids=repr)


class Codes:
    """A VAE whose data are the posterior means, beside a variance for all or each."""

    def __init__(self, variance=0.04, latent_dim=L, deterministic=False):
        self.variance = variance
        self.latent_dim = latent_dim
        self.posterior = types.SimpleNamespace(deterministic=deterministic)
        self.prior = StandardNormal()

    def encode(self, x, sample=False, seed=None):
        mean = tf.cast(x, tf.float32)
        if callable(self.variance):
            variance = self.variance(mean)
        else:
            variance = tf.fill((1, self.latent_dim), float(self.variance))
        return Latent(mean, mean, variance, *self.prior(mean, variance))


def means(n=200, latent_dim=L, seed=0):
    """Two clusters with correlated codes."""
    random = np.random.default_rng(seed)
    mixing = np.tril(random.normal(size=(latent_dim, latent_dim))) * 0.5
    centres = random.choice([-3.0, 3.0], size=(n, 1))
    codes = centres + random.normal(size=(n, latent_dim)) @ mixing
    return codes.astype("float32")


def gaussian_mixture_log_prob(z, weights, mean, covariance):
    terms = [
        np.log(weight) + scipy.stats.multivariate_normal(m, c).logpdf(z)
        for weight, m, c in zip(weights, mean, covariance, strict=True)
    ]
    return logsumexp(np.stack(terms), axis=0)


def diagonal_mixture_log_prob(z, mean, variance):
    """In float64, by differences: no cancellation."""
    difference = np.float64(z)[:, None] - np.float64(mean)
    variance = np.float64(variance)
    terms = difference**2 / variance + np.log(2 * np.pi * variance)
    return logsumexp(-0.5 * terms.sum(-1), axis=1) - np.log(len(mean))


def triangular_mixture(components=5, latent_dim=L, scale=1.0, seed=0):
    random = np.random.default_rng(seed)
    tril = np.tril(random.normal(size=(components, latent_dim, latent_dim)) * 0.2)
    tril += 0.5 * np.eye(latent_dim)
    return (
        tfd.Categorical(probs=random.dirichlet(np.ones(components)).astype("float32")),
        tfd.MultivariateNormalTriL(
            random.normal(size=(components, latent_dim)).astype("float32") * 2,
            (scale * tril).astype("float32"),
        ),
    )


def diagonal_mixture(components=50, latent_dim=L, scale=1.0, seed=0):
    random = np.random.default_rng(seed)
    stddev = scale * random.uniform(0.5, 2.0, size=(components, latent_dim))
    return (
        tfd.Categorical(logits=np.zeros(components, "float32")),
        tfd.MultivariateNormalDiag(
            random.normal(size=(components, latent_dim)).astype("float32") * 2,
            stddev.astype("float32"),
        ),
    )


MIXTURES = [
    (samplers.gaussian_mixture.TriangularMixture, triangular_mixture),
    (samplers.aggregate.DiagonalMixture, diagonal_mixture),
]
each_mixture = pytest.mark.parametrize("mixture, make", MIXTURES)


# Densities


def test_prior_is_that_of_the_vae():
    vae = Codes()
    sampler = samplers.Prior().fit(vae)
    z = means()
    expected = scipy.stats.norm.logpdf(z).sum(1)
    np.testing.assert_allclose(sampler.log_prob(z), expected, rtol=1e-5)

    vae.prior = lambda mean, variance, training: (tf.ones((1, L)), tf.fill((1, L), 4.0))
    sampler = samplers.Prior().fit(vae, z)
    expected = scipy.stats.norm(1.0, 2.0).logpdf(z).sum(1)
    np.testing.assert_allclose(sampler.log_prob(z), expected, rtol=1e-5)


@pytest.mark.parametrize("variance", [0.04, lambda mean: 0.1 + mean**2])
def test_optimal_prior_is_the_second_moment(variance):
    x = means(n=301)
    vae = Codes(variance)
    sampler = samplers.OptimalPrior().fit(vae, x)
    s2 = np.float64(vae.encode(x).variance)
    expected = np.mean(s2 + np.float64(x) ** 2, axis=0)
    np.testing.assert_allclose(sampler.distribution.variance(), expected, rtol=1e-6)
    np.testing.assert_allclose(
        sampler.log_prob(x), scipy.stats.norm(0, expected**0.5).logpdf(x).sum(1), 1e-5
    )

    # P4, Eq. 4: no other variance has a smaller mean KL divergence.
    def kl(prior):
        ratio = (s2 + np.float64(x) ** 2) / prior
        return np.mean(np.sum(ratio - 1 - np.log(s2 / prior), axis=1)) / 2

    for factor in (0.9, 1.1):
        assert kl(expected * factor) > kl(expected)


@pytest.mark.parametrize("method", ["em", "variational"])
def test_gaussian_mixture_density(method):
    x = means()
    sampler = samplers.GaussianMixture(4, method).fit(Codes(), x, seed=0)
    components = sampler.distribution.components_distribution
    expected = gaussian_mixture_log_prob(
        x,
        sampler.distribution.mixture_distribution.probs_parameter().numpy(),
        components.loc.numpy(),
        components.covariance().numpy(),
    )
    np.testing.assert_allclose(sampler.log_prob(x), expected, rtol=1e-4, atol=1e-4)


def test_em_is_that_of_scikit_learn(monkeypatch):
    from sklearn import mixture

    fits = []
    fit = samplers.gaussian_mixture.expectation_maximization
    monkeypatch.setattr(
        samplers.gaussian_mixture,
        "expectation_maximization",
        lambda z, k, seed: fits.append((z[:], seed)) or fit(z, k, seed),
    )
    sampler = samplers.GaussianMixture(2, samples_per_example=3)
    sampler.fit(Codes(), means(), seed=0)
    ((codes, seed),) = fits
    assert codes.shape == (600, L)
    twin = mixture.GaussianMixture(2, random_state=seed).fit(np.float64(codes))
    np.testing.assert_allclose(
        sampler.log_prob(codes), twin.score_samples(codes), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("variance", [1e-4, 0.04, lambda mean: 1e-4 + mean**2])
def test_aggregate_posterior_density(variance):
    x = means(n=300)
    vae = Codes(variance)
    sampler = samplers.AggregatePosterior().fit(vae, x)
    s2 = np.broadcast_to(vae.encode(x).variance, x.shape)
    near = np.concatenate([x + np.sqrt(s2) * 3, means(n=40, seed=1), [[50, -50, 0]]])
    expected = diagonal_mixture_log_prob(near.astype("float32"), x, s2)
    np.testing.assert_allclose(sampler.log_prob(near), expected, rtol=1e-6, atol=1e-4)


@each_mixture
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_fast_density_equals_the_parent(mixture, make, scale, monkeypatch):
    fast, parent = mixture(*make(scale=scale)), tfd.MixtureSameFamily(*make())
    parent = tfd.MixtureSameFamily(*make(scale=scale))
    z = fast.sample(101, seed=0)
    expected = parent.log_prob(z)
    np.testing.assert_allclose(fast.log_prob(z), expected, rtol=1e-4, atol=1e-4)
    # In a graph, in chunks of two points, of other ranks, and of no point at all.
    compiled = tf.function(fast.log_prob, input_signature=[tf.TensorSpec((None, L))])
    np.testing.assert_allclose(compiled(z), expected, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(mixtures, "CHUNK", 2 * sum(fast._weights.shape))
    np.testing.assert_allclose(fast.log_prob(z), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(fast.log_prob(z[0]), expected[0], rtol=1e-4, atol=1e-4)
    assert fast.log_prob(z[:6], name="few").shape == (6,)
    assert fast.log_prob(tf.reshape(z[:6], (2, 3, L))).shape == (2, 3)
    assert fast.log_prob(z[:0]).shape == (0,)


@each_mixture
def test_fast_density_far_away_and_its_gradient(mixture, make):
    fast, parent = mixture(*make()), tfd.MixtureSameFamily(*make())
    for z in (tf.fill((4, L), 1e3), fast.sample(20, seed=0)):
        gradients = []
        for distribution in (fast, parent):
            with tf.GradientTape() as tape:
                tape.watch(z)
                log_prob = distribution.log_prob(z)
            gradients.append(tape.gradient(log_prob, z))
        np.testing.assert_allclose(log_prob, fast.log_prob(z), rtol=1e-4)
        np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-3)


@each_mixture
def test_mixtures_are_tfp_distributions(mixture, make):
    fast, parent = mixture(*make()), tfd.MixtureSameFamily(*make())
    np.testing.assert_allclose(fast.mean(), parent.mean())
    np.testing.assert_allclose(fast.covariance(), parent.covariance())
    z = fast.sample((2, 5), seed=0)
    assert z.shape == (2, 5, L)
    assert fast.sample(seed=0).shape == (L,)
    np.testing.assert_array_equal(fast.copy().log_prob(z), fast.log_prob(z))
    # As an argument of a compiled function.
    compiled = tf.function(lambda distribution, z: distribution.log_prob(z))
    np.testing.assert_allclose(compiled(fast, z), fast.log_prob(z), rtol=1e-5)


# Draws


def check_moments(draws, mean, covariance):
    """Mean and covariance of draws, to five standard errors by a normal's formula."""
    n = len(draws)
    variance = np.diag(covariance)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(variance / n))
    error = np.abs(np.cov(draws.T) - covariance)
    centred = draws - draws.mean(0)
    fourth = np.einsum("ni,nj->ij", centred**2, centred**2) / n
    assert np.all(error < 5 * np.sqrt((fourth - covariance**2) / n))


@each_mixture
def test_moments_of_mixture_draws(mixture, make, monkeypatch):
    fast = mixture(*make())
    mean, covariance = fast.mean().numpy(), fast.covariance().numpy()
    draws = fast.sample(20_000, seed=0).numpy()
    check_moments(draws, mean, covariance)
    # Chunks change no draw.
    draws = fast.sample(100, seed=0)
    monkeypatch.setattr(mixtures, "CHUNK", L**2 * 7)
    np.testing.assert_array_equal(fast.sample(100, seed=0), draws)


@each_mixture
@pytest.mark.parametrize("n", [0, 1, 500])
def test_each_draw_is_of_its_own_component(mixture, make, n):
    """`mu_k + A_k e`; of blocks that are full, short and empty."""
    fast, random = mixture(*make(components=50)), np.random.default_rng(0)
    index = (50 * random.uniform(size=n) ** 4).astype("int32")
    noise = random.normal(size=(n, L)).astype("float32")
    components = fast.components_distribution
    factors = components.scale.to_dense().numpy()[index]
    expected = components.loc.numpy()[index] + np.einsum("nij,nj->ni", factors, noise)
    placed = fast._place(tf.constant(index), tf.constant(noise))
    np.testing.assert_allclose(placed, expected, rtol=1e-5, atol=1e-5)


@each_sampler
def test_moments_of_draws(sampler):
    sampler.fit(Codes(), means(), seed=0)
    distribution = sampler.distribution
    check_moments(
        sampler.sample(20_000, seed=1).numpy(),
        distribution.mean().numpy(),
        distribution.covariance().numpy(),
    )


def test_gaussian_mixture_is_fitted_to_draws():
    """The variance of the mixture is that of the means and the posteriors' own."""
    x = means(n=4000)
    sampler = samplers.GaussianMixture(2).fit(Codes(variance=5.0), x, seed=0)
    expected = np.cov(x.T) + 5.0 * np.eye(L)
    error = np.abs(sampler.distribution.covariance() - expected)
    assert error.max() < 0.1 * expected.max()
    means_alone = samplers.GaussianMixture(2).fit(
        Codes(variance=0.0, deterministic=True), x, seed=0
    )
    np.testing.assert_allclose(
        means_alone.distribution.covariance(), np.cov(x.T), rtol=1e-2
    )


@each_mixture
def test_draws_come_in_no_order(mixture, make):
    """Component numbers of neighbours are independent, their shares the weights."""
    weights, components = make(components=4, scale=1e-3)
    fast = mixture(weights, components)
    n = 10_000
    draws = fast.sample(n, seed=0)
    distance = np.linalg.norm(draws[:, None] - components.loc, axis=-1)
    ids = distance.argmin(1)
    centred = ids - ids.mean()
    autocorrelation = np.mean(centred[1:] * centred[:-1]) / ids.var()
    assert abs(autocorrelation) < 4 / np.sqrt(n)
    shares = np.bincount(ids, minlength=4)
    expected = weights.probs_parameter().numpy().astype("float64")
    test = scipy.stats.chisquare(shares, n * expected / expected.sum())
    assert test.pvalue > 1e-4


@every_sampler
def test_seeds(sampler):
    sampler.fit(Codes(), means(), seed=0)
    first = sampler.sample(5, seed=7)
    assert first.shape == (5, L) and first.dtype == tf.float32
    np.testing.assert_array_equal(first, sampler.sample(5, seed=7))
    np.testing.assert_array_equal(first, sampler.sample(5, seed=np.int64(7)))
    words = tf.constant([3, -4], tf.int32)
    others = [
        sampler.sample(5, seed=seed).numpy()
        for seed in (8, 2**40 + 7, words, None, None)
    ]
    for index, other in enumerate(others):
        assert not np.any(other == first)
        assert not any(np.any(other == another) for another in others[:index])
    # None follows the global seed, as all of Keras.
    global_draws = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        global_draws.append(sampler.sample(5))
    np.testing.assert_array_equal(*global_draws)
    # In a graph: number and seed as tensors.
    compiled = tf.function(sampler.sample)
    np.testing.assert_array_equal(
        compiled(tf.constant(5), words), sampler.sample(5, words)
    )


@pytest.mark.parametrize("seed", [[1, 2, 3], 0.5, [0.5, 1.5]])
def test_wrong_seeds(seed):
    with pytest.raises(ValueError, match="Received: seed="):
        samplers.Prior().fit(Codes()).sample(2, seed=seed)


@pytest.mark.slow
@every_sampler
def test_draws_in_a_saved_model(sampler, tmp_path):
    sampler.fit(Codes(), means(), seed=0)
    module = tf.Module()
    module.sample = tf.function(
        sampler.sample,
        input_signature=[tf.TensorSpec((), tf.int32), tf.TensorSpec((2,), tf.int32)],
    )
    tf.saved_model.save(module, tmp_path)
    n, seed = tf.constant(6), tf.constant([1, 2])
    draws = tf.saved_model.load(tmp_path).sample(n, seed)
    np.testing.assert_array_equal(draws, sampler.sample(n, seed))


# Fits


def arrays(sampler):
    return [sampler._arrays[name] for name in sorted(sampler._arrays)]


@each_sampler
def test_fit_reads_the_data_once_and_in_order(sampler):
    """Streams in batches of any size, with labels and weights, give the same."""
    x = means(n=103)
    reads = []

    class Dataset(keras.utils.PyDataset):
        def __len__(self):
            return 7

        def __getitem__(self, index):
            reads.append(index)
            part = slice(15 * index, 15 * (index + 1))
            return x[part], np.zeros(len(x[part])), np.zeros(len(x[part]))

    assert sampler.fit(Codes(), x, seed=0) is sampler
    expected = arrays(sampler)
    for data in (
        (x, np.zeros(103)),
        tf.data.Dataset.from_tensor_slices(x).batch(10),
        tf.data.Dataset.from_tensor_slices((x, np.zeros(103))).batch(500),
        Dataset(),
    ):
        sampler.fit(Codes(), data, seed=0)
        for array, twin in zip(arrays(sampler), expected, strict=True):
            np.testing.assert_allclose(array, twin, rtol=1e-5, atol=1e-6)
    assert reads == (list(range(7)) if "Prior()" != repr(sampler) else [])


@pytest.mark.parametrize("method", ["em", "variational"])
def test_fit_is_reproducible(method):
    x = means()
    fits = [
        arrays(samplers.GaussianMixture(3, method).fit(Codes(1.0), x, seed=seed))
        for seed in (0, 0, 1)
    ]
    for first, again, other in zip(*fits, strict=True):
        np.testing.assert_allclose(first, again, rtol=1e-5, atol=1e-6)
        assert np.abs(first - other).max() > 1e-3
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        drawn.append(arrays(samplers.GaussianMixture(3, method).fit(Codes(1.0), x)))
    np.testing.assert_allclose(drawn[0][0], drawn[1][0], rtol=1e-5, atol=1e-6)


@every_sampler
def test_unfitted(sampler, tmp_path):
    sampler = type(sampler)(**sampler.get_config())
    for use in (
        lambda: sampler.sample(3),
        lambda: sampler.log_prob(np.zeros((1, L))),
        lambda: sampler.distribution,
        lambda: sampler.save(tmp_path / "sampler.npz"),
    ):
        with pytest.raises(ValueError, match=r"Call `fit\(.*Received: sampler="):
            use()
    assert not list(tmp_path.iterdir())


def test_wrong_arguments():
    for arguments in (
        {"num_components": 0},
        {"num_components": 2.5},
        {"samples_per_example": 0},
        {"method": "vb"},
    ):
        with pytest.raises(ValueError, match=f"Received: {next(iter(arguments))}="):
            samplers.GaussianMixture(**arguments)
    with pytest.raises(ValueError, match="num_components=32, codes=31"):
        samplers.GaussianMixture().fit(Codes(), means(n=31))
    samplers.GaussianMixture(32, samples_per_example=2).fit(Codes(), means(n=31))
    with pytest.raises(ValueError, match="deterministic posterior.*Received"):
        samplers.AggregatePosterior().fit(Codes(0.0, deterministic=True), means())


@pytest.mark.parametrize("sampler", EVERY[1:], ids=repr)
def test_wrong_data(sampler):
    x = means(n=300)
    with pytest.raises(ValueError, match="at least one example"):
        sampler.fit(Codes(), x[:0])
    x[270, 1] = np.nan
    with pytest.raises(ValueError, match=r"Received: x\[270\]"):
        sampler.fit(Codes(), x)
    with pytest.raises(ValueError, match="Received"):
        sampler.fit(Codes(np.inf), means())


@every_sampler
def test_log_prob_of_wrong_shapes(sampler):
    sampler.fit(Codes(), means(), seed=0)
    assert sampler.log_prob(np.zeros((5, L))).shape == (5,)
    for shape in ((5, 1), (L,), (5, L, 1), (2, 5, L)):
        with pytest.raises(ValueError, match=r"Received: z.shape=\("):
            sampler.log_prob(np.zeros(shape))


@each_sampler
def test_with_a_vae(sampler):
    """Of images as uint8, in a model with a floating prior."""
    keras.utils.set_random_seed(0)
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    encoder, decoder = kvv.backbones.mlp((4, 4, 1), L, likelihood)
    posterior = kvv.posteriors.ConstantGaussian(L, variance=0.5)
    prior = kvv.priors.Floating()
    vae = kvv.VAE(encoder, decoder, posterior, likelihood, prior=prior)
    random = np.random.default_rng(0)
    x = random.integers(0, 256, size=(300, 4, 4, 1), dtype="uint8")
    vae.calibrate(x)
    sampler.fit(vae, x, seed=0)
    assert vae.generate(4, sampler=sampler, seed=0)["mean"].shape == (4, 4, 4, 1)
    # What all fits have in common: the second moment, of which mixtures draw noise.
    latent = vae.encode(x)
    expected = np.mean(latent.mean**2, axis=0) + 0.5
    variance, mean = sampler.distribution.variance(), sampler.distribution.mean()
    tolerance = 0.3 if isinstance(sampler, samplers.GaussianMixture) else 1e-4
    np.testing.assert_allclose(variance + mean**2, expected, rtol=tolerance)


# Files

READ = """
import sys
import keras
import numpy as np
from keras_vae_variance import samplers
for name, path in zip(sys.argv[1::2], sys.argv[2::2]):
    sampler = getattr(samplers, name).load(path)
    z = sampler.sample(100, seed=3)
    keras.utils.set_random_seed(0)  # SecondStage draws in log_prob
    np.savez(path + ".out.npz", z=z, log_prob=sampler.log_prob(z), config=repr(sampler))
assert "sklearn.mixture" not in sys.modules
"""


@pytest.mark.slow
def test_files_in_another_process(tmp_path):
    arguments = []
    for index, sampler in enumerate(EVERY):
        sampler.fit(Codes(lambda mean: 0.1 + mean**2), means(), seed=0)
        path = str(tmp_path / f"sampler{index}")  # without an ending, taken as it is
        sampler.save(path)
        arguments += [type(sampler).__name__, path]
    subprocess.run([sys.executable, "-c", READ, *arguments], check=True)
    for index, sampler in enumerate(EVERY):
        read = np.load(tmp_path / f"sampler{index}.out.npz")
        z = sampler.sample(100, seed=3)
        np.testing.assert_array_equal(read["z"], z)
        keras.utils.set_random_seed(0)
        np.testing.assert_array_equal(read["log_prob"], sampler.log_prob(z))
        assert read["config"].item() == repr(sampler)


def test_wrong_files(tmp_path):
    path = tmp_path / "sampler.npz"
    sampler = samplers.GaussianMixture(2).fit(Codes(), means(), seed=0)
    sampler.save(path)
    with pytest.raises(ValueError, match="holds a GaussianMixture.*Received: path="):
        samplers.Prior.load(path)
    with pytest.raises(FileNotFoundError):
        samplers.Prior.load(tmp_path / "none")

    content = path.read_bytes()
    contents = dict(np.load(path))
    broken = tmp_path / "broken.npz"
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255

    def fails():
        with pytest.raises(ValueError, match="broken.*Received: path="):
            samplers.GaussianMixture.load(broken)

    for data in (b"", b"no archive", content[: len(content) // 2], bytes(flipped)):
        broken.write_bytes(data)
        fails()
    with open(broken, "wb") as file:
        np.save(file, np.zeros(3))
    fails()
    for wrong in (
        {"mean": np.zeros((2, 5), "float32")},
        {"config": "{}}"},
        {"config": '{"components": 2}'},
        {"extra": np.zeros(2)},
        {"mean": np.array([{}], dtype=object)},  # would need pickle
    ):
        np.savez(broken, **(contents | wrong))
        fails()
    del contents["mean"]
    np.savez(broken, **contents)
    fails()
