"""A linear VAE against its evidence and posterior in closed form.

    z ~ N(0, I),  x = z W + b + noise of variance v

The rows of `W` are orthogonal in the metric of `v`, so that the posterior is a diagonal
Gaussian with a mean that is linear in `x`: the VAE can be exact.
"""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_vae_variance as kvv
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.variances import Fixed, Learned, MaximumLikelihood

D, L, N = 6, 2, 9
V = {"scalar": 0.3, "vector": np.geomspace(0.05, 2.0, D)}
each_variance = pytest.mark.parametrize("v", V.values(), ids=V.keys())


def weights(v):
    random = np.random.default_rng(0)
    rows = np.linalg.qr(random.normal(size=(D, L)))[0].T * [[2.0], [0.7]]
    return rows * np.sqrt(v), np.linspace(-1, 1, D)


def linear_vae(variance, posterior=None):
    likelihood = kvv.likelihoods.Gaussian(variance)
    networks = kvv.backbones.mlp((D,), L, likelihood, mean_activation=None, hidden=())
    posterior = posterior or kvv.posteriors.DiagonalGaussian(L)
    return kvv.VAE(*networks, posterior, likelihood, seed=0)


def exact_vae(v):
    """The VAE with the true decoder and the true posterior."""
    if np.ndim(v) == 0:
        vae = linear_vae(Fixed(v))
    else:
        vae = linear_vae(Learned(per_pixel=True, initial=1.0, rate=1.0))
        vae.likelihood.variance_model.parameter.assign(np.log(v)[None])
    w, b = weights(v)
    a, c, covariance = oracles.linear_posterior(w, b, v)
    assert np.allclose(covariance, np.diag(np.diag(covariance)))
    vae.decoder.set_weights([w, b])
    vae.posterior.mean.set_weights([a, c])
    spread = np.zeros((D, L)), np.log(np.diag(covariance))
    vae.posterior.spread.set_weights(spread)
    return vae


def examples(v, n=N):
    random = np.random.default_rng(1)
    w, b = weights(v)
    x = random.normal(size=(n, L)) @ w + b + np.sqrt(v) * random.normal(size=(n, D))
    return x.astype("float32")


# Over these 2 L points the mean of any quadratic function is its expectation under a
# standard normal: the ELBO of a linear model without the error of draws.
POINTS = np.sqrt(L) * np.concatenate([np.eye(L), -np.eye(L)])


@pytest.fixture
def exact_expectations(monkeypatch):
    def normal(shape, seed):
        points = np.float32(POINTS)
        if len(shape) == 3:  # `elbo`: (draws, examples, L)
            assert shape[0] == len(points)
            return tf.repeat(tf.constant(points)[:, None], shape[1], axis=1)
        # The objective: (examples, L), each example once for each point.
        return tf.tile(tf.constant(points), (shape[0] // len(points), 1))

    monkeypatch.setattr(kvv_ops, "normal", normal)


def evidence(vae, x):
    """log p(x) under the decoder of a VAE."""
    w, b = vae.decoder.get_weights()
    v = np.ravel(vae.likelihood.variance_model.predict({}))
    return oracles.evidence(x, w, b, v if v.size > 1 else v[0])


# --------------------------------------------------------------------------------------
# The exact model


@each_variance
def test_every_draw_of_the_exact_posterior_gives_the_evidence(v):
    """p(x|z) p(z) / q(z|x) = p(x) for any z: Bayes's rule."""
    vae, x = exact_vae(v), examples(v)
    expected = evidence(vae, x)
    for seed in range(3):
        latent = vae.encode(x, sample=True, seed=seed)
        log_joint = kvv_ops.gaussian_log_prob(
            latent.sample, latent.prior_mean, latent.prior_variance
        ) - vae.likelihood(x, vae.decode(latent.sample), latent)
        log_q = kvv_ops.gaussian_log_prob(latent.sample, latent.mean, latent.variance)
        np.testing.assert_allclose(log_joint - log_q, expected, rtol=1e-5, atol=1e-5)


@each_variance
def test_elbo_of_the_exact_posterior_is_the_evidence(v, exact_expectations):
    vae, x = exact_vae(v), examples(v)
    elbo = vae.elbo(x, num_samples=2 * L)["elbo"]
    np.testing.assert_allclose(elbo, evidence(vae, x), rtol=1e-5, atol=1e-5)


@each_variance
@pytest.mark.parametrize("training", [False, True])
def test_loss_of_the_exact_posterior_is_minus_the_evidence(
    v, training, exact_expectations
):
    vae, x = exact_vae(v), examples(v)
    terms = vae.objective(np.repeat(x, 2 * L, axis=0), training=training)
    loss = (terms["reconstruction"] + terms["kl"]).numpy().reshape(N, -1).mean(axis=1)
    np.testing.assert_allclose(-loss, evidence(vae, x), rtol=1e-5, atol=1e-5)


def test_elbo_by_draws():
    """Without the points: the mean of many draws, within five standard errors."""
    vae, x = exact_vae(V["scalar"]), examples(V["scalar"])
    draws = [vae.elbo(x, num_samples=20, seed=seed)["elbo"] for seed in range(20)]
    error = np.mean(draws, axis=0) - evidence(vae, x)
    assert np.all(np.abs(error) < 5 * np.std(draws, axis=0) / np.sqrt(20))
    assert np.all(np.std(draws, axis=0) > 1e-3)


@each_variance
def test_elbo_falls_short_by_the_kl_from_the_true_posterior(v, exact_expectations):
    """log p(x) - ELBO = KL(q(z|x) || p(z|x)), for any q, here with each one's own."""
    vae, x = exact_vae(v), examples(v)
    a, c, covariance = oracles.linear_posterior(*weights(v), v)
    random = np.random.default_rng(2)
    for head in (vae.posterior.mean, vae.posterior.spread):
        for variable in head.weights:
            variable.assign_add(random.normal(scale=0.2, size=variable.shape))
    latent = vae.encode(x)
    q = tfp.distributions.MultivariateNormalDiag(
        oracles.float64(latent.mean), np.sqrt(oracles.float64(latent.variance))
    )
    true = tfp.distributions.MultivariateNormalTriL(
        oracles.float64(x) @ a + c, np.linalg.cholesky(covariance)
    )
    gap = evidence(vae, x) - vae.elbo(x, num_samples=2 * L)["elbo"]
    assert np.all(gap > 0.01)
    np.testing.assert_allclose(gap, q.kl_divergence(true), rtol=1e-4, atol=1e-5)


@each_variance
def test_gradient_is_that_of_the_evidence(v, exact_expectations):
    """At the exact posterior the ELBO touches the evidence: equal slopes in W, b and v,
    and none in the posterior."""
    vae, x = exact_vae(v), examples(v)
    with tf.GradientTape() as tape:
        terms = vae.objective(np.repeat(x, 2 * L, axis=0), training=True)
        elbo = -tf.reduce_mean(terms["reconstruction"] + terms["kl"])
    w, b = weights(v)
    variables = vae.decoder.trainable_variables
    arrays, functions = [w, b], lambda w, b: np.mean(oracles.evidence(x, w, b, v))
    if np.ndim(v):
        variables = [*variables, vae.likelihood.variance_model.parameter]
        arrays.append(np.log(v)[None])

        def functions(w, b, log_v):
            return np.mean(oracles.evidence(x, w, b, np.exp(log_v[0])))

    posterior = vae.posterior.trainable_variables
    slopes = tape.gradient(elbo, [*variables, *posterior])
    expected = oracles.numeric_gradient(functions, *arrays)
    for slope, wanted in zip(slopes, expected, strict=False):
        np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-4)
    for slope in slopes[len(expected) :]:
        np.testing.assert_allclose(slope, np.zeros(slope.shape), atol=1e-4)


def test_generated_data_have_the_model_s_covariance():
    """x = z W + b + noise: W^T W + v I. With the mean alone, W^T W."""
    v = V["scalar"]
    vae = exact_vae(v)
    w, b = weights(v)
    n = 20_000
    images = vae.generate(n, noise=True, seed=0)
    for name, covariance in (("mean", w.T @ w), ("sample", w.T @ w + v * np.eye(D))):
        x = images[name].numpy()
        variances = np.diag(covariance)
        assert np.all(np.abs(x.mean(axis=0) - b) < 5 * np.sqrt(variances / n))
        # Variance of a normal's covariance: (C_ii C_jj + C_ij^2) / n.
        error = np.sqrt((np.outer(variances, variances) + covariance**2) / n)
        assert np.all(np.abs(np.cov(x.T) - covariance) < 5 * error)
    np.testing.assert_array_equal(images["variance"], np.full((n, D), v, "float32"))


# --------------------------------------------------------------------------------------
# Training


@pytest.fixture(scope="module")
def data():
    """500 examples, and the best that any model of this form can do with them."""
    x = examples(V["scalar"], 500)
    w, b, v = oracles.probabilistic_pca(x, L)
    return x, (w, b, v), oracles.evidence(x, w, b, v).mean()


@pytest.mark.parametrize("variance_model", [MaximumLikelihood, Learned])
def test_training_reaches_probabilistic_pca(data, variance_model, request):
    """The decoder's plane and offset, the variance, and an ELBO without a gap."""
    x, (w, b, v), best = data
    variance = variance_model()
    vae = linear_vae(variance)
    rate = keras.optimizers.schedules.CosineDecay(3e-2, 400)
    vae.compile(keras.optimizers.Adam(rate), steps_per_execution=20)
    vae.fit(np.tile(x, (40, 1)), batch_size=500, epochs=10, verbose=0)
    vae.calibrate(np.tile(x, (20, 1)))  # with 20 draws of each z

    request.getfixturevalue("exact_expectations")
    elbo = float(np.mean(vae.elbo(x, num_samples=2 * L)["elbo"]))
    assert best - 0.02 < elbo < best + 1e-4
    assert np.ravel(variance.predict({})) == pytest.approx(v, rel=0.03)
    kernel, bias = vae.decoder.get_weights()
    np.testing.assert_allclose(bias, b, atol=0.05)
    # Cosines of the angles between the two planes.
    planes = [np.linalg.qr(rows.T)[0] for rows in (kernel, w)]
    assert np.linalg.svd(planes[0].T @ planes[1])[1].min() > 0.98
