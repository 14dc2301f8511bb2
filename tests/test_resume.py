"""A killed run ends as if it had not been killed."""

import json
import os
import resource

import h5py
import keras
import numpy as np
import pytest
import tiny

import keras_vae_variance as kvv

Resume = kvv.callbacks.Resume


class Kill(keras.callbacks.Callback):
    """Ends a run after so many batches, as a killed process would."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_train_batch_end(self, batch, logs=None):
        self.batches -= 1
        if not self.batches:
            raise KeyboardInterrupt


def fit(
    folder=None,
    kill=None,
    epochs=3,
    save_freq=2,
    seed=5,
    callbacks=(),
    cls=kvv.VAE,
    **options,
):
    """The model and what `fit` returned; the model alone where it was killed."""
    vae = tiny.compiled(
        keras.optimizers.Adam(1e-2),
        variance=kvv.variances.Learned,
        seed=seed,
        cls=cls,
        compile={"run_eagerly": True},
    )
    if folder is not None:
        callbacks = [Resume(folder, save_freq), *callbacks]
    if kill is not None:
        callbacks = [*callbacks, Kill(kill)]
    options = {"validation_data": tiny.images(5, seed=1), "batch_size": 8, **options}
    x = options.pop("x", tiny.images(30))
    try:
        history = vae.fit(x, epochs=epochs, callbacks=callbacks, verbose=0, **options)
    except KeyboardInterrupt:
        return vae
    return vae, history


def assert_equal_runs(actual, desired):
    tiny.assert_same(tiny.state(actual[0]), tiny.state(desired[0]))
    assert actual[1].epoch == desired[1].epoch
    assert actual[1].history == desired[1].history


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(1, marks=pytest.mark.slow),
        4,
        pytest.param(11, marks=pytest.mark.slow),
    ],
)
def test_goes_on_where_it_was_killed(tmp_path, kill):
    straight = fit()
    fit(tmp_path, kill)
    assert_equal_runs(fit(tmp_path), straight)
    assert os.listdir(tmp_path) == ["state.weights.h5"]


@pytest.mark.slow
def test_several_layers_of_latents(tmp_path):
    straight = fit(cls=tiny.two_layers)
    fit(tmp_path, kill=4, cls=tiny.two_layers)
    assert_equal_runs(fit(tmp_path, cls=tiny.two_layers), straight)


def test_a_run_that_is_over_trains_no_more_and_can_go_on(tmp_path):
    done = fit(tmp_path)
    assert_equal_runs(fit(tmp_path), done)
    assert_equal_runs(fit(tmp_path, epochs=4), fit(epochs=4))


def test_seeds_that_were_drawn_are_kept(tmp_path):
    # Each call draws another seed, for noise and order.
    keras.utils.set_random_seed(1)
    first = fit(tmp_path, kill=6, seed=None)
    second, _ = fit(tmp_path, seed=None)
    assert second.seed == first.seed
    straight = fit(seed=first.seed)
    tiny.assert_same(tiny.state(second), tiny.state(straight[0]))


@pytest.mark.parametrize("steps_per_epoch", [None, 3])
def test_streams_are_read_up_to_where_it_was(tmp_path, steps_per_epoch):
    import tensorflow as tf

    def stream():
        data = tf.data.Dataset.from_tensor_slices(tiny.images(30)).batch(8)
        return data if steps_per_epoch is None else data.repeat()

    options = {"batch_size": None, "steps_per_epoch": steps_per_epoch, "epochs": 1}
    straight = fit(x=stream(), **options)
    fit(tmp_path, kill=3, x=stream(), **options)
    assert_equal_runs(fit(tmp_path, x=stream(), **options), straight)


def test_other_callbacks_keep_their_numbers(tmp_path):
    def callbacks():
        # Its first epoch is the best there will be.
        monitor = {"monitor": "val_loss", "mode": "max", "min_delta": 1e9}
        return [
            keras.callbacks.ReduceLROnPlateau(patience=2, factor=0.5, **monitor),
            kvv.callbacks.VarianceHistory(),
        ]

    straight = fit(epochs=5, callbacks=callbacks())
    assert straight[1].history["learning_rate"][-1] < 9e-3
    fit(tmp_path, kill=7, epochs=5, callbacks=callbacks())
    again = callbacks()
    assert_equal_runs(fit(tmp_path, epochs=5, callbacks=again), straight)
    # Batches that were thrown away have no record.
    assert again[1].steps == list(range(6, 20))


def test_early_stopping_keeps_its_best_weights_and_stays_stopped(tmp_path):
    def stopping():
        # The first epoch is the best there will be, and the third the last.
        return keras.callbacks.EarlyStopping(
            "val_loss",
            mode="max",
            min_delta=1e9,
            patience=2,
            restore_best_weights=True,
        )

    straight = fit(epochs=5, callbacks=[stopping()])
    assert straight[1].epoch == [0, 1, 2]
    fit(tmp_path, kill=10, epochs=5, callbacks=[stopping()])
    assert_equal_runs(fit(tmp_path, epochs=5, callbacks=[stopping()]), straight)
    # What is over stays so, and ends with the best weights again.
    assert_equal_runs(fit(tmp_path, epochs=5, callbacks=[stopping()]), straight)


class KillInValidation(keras.callbacks.Callback):
    def on_test_begin(self, logs=None):
        raise KeyboardInterrupt


def test_killed_when_all_batches_of_an_epoch_are_done(tmp_path):
    def schedule():
        # Of which validation sees the last step's, not that of the step to come.
        return kvv.callbacks.WeightSchedule([0.1, 0.3, 0.5, 0.7, 0.9, 2.0])

    straight = fit(callbacks=[schedule()], save_freq=1)
    fit(tmp_path, callbacks=[schedule(), KillInValidation()], save_freq=1)
    assert_equal_runs(fit(tmp_path, callbacks=[schedule()], save_freq=1), straight)


def test_it_comes_last_wherever_it_stands(tmp_path):
    class Late(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights = self.model.trainable_variables
            weights[0].assign(0.5 * weights[0])

    straight = fit(callbacks=[Late()])
    fit(tmp_path, kill=5, save_freq="epoch", callbacks=[Late()])
    assert_equal_runs(fit(tmp_path, callbacks=[Late()]), straight)


def test_executions_of_several_steps_in_graphs(tmp_path):
    def start():
        return tiny.compiled(
            keras.optimizers.Adam(1e-2), compile={"steps_per_execution": 2}
        )

    def run(kill=None):
        vae = start()
        callbacks = [Resume(tmp_path, 2)] + ([Kill(kill)] if kill else [])
        try:
            vae.fit(x, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
        except KeyboardInterrupt:
            pass
        return vae

    x = tiny.images(30)
    straight = start()
    straight.fit(x, batch_size=4, epochs=2, verbose=0)
    run(kill=6)
    tiny.assert_same(tiny.state(run()), tiny.state(straight))


def full_disk(folder):
    """What a run does whose state does not fit any more: its error, or None."""
    size = os.path.getsize(f"{folder}/state.weights.h5")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        fit(folder)
    except OSError as error:
        return str(error)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_state(tmp_path):
    fit(tmp_path, kill=5)
    before = (tmp_path / "state.weights.h5").read_bytes()
    # In a process of its own: HDF5 remembers a write that failed.
    done = tiny.run_worker("full_disk", tmp_path)
    assert "`directory` must be" in done and str(tmp_path) in done
    assert os.listdir(tmp_path) == ["state.weights.h5"]
    assert (tmp_path / "state.weights.h5").read_bytes() == before


def test_what_a_killed_write_leaves_behind_is_not_read(tmp_path):
    fit(tmp_path, kill=5)
    (tmp_path / "unfinished.weights.h5").write_bytes(b"half of it")
    assert_equal_runs(fit(tmp_path), fit())


def test_a_folder_that_cannot_be_written_is_known_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="directory"):
        fit(tmp_path / "file" / "folder")


def test_a_state_of_another_model(tmp_path):
    fit(tmp_path)
    other = kvv.recipes.vae((6, 6, 1), 3, backbone=kvv.backbones.mlp)
    other.compile("adam")
    with pytest.raises(ValueError, match="directory"):
        other.fit(tiny.images(8), callbacks=[Resume(tmp_path)], verbose=0)


def test_files_that_are_no_state(tmp_path):
    path = tmp_path / "state.weights.h5"
    tiny.compiled().save_weights(path)
    with pytest.raises(ValueError, match="directory"):
        fit(tmp_path)
    path.write_bytes(b"not HDF5")
    with pytest.raises(OSError):
        fit(tmp_path)


def test_long_histories_are_kept(tmp_path):
    # Beyond the 64 kB that an attribute of an HDF5 file can hold.
    vae, _ = fit(tmp_path, epochs=1)
    with h5py.File(tmp_path / "state.weights.h5", "a") as file:
        record = json.loads(file["resume"][()].tobytes())
        record["history"] = {"loss": list(np.random.default_rng(0).random(5000))}
        del file["resume"]
        file["resume"] = np.frombuffer(json.dumps(record).encode(), "uint8")
    _, history = fit(tmp_path, epochs=1)
    assert history.history == record["history"]


@pytest.mark.parametrize("save_freq", [0, -1, 1.5, "batch", True, None])
def test_bad_arguments(tmp_path, save_freq):
    with pytest.raises(ValueError, match="save_freq"):
        Resume(tmp_path, save_freq)


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments(tmp_path):
    path = tmp_path / "killed.json"
    tiny.run_worker("kill", path, 20)
    runs = tiny.read_json(path)["ended"]
    assert len(runs) >= 2
    (_, stage, epochs, history), *others = runs
    assert stage == 2 and epochs == [0, 1, 2, 3] and len(history["val_loss"]) == 4
    for run in others:
        assert run == runs[0]


@pytest.mark.slow
def test_a_killed_run_of_sequences_goes_on(tmp_path):
    straight = fit(cls=tiny.sequence)
    fit(tmp_path, kill=5, cls=tiny.sequence)
    assert_equal_runs(fit(tmp_path, cls=tiny.sequence), straight)
