"""The schedules: what they set, when, and that compiled steps follow them."""

import keras
import numpy as np
import pytest
import tiny

import keras_vae_variance as kvv
from keras_vae_variance.callbacks import (
    VarianceHistory,
    VarianceSchedule,
    WeightSchedule,
)

LEARNED = {
    "from 1": lambda: kvv.variances.Learned(initial=1.0),
    "from the data": kvv.variances.Learned,
}


def fit(vae, *callbacks, n=20, **arguments):
    arguments = {"batch_size": 8, "epochs": 2, "verbose": 0, **arguments}
    return vae.fit(tiny.images(n), callbacks=list(callbacks), **arguments).history


def networks(vae):
    """The weights that a learned and a fixed variance have in common."""
    return [
        weight.numpy()
        for part in (vae.encoder, vae.posterior, vae.decoder)
        for weight in part.weights
    ]


def value(vae):
    return float(vae.likelihood.variance_model.predict({}))


def mean_variance(vae):
    variance = vae.likelihood.variance_model.predict({})
    return float(np.mean(keras.ops.convert_to_numpy(variance)))


# Replays


@pytest.mark.parametrize("start", LEARNED)
def test_p3_replayed_schedule_gives_the_same_run(start):
    """P3, App. A.2; same weights, data and noise leave the rounding alone."""
    learned = tiny.compiled(keras.optimizers.Adam(1e-2), variance=LEARNED[start])
    record = VarianceHistory()
    logs = fit(learned, record)
    assert record.steps == list(range(6))
    assert np.ptp(record.variance) > 0.1 * record.variance[0]  # there is a schedule
    vae = tiny.compiled(keras.optimizers.Adam(1e-2))
    replayed = fit(vae, VarianceSchedule(record.variance))
    for name in ("loss", "reconstruction", "kl", "mse"):
        # Logs are means over an epoch: rounding of float32, and Adam's of it.
        np.testing.assert_allclose(replayed[name], logs[name], rtol=2e-6, err_msg=name)
    for a, b in zip(networks(vae), networks(learned), strict=True):
        # Adam's steps are of the size 1e-2 whatever the gradient's: ulps of 0.1.
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
    assert value(vae) == np.float32(record.variance[-1])
    replay = VarianceSchedule(record)
    assert [replay._at(step) for step in record.steps] == record.variance
    if start == "from 1":
        # The tolerance tells a replay from one that is a step late.
        late = tiny.compiled(keras.optimizers.Adam(1e-2))
        fit(late, VarianceSchedule(record.variance[:1] + record.variance))
        pairs = zip(networks(late), networks(vae), strict=True)
        assert max(np.abs(a - b).max() for a, b in pairs) > 1e-3


def test_the_path_of_the_optimal_variance_gives_the_same_run():
    """P2, Eq. 5: its gradient is that of a fixed variance, the batch's mean square."""
    optimal = tiny.compiled(
        keras.optimizers.Adam(1e-2), variance=kvv.variances.MaximumLikelihood
    )
    record = VarianceHistory()
    logs = fit(optimal, record)
    assert record.steps == list(range(6))
    # The running average, which is no step's own, is far from the last.
    assert abs(record.variance[-1] / mean_variance(optimal) - 1) > 0.01
    vae = tiny.compiled(keras.optimizers.Adam(1e-2))
    replayed = fit(vae, VarianceSchedule(record))
    for name in ("loss", "reconstruction", "kl", "mse"):
        # The record is exact to 6e-6 (`RunningAverage.taken_in`).
        np.testing.assert_allclose(replayed[name], logs[name], rtol=3e-5, err_msg=name)
    for a, b in zip(networks(vae), networks(optimal), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5)


def test_history_of_other_global_variances():
    """One a pixel is recorded by its mean, also where it is the batch's."""
    kinds = (kvv.variances.Learned, kvv.variances.MaximumLikelihood)
    for kind in kinds:
        vae = tiny.compiled(variance=lambda kind=kind: kind(per_pixel=True))
        record = VarianceHistory()
        fit(vae, record, epochs=1)
        assert record.steps == [0, 1, 2]
        assert record.variance[-1] != mean_variance(vae)
    averages = tiny.compiled(variance=kvv.variances.MaximumLikelihood)
    fit(averages, record, epochs=1)
    # Several steps an execution leave no more than the average before them.
    executions = tiny.compiled(
        variance=kvv.variances.MaximumLikelihood, compile={"steps_per_execution": 2}
    )
    few, before = VarianceHistory(), mean_variance(executions)
    if keras.backend.backend() != "torch":  # where Keras has none of them
        fit(executions, few, n=32, epochs=1)
        assert few.steps == [0, 2] and few.variance[0] == before
    # A further fit begins anew, at the step that the optimizer is at.
    fit(averages, record, epochs=1)
    assert record.steps == [3, 4, 5]
    assert record(4) == record.variance[1]
    assert record(0) == record(3) == record.variance[0]
    assert record(99) == record.variance[-1]
    with pytest.raises(ValueError, match="no record.*Received: step=0"):
        VarianceHistory()(0)


# Steps


class Seen(keras.callbacks.Callback):
    """The variance and the KL's weight after each execution."""

    def __init__(self):
        super().__init__()
        self.variance, self.weight = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.variance.append(value(self.model))
        self.weight.append(float(self.model.regularizers[0].weight))


def test_schedules_follow_the_optimizer(tmp_path):
    """Through epochs, a second fit, a file, gradient accumulation and executions."""
    steps, seen = [], Seen()

    def annealed(step):
        steps.append(step)
        return step / 8

    variance = VarianceSchedule([0.5, 0.4, 0.3, 0.2])
    callbacks = [variance, WeightSchedule(annealed), seen]
    vae = tiny.compiled(keras.optimizers.Adam(1e-3))
    fit(vae, *callbacks)
    assert steps == list(range(6))
    np.testing.assert_allclose(seen.variance, [0.5, 0.4, 0.3, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(seen.weight, np.arange(6) / 8)
    # A reloaded model has the scheduled values, not those of its configuration.
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert value(loaded) == np.float32(0.2)
    assert float(loaded.regularizers[0].weight) == 5 / 8
    assert loaded.likelihood.variance_model.value == 0.1
    for model in (loaded, vae):
        del steps[:]
        fit(model, *callbacks, epochs=1)
        assert steps == [6, 7, 8]
    tiny.assert_same(tiny.state(loaded), tiny.state(vae))

    accumulating = keras.optimizers.SGD(1e-3, gradient_accumulation_steps=2)
    for optimizer, compile, expected in (
        (accumulating, {}, [0, 0, 1, 1]),
        (keras.optimizers.SGD(1e-3), {"steps_per_execution": 2}, [0, 2]),
        (keras.optimizers.SGD(1e-3), {"run_eagerly": True}, [0, 1, 2, 3]),
    ):
        if "steps_per_execution" in compile and keras.backend.backend() == "torch":
            continue  # which Keras has not there
        del steps[:]
        record = VarianceHistory()
        vae = tiny.compiled(optimizer, compile=compile)
        fit(vae, WeightSchedule(annealed), variance, record, n=32, epochs=1)
        assert steps == record.steps == expected
        np.testing.assert_allclose(
            record.variance, [variance.schedule[step] for step in expected]
        )


def test_the_loss_follows_the_schedule():
    """A compiled step's terms make up its loss by the weight and variance set."""
    decay = keras.optimizers.schedules.ExponentialDecay(0.4, 1, 0.5)
    variances = [0.4, 0.2, 0.1]
    weights = [0.0, 0.25, 3.0]

    class Terms(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            nll = 0.5 * (
                logs["mse"] / variances[epoch]
                + 36 * np.log(2 * np.pi * variances[epoch])
            )
            np.testing.assert_allclose(logs["reconstruction"], nll, rtol=1e-4)
            loss = logs["reconstruction"] + weights[epoch] * logs["kl"]
            np.testing.assert_allclose(logs["loss"], loss, rtol=1e-5)
            np.testing.assert_allclose(logs["variance"], variances[epoch], rtol=1e-6)

    vae = tiny.compiled()
    callbacks = VarianceSchedule(decay), WeightSchedule(weights), Terms()
    logs = fit(vae, *callbacks, epochs=3, batch_size=20, validation_data=tiny.images(5))
    assert len(set(logs["loss"])) == 3
    # The validation after an epoch has the variance of the last step.
    evaluated = vae.evaluate(tiny.images(5), return_dict=True, verbose=0)
    np.testing.assert_allclose(evaluated["variance"], 0.1, rtol=1e-6)


def test_the_schedule_of_another_term():
    vae = tiny.compiled(
        posterior=kvv.posteriors.ConstantGaussian,
        prior=kvv.priors.Floating,
        regularizers=lambda: [kvv.regularizers.BILBO(0.5)],
    )
    fit(vae, WeightSchedule([0.5, 0.25], term="bilbo"), epochs=1)
    assert float(vae.regularizers[0].weight) == 0.25
    with pytest.raises(ValueError, match="bilbo. Received: term=kl"):
        fit(vae, WeightSchedule([1.0]))


# Errors


@pytest.mark.parametrize(
    "schedule", [0.5, [], [[1.0, 0.5]], "linear", None, [1.0, "half"], ["a"], {}]
)
def test_wrong_schedules(schedule):
    for callback in (VarianceSchedule, WeightSchedule):
        with pytest.raises(ValueError, match="`schedule` must .*Received: schedule"):
            callback(schedule)


@pytest.mark.parametrize("number", [-1.0, np.nan, np.inf, 0.0, 1e-50, [0.5]])
def test_wrong_numbers(number):
    """In a sequence at once; of a callable at the step that gives them."""
    usable_weight = number in (0.0, 1e-50)
    for callback in (VarianceSchedule, WeightSchedule):
        if callback is WeightSchedule and usable_weight:
            assert callback([1.0, number])._at(5) == 0.0
            assert callback(lambda step: number)._at(5) == 0.0
            continue
        with pytest.raises(ValueError, match="`schedule` must .*Received: schedule"):
            callback([1.0, number])
        vae = tiny.compiled(compile={"run_eagerly": True})
        schedule = callback(lambda step: number if step else 0.5)
        with pytest.raises(ValueError, match=r"Received: schedule\(1\)="):
            fit(vae, schedule)
        assert int(vae.optimizer.iterations) == 1


def test_models_that_have_no_such_number():
    """Told before any callback works or any step runs."""

    class Works(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise AssertionError("work began")

    for callback, arguments in (
        (VarianceSchedule([1.0]), {"variance": kvv.variances.Learned}),
        (VarianceSchedule([1.0]), {"likelihood": kvv.likelihoods.Bernoulli}),
        (VarianceHistory(), {"variance": kvv.variances.Predicted}),
        (VarianceHistory(), {"likelihood": kvv.likelihoods.Bernoulli}),
        (WeightSchedule([1.0], term="mmd"), {}),
        (WeightSchedule([1.0]), {"regularizers": list}),
    ):
        vae = tiny.compiled(compile={"run_eagerly": True}, **arguments)
        before = tiny.state(vae)
        with pytest.raises(ValueError, match="Received: "):
            fit(vae, Works(), callback)
        tiny.assert_same(tiny.state(vae), before)
