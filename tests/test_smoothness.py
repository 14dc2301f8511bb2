"""The expected gap and the local smoothness of the decoder."""

import keras
import linear
import numpy as np
import oracles
import pytest
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance.metrics import expected_gap, local_smoothness, smoothness

D, L, N = 7, 3, 40
SHAPE = (3, 2, 2)


def linear_vae():
    random = np.random.default_rng(0)
    w, b = random.normal(size=(L, D)), np.linspace(-1, 1, D)
    a, c, _ = linear.posterior(w, b, 0.3)
    return linear.model(w, b, 0.3, a, c, 0.1), w


def image_vae(likelihood=None, deterministic=False):
    """With a smooth decoder, whose Jacobian differs from code to code."""
    likelihood = likelihood or kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.05))
    encoder, decoder = kvv.backbones.mlp(SHAPE, L, likelihood, hidden=(8,))
    decoder.layers[1].activation = keras.activations.tanh
    posterior = kvv.posteriors.DiagonalGaussian(L)
    regularizers = None
    if deterministic:
        posterior, regularizers = kvv.posteriors.Deterministic(L), []
    parts = encoder, decoder, posterior, likelihood, None, regularizers
    vae = kvv.VAE(*parts, seed=0)
    random = np.random.default_rng(3)
    for weight in vae.weights:
        if "seed" not in weight.path:
            weight.assign(random.normal(scale=0.7, size=weight.shape))
    return vae


def images(n=N):
    return np.random.default_rng(2).integers(0, 256, (n, *SHAPE)).astype("uint8")


def squared_norms(vae, x):
    """|J|_F^2 of each example, by reverse mode."""
    z = tf.convert_to_tensor(vae.encode(x).mean)
    with tf.GradientTape() as tape:
        tape.watch(z)
        mean = vae.likelihood.mean(vae.decode(z))
    jacobian = oracles.float64(tape.batch_jacobian(mean, z))
    return np.sum(jacobian.reshape(len(x), -1) ** 2, axis=1)


def test_linear_decoder():
    """The sum of squares of the weights, wherever the codes are."""
    vae, w = linear_vae()
    x = np.random.default_rng(1).normal(size=(N, D)).astype("float32")
    total = np.sum(w**2)
    exact = local_smoothness(vae, x)
    assert float(exact) == pytest.approx(total, rel=1e-5)
    assert exact.standard_error < 1e-5 * total
    # In squares of Gaussians: 2 tr (J^T J)^2 is the variance of both.
    spread = np.sqrt(2 * np.sum((w @ w.T) ** 2) / (N * 50))
    probed = local_smoothness(vae, x, num_probes=50, seed=0)
    assert abs(float(probed) - total) < 4 * spread
    assert probed.standard_error == pytest.approx(spread, rel=0.5)
    for s in (1e-3, 10.0):
        gap = expected_gap(vae, x, s, num_samples=50, seed=0)
        assert abs(float(gap) / (2 * s) - total) < 4 * spread
        assert gap.standard_error / (2 * s) == pytest.approx(spread, rel=0.5)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_exact_and_estimated(likelihood):
    """Of the mean of p(x|z): a Bernoulli's logits are not what is seen."""
    bernoulli = likelihood == "bernoulli"
    vae = image_vae(kvv.likelihoods.Bernoulli() if bernoulli else None, not bernoulli)
    x = images()
    norms = squared_norms(vae, x)
    assert norms.std() > 0.1 * norms.mean()
    exact = local_smoothness(vae, x)
    assert float(exact) == pytest.approx(norms.mean(), rel=1e-5)
    error = norms.std(ddof=1) / np.sqrt(N)
    assert exact.standard_error == pytest.approx(error, rel=1e-4)
    # Each of the same examples: the error of the examples is in neither difference.
    probed = local_smoothness(vae, x, num_probes=200, seed=0)
    bound = 4 * np.sqrt(2 * np.mean(norms**2) / (N * 200))
    assert abs(float(probed) - norms.mean()) < bound < 0.1 * norms.mean()
    gap = expected_gap(vae, x, 1e-4, num_samples=200, seed=0)
    assert abs(float(gap) / 2e-4 - norms.mean()) < bound
    # Where the decoder bends within the perturbation, the gap is smaller.
    gap = expected_gap(vae, x, 10.0, num_samples=20, seed=0)
    assert float(gap) / 20 < norms.mean() / 2


def test_noise_belongs_to_the_seed_and_the_example():
    vae, x = image_vae(), images(11)
    stream = tf.data.Dataset.from_tensor_slices((x, np.zeros(11))).batch(4)
    for metric in (
        lambda *args, **kwargs: expected_gap(vae, *args, num_samples=3, **kwargs),
        lambda *args, **kwargs: local_smoothness(vae, *args, num_probes=3, **kwargs),
    ):
        expected = metric(x, seed=5)
        for given, chunk_size in ((x, 5), ((x / np.float32(255), None), 1)):
            result = metric(given, seed=5, chunk_size=chunk_size)
            assert float(result) == pytest.approx(float(expected), rel=1e-5)
        assert float(metric(stream, seed=5)) == pytest.approx(float(expected), rel=1e-5)
        assert float(metric(x, seed=6)) != pytest.approx(float(expected), rel=1e-3)


def test_memory_and_compilation(monkeypatch):
    vae, rows, traces = image_vae(), [], []
    compiled = smoothness.kvv_ops.compiled

    def counting(function, *shapes):
        def traced(*arguments):
            traces.append(1)
            return function(*arguments)

        run = compiled(traced, *shapes)
        return lambda z, v: rows.append(len(z)) or run(z, v)

    monkeypatch.setattr(smoothness.kvv_ops, "compiled", counting)
    local_smoothness(vae, images(11), chunk_size=13)
    assert rows == [12, 12, 9] and len(traces) == 1
    rows.clear()
    # More probes than fit at a time.
    local_smoothness(vae, images(2), num_probes=20, chunk_size=13)
    assert rows == [13, 7] * 2


def test_wrong_arguments():
    vae, x = image_vae(), images(2)
    for variance in (0.0, -1.0, np.nan, np.inf, "1"):
        with pytest.raises(ValueError, match="Received: variance="):
            expected_gap(vae, x, variance)
    for metric, arguments in (
        (expected_gap, {"num_samples": 0}),
        (expected_gap, {"chunk_size": 0}),
        (local_smoothness, {"num_probes": 0}),
        (local_smoothness, {"num_probes": 2.0}),
        (local_smoothness, {"chunk_size": 0}),
    ):
        with pytest.raises(ValueError, match=f"Received: {next(iter(arguments))}="):
            metric(vae, x, **arguments)
    for metric in (expected_gap, local_smoothness):
        with pytest.raises(ValueError, match="(?s)at least one example.*Received: x="):
            metric(vae, x[:0])
