"""Scores: which compare, the bound on levels, and the variance of a weighted KL."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

import keras_vae_variance as kvv
from keras_vae_variance import likelihoods, posteriors, regularizers, variances
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.metrics import (
    Score,
    dequantize,
    equivalent_beta,
    equivalent_variance,
)

EVENT = (4, 3, 2)
D = 24


def make(likelihood=None, kl=1.0, terms=None, posterior=None):
    likelihood = likelihood or likelihoods.Gaussian(variances.Fixed(0.3))
    networks = kvv.backbones.mlp(EVENT, 2, likelihood, hidden=())
    terms = [regularizers.KL(kl)] if terms is None else terms
    posterior = posterior or posteriors.DiagonalGaussian(2)
    return kvv.VAE(*networks, posterior, likelihood, regularizers=terms, seed=0)


def levels(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *EVENT)).astype("uint8")


# --------------------------------------------------------------------------------------
# Score


def test_score_of_a_model():
    values = np.random.default_rng(0).normal(-100, 5, size=50)
    score = Score.of(make(), values)
    assert score.log_likelihood == pytest.approx(values.mean())
    assert score.standard_error == pytest.approx(scipy.stats.sem(values))
    assert score.size == D
    assert (score.discrete, score.normalized, score.dequantized) == (False, True, False)
    assert score.bits_per_dimension == pytest.approx(-np.mean(values) / D / np.log(2))
    discrete = Score.of(make(likelihoods.BitwiseCategorical()), values)
    assert discrete.discrete and discrete.normalized
    assert not Score.of(make(likelihoods.Bernoulli()), values).normalized
    per_image = variances.MaximumLikelihood(per_example=True)
    assert not Score.of(make(likelihoods.Gaussian(per_image)), values).normalized
    assert Score.of(make(), values, dequantized=True).dequantized


def test_eight_bits_of_the_uniform_distribution():
    """The score of the uniform distribution over levels is 8 bits, by any decoder."""
    x = levels(4) / np.float32(255)
    for likelihood, width in (
        (likelihoods.Categorical(), 256),
        (likelihoods.BitwiseCategorical(), 8),
    ):
        nll = likelihood(x, {"logits": np.zeros((4, *EVENT, width), "float32")})
        score = Score(-float(np.mean(nll)), 0.0, D, True)
        assert score.bits_per_dimension == pytest.approx(8, rel=1e-6)


def test_scores_of_one_kind_sort():
    scores = [Score(value, 1.0, D, True) for value in (-3.0, -1.0, -2.0)]
    assert [s.log_likelihood for s in sorted(scores)] == [-3, -2, -1]
    assert max(scores).log_likelihood == -1
    assert scores[0] < scores[1] and scores[1] >= scores[2]
    assert scores[0] == Score(-3.0, 1.0, D, True)


@pytest.mark.parametrize(
    "other",
    [{"discrete": True}, {"size": D + 1}, {"dequantized": True}, {"normalized": False}],
    ids=str,
)
def test_scores_of_different_kinds_have_no_rank(other):
    one = Score(-3.0, 1.0, D, False)
    other = dataclasses.replace(one, log_likelihood=-2.0, **other)
    for compare in (
        lambda: one < other,
        lambda: other < one,
        lambda: one >= other,
        lambda: sorted([one, other]),
        lambda: max(other, one),
    ):
        with pytest.raises(ValueError, match="Received: .*Score"):
            compare()
    with pytest.raises(TypeError):
        assert one < -2.0


def test_a_score_is_not_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Score(-3.0, 1.0, D, False).log_likelihood = 0.0


@pytest.mark.parametrize("size", [0, -1, 2.5, None])
def test_wrong_size(size):
    with pytest.raises(ValueError, match="`size` must be a positive integer"):
        Score(-3.0, 1.0, size, False)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)], ids=str)
def test_wrong_values(shape):
    with pytest.raises(ValueError, match="`values` must hold one log likelihood"):
        Score.of(make(), np.zeros(shape))


# --------------------------------------------------------------------------------------
# From densities to levels


def test_a_density_on_dequantized_data_bounds_the_probability():
    """Of a Gaussian narrower than a level, as wide, and wider; the last is tight."""
    gaps = []
    for stddev in (0.3 / 255, 1 / 255, 0.1):
        x = scipy.stats.norm(0.5, stddev).rvs((400, D), random_state=0)
        level = np.clip(np.round(255 * x), 0, 255).astype("uint8")
        noisy = dequantize(level, seed=1)
        log_density = scipy.stats.norm(0.5, stddev).logpdf(np.float64(noisy)).sum(1)
        score = Score(log_density.mean(), 0.0, D, False, dequantized=True).on_levels()
        exact = likelihoods.DiscretizedGaussian(variances.Fixed(stddev**2))
        kvv_ops.build_once(exact, (None, D))
        mean = np.full((400, D), 0.5, "float32")
        nll = exact((level / 255).astype("float32"), {"mean": mean})
        gaps.append(-float(np.mean(nll)) - score.log_likelihood)
        assert score.discrete and not score.dequantized
        assert stddev == 0.1 or score < Score(-float(np.mean(nll)), 0.0, D, True)
    assert gaps[0] > gaps[1] > gaps[2]
    # Jensen's gap of the wide one is D/24 of the square of 1/25.5, 0.002; the noise
    # moves log densities by 1/25.5 of 0.3 a scalar, and their mean by 0.003.
    assert abs(gaps[2] - 0.002) < 5 * 0.003


def test_on_levels_takes_away_d_log_255():
    score = Score(100.0, 2.0, D, False, True, True)
    expected = Score(100.0 - D * np.log(255), 2.0, D, True, True, False)
    assert score.on_levels() == expected
    assert expected.on_levels() is expected


def test_on_levels_needs_dequantized_data():
    with pytest.raises(ValueError, match="dequantize"):
        Score(100.0, 2.0, D, False).on_levels()


def test_dequantize():
    x = levels(200)
    noisy = dequantize(x, seed=0)
    assert noisy.dtype == "float32" and noisy.shape == x.shape
    noise = 255 * np.float64(noisy) - x
    # float32 near 1 is off by 255 * 6e-8.
    assert np.all(np.abs(noise) <= 0.5 + 2e-5)
    assert scipy.stats.kstest(noise.ravel() + 0.5, "uniform").pvalue > 1e-3
    np.testing.assert_array_equal(noisy, dequantize(x / np.float32(255), seed=0))
    np.testing.assert_array_equal(noisy, dequantize(x / 255, seed=0))
    assert np.all(noisy[:5] != dequantize(x[:5], seed=1))
    generator = np.random.default_rng(0)
    np.testing.assert_array_equal(noisy, dequantize(x, generator))
    assert np.any(noisy != dequantize(x, generator))


@pytest.mark.parametrize("value", [0.5, 300 / 255, -1 / 255, 7])
def test_dequantize_of_what_is_no_level(value):
    with pytest.raises(ValueError, match="`x` must hold the levels"):
        dequantize(np.array([[0.0, 1.0, value]]), seed=0)


def test_the_whole_way():
    """ELBO of a Gaussian VAE on noisy data, beside a discrete one's on the levels."""
    x = levels(8)
    gaussian, bitwise = make(), make(likelihoods.BitwiseCategorical())
    noisy = gaussian.elbo(dequantize(x, seed=0), seed=0)["elbo"]
    density = Score.of(gaussian, noisy, dequantized=True)
    probability = Score.of(bitwise, bitwise.elbo(x, seed=0)["elbo"])
    ranked = sorted([probability, density.on_levels()])
    assert {s.discrete for s in ranked} == {True}
    with pytest.raises(ValueError, match="on_levels"):
        sorted([probability, density])


# --------------------------------------------------------------------------------------
# Variance and beta


def test_equivalent_variance_of_a_learned_one():
    vae = make(likelihoods.Gaussian(variances.Learned(initial=0.02)), kl=3.0)
    assert equivalent_variance(vae) == pytest.approx(0.06, rel=1e-5)
    assert equivalent_beta(vae) == pytest.approx(0.06, rel=1e-5)
    assert equivalent_beta(vae, 0.5) == pytest.approx(0.12, rel=1e-5)
    vae.regularizers[0].weight.assign(1.0)  # as a schedule does
    assert equivalent_variance(vae) == pytest.approx(0.02, rel=1e-5)


def test_equivalent_variance_trains_the_same_networks():
    """Gradients of the networks are parallel, by the factor beta."""
    import tensorflow as tf

    x = levels(5)
    results = []
    pair = make(likelihoods.Gaussian(variances.Fixed(0.3)), kl=4.0)
    plain = make(likelihoods.Gaussian(variances.Fixed(equivalent_variance(pair))))
    for one, other in zip(
        plain.trainable_variables, pair.trainable_variables, strict=True
    ):
        one.assign(other)
    for vae, weight in ((pair, 4.0), (plain, 1.0)):
        vae.seed_generator.state.assign([0, 0])
        with tf.GradientTape() as tape:
            terms = vae.objective(x)
            loss = tf.reduce_mean(terms["reconstruction"] + weight * terms["kl"])
        results.append(tape.gradient(loss, vae.trainable_variables))
    assert len(results[0]) > 0
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, 4 * other, rtol=1e-4, atol=1e-5)


def test_equivalent_variance_of_the_mean_squared_error():
    likelihood = likelihoods.Gaussian(variances.MaximumLikelihood())
    vae = make(likelihood, kl=2.0)
    vae.objective(levels(6), training=True)
    running = float(np.ravel(likelihood.variance_model.predict({}))[0])
    assert running != 1 and equivalent_variance(vae) == pytest.approx(2 * running)


def test_equivalent_variance_of_each_pixel():
    likelihood = likelihoods.Gaussian(variances.Learned(per_pixel=True, initial=0.1))
    result = equivalent_variance(make(likelihood, kl=2.0))
    np.testing.assert_allclose(result, np.full(EVENT, 0.2), rtol=1e-5)
    with pytest.raises(ValueError, match="one variance for all scalars"):
        equivalent_beta(make(likelihood))


@pytest.mark.parametrize(
    "likelihood, match",
    [
        (lambda: likelihoods.Bernoulli(), "a Gaussian likelihood"),
        (lambda: likelihoods.StudentT(), "a Gaussian likelihood"),
        (lambda: likelihoods.DiscretizedGaussian(), "a Gaussian likelihood"),
        (lambda: likelihoods.Gaussian(variances.Predicted()), "the same for all"),
        (
            lambda: likelihoods.Gaussian(variances.MaximumLikelihood(per_example=True)),
            "the same for all",
        ),
    ],
)
def test_no_equivalent_variance_of_other_likelihoods(likelihood, match):
    for function in (equivalent_variance, equivalent_beta):
        with pytest.raises(ValueError, match=match):
            function(make(likelihood()))


def test_no_equivalent_variance_without_the_kl_alone():
    with pytest.raises(ValueError, match="the KL as its only regularizer"):
        equivalent_variance(make(terms=[], posterior=posteriors.Deterministic(2)))
    more = [regularizers.KL(), regularizers.LatentNorm(1.0)]
    with pytest.raises(ValueError, match="the KL as its only regularizer"):
        equivalent_variance(make(terms=more))


@pytest.mark.parametrize("variance", [0.0, -1.0, np.inf, "1"])
def test_wrong_reference_variance(variance):
    with pytest.raises(ValueError, match="`variance` must be a positive number"):
        equivalent_beta(make(), variance)


def test_scores_of_one_log_likelihood_are_equal_whatever_their_errors():
    a, b = (kvv.metrics.Score(-10.0, error, 4, True) for error in (0.1, 0.2))
    assert a == b and a <= b and a >= b and not a < b and not a > b


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None])
def test_a_score_is_a_finite_number(value):
    with pytest.raises(ValueError, match="`log_likelihood`.*Received"):
        kvv.metrics.Score(value, 0.1, 4, True)


def test_dequantize_refuses_nan_and_wrong_seeds():
    with pytest.raises(ValueError, match="`x` must hold the levels"):
        kvv.metrics.dequantize(np.array([[0.0, np.nan]]), seed=0)
    with pytest.raises(ValueError, match="Received: seed=-1"):
        kvv.metrics.dequantize(np.zeros((1, 2)), seed=-1)
    assert kvv.metrics.dequantize(np.zeros((1, 2))).shape == (1, 2)
