"""`fit`, `evaluate` and `predict` work as a Keras user expects."""

import csv
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops
from tiny import TERMS, compiled, images

import keras_vae_variance as kvv
from keras_vae_variance import data

EAGER = {"run_eagerly": True}


def iso_i():
    return kvv.variances.MaximumLikelihood()


def diag_i():
    return kvv.variances.MaximumLikelihood(per_pixel=True)


def iso_d():
    return kvv.variances.MaximumLikelihood(per_example=True)


def by_hand(vae, x, batch_size, training, weights=None):
    """Means of the terms over the examples, from `objective` batch by batch."""
    weights = np.ones(len(x), "float32") if weights is None else weights
    sums, total = dict.fromkeys(TERMS, 0.0), 0.0
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        terms = vae.objective(x[part], training=training, sample_weight=weights[part])
        means = {
            name: float(np.average(term, weights=weights[part]))
            for name, term in terms.items()
        }
        parameters = vae.decode(vae.encode(x[part]).mean)
        variance = ops.convert_to_numpy(vae.likelihood.variance(parameters))
        squares = (x[part] - ops.convert_to_numpy(parameters["mean"])) ** 2
        means["loss"] = means["reconstruction"] + means["kl"]
        means["variance"] = float(
            np.average(variance.mean((1, 2, 3)), weights=weights[part])
        )
        means["mse"] = float(np.average(squares.sum((1, 2, 3)), weights=weights[part]))
        for name in TERMS:
            sums[name] += means[name] * weights[part].sum()
        total += weights[part].sum()
    return {name: value / total for name, value in sums.items()}


# --------------------------------------------------------------------------------------
# Logs


def test_terms_in_history_and_progress_bar(capsys):
    history = compiled(compile=EAGER).fit(
        images(6), epochs=2, verbose=2, validation_data=images(4, seed=1)
    )
    expected = set(TERMS) | {f"val_{name}" for name in TERMS}
    assert set(history.history) == expected
    assert all(len(values) == 2 for values in history.history.values())
    printed = capsys.readouterr().out
    for name in expected:
        assert f" {name}: " in printed


@pytest.mark.parametrize("variance", [tiny.fixed, iso_i, diag_i, iso_d])
@pytest.mark.parametrize("weighted", [False, True])
def test_history_weights_a_short_last_batch_rightly(variance, weighted):
    x = images(8)
    weights = np.arange(1.0, 9.0, dtype="float32") if weighted else None
    # At a learning rate of 0 every step sees the initial weights.
    vae = compiled(
        keras.optimizers.SGD(0.0),
        variance=variance,
        posterior=tiny.NoiselessDiagonal,
        compile=EAGER,
    )
    history = vae.fit(
        x, batch_size=3, shuffle=False, verbose=0, sample_weight=weights
    ).history
    again = tiny.make(variance=variance, posterior=tiny.NoiselessDiagonal)
    expected = by_hand(again, x, 3, training=True, weights=weights)
    for name in TERMS:
        assert history[name] == [pytest.approx(expected[name], rel=1e-5)], name


def test_steps_are_those_of_gradient_descent_on_the_objective():
    x = images(8)
    vae = compiled(
        keras.optimizers.SGD(1e-3), variance=iso_i, posterior=tiny.NoiselessDiagonal
    )
    vae.fit(x, batch_size=3, shuffle=False, epochs=2, verbose=0)
    again = compiled(variance=iso_i, posterior=tiny.NoiselessDiagonal)
    for start in [0, 3, 6] * 2:
        with tf.GradientTape() as tape:
            terms = again.objective(x[start : start + 3], training=True)
            loss = ops.mean(terms["reconstruction"] + terms["kl"])
        for variable, gradient in zip(
            again.trainable_variables,
            tape.gradient(loss, again.trainable_variables),
            strict=True,
        ):
            variable.assign(variable - 1e-3 * gradient)
    for actual, desired in zip(vae.weights, again.weights, strict=True):
        np.testing.assert_allclose(actual, desired, atol=1e-6, err_msg=actual.path)


@pytest.mark.parametrize("form", ["array", "(x,)", "(x, y)", "(x, y, w)", "tf.data"])
def test_validation_data_in_every_form(form):
    x, x_val = images(8), images(5, seed=1)
    labels, weights = np.arange(5), np.arange(5.0)
    validation_data = {
        "array": x_val,
        "(x,)": (x_val,),
        "(x, y)": (x_val, labels),
        "(x, y, w)": (x_val, labels, weights),
        "tf.data": tf.data.Dataset.from_tensor_slices((x_val, labels)).batch(2),
    }[form]
    vae = compiled(posterior=tiny.NoiselessDiagonal, compile=EAGER)
    history = vae.fit(
        x, epochs=2, verbose=0, validation_data=validation_data, validation_batch_size=2
    ).history
    expected = by_hand(
        vae, x_val, 2, training=False, weights=weights if form == "(x, y, w)" else None
    )
    for name in TERMS:
        assert history[f"val_{name}"][-1] == pytest.approx(expected[name], rel=1e-5)


def test_validation_split_holds_out_the_last_examples():
    x, weights = images(10), np.arange(10.0, dtype="float32")
    vae = compiled(posterior=tiny.NoiselessDiagonal, compile=EAGER)
    history = vae.fit(
        x, validation_split=0.3, sample_weight=weights, batch_size=4, verbose=0
    ).history
    expected = by_hand(vae, x[7:], 4, training=False, weights=weights[7:])
    assert history["val_loss"] == [pytest.approx(expected["loss"], rel=1e-5)]
    # Nothing of the last examples was trained on.
    again = compiled(posterior=tiny.NoiselessDiagonal, compile=EAGER)
    again.fit(x[:7], sample_weight=weights[:7], batch_size=4, verbose=0)
    tiny.assert_same(tiny.state(vae, False), tiny.state(again, False))


@pytest.mark.parametrize("variance", [iso_i, iso_d])
def test_evaluate_is_a_mean_over_examples(variance):
    x, weights = images(8), np.arange(8.0, dtype="float32")
    vae = compiled(variance=variance, posterior=tiny.NoiselessDiagonal, compile=EAGER)
    vae.fit(x, verbose=0)
    for w in [None, weights]:
        expected = by_hand(vae, x, 3, training=False, weights=w)
        before = tiny.state(vae, random=False)
        logs = vae.evaluate(x, batch_size=3, verbose=0, sample_weight=w)
        assert logs == pytest.approx([expected[name] for name in TERMS], rel=1e-5)
        logs = vae.evaluate(
            x, batch_size=3, verbose=0, sample_weight=w, return_dict=True
        )
        assert logs == pytest.approx(expected, rel=1e-5)
        tiny.assert_same(tiny.state(vae, random=False), before)


def test_predict_is_reconstruct():
    x = images(7)
    vae = compiled(variance=kvv.variances.Predicted)
    expected = vae.reconstruct(x)
    labelled = tf.data.Dataset.from_tensor_slices((x, np.arange(7))).batch(3)
    for given in [x, labelled, (x, np.arange(7)), np.float64(x)]:
        result = vae.predict(
            given, verbose=0, **({} if given is labelled else {"batch_size": 3})
        )
        assert set(result) == {"mean", "variance"}
        for name, value in result.items():
            assert value.shape == x.shape
            np.testing.assert_allclose(value, expected[name], rtol=1e-5)


# --------------------------------------------------------------------------------------
# Weights of examples


WEIGHTED = {
    "fixed": {},
    "iso_i": {"variance": iso_i},
    "diag_i": {"variance": diag_i},
    "iso_d": {"variance": iso_d},
    "learned": {"variance": kvv.variances.Learned},
    "bilbo": {
        "posterior": tiny.Noiseless,
        "prior": kvv.priors.Floating,
        "regularizers": lambda: [kvv.regularizers.BILBO()],
    },
}


@pytest.mark.parametrize("case", WEIGHTED)
def test_integer_weights_equal_repeated_examples(case):
    arguments = {"posterior": tiny.NoiselessDiagonal, **WEIGHTED[case]}
    x, repeats = images(4), np.array([2, 0, 1, 3])
    once = compiled(keras.optimizers.SGD(1e-4), compile=EAGER, **arguments)
    first = once.fit(x, sample_weight=repeats, epochs=2, verbose=0)
    other = compiled(keras.optimizers.SGD(1e-4), compile=EAGER, **arguments)
    second = other.fit(np.repeat(x, repeats, axis=0), epochs=2, verbose=0)
    assert changed_weights(once)
    tiny.assert_close(tiny.state(once, False), tiny.state(other, False))
    for name, values in second.history.items():
        assert first.history[name] == pytest.approx(values, rel=1e-5), name


def changed_weights(vae):
    """Whether training has moved the networks at all."""
    return not np.allclose(vae.encoder.get_weights()[0], tiny.make().encoder.weights[0])


def test_examples_of_weight_zero_do_not_matter():
    x = images(5)
    other = x.copy()
    other[3:] = 1.0 - other[3:]
    weights = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    states = []
    for given in (x, other):
        vae = compiled(variance=iso_i, posterior=tiny.NoiselessDiagonal, compile=EAGER)
        vae.fit(given, sample_weight=weights, verbose=0)
        states.append(tiny.state(vae))
    tiny.assert_close(*states)


# --------------------------------------------------------------------------------------
# Callbacks


def test_early_stopping_on_the_validation_loss():
    # At a learning rate of 0 nothing improves.
    vae = compiled(
        keras.optimizers.SGD(0.0), posterior=tiny.NoiselessDiagonal, compile=EAGER
    )
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2)
    history = vae.fit(
        images(6),
        epochs=9,
        verbose=0,
        validation_data=images(4, seed=1),
        callbacks=stop,
    )
    assert len(history.history["val_loss"]) == 3


def test_reduce_lr_on_plateau():
    vae = compiled(keras.optimizers.SGD(0.5e-9), compile=EAGER)
    reduce = keras.callbacks.ReduceLROnPlateau(
        "val_loss", factor=0.5, patience=1, min_delta=1e9
    )
    history = vae.fit(
        images(6), epochs=3, verbose=0, validation_split=0.5, callbacks=[reduce]
    )
    assert history.history["learning_rate"] == pytest.approx([5e-10, 5e-10, 2.5e-10])


def test_learning_rate_scheduler_is_in_effect():
    def at(epoch, rate):
        return [0.0, 1e-3][epoch]

    class Weights(keras.callbacks.Callback):
        seen = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append(self.model.encoder.get_weights()[0])

    vae = compiled()
    start = vae.encoder.get_weights()[0]
    vae.fit(
        images(6),
        epochs=2,
        verbose=0,
        callbacks=[keras.callbacks.LearningRateScheduler(at), Weights()],
    )
    assert np.array_equal(Weights.seen[0], start)
    assert not np.array_equal(Weights.seen[1], start)


def test_model_checkpoint_keeps_the_best(tmp_path):
    path = tmp_path / "best.keras"
    # Gradient ascent: the first epoch is the best.
    vae = compiled(
        keras.optimizers.SGD(-1e-3), posterior=tiny.NoiselessDiagonal, compile=EAGER
    )
    x_val = images(4, seed=1)
    history = vae.fit(
        images(6),
        epochs=3,
        verbose=0,
        validation_data=x_val,
        callbacks=[keras.callbacks.ModelCheckpoint(path, "val_loss", 0, True)],
    ).history["val_loss"]
    assert history == sorted(history) and history[0] < history[2]
    best = keras.saving.load_model(path)
    # The best weights with the optimizer of their own epoch, which had one step.
    assert int(best.optimizer.iterations) == 1
    best = best.evaluate(x_val, verbose=0, return_dict=True)
    assert best["loss"] == pytest.approx(history[0], rel=1e-6)


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    history = compiled(compile=EAGER).fit(
        images(6),
        epochs=2,
        verbose=0,
        validation_split=0.5,
        callbacks=[keras.callbacks.CSVLogger(path)],
    )
    with open(path) as file:
        rows = list(csv.DictReader(file))
    names = {"epoch", *TERMS, *(f"val_{name}" for name in TERMS)}
    assert [set(row) for row in rows] == [names] * 2
    assert [float(row["val_kl"]) for row in rows] == history.history["val_kl"]


# --------------------------------------------------------------------------------------
# Options of compile and of the optimizer


def trained(compile=None, posterior=kvv.posteriors.DiagonalGaussian):
    """State and history of two epochs of 5 batches, the last one short."""
    vae = compiled(
        keras.optimizers.SGD(1e-4),
        variance=kvv.variances.Learned,
        posterior=posterior,
        compile=compile,
    )
    history = vae.fit(
        images(20), batch_size=4, epochs=2, verbose=0, validation_split=0.1
    ).history
    assert changed_weights(vae)
    return tiny.state(vae), history


@functools.cache
def plainly_trained(posterior):
    return trained(posterior=posterior)


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_execution": 4},
        {"run_eagerly": True},
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_options_of_compile_change_no_result(options):
    # XLA has random numbers of its own.
    posterior = kvv.posteriors.DiagonalGaussian
    if "jit_compile" in options:
        posterior = tiny.NoiselessDiagonal
    expected, expected_history = plainly_trained(posterior)
    weights, history = trained(options, posterior)
    tiny.assert_close(weights, expected)
    for name, values in expected_history.items():
        assert history[name] == pytest.approx(values, rel=1e-5), name


def test_gradient_accumulation_equals_a_batch_of_both():
    x = images(8)
    states = []
    for batch_size, steps in [(2, 2), (4, None)]:
        optimizer = keras.optimizers.SGD(1e-2, gradient_accumulation_steps=steps)
        vae = compiled(optimizer, posterior=tiny.NoiselessDiagonal, compile=EAGER)
        vae.fit(x, batch_size=batch_size, shuffle=False, verbose=0)
        states.append([weight.numpy() for weight in vae.weights])
    for accumulated, whole in zip(*states, strict=True):
        np.testing.assert_allclose(accumulated, whole, atol=1e-6)


def test_gradient_accumulation_waits_for_its_last_step():
    optimizer = keras.optimizers.SGD(1e-2, gradient_accumulation_steps=2)
    vae = compiled(optimizer, compile=EAGER)
    before = vae.encoder.get_weights()
    vae.train_on_batch(images(4))
    for old, new in zip(before, vae.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    vae.train_on_batch(images(4))
    assert not np.array_equal(before[0], vae.encoder.get_weights()[0])


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def test_mixed_precision_trains(policy):
    x = images(32)
    vae = compiled(keras.optimizers.Adam(1e-2), variance=kvv.variances.Learned)
    assert vae.encoder.layers[-1].compute_dtype == policy.removeprefix("mixed_")
    scaling = isinstance(vae.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaling == (policy == "mixed_float16")
    for term in vae.objective(x).values():
        assert keras.backend.standardize_dtype(term.dtype) == "float32"
    assert {weight.dtype for weight in vae.trainable_weights} == {"float32"}
    history = vae.fit(x, batch_size=8, epochs=8, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 1
    assert set(vae.predict(x, verbose=0)) == {"mean", "variance"}


def test_mixed_precision_agrees_with_float32():
    losses = {}
    for policy in ["float32", "mixed_float16", "mixed_bfloat16"]:
        keras.config.set_dtype_policy(policy)
        try:
            vae = compiled(posterior=tiny.NoiselessDiagonal, compile=EAGER)
            losses[policy] = vae.evaluate(images(32), verbose=0)[0]
        finally:
            keras.config.set_dtype_policy("float32")
    assert losses["mixed_float16"] == pytest.approx(losses["float32"], rel=1e-3)
    assert losses["mixed_bfloat16"] == pytest.approx(losses["float32"], rel=1e-2)
    assert len(set(losses.values())) == 3


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_skipped_steps_of_the_loss_scale_are_no_errors(policy):
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1e-3), initial_scale=2.0**100
    )
    vae = compiled(optimizer)
    before = vae.get_weights()
    history = vae.fit(images(12), batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert float(optimizer.dynamic_scale) == 2.0**97
    assert int(optimizer.iterations) == 0
    for old, new in zip(before, vae.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    optimizer.dynamic_scale.assign(2.0**8)
    vae.fit(images(12), batch_size=4, verbose=0)
    assert int(optimizer.iterations) == 3
    assert not np.array_equal(before[0], vae.get_weights()[0])


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_added_losses_under_mixed_precision(policy):
    def encoder():
        return tiny.dense_encoder(keras.layers.Dense(8, activity_regularizer="l2"))

    vae = compiled(encoder=encoder, compile=EAGER)
    logs = vae.evaluate(images(4), verbose=0, return_dict=True)
    assert logs["loss"] > logs["reconstruction"] + logs["kl"]


# --------------------------------------------------------------------------------------
# One batch at a time


def test_train_on_batch_and_test_on_batch():
    x = images(6)
    vae = compiled(posterior=tiny.NoiselessDiagonal)
    expected = by_hand(vae, x, 6, training=False)
    logs = vae.test_on_batch(x, return_dict=True)
    assert logs == pytest.approx(expected, rel=1e-5)
    # The loss of a training step is that before its update.
    assert vae.train_on_batch(x) == pytest.approx(list(expected.values()), rel=1e-5)
    other = compiled(posterior=tiny.NoiselessDiagonal)
    other.fit(x, verbose=0)
    tiny.assert_close(tiny.state(vae, False), tiny.state(other, False))
    assert vae.test_on_batch(x)[0] < expected["loss"]
    result = vae.predict_on_batch(x)
    np.testing.assert_allclose(result["mean"], vae.reconstruct(x)["mean"], rtol=1e-5)


@pytest.mark.parametrize("eager", [False, True])
def test_train_on_batch_takes_uint8_and_weights(eager):
    levels = np.round(images(6) * 255).astype("uint8")
    weights = np.arange(6.0, dtype="float32")
    results = []
    for x in (levels, (levels / 255).astype("float32")):
        vae = compiled(posterior=tiny.NoiselessDiagonal, compile={"run_eagerly": eager})
        results.append(vae.train_on_batch(x, sample_weight=weights))
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    expected = by_hand(
        tiny.make(posterior=tiny.NoiselessDiagonal),
        np.float32(levels / 255),
        6,
        training=False,
        weights=weights,
    )
    assert results[0] == pytest.approx(list(expected.values()), rel=1e-5)


# --------------------------------------------------------------------------------------
# Forms of data


class Spy(kvv.VAE):
    """Keeps the batches that it is trained on."""

    def train_step(self, data):
        if not hasattr(self, "seen"):
            self.seen = []
        x, _, weights = keras.utils.unpack_x_y_sample_weight(data)
        self.seen.append((x.dtype, x.shape, np.asarray(x), weights))
        return super().train_step(data)


def test_uint8_equals_scaled_floats_and_stays_uint8_until_the_device():
    levels = np.random.default_rng(0).integers(0, 256, (9, *tiny.SHAPE), "uint8")
    floats = (levels / 255).astype("float32")
    results = []
    for x in (levels, floats):
        vae = compiled(cls=Spy, posterior=tiny.NoiselessDiagonal, compile=EAGER)
        history = vae.fit(x, batch_size=4, verbose=0, validation_data=x)
        results.append((vae, history.history))
    (vae, history), (other, expected) = results
    assert {dtype for dtype, *_ in vae.seen} == {tf.uint8}
    assert {dtype for dtype, *_ in other.seen} == {tf.float32}
    tiny.assert_close(tiny.state(vae), tiny.state(other))
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, rel=1e-5)
    np.testing.assert_allclose(
        vae.predict(levels, verbose=0)["mean"],
        other.predict(floats, verbose=0)["mean"],
        rtol=1e-5,
    )
    zero = tf.Variable(0, dtype=tf.int64)
    pipeline = data.shuffled((levels,), 4, zero, zero)
    assert pipeline.element_spec.dtype == tf.uint8


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def as_tf_data(batches):
    parts = [tf.data.Dataset.from_tensors(batch) for batch in batches]
    return parts[0].concatenate(parts[1])


def as_generator(batches):
    while True:
        yield from batches


CONTAINERS = {
    "tf.data": as_tf_data,
    "PyDataset": Batches,
    "generator": as_generator,
}
FORMS = {
    "x": lambda x, y, w: x,
    "(x,)": lambda x, y, w: (x,),
    "(x, y)": lambda x, y, w: (x, y),
    "(x, y, w)": lambda x, y, w: (x, y, w),
}


def form_fit(data, **arguments):
    vae = compiled(variance=iso_i, posterior=tiny.NoiselessDiagonal, compile=EAGER)
    history = vae.fit(data, epochs=2, verbose=0, **arguments)
    return tiny.state(vae), history.history["loss"]


@functools.cache
def array_fit(weighted):
    w = np.arange(1.0, 9.0) if weighted else None
    return form_fit(images(8), batch_size=4, shuffle=False, sample_weight=w)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_and_forms_equal_arrays(container, form):
    x, y, w = images(8), np.arange(8), np.arange(1.0, 9.0, dtype="float32")
    parts = [slice(0, 4), slice(4, 8)]
    batches = [FORMS[form](x[part], y[part], w[part]) for part in parts]
    steps = {"steps_per_epoch": 2} if container == "generator" else {}
    state, losses = form_fit(CONTAINERS[container](batches), **steps)
    expected, expected_losses = array_fit(form == "(x, y, w)")
    tiny.assert_close(state, expected)
    assert losses == pytest.approx(expected_losses, rel=1e-5)


def test_other_forms_of_arrays_and_evaluate_on_streams():
    x, w = images(8), np.arange(8.0)
    vae = compiled(posterior=tiny.NoiselessDiagonal, compile=EAGER)
    expected = vae.evaluate(x, sample_weight=w, verbose=0)
    for given in [
        (x, np.arange(8), w),
        [x, np.arange(8), w],
        (tf.constant(x), None, w),
        (x.astype("float64"), None, w),
    ]:
        assert vae.evaluate(given, verbose=0) == pytest.approx(expected, rel=1e-5)
    batches = [(x[:5], w[:5], w[:5]), (x[5:], w[5:], w[5:])]
    stream = Batches(batches)
    assert vae.evaluate(stream, verbose=0) == pytest.approx(expected, rel=1e-5)
    generator = (batch for batch in [x[:5], x[5:]])
    assert vae.evaluate(generator, steps=2, verbose=0) == pytest.approx(
        vae.evaluate(x, verbose=0), rel=1e-5
    )


# --------------------------------------------------------------------------------------
# What users' networks bring along


def test_losses_of_the_networks_are_in_the_loss_and_its_gradient():
    def encoder():
        return tiny.dense_encoder(
            tiny.MeanPenalty(),
            keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.1)),
        )

    def decoder():
        return keras.Sequential(
            [
                keras.Input((tiny.L,)),
                keras.layers.Dense(36, kernel_regularizer=keras.regularizers.L2(0.2)),
                keras.layers.Reshape(tiny.SHAPE),
            ]
        )

    x = images(6)
    arguments = {
        "encoder": encoder,
        "decoder": decoder,
        "posterior": tiny.NoiselessDiagonal,
    }
    vae = compiled(compile=EAGER, **arguments)
    kernels = [vae.encoder.layers[2].kernel, vae.decoder.layers[0].kernel]
    before = [kernel.numpy() for kernel in kernels]
    extra = 0.5 * np.mean(x**2)
    extra += 0.1 * np.sum(before[0] ** 2) + 0.2 * np.sum(before[1] ** 2)
    logs = vae.train_on_batch(x, return_dict=True)
    assert logs["loss"] == pytest.approx(
        logs["reconstruction"] + logs["kl"] + extra, rel=1e-5
    )
    tested = vae.test_on_batch(x, return_dict=True)
    assert tested["loss"] > tested["reconstruction"] + tested["kl"] + 0.5 * extra

    # Beside a model without regularizers, the step differs by their gradient.
    plain = compiled(compile=EAGER, **arguments)
    plain.encoder.layers[2].kernel_regularizer = None
    for kernel in (plain.encoder.layers[2].kernel, plain.decoder.layers[0].kernel):
        kernel.regularizer = None
    plain.train_on_batch(x)
    for kernel, other, old, factor in zip(
        kernels,
        (plain.encoder.layers[2].kernel, plain.decoder.layers[0].kernel),
        before,
        (0.1, 0.2),
        strict=True,
    ):
        np.testing.assert_allclose(
            kernel.numpy() - other.numpy(), -1e-3 * 2 * factor * old, atol=1e-7
        )


def test_frozen_weights_stay():
    vae = tiny.make(variance=kvv.variances.Learned)
    vae.encoder.trainable = False
    vae.decoder.layers[-2].trainable = False
    vae.compile(keras.optimizers.Adam(1e-2))
    frozen = [*vae.encoder.weights, *vae.decoder.layers[-2].weights]
    before = [weight.numpy() for weight in frozen]
    other = vae.decoder.layers[1].kernel.numpy()
    vae.fit(images(6), epochs=2, verbose=0)
    for weight, old in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert not np.array_equal(vae.decoder.layers[1].kernel, other)


def test_a_wholly_frozen_model_fits_without_change():
    vae = tiny.make()
    vae.trainable = False
    vae.compile("sgd")
    before = vae.get_weights()
    vae.fit(images(6), verbose=0)
    for weight, old in zip(vae.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


# --------------------------------------------------------------------------------------
# The order of the data


def orders(seed=5, size=10, **arguments):
    """The indices of the examples that each epoch trained on, batch by batch."""
    x = np.linspace(0, 1, size, dtype="float32").reshape(-1, 1, 1, 1)
    x = np.broadcast_to(x, (size, *tiny.SHAPE))
    vae = compiled(cls=Spy, seed=seed, compile=EAGER)
    ends = []

    class Ends(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            ends.append(len(vae.seen))

    vae.fit(x, batch_size=4, verbose=0, callbacks=[Ends()], **arguments)
    batches = [
        np.round(x[:, 0, 0, 0] * (size - 1)).astype(int).tolist()
        for _, _, x, _ in vae.seen
    ]
    starts = [0, *ends[:-1]]
    return [batches[a:b] for a, b in zip(starts, ends, strict=True)]


def test_epochs_differ_and_each_holds_every_example_once():
    epochs = orders(epochs=4)
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[4, 4, 2]] * 4
    flat = [sum(epoch, []) for epoch in epochs]
    assert all(sorted(epoch) == list(range(10)) for epoch in flat)
    assert len({tuple(epoch) for epoch in flat}) == 4
    assert list(range(10)) not in flat


def test_the_order_is_a_function_of_seed_and_epoch():
    epochs = orders(epochs=4)
    assert orders(epochs=4) == epochs
    assert orders(epochs=4, initial_epoch=2) == epochs[2:]
    assert orders(epochs=1, seed=6) != epochs[:1]


def test_the_order_goes_on_with_steps_per_epoch():
    straight = sum(orders(epochs=3), [])
    parts = orders(epochs=4, steps_per_epoch=2)
    assert sum(parts, []) == straight[:8]
    assert orders(epochs=4, steps_per_epoch=2, initial_epoch=3) == parts[3:]
    # More steps than one pass over the data has.
    assert sum(orders(epochs=1, steps_per_epoch=7), []) == straight[:7]


def test_shuffle_false_keeps_the_order():
    assert orders(epochs=2, shuffle=False) == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]] * 2


def test_weights_travel_with_their_examples():
    x = np.linspace(0, 1, 10, dtype="float32").reshape(-1, 1, 1, 1)
    x = np.broadcast_to(x, (10, *tiny.SHAPE))
    vae = compiled(cls=Spy, compile=EAGER)
    vae.fit(x, sample_weight=x[:, 0, 0, 0] * 3, batch_size=4, verbose=0)
    for _, _, x, weights in vae.seen:
        np.testing.assert_allclose(weights, x[:, 0, 0, 0] * 3)


def test_set_random_seed_decides_the_default_seed():
    seeds = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        likelihood = kvv.likelihoods.Gaussian(tiny.fixed())
        networks = kvv.backbones.mlp(tiny.SHAPE, 2, likelihood, hidden=())
        posterior = kvv.posteriors.DiagonalGaussian(2)
        seeds.append(kvv.VAE(*networks, posterior, likelihood).seed)
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Digests of the states that runs of 4 epochs end with; see `worker.resume`."""
    path = tmp_path_factory.mktemp("resume") / "digests.json"
    tiny.run_worker("resume", path)
    return tiny.read_json(path)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["rerun", "initial_epoch", "backup"])
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(resumed, run):
    assert resumed[run] == resumed["straight"]


@pytest.mark.slow
def test_other_runs_end_elsewhere(resumed):
    # Else the equalities above would show nothing.
    assert resumed["other seed"] != resumed["straight"]
    assert resumed["interrupted"] != resumed["straight"]


def test_xla_applies_the_optimizer_alike(monkeypatch):
    """To many weights; the schedule and the counter of steps go on as well."""
    x = tiny.images(40)

    def trained():
        rate = keras.optimizers.schedules.ExponentialDecay(1e-2, 5, 0.5)
        optimizer = keras.optimizers.Adam(rate, clipnorm=0.1)
        vae = tiny.compiled(optimizer, variance=kvv.variances.Learned)
        vae.fit(x, batch_size=8, epochs=2, verbose=0)
        return tiny.state(vae)

    applied = trained()
    compiled = []
    function = tf.function

    def noting(*arguments, **options):
        compiled.append(options.get("jit_compile"))
        return function(*arguments, **options)

    monkeypatch.setattr(kvv.steps.tensorflow, "_MANY_WEIGHTS", 0)
    monkeypatch.setattr(kvv.steps.tensorflow.tf, "function", noting)
    tiny.assert_close(trained(), applied, atol=1e-6)
    assert True in compiled


def test_nothing_is_traced_twice(monkeypatch):
    """Short batches, validation and a second `fit` need no graphs of their own."""
    traces = []
    forward = kvv.VAE._forward

    def noting(self, x, training, *arguments):
        traces.append(training)
        return forward(self, x, training, *arguments)

    monkeypatch.setattr(kvv.VAE, "_forward", noting)
    vae = compiled()
    arguments = {"batch_size": 8, "validation_batch_size": 6, "verbose": 0}
    vae.fit(images(20), epochs=3, validation_data=images(10), **arguments)
    first = list(traces)
    # The first of a full batch, the second of a batch of any size.
    assert first.count(True) <= 2 and first.count(False) <= 2
    vae.fit(images(20), epochs=2, validation_data=images(10), **arguments)
    vae.fit(images(13), validation_data=images(3), **arguments)
    assert traces == first


@pytest.mark.parametrize(
    "kind, steps",
    [("MirroredStrategy", 1), ("MirroredStrategy", 3), ("OneDeviceStrategy", 3)],
)
def test_a_strategy_of_one_device_changes_nothing(kind, steps):
    def trained():
        vae = compiled(
            keras.optimizers.Adam(1e-2),
            variance=kvv.variances.MaximumLikelihood,
            compile={"steps_per_execution": steps},
        )
        history = vae.fit(
            images(20), batch_size=8, epochs=2, validation_data=images(5), verbose=0
        )
        return tiny.state(vae), history.history

    device = ["CPU:0"] if kind == "MirroredStrategy" else "CPU:0"
    with getattr(tf.distribute, kind)(device).scope():
        state, history = trained()
    desired, desired_history = trained()
    tiny.assert_close(state, desired, atol=1e-6)
    assert history.keys() == desired_history.keys()
    for name, values in desired_history.items():
        assert history[name] == pytest.approx(values, rel=1e-5), name
