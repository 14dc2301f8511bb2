"""Decoders of the levels i/255, and the Student-t, against SciPy and brute force."""

import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.likelihoods import (
    BitwiseCategorical,
    Categorical,
    DiscretizedGaussian,
    DiscretizedLogistic,
    LogisticMixture,
    StudentT,
    levels,
)
from keras_vae_variance.variances import Fixed, MaximumLikelihood, Predicted

VALUES = np.arange(256) / 255
EVENT = (3, 2, 2)
# From a twentieth of the data's range down to a quarter of a level, and far beyond it.
LOG_SCALES = (-7.0, -5.0, -3.0, 0.0, 3.0)
DISTRIBUTIONS = {
    DiscretizedGaussian: scipy.stats.norm,
    DiscretizedLogistic: scipy.stats.logistic(scale=np.sqrt(3) / np.pi),
}
each_discretized = pytest.mark.parametrize("cls", DISTRIBUTIONS)


def array(*shape, seed=0, scale=1.0):
    values = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return values.astype("float32")


def pixels(*shape, seed=0):
    """Levels, a quarter of them black or white."""
    level = np.random.default_rng(seed).integers(-36, 292, size=shape)
    return (np.clip(level, 0, 255) / 255).astype("float32")


def ladder(n):
    """Every level beside each of `n` examples: `(256 n, 1)`, and the examples' rows."""
    return np.tile(VALUES, n)[:, None].astype("float32"), np.repeat(np.arange(n), 256)


def table(likelihood, parameters):
    """Probabilities `(n, 256)` of the levels of a likelihood of one scalar."""
    n = len(next(iter(parameters.values())))
    x, rows = ladder(n)
    nll = likelihood(x, {name: value[rows] for name, value in parameters.items()})
    return np.exp(-oracles.float64(nll)).reshape(n, 256)


def check_moments(likelihood, parameters, p, rtol):
    """Against the sums over levels, of `p` as `(n, 256)`."""
    mean = p @ VALUES
    variance = np.sum(p * (VALUES - mean[:, None]) ** 2, axis=1)
    actual = likelihood.mean(parameters), likelihood.variance(parameters)
    np.testing.assert_allclose(actual[0][:, 0], mean, atol=3e-7)
    # float32 resolves the values to 6e-8, so variances below 1e-9 to nothing.
    np.testing.assert_allclose(actual[1][:, 0], variance, rtol=rtol, atol=1e-10)


def check_draws(likelihood, parameters, p, n=20000):
    """Frequencies of the levels in draws at one z; `p` as `(256,)`."""
    many = {k: np.broadcast_to(v, (n, *v.shape[1:])) for k, v in parameters.items()}
    draws = likelihood.sample(many, seed=3).numpy()
    level = np.round(255 * draws)
    np.testing.assert_allclose(draws, level / 255, atol=1e-7)
    counts = np.bincount(level.astype(int).ravel(), minlength=256)
    # Rare levels together, for the chi-squared distribution to hold.
    common = n * p > 10
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(n * p[common], n * p[~common].sum())
    keep = expected > 1
    statistic = np.sum((observed - expected)[keep] ** 2 / expected[keep])
    assert scipy.stats.chi2.sf(statistic, keep.sum() - 1) > 1e-3
    np.testing.assert_array_equal(draws, likelihood.sample(many, seed=3))
    assert np.any(draws != likelihood.sample(many, seed=4))


# --------------------------------------------------------------------------------------
# Levels


def test_levels_of_every_uint8_and_of_what_lies_between():
    level = np.arange(256)
    x = tf.constant(level.astype("uint8"))
    np.testing.assert_array_equal(levels.as_level(tf.cast(x, "float32") / 255), level)
    for offset in (-0.49, 0.49):
        near = ((level + offset) / 255).astype("float32")
        np.testing.assert_array_equal(levels.as_level(near), level)
    np.testing.assert_array_equal(levels.as_level([-1.0, 2.0]), [0, 255])


@pytest.mark.parametrize(
    "likelihood",
    [
        Categorical(),
        BitwiseCategorical(),
        LogisticMixture(2),
        DiscretizedGaussian(Fixed(1e-3)),
        DiscretizedLogistic(Fixed(1e-3)),
    ],
    ids=lambda likelihood: type(likelihood).__name__,
)
def test_values_off_the_levels_are_rounded(likelihood):
    """0.4 levels away is the same level; in a compiled graph too."""
    heads = likelihood.heads(EVENT)
    parameters = {k: array(4, *h.shape, seed=1) for k, h in heads.items()}
    kvv_ops.build_once(likelihood, (None, *EVENT))
    x = pixels(4, *EVENT)
    off = np.random.default_rng(1).uniform(-0.4, 0.4, size=x.shape) / 255
    expected = likelihood(x, parameters)
    nll = tf.function(lambda x: likelihood(x, parameters), autograph=False)
    for run in (likelihood, lambda x, _: nll(x)):
        moved = run(tf.constant(np.float32(np.clip(x + off, 0, 1))), parameters)
        np.testing.assert_allclose(moved, expected, rtol=1e-5)
    assert likelihood.discrete and likelihood.unit_interval and likelihood.normalized


# --------------------------------------------------------------------------------------
# Categorical and bitwise


def test_categorical_against_scipy():
    logits = array(5, *EVENT, 256, scale=20.0)
    x = pixels(5, *EVENT)
    log_p = scipy.special.log_softmax(oracles.float64(logits), axis=-1)
    index = np.round(255 * x).astype(int)[..., None]
    expected = -oracles.sum_event(np.take_along_axis(log_p, index, axis=-1))
    actual = Categorical()(x, {"logits": logits})
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_categorical_moments_and_draws():
    logits = array(6, 1, 256, scale=3.0)
    logits[0, 0, 7] = 60.0  # one level alone
    p = scipy.special.softmax(oracles.float64(logits[:, 0]), axis=-1)
    np.testing.assert_allclose(table(Categorical(), {"logits": logits}), p, rtol=1e-4)
    check_moments(Categorical(), {"logits": logits}, p, rtol=1e-5)
    check_draws(Categorical(), {"logits": logits[1:2]}, p[1])


def bit_table(logits):
    """The product of the bits' probabilities for each of the 256 levels."""
    logits = oracles.float64(logits)
    p = np.ones((len(logits), 256))
    for level in range(256):
        for bit in range(8):
            sign = 1 if level & (1 << bit) else -1
            p[:, level] *= scipy.special.expit(sign * logits[:, bit])
    return p


def test_bitwise_against_the_product_over_bits():
    logits = array(6, 1, 8, scale=3.0)
    logits[0] = 40.0  # white, surely
    p = bit_table(logits[:, 0])
    np.testing.assert_allclose(p.sum(axis=1), 1)
    likelihood, parameters = BitwiseCategorical(), {"logits": logits}
    np.testing.assert_allclose(table(likelihood, parameters), p, rtol=3e-5)
    check_moments(likelihood, parameters, p, rtol=1e-5)
    check_draws(likelihood, {"logits": array(1, 1, 8)}, bit_table(array(1, 8))[0])


def test_bitwise_sums_over_pixels_and_keeps_its_tails():
    logits = array(5, *EVENT, 8, scale=30.0)
    x = pixels(5, *EVENT)
    level = np.round(255 * x).astype(int)[..., None]
    bits = (level >> np.arange(8)) & 1
    signed = (2 * bits - 1) * oracles.float64(logits)
    expected = -oracles.sum_event(scipy.special.log_expit(signed))
    actual = BitwiseCategorical()(x, {"logits": logits})
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


# --------------------------------------------------------------------------------------
# Discretised


def discretized(cls, log_scale):
    """Of a standard deviation of `exp(log_scale)`, and its oracle's."""
    likelihood = cls(Fixed(float(np.exp(2 * log_scale))))
    kvv_ops.build_once(likelihood, (None, 1))
    return likelihood, float(np.exp(log_scale))


@pytest.mark.parametrize("log_scale", LOG_SCALES)
@each_discretized
def test_discretized_log_probabilities_against_scipy(cls, log_scale):
    """Of every level, at means inside and outside of the data's range."""
    likelihood, stddev = discretized(cls, log_scale)
    mean = np.float32([[-0.1], [0.0], [0.25], [128 / 255], [128.5 / 255], [0.9], [1.1]])
    x, rows = ladder(len(mean))
    m = oracles.float64(mean)[:, 0][rows]
    level = np.tile(np.arange(256), len(mean))
    expected = oracles.log_bin(DISTRIBUTIONS[cls], level, m, stddev)
    actual = -likelihood(x, {"mean": mean[rows]}).numpy()
    # x and its distance from the mean have an error of 6e-8, hence an error of 6e-8
    # standard deviations, and so has the logarithm, whose slope is of the order of the
    # distance.
    error = 1e-6 * (1 + np.abs(expected)) + 1e-7 / stddev * np.sqrt(1 - expected)
    assert np.all(np.abs(actual - expected) < error)
    p = np.exp(oracles.float64(actual)).reshape(-1, 256)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=2e-5)


@pytest.mark.parametrize("log_scale", LOG_SCALES)
@each_discretized
def test_discretized_slopes_against_scipy(cls, log_scale):
    """By the mean and the standard deviation, across both of the formula's branches."""
    stddev = np.float32(np.exp(log_scale))
    x = np.tile(VALUES, 3).astype("float32")
    mean = np.repeat(np.float32([0.0, 0.3, 0.75]), 256)
    m, s = tf.Variable(mean), tf.Variable(np.full_like(mean, stddev))
    likelihood = cls(Fixed(1.0))
    with tf.GradientTape() as tape:
        log_p = likelihood._log_bin(x, m, s)
    actual = tape.gradient(log_p, [m, s])

    def oracle(m, s):
        level = np.tile(np.arange(256), 3)
        return oracles.log_bin(DISTRIBUTIONS[cls], level, m, s)

    step, at = 1e-5 * stddev, (oracles.float64(mean), oracles.float64(stddev))
    by_mean = (oracle(at[0] + step, at[1]) - oracle(at[0] - step, at[1])) / (2 * step)
    by_stddev = (oracle(at[0], at[1] + step) - oracle(at[0], at[1] - step)) / (2 * step)
    for one, other in zip(actual, (by_mean, by_stddev), strict=True):
        # Relative to the slope at a distance of one standard deviation, 1 / stddev.
        error = np.abs(one - other) / (1 / stddev + np.abs(other))
        assert error.max() < 5e-5


@each_discretized
def test_slopes_are_finite_at_any_scale(cls):
    """Of the branch that is not taken too: 0 times its infinity would be NaN."""
    scale = np.repeat(10.0 ** np.arange(-5, 9), 256).astype("float32")
    x = np.tile(VALUES, 14).astype("float32")
    for mean in (0.0, 0.5, 128 / 255, 1.0):
        m, s = tf.Variable(np.full_like(x, mean)), tf.Variable(scale)
        with tf.GradientTape() as tape:
            log_p = cls(Fixed(1.0))._log_bin(x, m, s)
        for gradient in tape.gradient(log_p, [m, s]):
            assert np.all(np.isfinite(gradient))
        assert np.all(np.isfinite(log_p)) and np.all(log_p <= 0)


@pytest.mark.parametrize("log_scale", LOG_SCALES)
@each_discretized
def test_discretized_moments_are_sums_over_levels(cls, log_scale):
    likelihood, stddev = discretized(cls, log_scale)
    mean = np.float32([[-0.02], [0.0], [0.25], [128 / 255], [128.5 / 255], [0.9]])
    log_p = oracles.log_bin(
        DISTRIBUTIONS[cls], np.arange(256), oracles.float64(mean), stddev
    )
    check_moments(likelihood, {"mean": mean}, np.exp(log_p), rtol=1e-3)


@pytest.mark.parametrize("log_scale, mean", [(-6.0, 0.3), (-1.0, 0.9)])
@each_discretized
def test_discretized_draws(cls, log_scale, mean):
    likelihood, stddev = discretized(cls, log_scale)
    log_p = oracles.log_bin(DISTRIBUTIONS[cls], np.arange(256), mean, stddev)
    check_draws(likelihood, {"mean": np.float32([[mean]])}, np.exp(log_p))


@each_discretized
def test_discretized_with_a_variance_for_each_scalar(cls):
    likelihood = cls(Predicted(link="exp"))
    kvv_ops.build_once(likelihood, (None, *EVENT))
    assert set(likelihood.heads(EVENT)) == {"mean", "raw_variance"}
    x, mean = pixels(4, *EVENT), np.abs(array(4, *EVENT, scale=0.4))
    raw = array(4, *EVENT, seed=1, scale=2.0) - 4
    stddev = np.exp(0.5 * oracles.float64(raw))
    level = np.round(255 * x)
    log_p = oracles.log_bin(DISTRIBUTIONS[cls], level, oracles.float64(mean), stddev)
    parameters = {"mean": mean, "raw_variance": raw}
    np.testing.assert_allclose(
        likelihood(x, parameters), -oracles.sum_event(log_p), rtol=1e-5
    )
    center, variance = likelihood.diagnostics(parameters)
    np.testing.assert_array_equal(center, mean)
    np.testing.assert_allclose(variance, stddev**2, rtol=1e-5)
    assert likelihood.mean(parameters).shape == x.shape


@each_discretized
def test_the_scale_starts_from_the_first_batch(cls):
    x, mean = pixels(32, *EVENT), np.full((32, *EVENT), 0.4, "float32")
    likelihood = cls()
    kvv_ops.build_once(likelihood, (None, *EVENT))
    assert float(likelihood.variance_model.predict({})) == 1
    likelihood(x, {"mean": mean}, training=True)
    learned = float(likelihood.variance_model.predict({}))
    assert learned == pytest.approx(np.mean((x - mean) ** 2), rel=1e-5)


@each_discretized
def test_the_most_likely_scale_is_that_of_the_data(cls):
    """Of draws of one scale, from a mean where the open ends count too."""
    source, stddev = discretized(cls, np.log(0.1))
    mean = {"mean": np.full((20000, 1), 0.9, "float32")}
    x = source.sample(mean, seed=0)
    nll = [
        np.mean(discretized(cls, np.log(factor * stddev))[0](x, mean))
        for factor in (0.95, 1.0, 1.05)
    ]
    assert nll[1] < min(nll[0], nll[2])


def test_logs_hold_the_moments_before_the_bins():
    """Sums over bins at each step would cost more than the step."""
    likelihood = DiscretizedGaussian(Fixed(0.3))
    networks = kvv.backbones.mlp(EVENT, 2, likelihood, hidden=())
    vae = kvv.VAE(*networks, kvv.posteriors.DiagonalGaussian(2), likelihood, seed=0)
    vae.compile("sgd")
    history = vae.fit(pixels(4, *EVENT), verbose=0).history
    assert history["variance"][0] == pytest.approx(0.3, rel=1e-5)
    assert float(np.mean(vae.generate(4)["variance"])) < 0.25  # within [0, 1]


@each_discretized
def test_wide_bins_tend_to_the_density(cls):
    """log p = log density - log 255 for scales far above a level's."""
    if cls is DiscretizedLogistic:
        density = scipy.stats.logistic(0.5, 0.1 * np.sqrt(3) / np.pi)
    else:
        density = scipy.stats.norm(0.5, 0.1)
    likelihood, _ = discretized(cls, np.log(0.1))
    x = VALUES[60:200, None].astype("float32")
    expected = density.logpdf(oracles.float64(x[:, 0])) - np.log(255)
    actual = -likelihood(x, {"mean": np.full_like(x, 0.5)}).numpy()
    # The bin averages over 1/25 of a scale: its square over 24, times curvature.
    np.testing.assert_allclose(actual, expected, atol=2e-3)


@each_discretized
def test_discretized_says_what_its_variance_is(cls):
    of_x = cls(MaximumLikelihood(per_example=True))
    assert not of_x.normalized and cls(Fixed(1.0)).normalized
    assert cls(MaximumLikelihood()).batch_statistic
    with pytest.raises(TypeError, match="`variance` must be one of"):
        cls(0.1)


# --------------------------------------------------------------------------------------
# Logistic mixture


def mixture(n, event, components, seed=0):
    """Parameters, and in float64 the weights, means and scales of `x`'s units."""
    heads = LogisticMixture(components).heads(event)
    parameters = {
        "component_weight": array(n, *heads["component_weight"].shape, seed=seed),
        "component_mean": array(n, *heads["component_mean"].shape, seed=seed + 1),
        "component_log_scale": array(
            n, *heads["component_log_scale"].shape, seed=seed + 2, scale=3.0
        )
        - 3.0,
    }
    weight, mean, log_scale = (oracles.float64(p) for p in parameters.values())
    scale = np.exp(np.maximum(log_scale, -7)) / 2
    return parameters, scipy.special.softmax(weight, axis=-1), (1 + mean) / 2, scale


def test_logistic_mixture_against_scipy():
    """Channels of a pixel share its component: the product is inside the sum."""
    parameters, weight, mean, scale = mixture(5, EVENT, 3)
    x = pixels(5, *EVENT)
    level = np.round(255 * x)[..., None]
    log_bins = oracles.log_bin(scipy.stats.logistic, level, mean, scale)
    assert weight.shape == (5, 3, 2, 3) and log_bins.shape == (5, 3, 2, 2, 3)
    log_p = scipy.special.logsumexp(log_bins.sum(axis=-2) + np.log(weight), axis=-1)
    actual = LogisticMixture(3)(x, parameters)
    np.testing.assert_allclose(actual, -oracles.sum_event(log_p), rtol=1e-5)


@pytest.mark.parametrize("event", [(1,), (1, 1, 1)], ids=str)
def test_logistic_mixture_of_one_scalar(event):
    """Probabilities, moments and draws, in both forms of the weights."""
    parameters, weight, mean, scale = mixture(6, event, 3)
    weight, mean, scale = (t.reshape(6, 1, 3) for t in (weight, mean, scale))
    level = np.arange(256)[:, None]
    log_bins = oracles.log_bin(scipy.stats.logistic, level, mean, scale)
    p = np.sum(weight * np.exp(log_bins), axis=-1)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    likelihood = LogisticMixture(3)
    x, rows = ladder(6)
    many = {name: value[rows] for name, value in parameters.items()}
    nll = likelihood(x.reshape(-1, *event), many)
    np.testing.assert_allclose(np.exp(-nll.numpy()).reshape(6, 256), p, 1e-4, 1e-7)
    flat = LogisticMixture(3)
    one = {k: v.reshape(6, 1, 3) for k, v in parameters.items()}
    check_moments(flat, one, p, rtol=1e-4)
    check_draws(flat, {k: v[:1] for k, v in one.items()}, p[0])
    np.testing.assert_array_equal(
        np.ravel(likelihood.mean(parameters)), np.ravel(flat.mean(one))
    )


def test_logistic_mixture_of_two_channels_is_a_joint_distribution():
    """Sums over all pairs of levels, and draws that go by one component."""
    parameters = {
        "component_weight": np.zeros((1, 1, 1, 2), "float32"),
        "component_mean": np.float32([[[[[-0.5, 0.5], [0.5, -0.5]]]]]),
        "component_log_scale": np.full((1, 1, 1, 2, 2), -3.0, "float32"),
    }
    likelihood = LogisticMixture(2)
    grid = np.stack(np.meshgrid(VALUES, VALUES), axis=-1).reshape(-1, 1, 1, 2)
    many = {k: np.repeat(v, len(grid), axis=0) for k, v in parameters.items()}
    p = np.exp(-oracles.float64(likelihood(grid.astype("float32"), many)))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    a, b = grid[:, 0, 0].T
    means, draws = (p @ a, p @ b), likelihood.sample(many, seed=0).numpy()[:, 0, 0].T
    covariance = p @ ((a - means[0]) * (b - means[1]))
    assert covariance < -0.05  # one is light where the other is dark
    assert np.cov(draws)[0, 1] == pytest.approx(covariance, rel=0.03)


def test_logistic_mixture_before_the_bins():
    parameters, weight, mean, scale = mixture(5, EVENT, 3)
    parameters["component_mean"][0] -= 50.0
    mean[0] -= 25.0
    center, variance = LogisticMixture(3).diagnostics(parameters)
    weight, mean = weight[..., None, :], np.clip(mean, 0.0, 1.0)
    np.testing.assert_array_equal(center[0], 0.0)
    expected = np.sum(weight * mean, axis=-1)
    spread = scale**2 * np.pi**2 / 3 + (mean - expected[..., None]) ** 2
    np.testing.assert_allclose(center, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, np.sum(weight * spread, axis=-1), rtol=1e-5)


@pytest.mark.parametrize("count", [0, -1, 2.5, "3", None])
def test_wrong_number_of_components(count):
    with pytest.raises(ValueError, match="`num_components` must be an integer"):
        LogisticMixture(count)


# --------------------------------------------------------------------------------------
# Student-t


def test_student_t_against_scipy():
    """From the heaviest tails to degrees of freedom where it is a Gaussian."""
    mean, log_scale = array(6, *EVENT), array(6, *EVENT, seed=1, scale=4.0)
    raw = np.linspace(-30, 1e4, 6 * 12).reshape(6, *EVENT).astype("float32")
    raw[:3] = array(3, *EVENT, seed=2, scale=3.0)
    x = array(6, *EVENT, seed=3, scale=5.0)
    n = 2 + np.logaddexp(0, oracles.float64(raw))
    scale = np.exp(oracles.float64(log_scale))
    expected = scipy.stats.t.logpdf(x, n, oracles.float64(mean), scale)
    parameters = {"mean": mean, "log_scale": log_scale, "raw_degrees": raw}
    actual = StudentT()(x, parameters)
    np.testing.assert_allclose(actual, -oracles.sum_event(expected), rtol=1e-5)
    variance = scale**2 * (1 + 2 / np.logaddexp(0, oracles.float64(raw)))
    np.testing.assert_allclose(StudentT().variance(parameters), variance, rtol=2e-5)
    np.testing.assert_array_equal(StudentT().mean(parameters), mean)


@pytest.mark.parametrize("raw", [-3.0, 0.0, 50.0])
def test_student_t_draws(raw):
    likelihood = StudentT()
    parameters = {
        "mean": np.full((20000, 2), 0.5, "float32"),
        "log_scale": np.full((20000, 2), -1.0, "float32"),
        "raw_degrees": np.full((20000, 2), raw, "float32"),
    }
    draws = likelihood.sample(parameters, seed=3).numpy()
    exact = scipy.stats.t(2 + np.logaddexp(0, raw), 0.5, np.exp(-1.0))
    for channel in draws.T:
        assert scipy.stats.kstest(channel, exact.cdf).pvalue > 1e-3
    ranks = scipy.stats.spearmanr(*draws.T)
    assert abs(ranks.statistic) < 5 / np.sqrt(20000)
    np.testing.assert_array_equal(draws, likelihood.sample(parameters, seed=3))


def test_student_t_is_a_density_of_any_data():
    likelihood = StudentT()
    assert likelihood.normalized
    assert not likelihood.discrete and not likelihood.unit_interval


def test_heads_of_the_spread_branch_off_at_the_tap():
    roles = {name: head.role for name, head in StudentT().heads((8, 8, 1)).items()}
    assert roles == {"mean": "mean", "log_scale": "variance", "raw_degrees": "variance"}


@pytest.mark.parametrize(
    "likelihood",
    [Categorical(), BitwiseCategorical(), LogisticMixture(2), StudentT()],
    ids=lambda likelihood: type(likelihood).__name__,
)
def test_heads_on_a_convolutional_backbone(likelihood):
    networks = kvv.backbones.depth_to_space((8, 8, 3), 2, likelihood)
    vae = kvv.VAE(*networks, kvv.posteriors.DiagonalGaussian(2), likelihood, seed=0)
    result = vae.generate(3, noise=True)
    assert {value.shape for value in result.values()} == {(3, 8, 8, 3)}
