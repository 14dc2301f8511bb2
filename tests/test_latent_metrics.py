"""KL from the prior, mutual information and active units."""

import tracemalloc

import linear
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import keras_vae_variance as kvv
from keras_vae_variance.metrics import (
    active_units,
    information,
    kl_to_prior,
    marginal_kl,
    mutual_information,
    mutual_information_bound,
)
from keras_vae_variance.metrics.mixtures import Components, log_sum_exp

tfd = tfp.distributions
L = 2


def codes(n, spread=1.0, seed=0, size=L):
    draws = np.random.default_rng(seed).normal(size=(n, size))
    return (spread * draws).astype("float32")


def close(estimate, expected, errors=4):
    return abs(float(estimate) - expected) < errors * estimate.standard_error


# --------------------------------------------------------------------------------------
# KL to the prior


def gaussian_kl(mean, variance, prior_variance):
    ratio = np.asarray(variance) / prior_variance
    return 0.5 * np.sum(ratio + mean**2 / prior_variance - 1 - np.log(ratio))


def test_kl_to_prior_of_a_gaussian():
    """In closed form, from either prior, for samplers and for distributions."""
    scale = np.array([0.5, 4.0])
    vae = linear.identity(codes(1), 0.1, scale)
    x = codes(500, 1.5)
    sampler = kvv.samplers.OptimalPrior().fit(vae, x)
    v = np.mean(x.astype("float64") ** 2, axis=0) + 0.1
    for given, prior_variance in ((None, 1.0), (vae, scale)):
        result = kl_to_prior(sampler, given, num_samples=2000, seed=0)
        assert close(result, gaussian_kl(np.zeros(L), v, prior_variance))
        assert 0 < result.standard_error < 0.05
    mean = np.float32([1.0, -2.0])
    distribution = tfd.MultivariateNormalDiag(mean, np.float32([0.1, 1.0]))
    result = kl_to_prior(distribution, num_samples=2000, seed=0)
    assert close(result, gaussian_kl(mean, [0.01, 1.0], 1.0))


def test_kl_of_the_prior_from_itself_is_zero():
    scale = np.array([0.5, 4.0])
    vae = linear.identity(codes(1), 0.1, scale)
    sampler = kvv.samplers.Prior().fit(vae)
    result = kl_to_prior(sampler, vae, num_samples=100, num_runs=2, seed=0)
    assert abs(float(result)) < 1e-6 and result.standard_error < 1e-6
    assert float(kl_to_prior(sampler, num_samples=100, seed=0)) > 0.1


def test_runs_are_independent_and_follow_the_seed():
    """The error of the mean of the runs is what repetitions with other seeds show."""
    distribution = tfd.MultivariateNormalDiag(np.float32([1.0, 0.0]))
    results = [kl_to_prior(distribution, None, 500, 4, seed) for seed in range(12)]
    again = kl_to_prior(distribution, None, 500, 4, seed=3)
    assert again == results[3] != results[4]
    spread = np.std([float(r) for r in results], ddof=1)
    # log q - log p = z_1 - 1/2 is normal, of variance 1.
    assert spread == pytest.approx(1 / np.sqrt(2000), rel=0.5)
    errors = [r.standard_error**2 for r in results]
    assert np.sqrt(np.mean(errors)) == pytest.approx(1 / np.sqrt(2000), rel=0.3)


def test_kl_to_prior_wrong_arguments():
    vae = linear.identity(codes(1), 0.1)
    sampler = kvv.samplers.Prior().fit(vae)
    with pytest.raises(TypeError, match="`sample` and .*Received: sampler="):
        kl_to_prior(vae)
    with pytest.raises(ValueError, match="Call `fit"):
        kl_to_prior(kvv.samplers.Prior())
    for arguments in ({"num_samples": 0}, {"num_runs": 1}, {"num_runs": 2.0}):
        with pytest.raises(ValueError, match=f"Received: {next(iter(arguments))}="):
            kl_to_prior(sampler, **arguments)
    with pytest.raises(ValueError, match="dimension 2.*Received: sampler.*dimension 3"):
        kl_to_prior(tfd.MultivariateNormalDiag(np.zeros(3, "float32")), vae)


# --------------------------------------------------------------------------------------
# The aggregate posterior


def test_against_quadrature():
    """A mixture of five Gaussians in one dimension, apart and overlapping."""
    mean, s2, scale = np.float32([[-2.0], [-1.8], [0.0], [0.5], [3.0]]), 0.09, 2.0
    vae = linear.identity(mean, s2, scale)
    grid = np.linspace(-8, 8, 20_001)
    q = scipy.stats.norm(mean, np.sqrt(s2)).pdf(grid).mean(axis=0)
    log_p = scipy.stats.norm(0, np.sqrt(scale)).logpdf(grid)
    kl = np.trapezoid(q * (np.log(q) - log_p), grid)
    entropy = 0.5 * (1 + np.log(2 * np.pi * s2))
    mi = -np.trapezoid(q * np.log(q), grid) - entropy

    result = marginal_kl(vae, mean, num_samples=4000, seed=0)
    # What is left of the noise of 20,000 draws, not of the five examples.
    assert abs(float(result) - kl) < 0.01
    result = mutual_information(vae, mean, num_samples=4000, seed=0)
    assert abs(float(result) - mi) < 0.01

    bound = mutual_information_bound(vae, mean, num_samples=4000, seed=0)
    assert abs(float(bound.included) - mi) < 0.03
    own = scipy.stats.norm(mean, np.sqrt(s2)).pdf(grid)
    others = [np.delete(own, n, axis=0).mean(axis=0) for n in range(5)]
    left_out = -np.mean(np.trapezoid(own * np.log(others), grid, axis=1)) - entropy
    assert abs(float(bound.left_out) - left_out) < 0.01 * left_out
    assert bound.log_count == np.log(5)


def test_one_code_for_all():
    """No information; q(z) is a Gaussian, and the control leaves no noise."""
    scale = np.array([0.5, 4.0])
    vae, x = linear.identity(codes(1), 0.1, scale), np.tile(codes(1), (50, 1))
    result = marginal_kl(vae, x, seed=0)
    expected = gaussian_kl(x[0].astype("float64"), [0.1, 0.1], scale)
    assert float(result) == pytest.approx(expected, rel=1e-5)
    assert result.standard_error < 1e-6
    assert abs(float(mutual_information(vae, x, seed=0))) < 1e-6
    bound = mutual_information_bound(vae, x, num_samples=50, seed=0)
    for estimate in (bound.included, bound.left_out):
        assert close(estimate, 0.0)
    # Own code or not is all the same.
    assert float(bound.included) == pytest.approx(float(bound.left_out), abs=1e-9)


def test_codes_far_apart_reach_the_logarithm_of_their_number():
    n, s2 = 64, 1e-4
    x = np.stack(np.meshgrid(*[np.arange(8.0)] * 2), axis=-1).reshape(n, 2)
    x = x.astype("float32")
    vae = linear.identity(x, s2)
    result = mutual_information(vae, x, seed=0)
    assert float(result) == pytest.approx(np.log(n), abs=1e-9)
    assert result.standard_error < 1e-9
    kl = np.mean([gaussian_kl(mean, [s2, s2], 1.0) for mean in x.astype("float64")])
    assert float(marginal_kl(vae, x, seed=0)) == pytest.approx(kl - np.log(n), 1e-6)
    bound = mutual_information_bound(vae, x, num_samples=20, seed=0)
    assert close(bound.included, np.log(n)) and bound.included.standard_error < 0.1
    # The nearest other codes: two to four of them, at a distance of 1.
    assert float(bound.left_out) == pytest.approx(1 / (2 * s2), rel=0.05)


def test_control_of_the_noise():
    """No more variance than either form of P2, Eq. 6, no bias, and the identity."""
    x, runs = codes(60), 400
    for s2 in (1e-3, 0.1, 1.0):
        vae = linear.identity(x, s2)
        draws = information._draw(vae, x, runs, seed=0)
        arrays = [t if t.shape[1] == runs else t.repeat(runs, axis=1) for t in draws]
        each = [information._Draws(*(t[:, [k]] for t in arrays)) for k in range(runs)]
        values = np.array([information._information(run) for run in each])
        controlled = values.mean(axis=1)
        plain = np.mean(draws.own - draws.log_q(), axis=0)
        direct = np.mean(draws.kl + draws.log_p - draws.log_q(), axis=0)
        error = np.sqrt((controlled.var() + plain.var()) / runs)
        assert abs(controlled.mean() - plain.mean()) < 4 * error
        assert controlled.var() < 1.2 * min(plain.var(), direct.var())

        kl = np.mean([gaussian_kl(m, [s2, s2], 1.0) for m in x.astype("float64")])
        found = mutual_information(vae, x, seed=1), marginal_kl(vae, x, seed=1)
        assert sum(map(float, found)) == pytest.approx(kl, rel=1e-5)
        # Over examples too, the stated errors are no less than those of the draws.
        stated = np.mean(values.var(axis=1) / len(x))
        assert 0.8 * controlled.var() < stated


def test_marginal_kl_is_the_kl_of_the_aggregate_sampler():
    x = codes(300, 1.3)
    vae = linear.identity(x, 0.05)
    sampler = kvv.samplers.AggregatePosterior().fit(vae, x)
    ours = marginal_kl(vae, x, num_samples=10, seed=0)
    theirs = kl_to_prior(sampler, vae, num_samples=3000, seed=0)
    error = np.hypot(ours.standard_error, theirs.standard_error)
    assert abs(float(ours) - float(theirs)) < min(4 * error, 0.05)


def test_bounds_enclose_the_information_of_all_images():
    """A linear Gaussian channel, I = L/2 log(1 + 1/s2), by too few images."""
    s2, n = 0.01, 20
    truth = L / 2 * np.log(1 + 1 / s2)
    vae = linear.identity(codes(n), s2)
    seeds = range(20)
    results = [mutual_information_bound(vae, codes(n, 1.0, s), seed=s) for s in seeds]
    included, left_out = (
        np.mean([float(getattr(r, name)) for r in results])
        for name in ("included", "left_out")
    )
    assert included < np.log(n) + 0.2 < truth < left_out


# --------------------------------------------------------------------------------------
# Data, chunks, inputs


def test_chunks_batches_and_forms_of_data(monkeypatch):
    x = codes(23)
    vae = linear.identity(x, 0.1)
    expected = mutual_information_bound(vae, x, 2, seed=5)
    stream = tf.data.Dataset.from_tensor_slices((x, np.zeros(23))).batch(4)
    for given, chunk in ((x, 1), (x, 60), (stream, 2**22), ((x, None), 23 * 5)):
        monkeypatch.setattr(information, "CHUNK", chunk)
        result = mutual_information_bound(vae, given, 2, seed=5)
        for one, other in zip(result[:2], expected[:2], strict=True):
            assert float(one) == pytest.approx(float(other), rel=1e-6)
    other = mutual_information_bound(vae, x, 2, seed=6)
    assert float(other.left_out) != pytest.approx(float(expected.left_out), rel=1e-3)


def test_memory_does_not_grow_with_the_pairs(monkeypatch):
    """3,000 times 3,000 log densities are 72 MB."""
    monkeypatch.setattr(information, "CHUNK", 2**18)  # 2 MB
    x = codes(3000)
    vae = linear.identity(x, 0.1)
    tracemalloc.start()
    marginal_kl(vae, x, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6


def test_components_against_scipy():
    random = np.random.default_rng(0)
    mean, v = 100 * random.normal(size=(5, 3)), np.exp(random.normal(size=(5, 3)))
    z = 100 * random.normal(size=(7, 3))
    normal = scipy.stats.norm(mean, np.sqrt(v))
    expected = normal.logpdf(z[:, None]).sum(axis=-1)
    np.testing.assert_allclose(Components(mean, v).log_prob(z), expected, rtol=1e-9)
    expected = scipy.special.logsumexp(expected, axis=1)
    result = log_sum_exp(Components(mean, v).log_prob(z))
    np.testing.assert_allclose(result, expected, rtol=1e-9)
    np.testing.assert_array_equal(log_sum_exp(np.full((2, 3), -np.inf)), -np.inf)


def test_wrong_arguments():
    x = codes(3)
    vae = linear.identity(x, 0.1)
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))
    networks = kvv.backbones.mlp((L,), L, likelihood, hidden=())
    posterior = kvv.posteriors.Deterministic(L)
    point = kvv.VAE(*networks, posterior, likelihood, regularizers=[])
    for metric in (marginal_kl, mutual_information, mutual_information_bound):
        with pytest.raises(ValueError, match="deterministic.*Received: posterior="):
            metric(point, x)
        with pytest.raises(ValueError, match="Received: num_samples="):
            metric(vae, x, num_samples=0)
        with pytest.raises(ValueError, match="(?s)at least one example.*Received: x="):
            metric(vae, x[:0])
    with pytest.raises(ValueError, match="at least two.*Received: x of 1 example"):
        mutual_information_bound(vae, x[:1])
    assert float(mutual_information(vae, x[:1], seed=0)) == pytest.approx(0, abs=1e-9)
    for threshold in (-1.0, np.nan, "0.01"):
        with pytest.raises(ValueError, match="Received: threshold="):
            active_units(vae, x, threshold)
    assert active_units(point, x).variances.shape == (L,)


# --------------------------------------------------------------------------------------
# Active units


def test_active_units():
    """In any batches, with codes that lie far from 0."""
    x = codes(501, spread=np.array([1.0, 0.05, 0.3]), size=3)
    x[:, 2] += 1000
    vae = linear.identity(x, 0.1)
    expected = x.astype("float64").var(axis=0)
    stream = tf.data.Dataset.from_tensor_slices(x).batch(7)
    for given in (x, stream):
        count, variances = active_units(vae, given)
        np.testing.assert_allclose(variances, expected, rtol=1e-6)
        assert count == 2 and isinstance(count, int)
    assert active_units(vae, x, threshold=0.5).count == 1
    count, variances = active_units(vae, x[:1])
    assert count == 0 and np.all(variances == 0)
