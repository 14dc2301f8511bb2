"""A stack of latent layers: against a chain in closed form, and as a `VAE`."""

import chains
import contracts
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
import tiny
from scipy import stats

import keras_vae_variance as kvv
from keras_vae_variance import backbones, likelihoods, posteriors, variances
from keras_vae_variance.types import DrawnLatent, Latent

each_inference = pytest.mark.parametrize("inference", chains.INFERENCES)
# The second one adds little to the first.
each_slowly = pytest.mark.parametrize(
    "inference", ["bottom_up", pytest.param("top_down", marks=pytest.mark.slow)]
)
EAGER = {"run_eagerly": True}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# --------------------------------------------------------------------------------------
# The chain


def log_weights(vae, x, draws):
    nll, log_q, log_p, _ = vae.log_terms(x, draws)
    return (log_p - nll - log_q).numpy()


@each_inference
def test_every_draw_of_the_exact_posterior_gives_the_evidence(inference):
    """p(x|z1) p(z1|z2) p(z2) / q(z1, z2|x) = p(x) for any z1, z2: Bayes's rule."""
    vae, x = chains.model(inference), chains.examples()
    for seed in range(3):
        found = log_weights(vae, x, 2.0 * noise(len(x), 4, seed=seed))
        np.testing.assert_allclose(found, chains.evidence(x), rtol=1e-5, atol=1e-5)


@each_inference
@pytest.mark.parametrize("exact", [True, False])
def test_elbo(inference, exact):
    """log p(x) - KL(q(z1, z2|x) || p(z1, z2|x)) within five standard errors: tight at
    the optimum, and what it is elsewhere."""
    layers = (chains.heads if exact else chains.perturbed)(inference)
    vae, x = chains.model(inference, layers), chains.examples()
    expected = chains.elbo(x, inference, layers)
    gap = chains.evidence(x) - expected
    np.testing.assert_allclose(gap, 0.0, atol=1e-9) if exact else None
    assert exact or np.all(gap > 0.02)
    n = 1000
    terms = vae.elbo(np.repeat(x, n, axis=0), seed=0)
    draws = terms["elbo"].numpy().reshape(-1, n)
    error = draws.std(axis=1) / np.sqrt(n)
    assert np.all(np.abs(draws.mean(axis=1) - expected) < 5 * error)
    assert np.all(error < 0.1)
    np.testing.assert_allclose(
        terms["elbo"], -(terms["reconstruction"] + terms["kl"]), rtol=1e-6
    )


@each_inference
def test_objective_is_minus_the_elbo(inference):
    layers = chains.perturbed(inference)
    vae, x = chains.model(inference, layers), chains.examples()
    n = 1000
    terms = vae.objective(np.repeat(x, n, axis=0), training=True)
    draws = (terms["reconstruction"] + terms["kl"]).numpy().reshape(-1, n)
    error = draws.std(axis=1) / np.sqrt(n)
    expected = -chains.elbo(x, inference, layers)
    assert np.all(np.abs(draws.mean(axis=1) - expected) < 5 * error)


@each_inference
def test_gradient_of_the_posterior_vanishes_at_the_optimum(inference):
    """And does not elsewhere: within five standard errors of batches of draws."""
    x = np.repeat(chains.examples(), 100, axis=0)

    def slopes(layers):
        vae = chains.model(inference, layers)
        weights = [w for p in vae.posteriors for w in p.trainable_variables]
        found = []
        for _ in range(20):
            with tf.GradientTape() as tape:
                loss = vae._forward(x, True)[1]["loss"]
            gradients = tape.gradient(loss, weights)
            found.append(np.concatenate([np.ravel(g) for g in gradients]))
        return np.mean(found, axis=0) / (np.std(found, axis=0) / np.sqrt(20))

    assert np.abs(slopes(None)).max() < 5
    assert np.abs(slopes(chains.perturbed(inference))).max() > 10


@each_inference
def test_importance_weights_through_all_layers_reach_the_evidence(inference):
    vae = chains.model(inference, chains.perturbed(inference))
    x = chains.examples(40)

    def bound(k, seed=0):
        return kvv.metrics.log_likelihood(vae, x, k, seed=seed).mean()

    many = [bound(1000, seed) for seed in range(6)]
    expected = chains.evidence(x).mean()
    assert bound(1) + 0.1 < bound(5) < np.mean(many)
    assert abs(np.mean(many) - expected) < 5 * np.std(many) / np.sqrt(6)
    assert np.std(many) < 0.05


@each_inference
def test_metrics_by_draws_of_all_layers(inference):
    """Calibration, variances and scores, of which the exact model knows the truth."""
    vae, x = chains.model(inference), chains.examples(2000)
    found = kvv.metrics.calibration(vae, x, levels=(0.3, 0.7), seed=0)
    # Pairs of x and of a draw of the exact posterior are the model's own.
    for level, share in found.coverage.items():
        assert abs(share.value - level) < 4 * share.standard_error < 0.03
    assert abs(found.stddev.value - 1.0) < 4 * found.stddev.standard_error < 0.05
    masks = {"one": np.arange(chains.D) == 1}
    variance = kvv.metrics.region_variance(vae, x, masks, seed=0)["one"]
    assert variance.value == pytest.approx(chains.V, rel=1e-6)
    for layers in (chains.heads(inference), chains.perturbed(inference)):
        vae = chains.model(inference, layers)
        scores = [
            kvv.metrics.anomaly_scores(vae, x[:200], num_samples=10, seed=seed).mean()
            for seed in range(8)
        ]
        error = np.std(scores, ddof=1) / np.sqrt(8)
        expected = -chains.elbo(x[:200], inference, layers).mean()
        assert abs(np.mean(scores) - expected) < 5 * error < 0.1
    # The noise belongs to the example, however the data are cut.
    whole = kvv.metrics.anomaly_scores(vae, x[:20], num_samples=3, seed=0)
    stream = (x[:20][i : i + 8] for i in range(0, 20, 8))
    cut = kvv.metrics.anomaly_scores(vae, stream, num_samples=3, seed=0, batch_size=5)
    np.testing.assert_allclose(cut, whole, rtol=1e-4)
    with pytest.raises(ValueError, match="at least one example"):
        kvv.metrics.anomaly_scores(vae, x[:0])


@each_inference
def test_draws_of_the_layers_by_given_noise(inference):
    """Each layer is at its mean and stddev times its own part of the noise."""
    vae, x = chains.model(inference, chains.perturbed(inference)), chains.examples()
    noise = np.random.default_rng(0).normal(size=(chains.N, 4)).astype("float32")
    layers = vae.draw_layers(vae.prepare(x), noise)
    for layer, part in zip(layers, (noise[:, :2], noise[:, 2:]), strict=True):
        expected = layer.mean + np.sqrt(layer.variance) * part
        np.testing.assert_allclose(layer.sample, expected, rtol=1e-6)
    nll, log_q, log_p, top = vae.log_terms(vae.prepare(x), noise)
    np.testing.assert_array_equal(top, layers[1].sample)
    # All that the weights are of, once.
    z1, z2 = (oracles.float64(layer.sample) for layer in layers)
    mean, covariance = chains.joint()
    whole = np.concatenate([x, z1, z2], axis=1)
    expected = stats.multivariate_normal(mean, covariance).logpdf(whole)
    np.testing.assert_allclose(log_p - nll, expected, rtol=1e-4)
    part = [stats.norm.logpdf(noise[:, :2]).sum(1), stats.norm.logpdf(noise[:, 2:])]
    part = part[0] + part[1].sum(1)
    for layer in layers:
        part = part - 0.5 * np.log(oracles.float64(layer.variance)).sum(axis=-1)
    np.testing.assert_allclose(log_q, part, rtol=1e-4)


class _Other(kvv.samplers.Prior):
    """Latents of N(0.5, 0.7^2), where the model's prior is standard normal."""

    def _learn(self, vae, x, generator):
        ones = np.ones(vae.latent_dim, "float32")
        return {"mean": 0.5 * ones, "variance": 0.49 * ones}


def test_a_sampler_of_the_top_layer_takes_the_place_of_the_prior():
    vae, x = chains.model("top_down"), chains.examples()
    sampler = _Other().fit(vae)
    mean, covariance = chains.joint((1.0, 0.7))
    mean = mean[chains.X] + 0.5 * np.ones(2) @ chains.W2 @ chains.W1
    covariance = covariance[chains.X, chains.X]
    expected = stats.multivariate_normal(mean, covariance).logpdf(x)
    runs = [
        kvv.metrics.log_likelihood(vae, x, 2000, sampler=sampler, seed=seed)
        for seed in range(6)
    ]
    error = np.std(runs, axis=0, ddof=1) / np.sqrt(len(runs))
    assert np.all(error < 0.02)
    assert np.all(np.abs(np.mean(runs, axis=0) - expected) < 6 * error + 1e-3)
    assert np.any(np.abs(expected - chains.evidence(x)) > 0.3)
    n = 5000
    drawn = vae.generate(n, sampler=sampler, seed=0)["mean"].numpy()
    variances = np.diag(covariance) - chains.V
    assert np.all(np.abs(drawn.mean(axis=0) - mean) < 5 * np.sqrt(variances / n))
    np.testing.assert_allclose(drawn.var(axis=0), variances, rtol=5 * np.sqrt(2 / n))


@each_inference
def test_codes_at_each_depth(inference):
    """Means along the path of means; draws of the joint posterior."""
    layers = chains.perturbed(inference)
    vae, x = chains.model(inference, layers), chains.examples()
    mean, covariance = chains.posterior(oracles.float64(x), inference, layers)
    for depth in (1, 2):
        found = vae.encode(x, depth=depth).mean
        np.testing.assert_allclose(found, mean[:, 2 * depth - 2 :][:, :2], atol=1e-5)
    n = 20_000
    codes = vae.encode_layers(np.repeat(x[:1], n, axis=0), sample=True, seed=0)
    z = np.concatenate([layer.sample for layer in codes], axis=1)
    variances = np.diag(covariance)
    assert np.all(np.abs(z.mean(axis=0) - mean[0]) < 5 * np.sqrt(variances / n))
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / n)
    assert np.all(np.abs(np.cov(z.T) - covariance) < 5 * error)


@pytest.mark.parametrize("temperature", [1.0, (0.5, 0.0), (0.0, 2.0)])
def test_generated_data_have_the_model_s_covariance(temperature):
    vae = chains.model("bottom_up")
    n = 20_000
    x = vae.generate(n, noise=True, seed=0, temperature=temperature)["sample"].numpy()
    mean, covariance = chains.joint(np.broadcast_to(temperature, 2))
    mean, covariance = mean[chains.X], covariance[chains.X, chains.X]
    variances = np.diag(covariance)
    assert np.all(np.abs(x.mean(axis=0) - mean) < 5 * np.sqrt(variances / n))
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / n)
    assert np.all(np.abs(np.cov(x.T) - covariance) < 5 * error)


def test_latents_that_are_given():
    vae = chains.model("top_down")
    z = noise(3, 2)
    at_mean = (z @ chains.W2 + chains.B2) @ chains.W1 + chains.B1
    found = vae.generate(z, temperature=0.0)["mean"]
    np.testing.assert_allclose(found, at_mean, atol=1e-5)
    np.testing.assert_allclose(vae.decode(z, depth=2)["mean"], at_mean, atol=1e-5)
    np.testing.assert_allclose(
        vae.decode(z)["mean"], z @ chains.W1 + chains.B1, atol=1e-5
    )


@each_inference
def test_reconstructions_are_at_the_means(inference):
    vae, x = chains.model(inference), chains.examples()
    a, c, _ = chains.given(chains.Z1, chains.X)
    expected = (x @ a + c) @ chains.W1 + chains.B1
    np.testing.assert_allclose(vae.reconstruct(x)["mean"], expected, atol=1e-5)


def test_calibrate():
    """E r^2 under the posterior; of one draw for each of many examples."""
    likelihood = likelihoods.Gaussian(variances.MaximumLikelihood())
    vae = chains.model("bottom_up")
    nets = vae.encoders, vae.decoders, vae.posteriors
    other = kvv.HierarchicalVAE(*nets, likelihood, vae.conditionals, seed=0)
    x = chains.examples(2000)
    other.calibrate(x)
    # Draws of x and z are draws of the joint, in which the noise of x has V.
    found = float(np.ravel(likelihood.variance_model.predict({}))[0])
    assert found == pytest.approx(chains.V, rel=5 * np.sqrt(2 / (2000 * chains.D)))


# --------------------------------------------------------------------------------------
# KL


def moments():
    z, mean, prior_mean = (noise(3, 4, seed=s) for s in range(3))
    variance, prior_variance = np.exp(noise(3, 4, seed=3)), np.exp(noise(1, 4, seed=4))
    return z, mean, variance, prior_mean, prior_variance


def test_kl_of_a_layer():
    z, *others = moments()
    expected = oracles.gaussian_kl(*others)
    np.testing.assert_allclose(Latent(z, *others).kl(), expected, rtol=1e-5)
    mean, variance, prior_mean, prior_variance = others
    drawn = oracles.gaussian_nll(z, prior_mean, prior_variance)
    drawn = drawn - oracles.gaussian_nll(z, mean, variance)
    latent = DrawnLatent(z, *others)
    np.testing.assert_allclose(latent.kl(), drawn, rtol=1e-5)
    total = kvv.regularizers.KL()(z, (latent, Latent(z, *others)))
    np.testing.assert_allclose(total, drawn + expected, rtol=1e-5)


@each_inference
def test_logs_and_active_layers(inference):
    """Means over the data of each layer; a layer that nothing uses is not active."""
    layers = chains.heads(inference)
    vae, x = chains.model(inference, layers), chains.examples(50)
    vae.compile("sgd", **EAGER)
    logs = vae.evaluate(x, batch_size=20, return_dict=True, verbose=0)
    assert logs["kl"] == pytest.approx(logs["kl_1"] + logs["kl_2"], rel=1e-4)
    assert logs["active_layers"] == 2
    kl = vae.layer_kl(x, num_samples=10, seed=0)
    assert kl.shape == (50, 2)
    assert logs["kl_2"] == pytest.approx(float(np.mean(kl[:, 1])), rel=0.2)

    # z2 of q is the prior's, and z1 does not depend on it.
    vae.conditionals[0].mean.set_weights([0.0 * chains.W2, chains.B2])
    top = vae.posteriors[1]
    top.mean.set_weights([0.0 * w for w in top.mean.get_weights()])
    chains.set_spread(top, np.zeros(2))
    found = vae.active_layers(x, seed=0)
    assert found.count == 1
    assert found.kl[1] == pytest.approx(0, abs=1e-6) and found.kl[0] > 0.1
    assert vae.active_layers(x, threshold=1e6).count == 0


def test_annealing():
    """The weight of the schedule, and not more, in the loss."""
    vae, x = chains.model("bottom_up", chains.perturbed("bottom_up")), chains.examples()
    vae.compile(keras.optimizers.SGD(1e-3), **EAGER)
    schedule = kvv.callbacks.WeightSchedule([0.0, 0.25, 0.5])
    history = vae.fit(x, epochs=4, batch_size=6, verbose=0, callbacks=[schedule])
    history = history.history
    weights = (np.array(history["loss"]) - history["reconstruction"]) / history["kl"]
    np.testing.assert_allclose(weights, [0.0, 0.25, 0.5, 0.5], atol=1e-4)


# --------------------------------------------------------------------------------------
# One layer


def one_layer(inference, **arguments):
    """A VAE, and the model of one layer with equal weights."""
    vae = tiny.compiled(compile=EAGER, **arguments)
    other = tiny.make(**arguments)
    layered = kvv.HierarchicalVAE(
        [other.encoder],
        [other.decoder],
        [other.posterior],
        other.likelihood,
        prior=other.prior,
        regularizers=other.regularizers,
        inference=inference,
        seed=other.seed,
    )
    layered.compile(keras.optimizers.SGD(1e-3), **EAGER)
    return vae, layered


CASES = {
    "learned": {"variance": variances.Learned},
    "bilbo and baggins": {
        "variance": variances.Baggins,
        "posterior": posteriors.ConstantGaussian,
        "prior": kvv.priors.Floating,
        "regularizers": lambda: [kvv.regularizers.BILBO(), kvv.regularizers.DIP("II")],
    },
}


@pytest.mark.parametrize(
    "inference, case", list(zip(chains.INFERENCES, CASES, strict=True))
)
def test_one_layer_is_a_vae(inference, case):
    x = tiny.images(12)
    vae, layered = one_layer(inference, **CASES[case])
    for name in ("objective", "elbo"):
        expected = getattr(vae, name)(x)
        for term, values in getattr(layered, name)(x).items():
            np.testing.assert_array_equal(values, expected[term])
    options = {"batch_size": 4, "verbose": 0}
    expected, found = (m.fit(x, **options).history for m in (vae, layered))
    for name, values in expected.items():
        assert found[name] == values
    for method, arguments in (
        ("generate", {"num_samples": 3, "noise": True, "seed": 1}),
        ("encode", {"x": x, "sample": True, "seed": 1}),
        ("decode", {"z": noise(3, tiny.L)}),
        ("reconstruct", {"x": x}),
    ):
        expected, found = (getattr(m, method)(**arguments) for m in (vae, layered))
        pairs = map(keras.tree.flatten, (expected, found))
        for one, other in zip(*pairs, strict=True):
            np.testing.assert_array_equal(one, other)
    if vae.likelihood.normalized:
        expected, found = (
            kvv.metrics.log_likelihood(m, x, 3, seed=0) for m in (vae, layered)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert kvv.metrics.active_units(layered, x).count == tiny.L


# --------------------------------------------------------------------------------------
# All parts


def with_likelihood(likelihood, inference, event=contracts.EVENT, sizes=(3, 2)):
    nets = chains.networks(inference, likelihood, event, sizes)
    return kvv.HierarchicalVAE(*nets, None, likelihood, inference=inference, seed=0)


@pytest.mark.parametrize("cls, arguments", contracts.cases(likelihoods, variances))
def test_every_likelihood_and_variance(cls, arguments):
    """Trains, and evaluates, without being told of the layers."""
    part = contracts.make(cls, arguments)
    if isinstance(part, variances.Variance):
        part = likelihoods.Gaussian(part)
    x = np.round(255 * np.random.default_rng(0).random((6, *contracts.EVENT))) / 255
    x = np.round(x) if getattr(part, "binary", False) else x
    vae, x = with_likelihood(part, "bottom_up"), x.astype("float32")
    with tf.GradientTape() as tape:
        _, means, _ = vae._forward(x, True)
    assert all(np.isfinite(mean) for mean in means.values())
    weights = vae.trainable_variables
    slopes = tape.gradient(means["loss"], weights)
    for weight, slope in zip(weights, slopes, strict=True):
        # The head of Predicted has no part in its first stage.
        assert slope is not None or vae._stage() == 1, weight.path
        assert slope is None or np.isfinite(slope).all(), weight.path
    assert np.isfinite(vae.elbo(x, seed=0)["elbo"]).all()


def test_baggins_takes_the_information_of_all_layers():
    baggins = variances.Baggins(1.0)
    vae = with_likelihood(likelihoods.Gaussian(baggins), "top_down")
    x = np.random.default_rng(0).random((6, *contracts.EVENT), "float32")
    latents, _, _ = vae._pass(x, True, keras.random.SeedGenerator(0))
    ratios = [np.asarray(t.prior_variance / t.variance).sum(axis=1) for t in latents]
    found = float(baggins.information.value)
    assert found == pytest.approx(float(np.mean(np.sum(ratios, axis=0))), rel=1e-5)


# --------------------------------------------------------------------------------------
# Convolutions

SHAPE = (9, 7, 1)


def convolutional(inference="bottom_up", variance=None, **arguments):
    likelihood = likelihoods.Gaussian(variance or variances.Predicted())
    sizes = {"num_layers": 3, "channels": 4, "latent_channels": (2, 3, 1)}
    nets = backbones.hierarchical(
        SHAPE, likelihood, inference=inference, **(sizes | arguments)
    )
    return kvv.HierarchicalVAE(*nets, None, likelihood, inference=inference, seed=0)


@pytest.fixture
def x():
    return np.random.default_rng(0).random((5, *SHAPE), "float32")


@each_inference
def test_gradients_reach_every_weight(inference, x):
    vae = convolutional(inference)
    with tf.GradientTape() as tape:
        loss = vae._forward(x, True)[1]["loss"]
    weights = vae.trainable_variables
    for weight, slope in zip(weights, tape.gradient(loss, weights), strict=True):
        assert slope is not None and np.any(slope != 0), weight.path


@each_inference
def test_parameters_and_shapes_by_hand(inference):
    vae = convolutional(inference)
    assert vae.latent_shapes == ((5, 4, 2), (3, 2, 3), (2, 1, 1))
    assert vae.latent_dims == (40, 18, 2) and vae.latent_dim == 2

    def conv(k, into, out):
        return k * k * into * out + out

    block = 2 * conv(3, 4, 4)
    taken = (1, 2, 3) if inference == "bottom_up" else (1, 4, 4)
    expected = sum(conv(3, n, 4) + block for n in taken)  # encoders
    # z_1 to the image, mean and variance head; z_2 and z_3, doubled.
    expected += conv(3, 2, 4) + block + 2 * conv(4, 4, 1)
    expected += conv(4, 3, 4) + conv(4, 1, 4) + 2 * block
    # Posteriors, mean and log variance; p(z_1|z_2) and p(z_2|z_3).
    wide = 4 if inference == "bottom_up" else 8
    expected += 2 * (conv(1, wide, 2) + conv(1, wide, 3) + conv(1, 4, 1))
    expected += 2 * (conv(1, 4, 2) + conv(1, 4, 3))
    assert sum(int(np.prod(w.shape)) for w in vae.trainable_weights) == expected


def test_the_sides_of_fifteen_layers():
    likelihood = likelihoods.Gaussian(variances.Fixed(1.0))
    encoders, decoders = backbones.hierarchical((32, 32, 3), likelihood, channels=4)
    sides = [decoder.input_shape[1] for decoder in decoders]
    assert sides == [16] * 5 + [8] * 5 + [4] * 5
    assert [e.input_shape[1] for e in encoders] == [32, *sides[:-1]]
    assert decoders[0].output["mean"].shape == (None, 32, 32, 3)


@each_slowly
def test_file(inference, x, tmp_path):
    vae = convolutional(inference, num_layers=2, latent_channels=1)
    vae.compile(keras.optimizers.Adam(1e-3), **EAGER)
    vae.optimizer.build(vae.trainable_variables)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert loaded.inference == inference
    tiny.assert_same(tiny.state(loaded), tiny.state(vae))
    for name, value in vae.generate(2, seed=1).items():
        np.testing.assert_array_equal(loaded.generate(2, seed=1)[name], value)
    expected, found = (m.fit(x, verbose=0).history for m in (vae, loaded))
    assert found == expected


@each_slowly
def test_saved_model(inference, tmp_path):
    vae, x = chains.model(inference), chains.examples()
    vae.export(tmp_path / "model", verbose=False)
    served = tf.saved_model.load(tmp_path / "model")
    for layer, latent in enumerate(vae.encode_layers(x), start=1):
        found = served.encode(x)
        np.testing.assert_allclose(found[f"mean_{layer}"], latent.mean, atol=1e-5)
        np.testing.assert_allclose(
            found[f"variance_{layer}"],
            np.broadcast_to(latent.variance, latent.mean.shape),
            atol=1e-5,
        )
    seed = np.array([1, 2], "int32")
    for found, expected in (
        (served.reconstruct(x), vae.reconstruct(x)),
        (served.decode(noise(3, 2)), vae.decode(noise(3, 2))),
        (served.generate(3, seed), vae.generate(3, seed=seed)),
        (served.elbo(x, seed), vae.elbo(x, seed=seed)),
    ):
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_results_do_not_depend_on_chunks(monkeypatch, x):
    """Where there is no noise, or it is given by the example."""
    vae = convolutional("top_down", variances.Fixed(0.1))
    kept = [
        vae.reconstruct(x)["mean"],
        *(latent.mean for latent in vae.encode_layers(x)),
        vae.decode(noise(5, 18), depth=2)["mean"],
    ]
    monkeypatch.setattr(kvv.inference, "CHUNK", 2)
    monkeypatch.setattr(kvv.layered, "CHUNK", 2)
    cut = [
        vae.reconstruct(x)["mean"],
        *(latent.mean for latent in vae.encode_layers(x)),
        vae.decode(noise(5, 18), depth=2)["mean"],
    ]
    for one, other in zip(kept, cut, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    # Noise of their own for each part.
    same = np.repeat(x[:1], 4, axis=0)
    values = vae.elbo(same, num_samples=2, seed=0)["elbo"].numpy()
    assert len(set(values.tolist())) == 4
    assert vae.generate(5, seed=0)["mean"].shape == (5, *SHAPE)
    np.testing.assert_array_equal(vae.elbo(same, 2, seed=0)["elbo"], values)


def test_layers_draw_noise_of_their_own():
    vae = with_likelihood(likelihoods.Bernoulli(), "bottom_up", sizes=(2, 2, 2))
    x = np.full((4, *contracts.EVENT), 0.5, "float32")
    latents, _, _ = vae._pass(x, True, keras.random.SeedGenerator(0))
    draws = [np.asarray((t.sample - t.mean) / np.sqrt(t.variance)) for t in latents]
    assert len({np.round(float(v), 4) for d in draws for v in np.ravel(d)}) == 24


@each_slowly
def test_mixed_precision(inference, x):
    """The loss and its terms stay in float32, near those of float32 networks."""
    expected = convolutional(inference)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        vae = convolutional(inference)
    finally:
        keras.config.set_dtype_policy("float32")
    vae.set_weights(expected.get_weights())
    found = vae.elbo(x, num_samples=5, seed=0)
    for name, values in expected.elbo(x, num_samples=5, seed=0).items():
        assert found[name].dtype == "float32"
        np.testing.assert_allclose(found[name], values, rtol=0.05, atol=0.5)
    assert vae._forward(x, True)[1]["loss"].dtype == "float32"


# --------------------------------------------------------------------------------------
# Errors


def parts(inference="bottom_up"):
    likelihood = likelihoods.Gaussian(variances.Fixed(1.0))
    encoders, decoders = chains.networks(inference, likelihood)
    return {
        "encoders": encoders,
        "decoders": decoders,
        "posteriors": [posteriors.DiagonalGaussian(2) for _ in range(2)],
        "likelihood": likelihood,
        "inference": inference,
    }


def replaced(names, index, value):
    def change(given):
        given[names][index] = value
        return given

    return change


def branching():
    z = keras.Input((2,))
    return keras.Model(z, {"a": z, "b": z})


WRONG = {
    "encoders\\[1\\]` must take .*\\(None, 2\\)": replaced(
        "encoders", 1, chains.identity(3)
    ),
    "decoders\\[0\\]` must take .*\\(None, 2\\), that of z_1": replaced(
        "decoders", 0, chains.identity(3)
    ),
    "decoders\\[1\\]` must take .*that of z_2": replaced(
        "decoders", 1, chains.identity(3)
    ),
    "encoders\\[1\\]` must give one tensor": replaced("encoders", 1, branching()),
    "with a variance": replaced("posteriors", 0, posteriors.Deterministic(2)),
    "2 encoders, 1 decoders": lambda p: {**p, "decoders": p["decoders"][:1]},
    "2 and `conditionals` 1": lambda p: {**p, "posteriors": p["posteriors"][:1]},
    "must be of the same z_1": lambda p: {
        **p,
        "conditionals": [posteriors.DiagonalGaussian(3)],
    },
    "`conditionals` must be of keras_vae": lambda p: {**p, "conditionals": [None]},
    "`encoders` must be a list": lambda p: {**p, "encoders": p["encoders"][0]},
    "`inference` must be": lambda p: {**p, "inference": "sideways"},
    "several layers of latents, as KL": lambda p: {
        **p,
        "regularizers": [kvv.regularizers.DIP("I")],
    },
    "`likelihood` must be": lambda p: {**p, "likelihood": None},
    "`seed` must be": lambda p: {**p, "seed": 0.5},
}


@pytest.mark.parametrize("message", WRONG)
def test_parts_that_do_not_fit(message):
    with pytest.raises(ValueError, match=message) as error:
        kvv.HierarchicalVAE(**WRONG[message](parts()))
    assert "Received: " in str(error.value)


def test_features_that_do_not_fit_side_by_side():
    likelihood = likelihoods.Gaussian(variances.Fixed(1.0))
    encoders, decoders = backbones.hierarchical(
        (8, 8, 1), likelihood, 2, "top_down", channels=2, latent_channels=1
    )
    decoders[1] = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Conv2D(2, 1)])
    with pytest.raises(ValueError, match=r"`decoders\[1\]` and `encoders\[0\]`"):
        kvv.HierarchicalVAE(encoders, decoders, None, likelihood, inference="top_down")


def test_methods_that_need_more(x):
    vae = convolutional(variance=variances.Fixed(1.0))
    for call in (
        lambda: vae.encode(x),
        lambda: kvv.metrics.mutual_information(vae, x),
        lambda: kvv.samplers.GaussianMixture(2).fit(vae, x),
        lambda: kvv.metrics.local_smoothness(vae, x),
    ):
        with pytest.raises(ValueError, match="`depth` must be given"):
            call()
    for depth in (0, 4, True, "1"):
        with pytest.raises(ValueError, match="from 1 to 3"):
            vae.encode(x, depth=depth)
    for temperature in (-1.0, np.nan, (1.0, 1.0)):
        with pytest.raises(ValueError, match="`temperature`"):
            vae.generate(2, temperature=temperature)
    with pytest.raises(ValueError, match="z_1"):
        vae.decode(noise(2, 18))
    with pytest.raises(ValueError, match="z_3"):
        vae.generate(noise(2, 3, 4, 1))
    with pytest.raises(ValueError, match="`threshold`"):
        vae.active_layers(x, threshold=-1)
    assert vae.generate(noise(2, 2, 1, 1))["mean"].shape == (2, *SHAPE)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_layers": 0},
        {"latent_channels": (2, 2)},
        {"latent_channels": 0},
        {"inference": "up"},
        {"input_shape": (8,)},
        {"blocks": -1},
        {"channels": 1.5},
    ],
)
def test_sizes_that_cannot_be(arguments):
    likelihood = likelihoods.Gaussian(variances.Fixed(1.0))
    good = {"input_shape": (8, 8, 1), "likelihood": likelihood, "num_layers": 3}
    with pytest.raises(ValueError, match=next(iter(arguments))):
        backbones.hierarchical(**(good | arguments))


def test_default_posteriors_need_networks_of_known_shapes():
    class Encoder(keras.Model):
        input_shape = (None, 8, 8, 1)

        def call(self, x):
            return x

    likelihood = likelihoods.Gaussian(variances.Fixed(0.1))
    _, decoder = backbones.mlp((8, 8, 1), 2, likelihood)
    with pytest.raises(ValueError, match=r"Received: encoders\[0\]"):
        kvv.HierarchicalVAE([Encoder()], [decoder], None, likelihood)
