"""Log evidence, linearised ELBO and what a constant posterior variance costs."""

import contextlib
import warnings

import keras
import linear
import numpy as np
import oracles
import pytest
import scipy.stats
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance.metrics import (
    constant_variance_penalty,
    evidence,
    linearized_elbo,
    log_evidence,
    optimal_decoder,
)

D, L, N = 7, 3, 11
SHAPE = (3, 2, 2)
random = np.random.default_rng(0)
W, B = random.normal(size=(L, D)), np.linspace(-1, 1, D)
VARIANCES = (0.3, np.geomspace(0.01, 2.0, D))  # one number, and one a pixel
PRIORS = (None, np.array([0.2, 1.0, 30.0]))


def data(v, prior, n=N):
    random = np.random.default_rng(1)
    z = random.normal(size=(n, L)) * np.sqrt(1.0 if prior is None else prior)
    x = z @ W + B + np.sqrt(v) * random.normal(size=(n, D))
    return x.astype("float32")


def scale(prior):
    return np.ones(L) if prior is None else prior


# --------------------------------------------------------------------------------------
# A linear decoder


def test_evidence_of_a_linear_decoder():
    for v, prior in zip(VARIANCES, PRIORS, strict=True):
        a, c, covariance = linear.posterior(W, B, v, scale(prior))
        x = data(v, prior)
        expected = linear.evidence(x, W, B, v, scale(prior))
        # No posterior variance enters.
        vae = linear.model(W, B, v, a, c, 7.0, prior)
        result = log_evidence(vae, x)
        assert result.dtype == np.float64 and result.shape == (N,)
        # Terms of up to a thousand nats in float32.
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-4)
        assert abs(float(constant_variance_penalty(vae, x))) < 1e-6

        # Off the posterior's mean the joint density is lower, by its precision.
        off = np.array([0.3, -0.2, 0.1])
        result = log_evidence(linear.model(W, B, v, a, c + off, 7.0, prior), x)
        gap = 0.5 * off @ np.linalg.inv(covariance) @ off
        np.testing.assert_allclose(result, expected - gap, rtol=1e-5, atol=5e-4)


def test_at_the_optimum_of_the_elbo_it_is_the_elbo():
    """With rows of W that are orthogonal the posterior can be exact."""
    rows = np.linalg.qr(W.T)[0].T * [[2.0], [0.7], [0.1]]
    for v in VARIANCES:
        w = rows * np.sqrt(v)
        a, c, covariance = linear.posterior(w, B, v)
        vae = linear.model(w, B, v, a, c, np.diag(covariance))
        x = data(v, None)
        bound = linearized_elbo(vae, x)["elbo"]
        np.testing.assert_allclose(bound, log_evidence(vae, x), atol=1e-4)
        np.testing.assert_allclose(bound, linear.evidence(x, w, B, v), atol=1e-4)


def test_linearized_elbo_of_a_linear_decoder_is_the_elbo(monkeypatch):
    """Whose mean over these 2 L points is its expectation, without draws' error."""
    points = np.float32(np.sqrt(L) * np.concatenate([np.eye(L), -np.eye(L)]))
    draws = tf.repeat(tf.constant(points)[:, None], N, axis=1)
    monkeypatch.setattr(evidence.kvv_ops, "normal", lambda shape, seed: draws)
    v, prior = VARIANCES[1], PRIORS[1]
    a, c, _ = linear.posterior(W, B, v)
    vae = linear.model(W, B, v, a, c, [0.1, 0.3, 0.01], prior)
    x = data(v, prior)
    terms, expected = linearized_elbo(vae, x), vae.elbo(x, num_samples=2 * L)
    nll = terms["reconstruction"] + terms["gradient_penalty"]
    np.testing.assert_allclose(nll, expected["reconstruction"], rtol=1e-5)
    for name in ("kl", "elbo"):
        np.testing.assert_allclose(terms[name], expected[name], rtol=1e-5)
    assert np.all(terms["gradient_penalty"] > 1)


# --------------------------------------------------------------------------------------
# Any decoder


def image_vae(likelihood=None, posterior=None, prior=None, width=1.0):
    """With smooth networks of fixed weights; codes spread as far as `width`."""
    likelihood = likelihood or kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.05))
    posterior = posterior or kvv.posteriors.DiagonalGaussian(L)
    encoder, decoder = kvv.backbones.mlp(SHAPE, L, likelihood, hidden=(8,))
    for layer in (*encoder.layers, *decoder.layers):
        if getattr(layer, "activation", None) is keras.activations.relu:
            layer.activation = keras.activations.tanh
    regularizers = [] if posterior.deterministic else None
    parts = encoder, decoder, posterior, likelihood, prior, regularizers
    vae = kvv.VAE(*parts, seed=0)
    for part in (encoder, decoder, posterior):
        random = np.random.default_rng(3)
        for weight in part.weights:
            weight.assign(random.normal(scale=0.7, size=weight.shape))
    posterior.mean.kernel.assign(width * posterior.mean.kernel)
    if prior is not None:
        prior.running.value.assign([[0.4, 1.0, 5.0]])
    return vae


def images(n=N):
    return np.random.default_rng(2).integers(0, 256, (n, *SHAPE)).astype("uint8")


def twin(vae, x):
    """The parts of the formulas by reverse mode, in float64 and in NumPy."""
    latent = vae.encode(x)
    z = tf.convert_to_tensor(latent.mean)
    with tf.GradientTape() as tape:
        tape.watch(z)
        mean = vae.likelihood.mean(vae.decode(z))
    jacobian = oracles.float64(tape.batch_jacobian(mean, z)).reshape(len(x), -1, L)
    parameters = vae.decode(z)
    scaled = vae.prepare(x)
    nll = oracles.float64(vae.likelihood(scaled, parameters, latent))
    model = getattr(vae.likelihood, "variance_model", None)
    if model is not None and model.depends_on_x:
        v = model(tf.square(scaled - mean), parameters, latent)
    else:
        v = vae.likelihood.variance(parameters)
    v = np.broadcast_to(oracles.float64(v), x.shape).reshape(len(x), -1)
    arrays = [np.broadcast_to(oracles.float64(t), z.shape) for t in latent]
    return kvv.types.Latent(*arrays), jacobian, nll, v


def precisions(latent, jacobian, v):
    """S^-2 + J^T V^-1 J of each example."""
    return np.array(
        [
            np.diag(1 / s2) + j.T @ np.diag(1 / v_n) @ j
            for s2, j, v_n in zip(latent.prior_variance, jacobian, v, strict=True)
        ]
    )


CASES = {
    "fixed": lambda: {"prior": kvv.priors.Floating()},
    "learned per pixel": lambda: {
        "likelihood": kvv.likelihoods.Gaussian(kvv.variances.Learned(True, 0.2)),
        "posterior": kvv.posteriors.Deterministic(L),
    },
    "predicted per pixel": lambda: {
        "likelihood": kvv.likelihoods.Gaussian(kvv.variances.Predicted())
    },
    "predicted per image": lambda: {
        "likelihood": kvv.likelihoods.Gaussian(
            kvv.variances.Predicted(per_pixel=False, per_channel=False)
        )
    },
    "Iso-D": lambda: {
        "likelihood": kvv.likelihoods.Gaussian(
            kvv.variances.MaximumLikelihood(per_example=True)
        )
    },
    "bernoulli": lambda: {"likelihood": kvv.likelihoods.Bernoulli()},
}


@contextlib.contextmanager
def warned(wanted):
    """Asserts that there is the warning of a density that is none, or no warning."""
    if wanted:
        with pytest.warns(UserWarning, match="not a normalised density.*Received"):
            yield
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            yield


@pytest.mark.parametrize("case", CASES)
def test_against_a_slow_twin(case):
    """Determinants in the dimension of the data, and the paper's own forms."""
    vae, x = image_vae(**CASES[case]()), images()
    latent, jacobian, nll, v = twin(vae, x)
    a = precisions(latent, jacobian, v)

    log_det = [
        np.linalg.slogdet(j @ np.diag(s2) @ j.T + np.diag(v_n))[1]
        for s2, j, v_n in zip(latent.prior_variance, jacobian, v, strict=True)
    ]
    distance = np.sum(latent.mean**2 / latent.prior_variance, axis=1)
    expected = -nll - 0.5 * (distance + np.array(log_det) - np.log(v).sum(axis=1))
    with warned(case in ("Iso-D", "bernoulli")):
        result = log_evidence(vae, x)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)

    relative = a @ np.linalg.inv(a.mean(axis=0)) - np.eye(L)
    penalties = np.trace(relative @ relative, axis1=1, axis2=2) / 4
    penalty = constant_variance_penalty(vae, x)
    assert float(penalty) == pytest.approx(penalties.mean(), rel=1e-4)
    # What E[A], an estimate too, adds to the influence of an example.
    squares = (relative @ relative).mean(axis=0)
    penalties -= np.trace(relative @ squares, axis1=1, axis2=2) / 2
    error = penalties.std(ddof=1) / np.sqrt(N)
    assert penalty.standard_error == pytest.approx(error, rel=1e-4)
    if vae.posterior.deterministic:
        return

    terms = linearized_elbo(vae, x)
    pairs = zip(latent.variance, jacobian, v, strict=True)
    growth = [np.trace(j @ np.diag(s2) @ j.T / v_n) / 2 for s2, j, v_n in pairs]
    np.testing.assert_allclose(terms["gradient_penalty"], growth, rtol=1e-4)
    np.testing.assert_allclose(terms["reconstruction"], nll, rtol=1e-5, atol=1e-5)
    kl = oracles.gaussian_kl(*latent[1:])
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-5)


def test_penalty_is_what_a_constant_covariance_leaves_of_the_evidence():
    """1/2 (log |E A| - E log |A|), to the second order in the variation of A."""
    gaps, errors = [], []
    for width in (1 / 4, 1 / 16):
        vae, x = image_vae(width=width), images(40)
        latent, jacobian, _, v = twin(vae, x)
        a = precisions(latent, jacobian, v)
        log_det = np.linalg.slogdet(a)[1]
        gap = 0.5 * (np.linalg.slogdet(a.mean(axis=0))[1] - log_det.mean())
        gaps.append(gap)
        errors.append(abs(float(constant_variance_penalty(vae, x)) - gap))
    # The variation is 4 times smaller: its square 16, and the third order 64 times.
    assert gaps[0] > 5 * gaps[1] > 0
    assert errors[0] > 20 * errors[1] and errors[1] < 0.1 * gaps[1]


# --------------------------------------------------------------------------------------
# Data, chunks, inputs


def test_chunks_batches_and_forms_of_data():
    vae, x = image_vae(), images()
    expected = log_evidence(vae, x), linearized_elbo(vae, x)
    penalty = constant_variance_penalty(vae, x)
    stream = tf.data.Dataset.from_tensor_slices((x, np.zeros(N))).batch(5)
    floats = x / np.float32(255)
    for given, chunk_size in ((x, 1), ((floats, None), 512), (stream, 7)):
        result = log_evidence(vae, given, chunk_size)
        np.testing.assert_allclose(result, expected[0], atol=1e-4)
    for name, term in linearized_elbo(vae, stream, 7).items():
        np.testing.assert_allclose(term, expected[1][name], rtol=1e-5, atol=1e-5)
    other = constant_variance_penalty(vae, stream, 7)
    assert float(other) == pytest.approx(float(penalty), rel=1e-4)


def test_memory_and_compilation(monkeypatch):
    vae, rows, traces = image_vae(), [], []
    compiled = evidence.kvv_ops.compiled

    def counting(function, *shapes):
        def traced(*arguments):
            traces.append(1)
            return function(*arguments)

        run = compiled(traced, *shapes)
        return lambda x, *codes: rows.append(len(x)) or run(x, *codes)

    monkeypatch.setattr(evidence.kvv_ops, "compiled", counting)
    log_evidence(vae, images(), chunk_size=13)
    # An example takes L images.
    assert rows == [4, 4, 3] and len(traces) == 1
    rows.clear()
    log_evidence(vae, images(), chunk_size=1)
    assert rows == [1] * N


def test_wrong_arguments():
    vae, x = image_vae(), images()
    for metric in (log_evidence, linearized_elbo, constant_variance_penalty):
        for chunk_size in (0, 2.0):
            with pytest.raises(ValueError, match="Received: chunk_size="):
                metric(vae, x, chunk_size)
        with pytest.raises(ValueError, match="(?s)at least one example.*Received: x="):
            metric(vae, x[:0])
    deterministic = image_vae(posterior=kvv.posteriors.Deterministic(L))
    with pytest.raises(ValueError, match="deterministic.*Received: posterior="):
        linearized_elbo(deterministic, x)
    with pytest.raises(ValueError, match="deterministic.*Received: posterior="):
        optimal_decoder(deterministic, x, np.zeros((1, L)))
    for z in (np.zeros(L), np.zeros((2, L + 1))):
        with pytest.raises(ValueError, match="shape.*Received: z.shape="):
            optimal_decoder(vae, x, z)
    with pytest.raises(ValueError, match="(?s)at least one example.*Received: x="):
        optimal_decoder(vae, x[:0], np.zeros((1, L)))


# --------------------------------------------------------------------------------------
# The optimal decoder


def test_optimal_decoder_is_the_weighted_mean():
    vae, x = image_vae(), images()
    latent = [oracles.float64(t) for t in vae.encode(x)]
    z = 2 * np.random.default_rng(5).normal(size=(6, L))
    result = optimal_decoder(vae, x, z)
    assert result.dtype == np.float64 and result.shape == (6, *SHAPE)
    densities = [
        scipy.stats.norm(mu, np.sqrt(s2)).pdf(z).prod(axis=1)
        for mu, s2 in zip(latent[1], latent[2], strict=True)
    ]
    weights = np.transpose(densities / np.sum(densities, axis=0))
    expected = np.tensordot(weights, x / 255, axes=1)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_optimal_decoder_in_chunks(monkeypatch):
    vae, x = image_vae(), images()
    z = 2 * np.random.default_rng(5).normal(size=(6, L))
    expected = optimal_decoder(vae, x, z)
    stream = tf.data.Dataset.from_tensor_slices((x, np.zeros(N))).batch(3)
    floats = x / np.float32(255)
    for chunk, examples, given in ((20, 5, x), (1, 1, floats), (2**22, 1000, stream)):
        monkeypatch.setattr(evidence, "CHUNK", chunk)
        monkeypatch.setattr(evidence, "_EXAMPLES", examples)
        result = optimal_decoder(vae, given, z)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert optimal_decoder(vae, x, z[:0]).shape == (0, *SHAPE)


@pytest.mark.parametrize("order", [1, -1])
def test_far_from_all_codes_the_nearest_one_counts(order):
    """Densities of e^-5000 and less, which are 0 in float64."""
    x = np.float32([[0.0], [1.0], [50.0]])[::order]
    vae = linear.identity(x, s2=0.25)
    result = optimal_decoder(vae, x, np.array([[100.0], [-50.0], [0.5]]))
    np.testing.assert_allclose(result, [[50.0], [0.0], [0.5]], atol=1e-5)


def test_optimal_decoder_of_the_exact_posterior_is_the_decoder():
    """E[x | z] where (x, z) have the model's joint distribution."""
    v, w = 0.3, W[:1]
    a, c, covariance = linear.posterior(w, B, v)
    vae = linear.model(w, B, v, a, c, np.diag(covariance))
    random, n = np.random.default_rng(1), 20_000
    x = random.normal(size=(n, 1)) @ w + B + np.sqrt(v) * random.normal(size=(n, D))
    z = np.array([[-1.0], [0.0], [0.5]])
    result = optimal_decoder(vae, x.astype("float32"), z)
    # Weighted means of some thousand examples.
    np.testing.assert_allclose(result, z @ w + B, atol=0.05)


def test_standard_error_of_the_penalty_is_its_deviation_over_data_sets():
    """E[A] is estimated from the same examples, which the error must know."""
    rng = np.random.default_rng(0)

    def matrices(n):
        size, sign = rng.exponential(size=(n, 1, 1)), rng.choice([-1, 1], (n, 1, 1))
        return np.eye(2) * (0.3 + size) + 0.2 * sign * size * (1 - np.eye(2))

    found = [
        evidence._relative_variation([matrices(600), matrices(400)]) for _ in range(500)
    ]
    deviation = np.std([float(estimate) for estimate in found])
    error = np.mean([estimate.standard_error for estimate in found])
    # 500 repetitions know a deviation to 3 %, and of 1000 examples with heavy tails the
    # error is some percent too small. With E[A] as known it would be 1.3 times as much.
    assert error == pytest.approx(deviation, rel=0.12)
