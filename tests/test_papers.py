"""One test for each equation of the papers that is implemented, by paper and number.

The formulas stand here as printed: with standard deviations where the paper has them,
and one sum after the other. `../shared/equations.md` lists the papers P0 to P4.
"""

import keras
import numpy as np
import oracles
import pytest
import scipy.stats
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.likelihoods import Gaussian
from keras_vae_variance.posteriors import ConstantGaussian, DiagonalGaussian
from keras_vae_variance.priors import Floating
from keras_vae_variance.regularizers import BILBO, KL
from keras_vae_variance.variances import Fixed, Learned, MaximumLikelihood, Predicted

log, pi = np.log, np.pi
N, SHAPE, D, L = 7, (3, 2, 2), 12, 2
LOG_2_PI = log(2 * pi)


def array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.fixture
def x():
    return np.random.default_rng(0).uniform(size=(N, *SHAPE)).astype("float32")


def gaussian_nll(variance, x, mean, training=False, **parameters):
    likelihood = Gaussian(variance)
    kvv_ops.build_once(likelihood, (None, *SHAPE))
    return likelihood(x, {"mean": mean, **parameters}, training=training)


class Model:
    """A VAE of linear networks, and in NumPy what it computes at one draw of z."""

    def __init__(self, variance, posterior=None, prior=None, regularizer=None):
        likelihood = Gaussian(variance)
        encoder, decoder = kvv.backbones.mlp(
            SHAPE, L, likelihood, mean_activation=None, hidden=()
        )
        self.posterior = posterior or DiagonalGaussian(L)
        regularizers = [regularizer or KL()]
        self.vae = kvv.VAE(
            encoder, decoder, self.posterior, likelihood, prior, regularizers, seed=0
        )
        random = np.random.default_rng(1)
        for weight in [*decoder.weights, *self.posterior.weights]:
            weight.assign(random.normal(scale=0.5, size=weight.shape))

    def draw(self, x, noise):
        """Posterior mean and stddev, z, and the decoder's mean."""
        latent = self.vae.encode(x)
        mu, s = oracles.float64(latent.mean), np.sqrt(oracles.float64(latent.variance))
        z = mu + s * noise
        kernel, bias = (oracles.float64(w) for w in self.vae.decoder.get_weights()[:2])
        return mu, s, z, (z @ kernel + bias).reshape(-1, *SHAPE)


@pytest.fixture
def noise(monkeypatch):
    """The standard normal noise of every draw of z, known."""
    values = array(N, L, seed=3)
    # Of shape (N, L) for the objective, (1, N, L) for `elbo`.
    monkeypatch.setattr(
        kvv_ops, "normal", lambda shape, seed: tf.reshape(values, shape)
    )
    return oracles.float64(values)


def gradients(vae, x):
    """Gradients of the loss as `fit` has it, with the noise of one fixed draw."""
    vae.seed_generator.state.assign([0, 0])
    with tf.GradientTape() as tape:
        terms = vae.objective(x, training=True)
        loss = tf.reduce_mean(terms["reconstruction"]) + sum(
            r.weight * tf.reduce_mean(terms[r.term]) for r in vae.regularizers
        )
    return tape.gradient(loss, vae.trainable_variables)


# --------------------------------------------------------------------------------------
# P0


@pytest.mark.parametrize("sigma", [1e-3, 0.5**0.5, 1.0, 30.0])
def test_p0_equation_8_gaussian_log_likelihood(x, sigma):
    g = array(N, *SHAPE)
    squares = ((oracles.float64(g) - x) ** 2).reshape(N, D).sum(axis=1)
    log_p = -D / 2 * LOG_2_PI - D * log(sigma) - squares / (2 * sigma**2)
    np.testing.assert_allclose(gaussian_nll(Fixed(sigma**2), x, g), -log_p, rtol=1e-5)


def test_p0_equation_9_elbo_with_a_global_variance(x, noise):
    """As the loss of `evaluate`, negative."""
    model = Model(Learned(initial=0.3))
    sigma = 0.3**0.5
    mu, s, _, g = model.draw(x, noise)
    squares = ((g - x) ** 2).reshape(N, D).sum(axis=1)
    kl = 0.5 * np.sum(s**2 + mu**2 - 1 - log(s**2), axis=1)
    terms = D / 2 * LOG_2_PI + D * log(sigma) + squares / (2 * sigma**2) + kl
    model.vae.compile("sgd")
    logs = model.vae.evaluate(x, batch_size=N, return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(terms.mean(), rel=1e-5)
    assert logs["mse"] == pytest.approx(squares.mean(), rel=1e-5)
    assert logs["variance"] == pytest.approx(0.3, rel=1e-5)


def test_p0_equation_10_optimal_global_variance(x):
    """Where the derivative of Equation 9 by sigma is 0; with the mean over examples."""
    g = array(N, *SHAPE)
    best = np.mean((oracles.float64(g) - x) ** 2)
    variance = MaximumLikelihood()
    gaussian_nll(variance, x, g, training=True)
    assert np.ravel(variance.predict({})) == pytest.approx(best, rel=1e-5)
    slopes = []
    for start in (0.9 * best, best, 1.1 * best):
        learned = Learned(initial=float(start), rate=1.0)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(gaussian_nll(learned, x, g, training=True))
        slopes.append(float(tape.gradient(loss, learned.parameter)))
    assert slopes[0] < -0.1 and abs(slopes[1]) < 1e-4 and slopes[2] > 0.1


def test_p0_equation_11_variance_of_each_pixel_and_code(x):
    g, raw = array(N, *SHAPE), 3 * array(N, *SHAPE, seed=1)
    sigma = np.sqrt(1 / (1 + np.exp(-oracles.float64(raw))))
    terms = (oracles.float64(g) - x) ** 2 / (2 * sigma**2) + log(sigma)
    log_p = -D / 2 * LOG_2_PI - terms.reshape(N, D).sum(axis=1)
    actual = gaussian_nll(Predicted(), x, g, raw_variance=raw)
    np.testing.assert_allclose(actual, -log_p, rtol=1e-5)


def mixture(z, weights, means, covariances):
    """log sum_m w_m N(z; mu_m, Sigma_m)."""
    components = [
        log(w) + scipy.stats.multivariate_normal(m, c).logpdf(z)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return np.logaddexp.reduce(components, axis=0)


def test_p0_equation_12_aggregate_posterior(x):
    vae = Model(Fixed(0.3)).vae
    latent = vae.encode(x)
    covariances = [np.diag(s2) for s2 in oracles.float64(latent.variance)]
    z = 2 * array(20, L)
    expected = mixture(z, np.full(N, 1 / N), latent.mean.numpy(), covariances)
    sampler = kvv.samplers.AggregatePosterior().fit(vae, x)
    np.testing.assert_allclose(sampler.log_prob(z), expected, rtol=1e-4, atol=1e-4)


def test_p0_equation_13_gaussian_mixture(x):
    vae = Model(Fixed(0.3)).vae
    sampler = kvv.samplers.GaussianMixture(2).fit(vae, np.repeat(x, 20, axis=0), seed=0)
    z = 2 * array(20, L)
    components = sampler.distribution.components_distribution
    expected = mixture(
        z,
        sampler.distribution.mixture_distribution.probs_parameter().numpy(),
        components.mean().numpy(),
        components.covariance().numpy(),
    )
    np.testing.assert_allclose(sampler.log_prob(z), expected, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------
# P1


def test_p1_equation_3_objective_of_a_given_variance(x, noise):
    """Up to the constants D/2 log(2 pi v) that it omits."""
    v = 0.2
    model = Model(Fixed(v))
    mu, s, _, m = model.draw(x, noise)
    squares = ((x - m) ** 2).reshape(N, D).sum(axis=1)
    kl = 0.5 * np.sum(s**2 + mu**2 - log(s**2) - 1, axis=1)
    expected = np.mean(squares / (2 * v) + kl)
    model.vae.compile("sgd")
    loss = model.vae.evaluate(x, batch_size=N, return_dict=True, verbose=0)["loss"]
    assert loss - D / 2 * log(2 * pi * v) == pytest.approx(expected, rel=1e-5)


def test_p1_kl_under_equation_3():
    mu, s2 = 3 * array(N, L), np.exp(5 * array(N, L, seed=1))
    expected = 0.5 * np.sum(
        oracles.float64(s2) + oracles.float64(mu) ** 2 - log(oracles.float64(s2)) - 1,
        axis=1,
    )
    zeros, ones = np.zeros((1, L), "float32"), np.ones((1, L), "float32")
    latent = kvv.types.Latent(mu, mu, s2, zeros, ones)
    np.testing.assert_allclose(KL()(mu, latent), expected, rtol=1e-5)


def test_p1_equation_7b_any_diagonal_covariance(x):
    """Up to the constant D/2 log 2 pi."""
    m, raw = array(N, *SHAPE), array(N, *SHAPE, seed=1)
    expected = []
    for x_n, m_n, raw_n in zip(x, m, raw, strict=True):
        covariance = np.diag(np.exp(oracles.float64(raw_n).ravel()))
        r = oracles.float64(x_n - m_n).reshape(D, 1)
        trace = np.trace(np.linalg.inv(covariance) @ r @ r.T)
        expected.append(0.5 * (trace + np.linalg.slogdet(covariance)[1]))
    actual = gaussian_nll(Predicted(link="exp"), x, m, raw_variance=raw)
    np.testing.assert_allclose(actual - D / 2 * LOG_2_PI, expected, rtol=1e-5)


TABLE_2 = {  # the objective with its constants, and how the variance model is made
    "Iso-I": (oracles.iso_i, {}),
    "Iso-D": (oracles.iso_d, {"per_example": True}),
    "Diag-I": (oracles.diag_i, {"per_pixel": True}),
    "Diag-D": (oracles.diag_d, {"per_pixel": True, "per_example": True}),
}
each_row = pytest.mark.parametrize("row", TABLE_2)


@each_row
def test_p1_table_2_objectives(x, row):
    """Without an epsilon they are the Gaussian nll at the variance."""
    objective, arguments = TABLE_2[row]
    m = array(N, *SHAPE)
    variance = MaximumLikelihood(**arguments, epsilon=0.0)
    actual = np.mean(gaussian_nll(variance, x, m, training=True))
    expected = objective((oracles.float64(x) - m) ** 2)
    assert actual == pytest.approx(expected, rel=1e-5)


@each_row
def test_p1_table_2_objectives_against_the_density(row):
    """The oracle itself: SciPy's density at the variance of greatest likelihood."""
    objective, arguments = TABLE_2[row]
    r2 = oracles.float64(array(N, *SHAPE)) ** 2
    form = {"per_pixel": False, "per_example": False, **arguments}
    v = oracles.maximum_likelihood_variance(r2, **form)
    expected = oracles.gaussian_nll(np.sqrt(r2), 0.0, v).mean()
    assert objective(r2) == pytest.approx(expected, rel=1e-12)


@each_row
@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 1e-2])
def test_p1_table_2_gradients(x, row, epsilon):
    """With an epsilon too: that of P1's objectives, by the decoder's mean."""
    objective, arguments = TABLE_2[row]
    m = tf.Variable(array(N, *SHAPE))
    variance = MaximumLikelihood(**arguments, epsilon=epsilon)
    with tf.GradientTape() as tape:
        nll = gaussian_nll(variance, x, m, training=True)
        loss = tf.reduce_mean(nll)
    (expected,) = oracles.numeric_gradient(
        lambda m: objective((x - m) ** 2, epsilon), m.numpy()
    )
    np.testing.assert_allclose(tape.gradient(loss, m), expected, rtol=1e-4, atol=1e-5)


@each_row
def test_p1_table_2_gradient_through_the_variance(x, row):
    """Without an epsilon, holding it constant or not is the same."""
    _, arguments = TABLE_2[row]
    m = tf.Variable(array(N, *SHAPE))
    axes = [
        0 if not arguments.get("per_example") else None,
        *([1, 2, 3] if not arguments.get("per_pixel") else []),
    ]
    axes = [axis for axis in axes if axis is not None]
    with tf.GradientTape(persistent=True) as tape:
        r2 = tf.square(x - m)
        v = tf.reduce_mean(r2, axis=axes, keepdims=True)
        through = tf.reduce_sum(r2 / v + tf.math.log(v) + 0 * r2) / (2 * N)
        variance = MaximumLikelihood(**arguments, epsilon=0.0)
        held = tf.reduce_mean(gaussian_nll(variance, x, m, training=True))
    actual, expected = tape.gradient(held, m), tape.gradient(through, m)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() > 0.1


@each_row
@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_p1_table_2_with_an_epsilon_reports_the_density(x, row, epsilon):
    """The Gaussian nll at the variance: below P1's objective by half of eps/v each."""
    objective, arguments = TABLE_2[row]
    m = array(N, *SHAPE)
    m[0, 0, 0] = x[0, 0, 0]  # pixels that are fitted exactly
    r2 = (oracles.float64(x) - m) ** 2
    variance = MaximumLikelihood(**arguments, epsilon=epsilon)
    reported = np.mean(gaussian_nll(variance, x, m, training=True))
    form = {"per_pixel": False, "per_example": False, **arguments}
    v = oracles.maximum_likelihood_variance(r2, **form, epsilon=epsilon)
    expected = oracles.gaussian_nll(np.sqrt(r2), 0.0, v).mean()
    assert reported == pytest.approx(expected, rel=1e-5)
    share = epsilon / D if row == "Iso-D" else 0.0 if row == "Iso-I" else epsilon
    gap = np.sum(np.broadcast_to(share / v, x.shape)) / (2 * N)
    assert objective(r2, epsilon) - expected == pytest.approx(gap, rel=1e-6, abs=1e-9)


@each_row
def test_p1_equation_10_objective_of_a_step(x, noise, row):
    """The row of Table 2 plus the KL, as the loss of `fit`."""
    objective, arguments = TABLE_2[row]
    model = Model(MaximumLikelihood(**arguments, epsilon=0.0))
    mu, s, _, m = model.draw(x, noise)
    kl = 0.5 * np.sum(s**2 + mu**2 - log(s**2) - 1, axis=1)
    expected = objective((x - m) ** 2) + kl.mean()
    model.vae.compile(keras.optimizers.SGD(0.0))
    history = model.vae.fit(x, batch_size=N, shuffle=False, verbose=0).history
    assert history["loss"] == [pytest.approx(expected, rel=1e-5)]


# --------------------------------------------------------------------------------------
# P2


def test_p2_equation_1_stddev_from_a_network(x):
    """One for each pixel and channel, by its logarithm."""
    mu, lamb = array(N, *SHAPE), array(N, *SHAPE, seed=1)
    expected = -sum_pixels(
        scipy.stats.norm.logpdf(x, mu, np.exp(oracles.float64(lamb)))
    )
    raw = (2 * lamb).astype("float32")  # sigma^2 = e^(2 lambda)
    actual = gaussian_nll(Predicted(link="exp"), x, mu, raw_variance=raw)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def sum_pixels(t):
    return np.reshape(t, (N, D)).sum(axis=1)


@pytest.mark.parametrize("lamb", [-2.5, 0.0, 1.0])
def test_p2_equation_2_shared_stddev(x, lamb):
    mu = array(N, *SHAPE)
    expected = -sum_pixels(scipy.stats.norm.logpdf(x, mu, np.exp(lamb)))
    learned = Learned(initial=float(np.exp(2 * lamb)), rate=1.0)
    np.testing.assert_allclose(gaussian_nll(learned, x, mu), expected, rtol=1e-5)


def test_p2_equation_3_objective_of_the_sigma_vae(x, noise):
    """D ln sigma + D / (2 sigma^2) MSE + KL, up to D/2 ln 2 pi."""
    sigma = 0.4
    model = Model(Learned(initial=sigma**2))
    mu, s, _, mean = model.draw(x, noise)
    mse = np.mean((mean - x) ** 2)
    kl = 0.5 * np.mean(np.sum(s**2 + mu**2 - 1 - log(s**2), axis=1))
    expected = D * log(sigma) + D / (2 * sigma**2) * mse + kl
    model.vae.compile("sgd")
    loss = model.vae.evaluate(x, batch_size=N, return_dict=True, verbose=0)["loss"]
    assert loss - D / 2 * LOG_2_PI == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", [0.01, 0.5, 4.0])
def test_p2_equation_4_beta_vae_is_a_variance_of_beta(x, beta):
    """Weight beta beside variance 1: beta times the gradient of variance beta."""
    pairs = (Fixed(1.0), KL(beta)), (Fixed(beta), KL())
    ours, theirs = (
        gradients(Model(variance, regularizer=kl).vae, x) for variance, kl in pairs
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, beta * other, rtol=1e-4, atol=1e-5)
        assert np.abs(one).max() > 1e-3


def test_p2_equation_5_optimal_variance_is_the_mse(x):
    """Of the batch, for the optimal sigma-VAE; of each image, for the per-image one."""
    mu = array(N, *SHAPE)
    r2 = (oracles.float64(x) - mu) ** 2
    mse = {False: np.full(N, r2.mean()), True: r2.reshape(N, D).mean(axis=1)}
    for per_image, expected in mse.items():
        variance = MaximumLikelihood(per_example=per_image, epsilon=0.0)
        kvv_ops.build_once(variance, (None, *SHAPE))
        v = np.ravel(variance(np.float32(r2), {}, training=True))
        np.testing.assert_allclose(np.broadcast_to(v, N), expected, rtol=1e-5)
        nll = gaussian_nll(variance, x, mu, training=True)
        expected = oracles.gaussian_nll(x, mu, expected.reshape(N, 1, 1, 1))
        np.testing.assert_allclose(nll, expected, rtol=1e-5)


def test_p2_section_3_1_soft_clipping(x):
    """lambda := lambda_min + softplus(lambda - lambda_min), lambda_min = -6."""
    mu, lamb = array(N, *SHAPE), 6 * array(N, *SHAPE, seed=1) - 4
    clipped = -6 + np.log1p(np.exp(oracles.float64(lamb) + 6))
    expected = -sum_pixels(scipy.stats.norm.logpdf(x, mu, np.exp(clipped)))
    predicted = Predicted(link="exp", bounds=(np.exp(-12.0), None))
    actual = gaussian_nll(predicted, x, mu, raw_variance=np.float32(2 * lamb))
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


# --------------------------------------------------------------------------------------
# P3


@pytest.mark.parametrize("sigma", [0.043, 1.0])
def test_p3_equation_10_learned_scalar(x, sigma):
    """Up to the constant D/2 log 2 pi."""
    mu = array(N, *SHAPE)
    squares = sum_pixels((oracles.float64(x) - mu) ** 2)
    expected = squares / (2 * sigma**2) + D * log(sigma)
    actual = gaussian_nll(Learned(initial=sigma**2, rate=1.0), x, mu)
    np.testing.assert_allclose(actual - D / 2 * LOG_2_PI, expected, rtol=1e-5)


def test_p3_equation_11_learned_vector(x):
    """Up to the constant; the decoder gives pairs (mean, log stddev)."""
    mu, log_sigma = array(N, *SHAPE), array(N, *SHAPE, seed=1)
    sigma = np.exp(oracles.float64(log_sigma))
    terms = (oracles.float64(x) - mu) ** 2 / (2 * sigma**2) + log(sigma)
    raw = (2 * log_sigma).astype("float32")
    actual = gaussian_nll(Predicted(link="exp"), x, mu, raw_variance=raw)
    np.testing.assert_allclose(actual - D / 2 * LOG_2_PI, sum_pixels(terms), rtol=1e-5)


# --------------------------------------------------------------------------------------
# P4


def kl_of_equation_2(mu, sigma, s2):
    """-1/2 (log |e S^-2 Sigma| - tr S^-2 Sigma - |S^-1 mu|^2), by matrices."""
    result = []
    for mu_n, sigma_n in zip(mu, np.broadcast_to(sigma, mu.shape), strict=True):
        ratio = np.linalg.inv(np.diag(s2)) @ np.diag(sigma_n)
        log_det = np.linalg.slogdet(np.e * ratio)[1]
        norm = np.sum((np.linalg.inv(np.diag(np.sqrt(s2))) @ mu_n) ** 2)
        result.append(-0.5 * (log_det - np.trace(ratio) - norm))
    return np.array(result)


def test_p4_equation_2_elbo_of_a_gaussian_vae(x, noise):
    """With a prior N(0, S^2), here the running one of a floating prior."""
    model = Model(Fixed(0.5), prior=Floating())
    model.vae.objective(x[::-1], training=True)
    mu, s, _, mean = model.draw(x, noise)
    s2 = oracles.float64(model.vae.encode(x).prior_variance)[0]
    assert np.all(np.abs(s2 - 1) > 0.01)
    kl = kl_of_equation_2(mu, s**2, s2)
    elbo = model.vae.elbo(x)
    np.testing.assert_allclose(elbo["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(
        elbo["elbo"], -kl - oracles.gaussian_nll(x, mean, 0.5), rtol=1e-5
    )


def test_p4_equation_4_optimal_prior(x):
    """S^2 = mean of (Sigma + mu mu^T), on the diagonal; in a step and calibrated."""
    vae = Model(Fixed(0.5), prior=Floating()).vae
    mu, s2, *_ = (oracles.float64(t) for t in vae.encode(x)[1:])
    expected = np.diag(
        np.mean([np.diag(s) + np.outer(m, m) for m, s in zip(mu, s2, strict=True)], 0)
    )
    _, in_a_step = vae.prior(np.float32(mu), np.float32(s2), training=True)
    np.testing.assert_allclose(in_a_step[0], expected, rtol=1e-5)
    vae.calibrate(x, batch_size=3)
    np.testing.assert_allclose(vae.encode(x).prior_variance[0], expected, rtol=1e-5)
    sampler = kvv.samplers.OptimalPrior().fit(vae, x)
    variance = sampler.distribution.variance()
    np.testing.assert_allclose(variance, expected, rtol=1e-5)


@pytest.mark.parametrize("s2", [1.0, 0.01])
def test_p4_equation_24_bilbo(x, noise, s2):
    """As the loss of a step: 1/2 log |I + Sigma^-1 M_B| - E log p(x|z)."""
    model = Model(Fixed(0.5), ConstantGaussian(L, s2), Floating(), BILBO())
    mu, _, _, mean = model.draw(x, noise)
    moments = np.diag(np.mean(mu**2, axis=0))
    log_det = np.linalg.slogdet(np.eye(L) + np.linalg.inv(s2 * np.eye(L)) @ moments)[1]
    assert oracles.bilbo(mu, np.full(L, s2)) == pytest.approx(log_det / 2, rel=1e-12)
    terms = model.vae.objective(x, training=True)
    assert float(terms["bilbo"]) == pytest.approx(log_det / 2, rel=1e-5)
    expected = log_det / 2 + oracles.gaussian_nll(x, mean, 0.5).mean()
    model.vae.compile(keras.optimizers.SGD(0.0))
    history = model.vae.fit(x, batch_size=N, shuffle=False, verbose=0).history
    assert history["loss"] == [pytest.approx(expected, rel=1e-5)]
    assert history["bilbo"] == [pytest.approx(log_det / 2, rel=1e-5)]


def test_p4_equation_24_gradient_of_bilbo():
    """Against central differences of the formula, by the means."""
    mu, s2 = tf.Variable(2 * array(N, L)), np.float32([[0.3, 0.3]])
    prior = Floating()
    kvv_ops.build_once(prior, (None, L))
    with tf.GradientTape() as tape:
        latent = kvv.types.Latent(mu, mu, s2, *prior(mu, s2, training=True))
        term = BILBO()(mu, latent, training=True)
    (expected,) = oracles.numeric_gradient(lambda m: oracles.bilbo(m, s2), mu.numpy())
    np.testing.assert_allclose(tape.gradient(term, mu), expected, rtol=1e-4, atol=1e-6)
