"""Two-stage training (P0, Algorithm 1)."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import keras_vae_variance as kvv

SHAPE = (6, 6, 1)


@pytest.fixture
def x():
    # One direction of variation, and noise: the closed form is far from 0 and from 1.
    rng = np.random.default_rng(0)
    pattern = np.linspace(-1, 1, 36).reshape(SHAPE)
    x = 0.5 + 0.3 * pattern * rng.uniform(-1, 1, (96, 1, 1, 1))
    return np.clip(x + rng.normal(0, 0.05, x.shape), 0, 1).astype("float32")


def make(link="sigmoid", seed=0, posterior=None, **arguments):
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted(link=link))
    encoder, decoder = kvv.backbones.mlp(SHAPE, 2, likelihood, hidden=(16,))
    posterior = posterior or kvv.posteriors.DiagonalGaussian(2)
    vae = kvv.VAE(encoder, decoder, posterior, likelihood, seed=seed)
    vae.compile(keras.optimizers.Adam(5e-3), **arguments)
    return vae


def head_of(vae):
    return [w.numpy().copy() for w in vae.decoder.get_layer("raw_variance").weights]


class Record(keras.callbacks.Callback):
    """What each epoch was trained with."""

    def __init__(self):
        super().__init__()
        self.stages, self.heads, self.globals, self.iterations = [], [], [], []

    def on_epoch_end(self, epoch, logs=None):
        variance = self.model.likelihood.variance_model
        self.stages.append(variance.stage)
        self.heads.append(head_of(self.model))
        self.globals.append(float(variance.stage1.predict({})))
        self.iterations.append(int(self.model.optimizer.iterations.numpy()))


def test_stages_epochs_and_what_trains_in_them(x):
    vae, record = make(), Record()
    before = head_of(vae)
    first = vae.encoder.get_weights()
    result, history = kvv.fit_two_stage(
        vae,
        x,
        epochs=(3, 2),
        tolerance=None,
        callbacks=[record],
        validation_data=x[:16],
        verbose=0,
    )
    assert result is vae
    assert history.epoch == [0, 1, 2, 3, 4]
    assert record.stages == [1, 1, 1, 2, 2]
    assert len(history.history["val_loss"]) == 5
    # The head stays out of stage 1, the global variance out of stage 2.
    for old, new in zip(before, record.heads[2], strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.abs(record.heads[4][0] - record.heads[2][0]).max() > 0
    assert record.globals[0] != record.globals[2]
    assert record.globals[2] == record.globals[4]
    # The encoder trains on in both, with a new optimizer in stage 2.
    assert np.abs(vae.encoder.get_weights()[0] - first[0]).max() > 0
    assert record.iterations == [3, 6, 9, 3, 6]


def test_the_floor_is_the_share_of_the_frozen_variance(x):
    for fraction in (0.5, 0.25):
        vae, record = make(), Record()
        kvv.fit_two_stage(
            vae,
            x,
            epochs=(2, 2),
            tolerance=None,
            floor_fraction=fraction,
            callbacks=[record],
            verbose=0,
        )
        variance = vae.likelihood.variance_model
        v_dataset = record.globals[1]
        assert float(variance.v_dataset) == pytest.approx(v_dataset, rel=1e-6)
        assert float(variance.floor) == pytest.approx(fraction * v_dataset, rel=1e-6)
        predicted = np.asarray(vae.reconstruct(x)["variance"])
        assert predicted.min() >= fraction * v_dataset * (1 - 1e-6)
        # P0's head is a sigmoid, so it cannot exceed 1 plus the floor either.
        assert predicted.max() < 1 + fraction * v_dataset
        # The bound of the sheet: no image can be more likely than at the floor.
        bound = -36 / 2 * np.log(2 * np.pi * fraction * v_dataset)
        assert kvv.metrics.log_likelihood(vae, x, 5, seed=0).max() < bound


@pytest.mark.parametrize("link", ["sigmoid", "softplus", "exp"])
def test_stage_2_starts_where_stage_1_ended(x, link):
    vae = make(link)
    variance = vae.likelihood.variance_model
    kvv.fit_two_stage(vae, x, epochs=(2, 1), tolerance=None, verbose=0)
    started = variance.predict({"raw_variance": np.zeros((1, 36), "float32")})
    np.testing.assert_allclose(started, float(variance.v_dataset), rtol=1e-5)


def test_stage_1_is_the_model_with_a_global_variance(x):
    """The same networks and seed, trained with `Learned` alone, to the last bit."""
    two_stage, plain = make(), make()
    plain.set_weights(two_stage.get_weights())
    head = keras.Model(plain.decoder.input, plain.decoder.output["mean"])
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Learned())
    plain = kvv.VAE(plain.encoder, head, plain.posterior, likelihood, seed=0)
    plain.compile(keras.optimizers.Adam(5e-3))
    stop = Stop(2)
    kvv.fit_two_stage(
        two_stage, x, epochs=(3, 1), tolerance=None, callbacks=[stop], verbose=0
    )
    history = plain.fit(x, epochs=2, verbose=0).history
    np.testing.assert_allclose(stop.losses, history["loss"], rtol=1e-5)
    assert float(two_stage.likelihood.variance_model.stage1.predict({})) == (
        pytest.approx(float(likelihood.variance_model.predict({})), rel=1e-5)
    )


@pytest.mark.slow
def test_stage_1_ends_at_the_closed_form():
    """P0, Eq. 10, with P0's Adam(5e-4) and its 3,760 steps."""
    (x, _), _ = kvv.datasets.digits()
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
    encoder, decoder = kvv.backbones.mlp((8, 8, 1), 8, likelihood, hidden=(64,))
    posterior = kvv.posteriors.DiagonalGaussian(8)
    vae = kvv.VAE(encoder, decoder, posterior, likelihood, seed=0)
    vae.compile(keras.optimizers.Adam(5e-4))
    with pytest.warns(UserWarning, match="stopped in stage 1"):
        kvv.fit_two_stage(
            vae,
            x,
            epochs=(157, 1),
            tolerance=None,
            batch_size=64,
            callbacks=Stop(157),
            verbose=0,
        )
    assert int(vae.optimizer.iterations) == 3768
    learned = float(likelihood.variance_model.stage1.predict({}))
    closed_form = vae.evaluate(x, verbose=0, return_dict=True)["mse"] / 64
    assert learned == pytest.approx(closed_form, rel=0.05)
    # It has come a long way: the first batch's error is over ten times as large.
    assert learned < 0.1 * np.mean((x - 0.5) ** 2)


class Stop(keras.callbacks.Callback):
    """Ends training after some epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs
        self.losses = []

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(logs["loss"])
        if epoch + 1 >= self.epochs:
            self.model.stop_training = True


def test_a_stage_ends_when_it_has_converged(x):
    vae, record = make(), Record()
    _, history = kvv.fit_two_stage(
        vae, x, epochs=(5, 4), tolerance=1e9, callbacks=[record], verbose=0
    )
    # The first epoch of a stage has nothing to compare with, the second converges.
    assert record.stages == [1, 1, 2, 2]
    assert history.epoch == [0, 1, 2, 3]
    assert int(vae.likelihood.variance_model.stage1_epochs) == 2


@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_tolerance_is_the_least_improvement(x, tolerance):
    vae, record = make(), Record()
    _, history = kvv.fit_two_stage(
        vae, x, epochs=(60, 1), tolerance=tolerance, callbacks=[record], verbose=0
    )
    ended = int(vae.likelihood.variance_model.stage1_epochs)
    improvements = -np.diff(history.history["loss"][:ended])
    assert (improvements[:-1] >= tolerance).all()
    assert improvements[-1] < tolerance or ended == 60


def test_another_global_model_for_stage_1(x):
    vae = make()
    stage1 = kvv.variances.MaximumLikelihood()
    kvv.fit_two_stage(vae, x, epochs=(2, 1), stage1=stage1, tolerance=None, verbose=0)
    variance = vae.likelihood.variance_model
    assert float(variance.v_dataset) == pytest.approx(
        float(np.mean(variance.stage1.running.value)), rel=1e-6
    )


def test_another_optimizer_for_stage_2(x):
    vae = make()
    kvv.fit_two_stage(
        vae,
        x,
        epochs=(1, 1),
        optimizer=keras.optimizers.RMSprop(1e-4),
        verbose=0,
    )
    assert isinstance(vae.optimizer, keras.optimizers.RMSprop)


def test_calling_again_starts_anew_and_plain_fit_trains_on(x):
    vae, record = make(), Record()
    kvv.fit_two_stage(vae, x, epochs=(1, 1), verbose=0)
    number = len(vae.weights)
    kvv.fit_two_stage(vae, x, epochs=(1, 1), callbacks=[record], verbose=0)
    assert record.stages == [1, 2]
    assert len(vae.weights) == number  # those of the first global model are gone
    floor = float(vae.likelihood.variance_model.floor)
    vae.fit(x, epochs=1, verbose=0)
    assert vae.likelihood.variance_model.stage == 2
    assert float(vae.likelihood.variance_model.floor) == floor


def test_a_saved_model_knows_its_stage(tmp_path, x):
    vae = make()
    kvv.fit_two_stage(
        vae, x, epochs=(3, 2), tolerance=None, callbacks=[Stop(2)], verbose=0
    )
    vae.save(tmp_path / "stage1.keras")
    loaded = keras.models.load_model(tmp_path / "stage1.keras")
    assert loaded.likelihood.variance_model.stage == 1
    np.testing.assert_array_equal(
        loaded.reconstruct(x)["variance"], vae.reconstruct(x)["variance"]
    )
    # It goes on in its stage, with its optimizer, and on to the second.
    record = Record()
    kvv.fit_two_stage(
        loaded,
        x,
        epochs=(3, 2),
        tolerance=None,
        initial_epoch=2,
        callbacks=[record],
        verbose=0,
    )
    assert record.stages == [1, 2, 2]
    assert record.iterations == [9, 3, 6]
    loaded.save(tmp_path / "stage2.keras")
    again = keras.models.load_model(tmp_path / "stage2.keras")
    variance = again.likelihood.variance_model
    assert variance.stage == 2
    assert float(variance.v_dataset) == float(
        loaded.likelihood.variance_model.v_dataset
    )
    np.testing.assert_array_equal(
        again.reconstruct(x)["variance"], loaded.reconstruct(x)["variance"]
    )


def test_unscaled_data_and_mixed_precision(x):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        vae = make("softplus")
        _, history = kvv.fit_two_stage(vae, x, epochs=(2, 2), verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(vae.optimizer, keras.optimizers.LossScaleOptimizer)
    assert not isinstance(
        vae.optimizer.inner_optimizer, keras.optimizers.LossScaleOptimizer
    )
    assert np.isfinite(history.history["loss"]).all()


INTERRUPTED = """
    import os, sys
    import keras
    import numpy as np
    import tensorflow as tf
    import keras_vae_variance as kvv
    from test_training import make

    keras.utils.set_random_seed(7)
    tf.config.experimental.enable_op_determinism()
    x = np.load(sys.argv[1])
    backup, weights, kill_after = sys.argv[2], sys.argv[3], int(sys.argv[4])
    optimizer = keras.optimizers.Adam(1e-3) if sys.argv[5] == "given" else None

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.epoch == kill_after and batch == 1:
                os._exit(9)

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    vae = make()
    _, history = kvv.fit_two_stage(
        vae, x, epochs=(3, 3), tolerance=None, optimizer=optimizer, verbose=0,
        validation_data=x[:16],
        callbacks=[keras.callbacks.BackupAndRestore(backup), Kill()],
    )
    slots = [np.array(v) for v in vae.optimizer.variables]
    np.savez(weights, *vae.get_weights(), *slots)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kill_after, optimizer", [(4, "given")])
def test_an_interrupted_run_resumes_to_the_last_bit(
    tmp_path, request, x, kill_after, optimizer
):
    np.save(tmp_path / "x.npy", x)

    def run(backup, weights, kill_after):
        return subprocess.run(
            [
                sys.executable,
                "-c",
                textwrap.dedent(INTERRUPTED),
                str(tmp_path / "x.npy"),
                str(tmp_path / backup),
                str(tmp_path / weights),
                str(kill_after),
                optimizer,
            ],
            capture_output=True,
            text=True,
            cwd=request.path.parent,
        )

    straight = run("straight", "straight.npz", -1)
    assert straight.returncode == 0, straight.stderr[-2000:]
    assert run("backup", "resumed.npz", kill_after).returncode == 9
    resumed = run("backup", "resumed.npz", -1)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    expected = np.load(tmp_path / "straight.npz")
    got = np.load(tmp_path / "resumed.npz")
    assert expected.files == got.files
    for name in expected.files:
        np.testing.assert_array_equal(got[name], expected[name])


MIRRORED = """
    import sys
    import keras
    import numpy as np
    import tensorflow as tf

    cpus = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], cpus
    )
    import keras_vae_variance as kvv
    from test_training import make
    from tiny import NoiselessDiagonal

    x, results = np.load(sys.argv[1]), []
    for strategy in (
        tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    ):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            vae = make(posterior=NoiselessDiagonal(2))
            # Adam would blow up the rounding of gradients near 0.
            vae.compile(keras.optimizers.SGD(1e-4, momentum=0.9))
        _, history = kvv.fit_two_stage(
            vae, x, epochs=(3, 2), tolerance=None, batch_size=28, verbose=0
        )
        variance = vae.likelihood.variance_model
        results.append((
            history.history["loss"],
            [kvv.ops.concrete(v) for v in (variance.v_dataset, variance.floor)],
            [kvv.ops.concrete(w) for w in vae.trainable_variables],
        ))
    for one, two in zip(results[0], results[1]):
        for a, b in zip(one, two):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
    assert kvv.ops.concrete(variance._stage) == 2
"""


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path, request, x):
    np.save(tmp_path / "x.npy", x)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MIRRORED), str(tmp_path / "x.npy")],
        capture_output=True,
        text=True,
        cwd=request.path.parent,
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_stage_2_has_the_optimizer_as_it_was_before_stage_1(x):
    vae, rates = make(), []

    class Reduce(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))
            self.model.optimizer.learning_rate = 1e-5

    kvv.fit_two_stage(
        vae, x, epochs=(2, 2), tolerance=None, callbacks=Reduce(), verbose=0
    )
    assert rates == pytest.approx([5e-3, 1e-5, 5e-3, 1e-5])


def test_stopping_in_stage_1_is_said(x):
    vae = make()
    with pytest.warns(UserWarning, match="stopped in stage 1"):
        kvv.fit_two_stage(vae, x, epochs=(3, 1), callbacks=Stop(1), verbose=0)


def test_bad_data_change_nothing(x):
    vae = make()
    kvv.fit_two_stage(vae, x, epochs=(1, 1), verbose=0)
    before = vae.get_weights()
    with pytest.raises(ValueError, match="finite"):
        kvv.fit_two_stage(vae, x * np.nan, verbose=0)
    for old, new in zip(before, vae.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    uncompiled = kvv.VAE.from_config(vae.get_config())
    with pytest.raises(ValueError, match="compile"):
        kvv.fit_two_stage(uncompiled, x, verbose=0)


def test_functions_follow_the_stage_of_the_weights(x):
    """As when EarlyStopping restores weights of stage 1."""
    vae, kept = make(), []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept.append(self.model.get_weights())

    kvv.fit_two_stage(vae, x, epochs=(1, 1), callbacks=Keep(), verbose=0)
    for weights in (kept[1], kept[0]):
        vae.set_weights(weights)
        np.testing.assert_allclose(
            vae.predict(x, verbose=0)["variance"],
            vae.reconstruct(x)["variance"],
            rtol=1e-4,
        )
    assert np.ptp(vae.predict(x, verbose=0)["variance"]) == 0  # the global one


def test_calibrate_in_stage_2_leaves_stage_1_alone(x):
    vae = make()
    stage1 = kvv.variances.MaximumLikelihood()
    kvv.fit_two_stage(vae, x, epochs=(1, 1), stage1=stage1, verbose=0)
    before = vae.get_weights()
    vae.calibrate(x)
    for old, new in zip(before, vae.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"epochs": 3}, "two positive integers"),
        ({"epochs": (3, 0)}, "two positive integers"),
        ({"epochs": (3, 1.5)}, "two positive integers"),
        ({"tolerance": "low"}, "number of nats"),
        ({"floor_fraction": 1.5}, "between 0 and 1"),
        ({"floor_fraction": -0.1}, "between 0 and 1"),
        ({"stage1": kvv.variances.Predicted()}, "needs no head"),
        ({"initial_epoch": 2}, "has no stage"),
    ],
)
def test_bad_arguments(x, arguments, words):
    vae = make()
    before = vae.get_weights()
    with pytest.raises(ValueError, match=words):
        kvv.fit_two_stage(vae, x, verbose=0, **arguments)
    for old, new in zip(before, vae.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_vae_without_a_variance_head(x):
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))
    encoder, decoder = kvv.backbones.mlp(SHAPE, 2, likelihood, hidden=(4,))
    vae = kvv.VAE(encoder, decoder, kvv.posteriors.DiagonalGaussian(2), likelihood)
    vae.compile("adam")
    with pytest.raises(ValueError, match="variance head from the start"):
        kvv.fit_two_stage(vae, x, verbose=0)


def test_misspelled_arguments_are_errors(x):
    with pytest.raises(TypeError, match="batchsize"):
        kvv.fit_two_stage(make(), x, batchsize=3)
