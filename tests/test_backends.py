"""The same recipes on TensorFlow, JAX and torch: run it with KERAS_BACKEND set."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
import worker
from backends import BACKEND, arrays
from tiny import images

import keras_vae_variance as kvv

# On TensorFlow the other files test the same, and processes of other backends are slow.
pytestmark = [pytest.mark.slow] if BACKEND == "tensorflow" else []

OTHERS = [name for name in ("tensorflow", "jax", "torch") if name != BACKEND]


def noiseless(**arguments):
    return tiny.compiled(
        arguments.pop("optimizer", None) or keras.optimizers.SGD(1e-3, momentum=0.9),
        **{"posterior": tiny.NoiselessDiagonal, **arguments},
    )


def batches(*parts):
    """A stream of batches."""
    for part in parts:
        yield (part,)


def bad(value=np.nan):
    x = images(4, seed=9)
    x[1, 2, 3, 0] = value
    return x


# --------------------------------------------------------------------------------------
# From one backend to another


@pytest.fixture(scope="module", params=OTHERS)
def exchange(request, tmp_path_factory):
    """A folder where this backend and another trained the same models."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp("exchange")
    for name, build in worker.EXCHANGED.items():
        build().save(folder / f"{name}.keras")
    worker.exchange(folder)
    tiny.run_worker("exchange", folder, KERAS_BACKEND=request.param)
    ours, theirs = (
        tiny.read_json(folder / f"{backend}.json")
        for backend in (BACKEND, request.param)
    )
    return folder, ours, request.param, theirs


@pytest.mark.parametrize("name", worker.EXCHANGED)
def test_backends_train_alike(exchange, name):
    _, ours, _, theirs = exchange
    ours, theirs = ours[name], theirs[name]
    terms = len(tiny.TERMS)
    if name == "two layers":
        terms += len(("kl_1", "kl_2", "active_layers"))
    stages = name == "two stages"
    assert len(ours["history"]) == (terms if stages else 2 * terms)
    assert ours["history"].keys() == theirs["history"].keys()
    for term, values in ours["history"].items():
        assert len(values) == 1 + stages
        # Sums over 36 pixels, of numbers of about 10.
        np.testing.assert_allclose(theirs["history"][term], values, 1e-5, 1e-4)
    tiny.assert_close(
        [(path, np.array(value)) for path, value in theirs["state"]],
        [(path, np.array(value)) for path, value in ours["state"]],
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("name", worker.EXCHANGED)
def test_a_model_of_another_backend_loads(exchange, name):
    folder, ours, other, theirs = exchange
    vae = keras.saving.load_model(folder / f"{name}.{other}.keras")
    # Weights, stage, running averages, optimizer and random state, bit for bit.
    for (_, value), (path, saved) in zip(
        tiny.state(vae), theirs[name]["state"], strict=True
    ):
        np.testing.assert_array_equal(value, np.array(saved, value.dtype), path)
    x = images(20)
    if name == "diag_i":
        x = np.round(255 * x).astype("uint8")
    reconstruction = arrays(vae.reconstruct(x))["mean"]
    np.testing.assert_allclose(
        reconstruction, theirs[name]["reconstruction"], 1e-5, 1e-6
    )
    # Not bound to what compiles best on the other backend.
    assert vae.jit_compile == ours[name]["jit_compile"] == (BACKEND == "jax")
    assert theirs[name]["jit_compile"] == (other == "jax")
    history = vae.fit(x, batch_size=8, initial_epoch=1, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


# --------------------------------------------------------------------------------------
# Training


def test_fit_improves_the_loss_and_logs_all_terms():
    vae = tiny.compiled(keras.optimizers.Adam(1e-2), variance=kvv.variances.Learned)
    x = images(32)
    history = vae.fit(
        x, epochs=8, batch_size=8, validation_data=images(8, seed=1), verbose=0
    ).history
    assert set(history) == {*tiny.TERMS, *(f"val_{name}" for name in tiny.TERMS)}
    assert history["loss"][-1] < history["loss"][0] - 1
    assert history["val_loss"][-1] < history["val_loss"][0] - 1
    for prefix in ("", "val_"):
        loss, nll, kl = (
            np.array(history[prefix + name])
            for name in ("loss", "reconstruction", "kl")
        )
        np.testing.assert_allclose(loss, nll + kl, 1e-5)
    assert all(isinstance(v, float) for values in history.values() for v in values)


KINDS = {"rae gp": {"kind": "gp"}, "rae sn": {"kind": "sn"}}


@pytest.mark.parametrize("name", [*kvv.recipes.__all__, *KINDS])
def test_every_recipe_trains(name):
    options = {"beta": 0.1} if name == "beta_vae" else KINDS.get(name, {})
    recipe = getattr(kvv.recipes, name.split()[0])
    vae = recipe((6, 6, 1), 2, backbone=kvv.backbones.mlp, **options)
    vae.compile(keras.optimizers.SGD(1e-5))
    x = np.round(255 * images(12)).astype("uint8")
    parts = vae.encoder, vae.posterior, vae.decoder
    weights = [weight for part in parts for weight in part.trainable_weights]
    start = [weight.numpy() for weight in weights]
    if name == "two_stage":
        _, history = kvv.fit_two_stage(
            vae, x, epochs=(1, 1), tolerance=None, batch_size=4, verbose=0
        )
    else:
        history = vae.fit(x, batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    pairs = zip(weights, start, strict=True)
    assert all(np.any(weight.numpy() != before) for weight, before in pairs)


def test_convolutions_by_winograd():
    layer = kvv.backbones.winograd.WinogradConvolution(64, 3, padding="same")
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 64)).astype("float32")
    expected = arrays(layer(x, training=False))
    got = arrays(layer(x, training=True))
    assert not np.array_equal(got, expected)  # it is computed otherwise
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_uint8_images_train_as_floats():
    x = np.round(255 * images(8)).astype("uint8")
    histories = [
        noiseless().fit(inputs, epochs=2, batch_size=4, verbose=0).history
        for inputs in (x, (x / 255).astype("float32"))
    ]
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, 1e-5)


def test_every_step_draws_its_own_noise():
    vae = tiny.compiled(keras.optimizers.SGD(0.0))
    x = images(8)
    history = vae.fit(x, epochs=3, batch_size=8, shuffle=False, verbose=0).history
    assert len(set(history["kl"])) == 1
    assert len(set(history["reconstruction"])) == 3
    evaluations = {vae.evaluate(x, verbose=0)[1] for _ in range(3)}
    assert len(evaluations) == 3
    # And the model is still that of before: a rerun draws the same.
    rerun = tiny.compiled(keras.optimizers.SGD(0.0))
    again = rerun.fit(x, epochs=3, batch_size=8, shuffle=False, verbose=0).history
    assert again == history


def test_evaluation_is_the_mean_of_the_objective():
    vae = noiseless(variance=kvv.variances.MaximumLikelihood)
    x, weights = images(11), np.arange(11) % 3 + 0.5
    vae.fit(x, batch_size=4, verbose=0)
    logs = vae.evaluate(
        x, batch_size=4, sample_weight=weights, return_dict=True, verbose=0
    )
    terms = arrays(vae.objective(x))
    for name, term in terms.items():
        expected = np.average(term, weights=weights)
        np.testing.assert_allclose(logs[name], expected, 1e-5)
    np.testing.assert_allclose(logs["loss"], logs["reconstruction"] + logs["kl"], 1e-5)
    loss = vae.compute_loss(x, sample_weight=weights.astype("float32"), training=False)
    np.testing.assert_allclose(float(loss), logs["loss"], 1e-5)


def test_integer_weights_are_repeated_examples():
    """In a step with a statistic of the batch, running averages and momenta too."""
    counts = np.array([2, 1, 0, 3, 1])
    x = images(5)
    states = []
    for inputs, weights in ((x, counts), (np.repeat(x, counts, axis=0), None)):
        vae = noiseless(
            variance=kvv.variances.MaximumLikelihood, prior=kvv.priors.Floating
        )
        vae.fit(inputs, sample_weight=weights, batch_size=8, epochs=2, verbose=0)
        states.append(tiny.state(vae))
    tiny.assert_close(*states, atol=1e-5)


def test_learned_starts_from_the_first_batch():
    vae = noiseless(
        variance=lambda: kvv.variances.Learned(per_pixel=True),
        optimizer=keras.optimizers.SGD(1e-3),
    )
    x = images(6)
    residual = x - arrays(vae.reconstruct(x))["mean"]
    start = float(np.mean(residual**2))
    history = vae.fit(x, verbose=0).history
    np.testing.assert_allclose(history["variance"], start, 1e-4)
    # The step from there: the slope of 1/2 sum (r^2 / v + log v), with v = exp(10 p).
    slope = 5 * (1 - np.mean(residual**2, axis=0, keepdims=True) / start)
    expected = np.log(start) / 10 - 1e-3 * slope
    parameter = arrays(vae.likelihood.variance_model.parameter)
    np.testing.assert_allclose(parameter, expected, 1e-4, 1e-6)


def test_training_goes_on_from_a_file_as_if_it_had_not_stopped(tmp_path):
    def start():
        return tiny.compiled(
            keras.optimizers.Adam(1e-2), variance=kvv.variances.MaximumLikelihood
        )

    x = images(12)
    straight = start()
    straight.fit(x, batch_size=8, epochs=3, verbose=0)
    vae = start()
    vae.fit(x, batch_size=8, epochs=1, verbose=0)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    loaded.fit(x, batch_size=8, epochs=3, initial_epoch=1, verbose=0)
    tiny.assert_close(tiny.state(loaded), tiny.state(straight))


def test_two_stages():
    """Weight decay, too, leaves alone what a stage has no use for."""
    vae = tiny.compiled(
        keras.optimizers.AdamW(1e-2, weight_decay=0.1),
        variance=kvv.variances.Predicted,
    )
    x = images(16)

    class Stage1(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(dict(tiny.state(self.model, random=False)))

    seen = [dict(tiny.state(vae, random=False))]
    _, history = kvv.fit_two_stage(
        vae, x, epochs=(2, 2), tolerance=None, callbacks=[Stage1()], verbose=0
    )
    variance = vae.likelihood.variance_model
    assert variance.stage == 2 and len(history.history["loss"]) == 4
    heads = [path for path in seen[0] if "raw_variance" in path]
    (parameter,) = [path for path in seen[1] if path.endswith("parameter")]
    (kernel,) = [path for path in seen[0] if path.endswith("spread/kernel")]
    assert heads
    for path in heads:
        np.testing.assert_array_equal(seen[2][path], seen[0][path])
        assert np.any(seen[4][path] != seen[2][path])
    assert seen[2][parameter] != seen[1][parameter]
    assert seen[4][parameter] == seen[2][parameter]
    for before, after in zip(seen, seen[1:], strict=False):
        assert np.any(before[kernel] != after[kernel])
    # A variance of its own for every pixel, above the floor.
    floor = float(arrays(variance.floor))
    assert floor == pytest.approx(0.5 * float(arrays(variance.v_dataset)))
    predicted = vae.predict(x, verbose=0)["variance"]
    assert predicted.min() > floor and predicted.std() > 0
    # Stage 1 again: what was compiled for stage 2 is not used.
    kvv.fit_two_stage(vae, x, epochs=(1, 1), tolerance=None, verbose=0)
    assert vae.likelihood.variance_model.stage == 2


# --------------------------------------------------------------------------------------
# Failures


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("value, words", [(np.nan, "x, recon"), (1e30, "recon")])
def test_a_bad_batch_changes_nothing(eager, value, words):
    def start():
        return tiny.compiled(
            keras.optimizers.Adam(1e-3),
            variance=kvv.variances.Learned,
            posterior=tiny.NoiselessDiagonal,
            encoder=lambda: tiny.dense_encoder(keras.layers.BatchNormalization()),
            prior=kvv.priors.Floating,
            compile={"run_eagerly": eager},
        )

    vae, other = start(), start()
    good = [images(4, seed=i) for i in range(2)]
    with pytest.raises(
        kvv.NonFiniteLossError, match=f"^Step 2 gave .*non-finite {words}.*loss"
    ):
        vae.fit(batches(*good, bad(value), *good), verbose=0)
    other.fit(batches(*good), verbose=0)
    tiny.assert_same(tiny.state(vae, random=False), tiny.state(other, random=False))
    before = tiny.state(vae, random=False)
    with pytest.raises(ValueError, match="`x` must be finite"):
        vae.evaluate(batches(*good, bad()), verbose=0)
    with pytest.raises(kvv.NonFiniteLossError, match="^Step 2 "):
        vae.train_on_batch(bad(1e30))
    tiny.assert_same(tiny.state(vae, random=False), before)
    history = vae.fit(batches(*good), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert len(tiny.changed(before, tiny.state(vae, random=False))) > 20


def test_the_first_batch_of_all_may_be_bad():
    vae = tiny.compiled(variance=kvv.variances.Learned)
    vae.optimizer.build(vae.trainable_variables)
    before = tiny.state(vae, random=False)
    with pytest.raises(kvv.NonFiniteLossError, match="^Step 0 "):
        vae.fit(batches(bad()), verbose=0)
    tiny.assert_same(tiny.state(vae, random=False), before)


def test_values_outside_the_unit_interval_are_the_datas_fault():
    vae = tiny.compiled(likelihood=kvv.likelihoods.Bernoulli)
    vae.fit(batches(images(4)), verbose=0)
    before = tiny.state(vae, random=False)
    for method in (vae.fit, vae.evaluate):
        with pytest.raises(ValueError, match=r"`x` must lie in \[0, 1\]") as error:
            method(batches(bad(1.5)), verbose=0)
        assert not isinstance(error.value, kvv.NonFiniteLossError)
    tiny.assert_same(tiny.state(vae, random=False), before)


@pytest.mark.parametrize("number", [0, 3])
def test_an_error_in_a_stream_leaves_the_model(number):
    """On JAX the trainer has the variables' values in its hands at that time."""
    vae, other = noiseless(), noiseless()
    good = [images(4, seed=i) for i in range(number)]
    narrow = images(4)[:, :3]

    def broken():
        yield from batches(*good)
        raise OSError

    for model in (vae, other):
        model.optimizer.build(model.trainable_variables)
    # TensorFlow has its own words for what happens in a generator.
    errors = (ValueError, OSError, tf.errors.OpError)
    with pytest.raises(errors):
        vae.fit(batches(*good, narrow, narrow), verbose=0)
    if good:
        other.fit(batches(*good), verbose=0)
    before = tiny.state(other, random=False)
    tiny.assert_same(tiny.state(vae, random=False), before)
    for method in (vae.evaluate, vae.predict):
        for stream in (batches(*good, narrow, narrow), broken()):
            with pytest.raises(errors):
                method(stream, verbose=0)
    tiny.assert_same(tiny.state(vae, random=False), before)


# --------------------------------------------------------------------------------------
# What a trained model is used for


def test_calibration_is_the_mean_over_the_data():
    vae = noiseless(variance=kvv.variances.MaximumLikelihood)
    x = images(11)
    vae.fit(x, batch_size=4, verbose=0)
    residual = x - arrays(vae.reconstruct(x))["mean"]
    assert vae.calibrate(x, batch_size=4) is vae
    running = arrays(vae.likelihood.variance_model.running.value)
    np.testing.assert_allclose(running.squeeze(), np.mean(residual**2), 1e-5)


def test_codes_images_and_bounds():
    vae = tiny.compiled()
    x = images(5)
    latent = vae.encode(x)
    draws = [arrays(vae.encode(x, sample=True, seed=s).sample) for s in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.all(draws[0] != draws[2]) and np.all(draws[0] != arrays(latent.mean))
    decoded = arrays(vae.decode(latent.mean))["mean"]
    np.testing.assert_allclose(arrays(vae.reconstruct(x))["mean"], decoded, 1e-5)
    np.testing.assert_allclose(vae.predict(x, verbose=0)["mean"], decoded, 1e-5)
    bound = arrays(vae.elbo(x, num_samples=200, seed=0))
    np.testing.assert_allclose(
        bound["elbo"], -(bound["reconstruction"] + bound["kl"]), 1e-5
    )
    tight = kvv.metrics.log_likelihood(vae, x, num_samples=200, seed=0)
    # log p(x) lies above the bound, but for the noise of 200 draws.
    assert np.all(tight > bound["elbo"] - 0.5)
    generated = arrays(vae.generate(3, noise=True, seed=4))
    again = arrays(vae.generate(3, noise=True, seed=4))
    for name, value in generated.items():
        assert value.shape == (3, *tiny.SHAPE)
        np.testing.assert_array_equal(again[name], value)
    assert np.any(generated["sample"] != generated["mean"])


@pytest.mark.parametrize(
    "sampler",
    [
        kvv.samplers.Prior(),
        kvv.samplers.OptimalPrior(),
        kvv.samplers.AggregatePosterior(),
        kvv.samplers.GaussianMixture(2),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_samplers(sampler, tmp_path):
    vae = tiny.compiled()
    x = images(12)
    sampler.fit(vae, x, seed=0)
    z = sampler.sample(5, seed=1)
    assert keras.ops.is_tensor(z) and z.shape == (5, tiny.L)
    expected = sampler.distribution.log_prob(arrays(z)).numpy()
    for codes in (z, arrays(z)):
        log_prob = sampler.log_prob(codes)
        assert keras.ops.is_tensor(log_prob)
        np.testing.assert_allclose(arrays(log_prob), expected, 1e-6)
    images_of = arrays(vae.generate(5, sampler=sampler, seed=3))
    np.testing.assert_array_equal(
        arrays(vae.generate(5, sampler=sampler, seed=3))["mean"], images_of["mean"]
    )
    assert images_of["mean"].shape == (5, *tiny.SHAPE)
    np.testing.assert_allclose(
        arrays(vae.decode(z))["mean"], arrays(vae.generate(z))["mean"], 1e-6
    )
    nats = kvv.metrics.log_likelihood(vae, x[:3], sampler=sampler, seed=0)
    assert nats.shape == (3,) and np.isfinite(nats).all()


def test_derivatives_of_the_decoder():
    """Forward mode, with and without probes, against the pull-back of every pixel."""
    vae, x = tiny.compiled(), images(3)
    z = vae.encode(x).mean

    def mean(z):
        return keras.ops.reshape(vae.decode(z)["mean"], (-1, 36))

    jacobian = arrays(kvv.ops.jacobian(mean, z))
    for pixel in (0, 17):
        u = keras.ops.one_hot(np.full(3, pixel), 36)
        rows = arrays(kvv.ops.vjp(mean, z)[1](u))
        np.testing.assert_allclose(jacobian[:, :, pixel], rows, 1e-4, 1e-7)
    norms = np.sum(jacobian.astype("float64") ** 2, axis=(1, 2))
    exact = kvv.metrics.local_smoothness(vae, x)
    np.testing.assert_allclose(float(exact), norms.mean(), 1e-5)
    probed = kvv.metrics.local_smoothness(vae, x, num_probes=200, seed=0)
    gap = kvv.metrics.expected_gap(vae, x, 1e-3, num_samples=200, seed=0)
    # Of 600 squares of Gaussians, by two parts at most: 4 sqrt(2 / 600).
    np.testing.assert_allclose(float(probed), norms.mean(), 0.25)
    np.testing.assert_allclose(float(gap) / 2e-3, norms.mean(), 0.25)
    assert kvv.metrics.log_evidence(vae, x).shape == (3,)
    assert float(kvv.metrics.constant_variance_penalty(vae, x)) >= 0
    assert kvv.metrics.optimal_decoder(vae, x, arrays(z)).shape == x.shape


def test_information_of_the_codes():
    vae, x = tiny.compiled(), images(12)
    marginal = kvv.metrics.marginal_kl(vae, x, seed=0)
    information = kvv.metrics.mutual_information(vae, x, seed=0)
    kl = np.mean(arrays(vae.elbo(x, seed=0))["kl"])
    np.testing.assert_allclose(float(marginal) + float(information), kl, 1e-4)
    np.testing.assert_allclose(
        kvv.metrics.linearized_elbo(vae, x)["kl"].mean(), kl, 1e-4
    )
    bound = kvv.metrics.mutual_information_bound(vae, x, seed=0)
    assert float(bound.included) < float(bound.left_out)
    sampler = kvv.samplers.Prior().fit(vae)
    assert abs(float(kvv.metrics.kl_to_prior(sampler, vae, 100, seed=0))) < 1e-5
    assert kvv.metrics.active_units(vae, x, 0.0).count == tiny.L


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has all of it")
def test_what_needs_tensorflow_says_so(tmp_path):
    vae = tiny.compiled()
    words = f"needs Keras's TensorFlow backend.*Received: backend={BACKEND}"
    with pytest.raises(RuntimeError, match=f"SavedModel {words}"):
        vae.export(tmp_path / "saved_model")
    assert not (tmp_path / "saved_model").exists()
    with pytest.raises(RuntimeError, match=f"SecondStage {words}"):
        kvv.samplers.SecondStage()
