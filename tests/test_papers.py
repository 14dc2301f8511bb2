"""One test for each equation of the papers that is implemented, by paper and number.

The formulas stand here as printed: with standard deviations where the paper has them,
and one sum after the other. `../shared/equations.md` lists the papers P0 to P4.
"""

import keras
import linear
import numpy as np
import oracles
import pytest
import scipy.stats
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.likelihoods import Gaussian
from keras_vae_variance.metrics import base
from keras_vae_variance.posteriors import ConstantGaussian, DiagonalGaussian
from keras_vae_variance.priors import Floating
from keras_vae_variance.regularizers import BILBO, KL
from keras_vae_variance.variances import (
    Baggins,
    Fixed,
    Learned,
    MaximumLikelihood,
    Predicted,
)

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


@pytest.mark.parametrize("epochs", [None, (2, 2)])
def test_p0_table_3_against_the_floor_of_equation_11(x, epochs):
    """From variances of v_dataset/2 on no image is above -D/2 log(pi v_dataset)."""
    variance = Predicted()
    vae = Model(variance).vae
    x = np.repeat(x, 4, axis=0)
    if epochs:
        vae.compile(keras.optimizers.Adam(1e-2))
        kvv.fit_two_stage(vae, x, epochs=epochs, batch_size=N, verbose=0)
    else:
        variance.begin_stage1(Learned(initial=0.3))
        variance.begin_stage2(0.5)
    bound = -D / 2 * log(pi * float(variance.v_dataset))
    assert np.all(vae.elbo(x)["elbo"] < bound)
    assert np.all(kvv.metrics.log_likelihood(vae, x, 50, seed=0) < bound)
    # It is reached by x = mean, a head of 0 and q(z|x) = p(z).
    parts = vae.posterior.mean, vae.posterior.spread, vae.decoder
    for weight in [w for part in parts for w in part.weights]:
        weight.assign(np.zeros(weight.shape))
    variance.offset.assign(-100.0)
    reached = kvv.metrics.log_likelihood(vae, 0 * x, 50, seed=0)
    np.testing.assert_allclose(reached, bound, rtol=1e-5, atol=1e-5)


def grid():
    """Points of the plane of latents, and the area of each."""
    axis = np.linspace(-12, 12, 241)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), 0.1**2


def integrals(log_q):
    """KL from the standard normal, and entropy, of a density on the plane."""
    z, area = grid()
    log_p = scipy.stats.multivariate_normal(np.zeros(L)).logpdf(z)
    log_q = log_q(z)
    q = np.exp(log_q) * area
    assert q.sum() == pytest.approx(1, abs=1e-4)
    return np.sum(q * (log_q - log_p)), -np.sum(q * log_q)


def test_p0_table_1_kl_of_the_mixture_from_the_prior(x):
    """D_KL(q_hat(z) || p(z)) by 10 runs of 10,000 draws, against its integral."""
    vae = Model(Fixed(0.3)).vae
    sampler = kvv.samplers.GaussianMixture(2).fit(vae, np.repeat(x, 20, axis=0), seed=0)
    expected, _ = integrals(lambda z: oracles.float64(sampler.log_prob(z)))
    result = kvv.metrics.kl_to_prior(sampler, vae, seed=0)
    assert abs(result.value - expected) < 4 * result.standard_error < 0.05 * expected


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


@pytest.mark.parametrize(
    "row, pattern",
    {
        "Iso-I": "uniform",
        "Diag-I": "spatial",
        "Iso-D": "conditional",
        "Diag-D": "spatial-conditional",
    }.items(),
)
def test_p1_table_3_estimated_variance_by_region(row, pattern):
    """Each form finds the noise of what it can express, to the error that it says."""
    vae = Model(MaximumLikelihood(**TABLE_2[row][1], epsilon=0.0)).vae
    for weight in vae.decoder.weights:
        weight.assign(np.zeros(weight.shape))
    n, s2 = 2000, 0.1
    clean, y = np.zeros((n, *SHAPE), "float32"), np.arange(n) % 10
    x, mask = kvv.datasets.noisy_regions(clean, y, pattern, s2, seed=0)
    vae.calibrate(x)
    regions = {"noisy": mask} | ({} if mask.all() else {"clean": ~mask})
    found = kvv.metrics.region_variance(vae, x, regions, seed=0)
    form = {"per_pixel": False, "per_example": False, **TABLE_2[row][1]}
    v = oracles.maximum_likelihood_variance(x**2, **form)
    for name, part in regions.items():
        expected = np.broadcast_to(v, x.shape)[np.broadcast_to(part, x.shape)].mean()
        assert found[name].value == pytest.approx(expected, rel=1e-5, abs=1e-9)
    difference = found["noisy"].value - (found["clean"].value if len(found) > 1 else 0)
    # The mean of m squares of normal variables is off by sqrt(2 / m).
    count = np.broadcast_to(mask, x.shape).sum()
    assert difference == pytest.approx(s2, rel=4 * np.sqrt(2 / count))
    errors = found["noisy"].standard_error
    assert errors == pytest.approx(
        0 if row.endswith("I") else s2 * np.sqrt(2 / count), rel=0.1, abs=1e-7
    )


def test_p1_section_6_second_stage():
    """Three layers of 1024 and the input before the heads; one learned variance."""
    vae = kvv.samplers.SecondStage()._make(16)
    networks = (vae.encoder, vae.posterior.mean, vae.posterior.spread, vae.decoder)
    kernels = [w.shape for part in networks for w in part.weights if "kernel" in w.path]
    hidden, head = [(16, 1024), (1024, 1024), (1024, 1024)], (16 + 1024, 16)
    assert kernels == [*hidden, head, head, *hidden, head]
    (parameter,) = vae.likelihood.trainable_weights
    assert parameter.shape == () and isinstance(vae.likelihood.variance_model, Learned)
    assert vae.decoder.get_layer("mean").activation is keras.activations.linear


def latent_of(mu, s2):
    standard = np.zeros((1, L), "float32"), np.ones((1, L), "float32")
    return kvv.types.Latent(mu, mu, np.full((1, L), s2, "float32"), *standard)


def test_p1_section_6_latent_terms_of_the_models_compared(monkeypatch):
    """WAE-MMD's discrepancy, RAE's norm and RAE-GP's Jacobian, at weight 1."""
    mu, prior = array(N, L), array(N, L, seed=1)
    kernel = oracles.float64(array(L, D, seed=2))

    def decode(z):
        return {"mean": tf.sin(z @ tf.constant(kernel, tf.float32))}

    monkeypatch.setattr(kvv_ops, "normal", lambda shape, seed: tf.constant(prior))
    actual = kvv.regularizers.MMD()(None, latent_of(mu, 1.0))
    assert float(actual) == pytest.approx(oracles.mmd(mu, prior), abs=2e-6)
    actual = kvv.regularizers.LatentNorm()(None, latent_of(mu, 1.0))
    np.testing.assert_allclose(actual, np.sum(mu**2, axis=1) / 2, rtol=1e-6)

    # With u one of the D unit vectors after the other, |J^T u|^2 adds up to |J|_F^2.
    penalty = kvv.regularizers.DecoderGradientPenalty()
    total = np.zeros(N)
    for k in range(D):
        u = np.tile(np.eye(D, dtype="float32")[k], (N, 1))
        monkeypatch.setattr(kvv_ops, "normal", lambda shape, seed, u=u: tf.constant(u))
        total += penalty(None, latent_of(mu, 1.0), decode=decode)
    jacobian = np.cos(mu @ kernel)[:, :, None] * kernel.T
    np.testing.assert_allclose(total, np.sum(jacobian**2, axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("kind, factor", [("I", 10.0), ("II", 1.0)])
def test_p0_section_5_dip(kind, factor):
    """Of Kumar et al., which P0 compares with: l_d = 10 l_od for I, l_od for II."""
    mu = array(N, L)
    actual = kvv.regularizers.DIP(kind)(None, latent_of(mu, 0.3))
    expected = oracles.dip(mu, np.full((1, L), 0.3), kind, factor)
    assert float(actual) == pytest.approx(expected, rel=1e-5)


def linear_parts(vae, x):
    """mu, s2, x - m(mu) flattened, and the Jacobian `(D, L)` of a linear decoder."""
    latent = vae.encode(x)
    residual = x - oracles.float64(vae.decode(latent.mean)["mean"])
    s2 = np.broadcast_to(oracles.float64(latent.variance), (N, L))
    jacobian = oracles.float64(vae.decoder.get_weights()[0]).T
    return oracles.float64(latent.mean), s2, residual.reshape(N, D), jacobian


def test_p1_equation_4_linearized_objective(x):
    """Up to terms of neither network; the text prints twice the norm of the code."""
    v = 0.2
    vae = Model(Fixed(v), kvv.posteriors.IsotropicGaussian(L, rate=1.0)).vae
    mu, s2, residual, jacobian = linear_parts(vae, x)
    (s2,) = np.unique(s2)
    norms = np.sum(residual**2, axis=1), s2 * np.sum(jacobian**2)
    expected = (sum(norms) + v * np.sum(mu**2, axis=1)) / (2 * v)
    constants = D / 2 * log(2 * pi * v) + L / 2 * (s2 - 1 - log(s2))
    actual = -kvv.metrics.linearized_elbo(vae, x)["elbo"]
    np.testing.assert_allclose(actual, expected + constants, rtol=1e-5)


def test_p1_equation_8_linearized_objective_of_diag_d(x):
    """A weight for each pixel of each example; of the error, that pixel's alone."""
    variance = MaximumLikelihood(per_pixel=True, per_example=True, epsilon=1e-2)
    vae = Model(variance).vae
    mu, s2, residual, jacobian = linear_parts(vae, x)
    v = residual**2 + 1e-2
    expected = 0.5 * (
        np.sum(residual**2 / v, axis=1)
        + np.einsum("nj,ni,ij->n", s2, 1 / v, jacobian**2)
        + np.sum(mu**2, axis=1)
    )
    constants = 0.5 * np.sum(log(2 * pi * v), axis=1)
    constants += 0.5 * np.sum(s2 - 1 - log(s2), axis=1)
    actual = -kvv.metrics.linearized_elbo(vae, x)["elbo"]
    np.testing.assert_allclose(actual, expected + constants, rtol=1e-5)


def test_p1_equations_5_and_6_expected_gap_and_smoothness(x):
    """Eq. C.8: the gap is 2 s times the smoothness, that of Eq. C.7 times L."""
    vae = Model(Fixed(0.2)).vae
    *_, jacobian = linear_parts(vae, x)
    gram = jacobian.T @ jacobian
    smoothness = kvv.metrics.local_smoothness(vae, x)
    assert smoothness.value == pytest.approx(np.trace(gram), rel=1e-5)
    for s in (1e-2, 1e-3):
        gap = kvv.metrics.expected_gap(vae, x, s, num_samples=2000, seed=0)
        error = 2 * s * np.sqrt(2 * np.sum(gram**2) / (2000 * N))
        assert abs(gap.value - 2 * s * np.trace(gram)) < 4 * error
        assert error < 0.01 * gap.value


def test_p1_equation_d1_bound_of_the_mutual_information(x):
    """As printed, but for L in place of the dimension of x; and without one's own."""
    vae = Model(Fixed(0.2), kvv.posteriors.IsotropicGaussian(L, rate=1.0)).vae
    vae.posterior.parameter.assign(log(0.05))
    mu, s2, *_ = linear_parts(vae, x)
    sources = base.streams(base.key(0), 0, N)
    z = mu + np.sqrt(s2) * base.noise(sources, (L,))
    distance = np.sum((z[:, None] - mu) ** 2, axis=-1)
    terms = np.exp(-distance / (2 * s2[0, 0]))
    included = -np.mean(log(np.mean(terms, axis=1))) - L / 2
    others = (np.sum(terms, axis=1) - np.diag(terms)) / (N - 1)
    left_out = -np.mean(log(others)) - L / 2
    bound = kvv.metrics.mutual_information_bound(vae, x, seed=0)
    assert bound.included.value == pytest.approx(included, rel=1e-4)
    assert bound.left_out.value == pytest.approx(left_out, rel=1e-4)
    assert bound.log_count == log(N) and left_out > included + 0.1


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


def grey(*shape):
    """Intensities from 0 to 255."""
    return np.random.default_rng(0).integers(0, 256, size=shape)


def test_p2_section_3_2_categorical():
    """-ln p = -ln exp(x_i) / sum_j exp(x_j), of each pixel and channel."""
    i, x_hat = grey(N, *SHAPE), array(N, *SHAPE, 256)
    exp = np.exp(oracles.float64(x_hat))
    p = np.take_along_axis(exp, i[..., None], axis=-1)[..., 0] / exp.sum(axis=-1)
    likelihood = kvv.likelihoods.Categorical()
    actual = likelihood(np.float32(i / 255), {"logits": x_hat})
    np.testing.assert_allclose(actual, -sum_pixels(log(p)), rtol=1e-5)


def test_p2_appendix_d_bitwise_categorical():
    """The channels in binary format, and the binary cross-entropy of each bit."""
    i, logits = grey(N, *SHAPE), array(N, *SHAPE, 8)
    binary = np.array([[int(bit) for bit in f"{v:08b}"] for v in i.ravel()])
    bits = binary[:, ::-1].reshape(N, -1)  # ours begin with the lowest
    expected = oracles.bernoulli_nll(bits, logits.reshape(N, -1))
    likelihood = kvv.likelihoods.BitwiseCategorical()
    actual = likelihood(np.float32(i / 255), {"logits": logits})
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_p2_appendix_d_logistic_mixture():
    """Integrals of the mixture's density over the bins, the outer ones half-infinite.

    With one set of weights for the channels of a pixel, and no means that follow a
    channel: given the component, channels are independent.
    """
    i = grey(N, *SHAPE)
    i[0] = 0, 255
    w, m, s = (array(N, *shape, 4) for shape in ((3, 2), SHAPE, SHAPE))
    m, s = 0.5 * m, 0.5 * s[::-1] - 1
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 255, [np.inf]])
    # Data in [-1, 1] as in Salimans et al.
    low, high = (2 * edges[i + k][..., None] - 1 for k in (0, 1))
    cdf = scipy.stats.logistic(oracles.float64(m), np.exp(oracles.float64(s))).cdf
    bins = np.prod(cdf(high) - cdf(low), axis=-2)
    weights = np.exp(oracles.float64(w))
    p = np.sum(weights / weights.sum(axis=-1, keepdims=True) * bins, axis=-1)
    parameters = {
        "component_weight": w,
        "component_mean": m,
        "component_log_scale": s,
    }
    actual = kvv.likelihoods.LogisticMixture(4)(np.float32(i / 255), parameters)
    expected = -log(p).reshape(N, -1).sum(axis=1)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["Gaussian", "Logistic"])
def test_p2_table_4_discretized_with_one_scale(name):
    """The integral of the density over each bin, by quadrature."""
    i, mu, sigma = grey(N, *SHAPE), np.float32(0.5), 0.2
    density = {
        "Gaussian": scipy.stats.norm(mu, sigma),
        "Logistic": scipy.stats.logistic(mu, sigma * 3**0.5 / pi),
    }[name].pdf
    t = np.linspace(-4, 5, 9 * 255 * 20 + 1)  # 20 steps a bin, edges on the grid
    mass = np.concatenate([[0], np.cumsum((density(t)[1:] + density(t)[:-1]) / 2)])
    edges = np.concatenate([[-4], (np.arange(255) + 0.5) / 255, [5]])
    p = np.diff(np.interp(edges, t, mass * (t[1] - t[0])))[i]
    likelihood = getattr(kvv.likelihoods, f"Discretized{name}")(Fixed(sigma**2))
    kvv_ops.build_once(likelihood, (None, *SHAPE))
    actual = likelihood(np.float32(i / 255), {"mean": np.full((N, *SHAPE), mu)})
    np.testing.assert_allclose(actual, -sum_pixels(log(p)), rtol=1e-5)


def test_p2_section_3_1_the_equivalent_variance_of_a_weighted_kl():
    """Table 1's beta is the variance beta/2 of a squared error without its half."""
    vae = Model(Fixed(0.5), regularizer=KL(0.01)).vae
    assert kvv.metrics.equivalent_variance(vae) == pytest.approx(0.005)
    assert kvv.metrics.equivalent_beta(vae) == pytest.approx(0.005)
    assert kvv.metrics.equivalent_beta(vae, variance=0.5) == pytest.approx(0.01)


def test_p2_equation_6_marginal_kl_and_mutual_information(x):
    """E KL(q(z|x) || p(z)) = I(x; z) + KL(m(z) || p(z)), by integrals."""
    vae = Model(Fixed(0.3)).vae
    latent = vae.encode(x)
    mean, s2 = oracles.float64(latent.mean), oracles.float64(latent.variance)
    covariances = [np.diag(v) for v in s2]
    expected, entropy = integrals(
        lambda z: mixture(z, np.full(N, 1 / N), mean, covariances)
    )
    information = entropy - np.mean(np.sum(0.5 * log(2 * pi * np.e * s2), axis=1))
    rate = np.mean(oracles.gaussian_kl(mean, s2, 0.0, 1.0))
    assert information + expected == pytest.approx(rate, abs=1e-3)
    marginal = kvv.metrics.marginal_kl(vae, x, num_samples=2000, seed=0)
    found = kvv.metrics.mutual_information(vae, x, num_samples=2000, seed=0)
    assert marginal.value == pytest.approx(expected, abs=0.02)
    assert found.value == pytest.approx(information, abs=0.02)
    assert min(expected, information) > 0.1
    assert marginal.value + found.value == pytest.approx(rate, rel=1e-5)


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


@pytest.mark.parametrize("dim", [2, 6])
def test_p3_theorem_1_the_decoder_leaves_the_centre_below_r_over_root_d(dim):
    """The bound of a linear decoder at its exact posterior, there and at the centre.

    On either side of R / sqrt(D), not of the sufficient R / sqrt(D - 1) of the text.
    """
    radius, step = 2.0, 0.1
    x = radius * np.concatenate([np.eye(dim), -np.eye(dim)]).astype("float32")

    def bound(variance, w):
        likelihood = Gaussian(Fixed(variance))
        networks = kvv.backbones.mlp(
            (dim,), 1, likelihood, mean_activation=None, hidden=()
        )
        posterior = kvv.posteriors.IsotropicGaussian(1)
        vae = kvv.VAE(*networks, posterior, likelihood)
        direction = np.eye(dim)[:, :1]
        vae.decoder.get_layer("mean").kernel.assign(w * direction.T)
        posterior.mean.kernel.assign(w / (w**2 + variance) * direction)
        s2 = variance / (w**2 + variance)
        posterior.parameter.assign(log(s2) / posterior.rate)
        expected = scipy.stats.multivariate_normal.logpdf(
            x, np.zeros(dim), variance * np.eye(dim) + w**2 * direction @ direction.T
        )
        # At the exact posterior the bound by one weight is log p(x), whatever is drawn.
        result = kvv.metrics.log_likelihood(vae, x, num_samples=1, seed=0)
        np.testing.assert_allclose(result, expected, rtol=1e-5)
        return result.mean()

    threshold = radius / np.sqrt(dim)
    for ratio, leaves in [(0.9, True), (1.1, False)]:
        variance = (ratio * threshold) ** 2
        assert (bound(variance, step) > bound(variance, 0.0)) == leaves


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


def test_p4_equations_6_and_7_optimal_decoder(x):
    """Where the derivative of Eq. 5 by nu(z) is 0; and its Jacobian."""
    vae = Model(Fixed(1.0)).vae
    mu, s2, *_ = linear_parts(vae, x)
    z = array(5, L)

    nu = kvv.metrics.optimal_decoder(vae, x, z).reshape(5, D)
    for z_m, nu_m in zip(oracles.float64(z), nu, strict=True):
        w = np.prod(scipy.stats.norm(mu, s2**0.5).pdf(z_m), axis=1)
        np.testing.assert_allclose(nu_m, w @ x.reshape(N, D) / w.sum(), rtol=1e-5)
        slope = -np.sum(w[:, None] * (nu_m - x.reshape(N, D)), axis=0) / N  # Eq. 5
        np.testing.assert_allclose(slope, 0.0, atol=1e-6 * w.sum())
        away = (nu_m - x.reshape(N, D))[:, :, None] * ((z_m - mu) / s2)[:, None]
        jacobian = np.tensordot(w, away, axes=1) / w.sum()  # Eq. 7
        steps = [z_m + 1e-4 * side * e for e in np.eye(L) for side in (1, -1)]
        ends = kvv.metrics.optimal_decoder(vae, x, np.array(steps)).reshape(L, 2, D)
        numeric = (ends[:, 0] - ends[:, 1]).T / 2e-4
        np.testing.assert_allclose(numeric, jacobian, rtol=1e-4, atol=1e-5)


def optimum(prior_variance):
    """A linear VAE with unit likelihood at the ELBO's optimum, its data, and W."""
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(D, L)))[0].T
    w, b = rows * [[2.0], [0.7]], np.linspace(-1, 1, D)
    a, c, covariance = linear.posterior(w, b, 1.0, prior_variance)
    assert np.allclose(covariance, np.diag(np.diag(covariance)))
    s2 = np.diag(covariance)
    return linear.model(w, b, 1.0, a, c, s2, prior_variance), 2 * array(N, D), w


S2 = np.array([0.5, 3.0])


def test_p4_equations_11_12_and_25_posterior_at_the_optimum():
    """The means image the residuals, and the precisions add up: the true posterior."""
    vae, x, w = optimum(S2)
    latent = vae.encode(x)
    mu, sigma = oracles.float64(latent.mean), oracles.float64(latent.variance)
    jacobian = kvv_ops.jacobian(lambda z: vae.decode(z)["mean"], latent.mean)
    j = oracles.float64(jacobian).swapaxes(1, 2)
    np.testing.assert_allclose(j, np.broadcast_to(w.T, (N, D, L)), rtol=1e-5, atol=1e-6)
    residual = x - oracles.float64(vae.decode(latent.mean)["mean"])
    image = [np.diag(S2) @ j_n.T @ r for j_n, r in zip(j, residual, strict=True)]
    np.testing.assert_allclose(mu, image, rtol=1e-4, atol=1e-4)  # Eq. 11
    precision = np.diag(1 / S2) + j[0].T @ j[0]
    np.testing.assert_allclose(np.diag(1 / sigma[0]), precision, rtol=1e-5, atol=1e-5)
    # Eq. 25, by Bayes's rule at any z.
    z = array(N, L)
    log_joint = scipy.stats.norm(0, np.sqrt(S2)).logpdf(z).sum(axis=1)
    log_joint -= oracles.gaussian_nll(x, oracles.float64(vae.decode(z)["mean"]), 1.0)
    covariance = np.linalg.inv(precision)
    log_posterior = [
        scipy.stats.multivariate_normal(m, covariance).logpdf(p)
        for m, p in zip(mu, z, strict=True)
    ]
    expected = log_joint - log_posterior
    np.testing.assert_allclose(kvv.metrics.log_evidence(vae, x), expected, rtol=1e-5)


@pytest.mark.parametrize("t", [1.0, np.geomspace(0.1, 3.0, D)], ids=["16", "26"])
def test_p4_equations_16_and_26_exact_log_evidence(t):
    """At z = mu, wherever that is; the printed J J^T S^2 stands for J S^2 J^T."""
    w, b = oracles.float64(array(L, D)), np.linspace(-1, 1, D)
    a, x = 0.3 * oracles.float64(array(D, L, seed=1)), array(N, D, seed=2)
    vae = linear.model(w, b, t, a, np.zeros(L), 0.1, S2)
    mu = x @ a
    residual, big_t = x - mu @ w - b, np.diag(np.broadcast_to(t, D))
    quadratic = [r @ np.linalg.inv(big_t) @ r for r in residual]
    log_det = np.linalg.slogdet(w.T @ np.diag(S2) @ w + big_t)[1]
    norm = np.sum((mu @ np.diag(S2**-0.5)) ** 2, axis=1)
    expected = -0.5 * (D * LOG_2_PI + norm + quadratic + log_det)
    actual = kvv.metrics.log_evidence(vae, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


def off_the_optimum(factor):
    """Precision times variance of a posterior whose variances are off by `factor`."""
    vae, x, w = optimum(S2)
    log_s2 = vae.posterior.spread.bias
    log_s2.assign(log_s2 + log(factor).astype("float32"))
    sigma = np.diag(np.exp(oracles.float64(log_s2)))
    return vae, x, (np.diag(1 / S2) + w @ w.T) @ sigma, sigma


def test_p4_equations_17_and_18_elbo_and_its_gap():
    vae, x, product, sigma = off_the_optimum(np.array([0.3, 2.0]))
    latent = vae.encode(x)
    mu = oracles.float64(latent.mean)
    residual = x - oracles.float64(vae.decode(latent.mean)["mean"])
    log_det = np.linalg.slogdet(np.e * np.diag(1 / S2) @ sigma)[1]
    norms = np.sum(mu**2 / S2, axis=1) + np.sum(residual**2, axis=1)
    expected = -0.5 * (D * LOG_2_PI + norms + np.trace(product) - log_det)
    actual = kvv.metrics.linearized_elbo(vae, x)["elbo"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    gap = 0.5 * (np.trace(product) - np.linalg.slogdet(np.e * product)[1])
    evidence = kvv.metrics.log_evidence(vae, x)
    np.testing.assert_allclose(evidence - actual, gap, rtol=1e-3)


def test_p4_equations_19_and_20_log_determinant_by_traces():
    """The least of tr(A Sigma) - log |e Sigma|; with probes v ~ N(0, Sigma) too."""
    *_, w = optimum(S2)
    random = np.random.default_rng(1)
    j, s2_inverse = random.normal(size=(D, L)) + w.T, np.diag(1 / S2)
    a = s2_inverse + j.T @ j

    def objective(sigma, trace=None):
        trace = np.trace(a @ sigma) if trace is None else trace
        return trace - np.linalg.slogdet(np.e * sigma)[1]

    best, log_det = np.linalg.inv(a), np.linalg.slogdet(a)[1]
    assert objective(best) == pytest.approx(log_det, rel=1e-9)
    roots = np.linalg.cholesky(best) @ (np.eye(L) + random.normal(size=(50, L, L)) / 5)
    assert min(objective(root @ root.T) for root in roots) > log_det + 1e-4
    probes = random.multivariate_normal(
        np.zeros(L), best, size=20_000, method="cholesky"
    )
    trace = np.einsum("ni,ij,nj->n", probes, a, probes)
    assert abs(trace.mean() - L) < 4 * trace.std() / np.sqrt(len(probes))
    # Eq. 20: less the prior's log determinant, that of Eq. 16.
    expected = np.linalg.slogdet(j.T @ j @ np.diag(S2) + np.eye(L))[1]
    prior = np.linalg.slogdet(s2_inverse)[1]
    assert objective(best) - prior == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("delta", [0.1, -0.1])
def test_p4_equation_21_gap_to_the_second_order(delta):
    """A quarter of tr (A Sigma - I)^2, and a remainder of the third order."""
    vae, x, product, _ = off_the_optimum(1 + delta * np.array([1.0, 0.5]))
    second = np.trace(np.linalg.matrix_power(product - np.eye(L), 2)) / 4
    third = np.trace(np.linalg.matrix_power(product - np.eye(L), 3)) / 6
    gap = kvv.metrics.log_evidence(vae, x) - kvv.metrics.linearized_elbo(vae, x)["elbo"]
    np.testing.assert_allclose(gap, second - third, rtol=0.05, atol=2e-5)
    assert abs(third) < 0.1 * second


def test_p4_equation_22_penalty_of_a_constant_variance(x):
    """CV^2 of the precision; here it is the likelihood's variance that varies."""
    variance = MaximumLikelihood(per_example=True, epsilon=0.0)
    vae = Model(variance, prior=Floating()).vae
    vae.calibrate(x)
    *_, residual, jacobian = linear_parts(vae, x)
    s2 = oracles.float64(vae.encode(x).prior_variance)[0]
    v = np.mean(residual**2, axis=1)
    a = np.array([np.diag(1 / s2) + jacobian.T @ jacobian / v_n for v_n in v])
    for form in (a, a * s2):  # and J^T J S^2 + I, as the text has it beside
        relative = form @ np.linalg.inv(form.mean(axis=0)) - np.eye(L)
        expected = np.mean([np.trace(r @ r) for r in relative]) / 4
        actual = kvv.metrics.constant_variance_penalty(vae, x)
        assert actual.value == pytest.approx(expected, rel=1e-4) and expected > 0.01


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


each_tau = pytest.mark.parametrize("tau", [0.2, 1.0])


@each_tau
def test_p4_equation_29_variance_from_the_information(x, noise, tau):
    """tau |x - nu(z)|^2 / tr(Sigma^-1 S^2), with S of the batch by Equation 4."""
    s2 = 0.3
    model = Model(Baggins(tau), ConstantGaussian(L, s2), Floating(), BILBO())
    mu, _, z, mean = model.draw(x, noise)
    sigma, scale = s2 * np.eye(L), np.diag(s2 + np.mean(mu**2, axis=0))
    trace = np.trace(np.linalg.inv(sigma) @ scale)
    expected = [tau * np.sum(r**2) / trace for r in oracles.float64(x) - mean]
    r2, shared = np.float32((x - mean) ** 2), np.full((1, L), s2, "float32")
    prior = model.vae.prior(np.float32(mu), shared, training=True)
    latent = kvv.types.Latent(z, mu, shared, *prior)
    variance = model.vae.likelihood.variance_model
    v = variance(r2, {}, latent, training=True)
    np.testing.assert_allclose(np.ravel(v), expected, rtol=1e-5)
    # Equation 28, solved.
    np.testing.assert_allclose(tau * np.sum(r2 / v, axis=(1, 2, 3)), trace, rtol=1e-5)


def equation_30(x, noise, s2, tau, kernel, bias, decoder_kernel, decoder_bias):
    """The loss, negative, of linear networks; without a trace of `|r|^2 / v`."""
    mu = tf.reshape(x, (N, D)) @ kernel + bias
    nu = (mu + s2**0.5 * noise) @ decoder_kernel + decoder_bias
    identity = tf.eye(L, dtype=tf.float64)
    information = identity + tf.linalg.diag(tf.reduce_mean(mu**2, axis=0)) / s2
    t = tau * tf.reduce_sum((tf.reshape(x, (N, D)) - nu) ** 2, axis=1)
    t /= tf.linalg.trace(information)
    log_det = D * tf.math.log(2 * pi * t)
    trace = tf.linalg.trace(information) / tau
    total = tf.linalg.logdet(information) + trace + tf.reduce_mean(log_det)
    return 0.5 * total


@each_tau
@pytest.mark.parametrize("s2", [1.0, 0.01])
def test_p4_equation_30_bilbo_with_baggins(x, noise, tau, s2):
    """As the loss of a step, and in every gradient, by the general path."""
    vae = Model(Baggins(tau), ConstantGaussian(L, s2), Floating(), BILBO()).vae
    weights = [*vae.posterior.trainable_variables, *vae.decoder.trainable_variables]
    twins = [tf.Variable(oracles.float64(w)) for w in weights]
    with tf.GradientTape() as tape:
        loss = equation_30(tf.cast(x, tf.float64), noise, s2, tau, *twins)
    slopes = tape.gradient(loss, twins)
    expected = {w.path: slope for w, slope in zip(weights, slopes, strict=True)}
    variables = vae.trainable_variables
    for variable, actual in zip(variables, gradients(vae, x), strict=True):
        slope = expected.pop(variable.path)
        scale = np.abs(slope).max()
        assert scale > 1e-2
        np.testing.assert_allclose(actual, slope, rtol=1e-4, atol=1e-5 * scale)
    assert not expected
    vae.compile(keras.optimizers.SGD(0.0))
    history = vae.fit(x, batch_size=N, shuffle=False, verbose=0).history
    assert history["loss"] == [pytest.approx(float(loss), rel=1e-5)]


def scaled_vae(c):
    """Networks of fixed weights that see data divided by `c`, and give it times `c`."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    encoder = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Rescaling(1 / c),
            layers.Flatten(),
            layers.Dense(5, activation="tanh"),
        ]
    )
    decoder = keras.Sequential(
        [
            keras.Input((L,)),
            layers.Dense(5, activation="tanh"),
            layers.Dense(D),
            layers.Reshape(SHAPE),
            layers.Rescaling(c),
        ]
    )
    posterior, likelihood = ConstantGaussian(L), Gaussian(Baggins())
    return kvv.VAE(
        encoder, decoder, posterior, likelihood, Floating(), [BILBO()], seed=0
    )


@pytest.mark.parametrize("c", [1e-2, 255.0])
def test_p4_section_5_1_baggins_is_invariant_to_the_scale_of_the_data(x, c):
    """The loss grows by D log c, and no gradient changes."""
    (terms, slopes), (scaled_terms, scaled_slopes) = (
        (vae.objective(data, training=True), gradients(vae, data))
        for vae, data in (
            (scaled_vae(1.0), x),
            (scaled_vae(c), (c * x).astype("float32")),
        )
    )
    growth = scaled_terms["reconstruction"] - terms["reconstruction"]
    np.testing.assert_allclose(growth, np.full(N, D * log(c)), rtol=1e-5)
    np.testing.assert_allclose(scaled_terms["bilbo"], terms["bilbo"], rtol=1e-5)
    for one, other in zip(scaled_slopes, slopes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        assert np.abs(other).max() > 1e-2
