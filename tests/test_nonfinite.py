"""A step that meets NaN or infinity changes nothing, and says so."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import ops
from tiny import images

import keras_vae_variance as kvv

MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "steps_per_execution": {"steps_per_execution": 4},
    "mixed_float16": {"steps_per_execution": 4},
    "jit": {"jit_compile": True, "steps_per_execution": 4},
    "optimizer by XLA": {"steps_per_execution": 4},
}
SLOW = ("jit", "optimizer by XLA")


@pytest.fixture(
    params=[
        pytest.param(mode, marks=pytest.mark.slow if mode in SLOW else ())
        for mode in MODES
    ]
)
def options(request, monkeypatch):
    if request.param == "mixed_float16":
        keras.config.set_dtype_policy("mixed_float16")
    if request.param == "optimizer by XLA":
        monkeypatch.setattr(kvv.steps.tensorflow, "_MANY_WEIGHTS", 0)
    yield MODES[request.param]
    keras.config.set_dtype_policy("float32")


@keras.saving.register_keras_serializable(package="kvv_tests")
class Fragile(kvv.regularizers.Regularizer):
    """A term that is NaN, or has a gradient that is, where images are bright."""

    term = "fragile"

    def __init__(self, gradient_only=False, **kwargs):
        super().__init__(**kwargs)
        self.gradient_only = gradient_only

    def call(self, x, latent, decode=None, training=False):
        zero = 0.0 * ops.sum(latent.mean)
        bright = ops.max(x) > 0.99
        if self.gradient_only:
            # The square root has an infinite slope at 0, times 0.
            return ops.where(bright, ops.sqrt(zero), zero)
        return ops.where(bright, float("nan") + zero, zero)


def stream(*batches):
    dataset = tf.data.Dataset.from_tensor_slices(np.concatenate(batches))
    return dataset.batch(len(batches[0]), drop_remainder=True)


def good(number):
    return images(4, seed=number)


def with_value(number, value):
    x = good(number)
    x[1, 2, 3, 0] = value
    return x


def make(optimizer=None, compile=None, **arguments):
    """A model with every kind of state: Adam's slots, moments, Learned, a prior."""
    return tiny.compiled(
        optimizer or keras.optimizers.Adam(1e-3),
        compile=compile,
        variance=arguments.pop("variance", kvv.variances.Learned),
        encoder=lambda: tiny.dense_encoder(keras.layers.BatchNormalization()),
        prior=kvv.priors.Floating,
        **arguments,
    )


BAD = {
    "NaN": (np.nan, r"non-finite x, reconstruction.*kl.*loss"),
    # Finite, but its square is not.
    "overflow": (1e30, r"non-finite (?!x).*reconstruction.*loss"),
}


def test_a_bad_batch_amid_an_epoch_changes_nothing(options):
    check_bad_batch(options, *BAD["NaN"])


def test_an_overflow_amid_an_epoch_changes_nothing():
    check_bad_batch({}, *BAD["overflow"])


def check_bad_batch(options, value, message):
    vae, other = make(compile=options), make(compile=options)
    vae.optimizer.build(vae.trainable_variables)
    start = tiny.state(vae, random=False)
    with pytest.raises(kvv.NonFiniteLossError, match=message) as error:
        vae.fit(stream(good(0), good(1), with_value(2, value), good(3)), verbose=0)
    # As if training had ended before that batch.
    other.fit(stream(good(0), good(1)), verbose=0)
    # Steps that LossScaleOptimizer skips do not count.
    step = int(other.optimizer.iterations)
    assert step == 2 or keras.config.dtype_policy().name == "mixed_float16"
    assert f"Step {step} " in str(error.value)
    tiny.assert_same(tiny.state(vae, False), tiny.state(other, False))
    # Everything there is had changed until then, and does again afterwards.
    before = tiny.state(vae, random=False)
    assert len(tiny.changed(start, before)) > 20
    history = vae.fit(stream(good(3), good(4)), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    after = tiny.changed(before, tiny.state(vae, random=False))
    assert {"iteration", "moving_mean", "value", "kernel", "parameter"} <= {
        name.split("/")[-1] for name in after
    }


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_first_batch_of_all(policy):
    keras.config.set_dtype_policy(policy)
    try:
        vae = make(compile={"run_eagerly": True})
    finally:
        keras.config.set_dtype_policy("float32")
    vae.optimizer.build(vae.trainable_variables)
    before = tiny.state(vae, random=False)
    with pytest.raises(kvv.NonFiniteLossError, match="Step 0 "):
        vae.fit(stream(with_value(0, np.inf)), verbose=0)
    tiny.assert_same(tiny.state(vae, random=False), before)
    variance = vae.likelihood.variance_model
    assert float(variance.started) == 0.0 and float(variance.parameter) == 0.0


def test_a_frozen_likelihood_is_guarded_too():
    vae = tiny.make(variance=kvv.variances.Learned)
    vae.likelihood.trainable = False
    vae.compile("sgd", run_eagerly=True)
    with pytest.raises(kvv.NonFiniteLossError):
        vae.fit(stream(with_value(0, np.nan)), verbose=0)
    assert float(vae.likelihood.variance_model.parameter) == 0.0


def test_a_learning_rate_that_explodes(options):
    # Without gates in the way: the weights become huge in the first step.
    vae = make(keras.optimizers.SGD(1e30), options, variance=tiny.fixed)
    with pytest.raises(kvv.NonFiniteLossError, match="lower learning rate") as error:
        vae.fit(stream(*map(good, range(4))), epochs=3, verbose=0)
    assert "Step 1 " in str(error.value)
    other = make(keras.optimizers.SGD(1e30), options, variance=tiny.fixed)
    other.fit(stream(good(0)), verbose=0)
    tiny.assert_same(tiny.state(vae, False), tiny.state(other, False))
    for name, value in tiny.state(vae):
        assert np.isfinite(value).all(), name


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize("eager", [False, True])
def test_the_error_names_the_term(gradient_only, eager):
    vae = tiny.compiled(
        regularizers=lambda: [kvv.regularizers.KL(), Fragile(gradient_only)],
        compile={"run_eagerly": eager},
    )
    vae.optimizer.build(vae.trainable_variables)
    before = tiny.state(vae, random=False)
    vae.fit(stream(good(0)), verbose=0)
    assert tiny.changed(before, tiny.state(vae, random=False))
    before = tiny.state(vae, random=False)
    expected = "gradient" if gradient_only else "fragile, loss"
    with pytest.raises(
        kvv.NonFiniteLossError, match=f"Step 1 .*non-finite {expected}$"
    ):
        vae.fit(stream(with_value(1, 1.0)), verbose=0)
    tiny.assert_same(tiny.state(vae, random=False), before)


@pytest.mark.parametrize("eager", [False, True])
def test_train_on_batch_is_guarded(eager):
    vae = tiny.compiled(compile={"run_eagerly": eager})
    vae.train_on_batch(good(0))
    before = tiny.state(vae, random=False)
    with pytest.raises(ValueError, match="`x` must be finite" if eager else "finite x"):
        vae.train_on_batch(with_value(1, np.nan))
    tiny.assert_same(tiny.state(vae, random=False), before)
    assert np.isfinite(vae.train_on_batch(good(1))).all()


def test_accumulated_gradients_are_guarded():
    def start():
        optimizer = keras.optimizers.SGD(1e-3, gradient_accumulation_steps=2)
        return tiny.compiled(
            optimizer, posterior=tiny.NoiselessDiagonal, compile={"run_eagerly": True}
        )

    vae, other = start(), start()
    vae.fit(stream(good(0)), verbose=0)
    with pytest.raises(kvv.NonFiniteLossError):
        vae.fit(stream(with_value(1, np.nan)), verbose=0)
    vae.fit(stream(good(2)), verbose=0)
    other.fit(stream(good(0), good(2)), verbose=0)
    tiny.assert_same(tiny.state(vae, random=False), tiny.state(other, random=False))


@pytest.mark.parametrize("eager", [False, True])
def test_values_outside_the_unit_interval_are_the_datas_fault(eager):
    vae = tiny.compiled(
        likelihood=kvv.likelihoods.Bernoulli, compile={"run_eagerly": eager}
    )
    vae.fit(stream(good(0)), verbose=0)
    before = tiny.state(vae, random=False)
    for value in (1.5, -0.5):
        with pytest.raises(ValueError, match=r"`x` must lie in \[0, 1\]") as error:
            vae.fit(stream(with_value(1, value)), verbose=0)
        assert not isinstance(error.value, kvv.NonFiniteLossError)
        with pytest.raises(ValueError, match=r"`x` must lie in \[0, 1\]"):
            vae.evaluate(stream(with_value(1, value)), verbose=0)
    tiny.assert_same(tiny.state(vae, random=False), before)
    # The bounds themselves are inside.
    vae.fit(stream(with_value(1, 0.0), with_value(2, 1.0)), verbose=0)


def test_evaluation_of_bad_data_raises():
    vae = tiny.compiled(compile={"run_eagerly": True})
    with pytest.raises(ValueError, match="`x` must be finite") as error:
        vae.evaluate(stream(good(0), with_value(1, np.nan)), verbose=0)
    assert not isinstance(error.value, kvv.NonFiniteLossError)
    with pytest.raises(ValueError, match="`x` must be finite"):
        vae.fit(stream(good(0)), validation_data=stream(with_value(0, np.nan)))
    assert np.isfinite(vae.evaluate(stream(good(0)), verbose=0)).all()


# --------------------------------------------------------------------------------------
# Skipping


def test_bad_steps_are_skipped_and_counted(options):
    def train(*batches):
        vae = make(compile=options, posterior=tiny.NoiselessDiagonal)
        skip = kvv.callbacks.SkipNonFinite()
        history = vae.fit(stream(*batches), verbose=0, callbacks=[skip]).history
        return vae, skip, history

    bad = with_value(8, np.nan), with_value(9, np.inf)
    with pytest.warns(UserWarning, match="2 steps of epoch 1 .* were skipped"):
        vae, skip, history = train(good(0), bad[0], good(1), bad[1], good(2))
    other, none, clean = train(good(0), good(1), good(2))
    tiny.assert_same(tiny.state(vae, random=False), tiny.state(other, random=False))
    assert (skip.skipped, none.skipped) == (2, 0)
    assert history.pop("skipped") == [2] and clean.pop("skipped") == [0]
    assert history == clean
    # The next `fit` stops again.
    with pytest.raises(kvv.NonFiniteLossError):
        vae.fit(stream(bad[0]), verbose=0)


def test_a_run_that_fails_all_the_time_ends(options):
    vae = make(compile=options)
    vae.optimizer.build(vae.trainable_variables)
    before = tiny.state(vae, random=False)
    batches = [with_value(i, np.nan) for i in range(9)]
    skip = kvv.callbacks.SkipNonFinite(limit=3)
    with pytest.raises(kvv.NonFiniteLossError, match="in a row"):
        vae.fit(stream(*batches), verbose=0, callbacks=[skip])
    assert skip.skipped == options.get("steps_per_execution", 3)
    tiny.assert_same(tiny.state(vae, random=False), before)


def test_data_out_of_range_are_not_skipped():
    vae = tiny.compiled(likelihood=kvv.likelihoods.Bernoulli)
    skip = kvv.callbacks.SkipNonFinite()
    with pytest.raises(ValueError, match="must lie in"):
        vae.fit(stream(good(0), 2.0 + good(1)), verbose=0, callbacks=[skip])


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, None])
def test_bad_limit(limit):
    with pytest.raises(ValueError, match="limit"):
        kvv.callbacks.SkipNonFinite(limit)
