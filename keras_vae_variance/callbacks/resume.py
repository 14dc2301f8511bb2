"""A run that goes on where it was killed."""

import json
import os
import pathlib

import h5py
import keras
import numpy as np
from keras import ops

from .. import ops as kvv_ops

__all__ = ["Resume"]

_STATE = "state.weights.h5"
_UNFINISHED = "unfinished.weights.h5"
_RECORD = "resume"  # a data set of the file: the record in JSON
_ARRAYS = "resume_arrays"  # a group: those that other callbacks remember
_OVER = 2**31  # the epoch at which a run that was stopped goes on


class Resume(keras.callbacks.Callback):
    """Keeps the state of a run in a folder, and goes on from there.

    Started again with the same arguments, a run that was killed at any moment ends with
    the weights of one that was not: bit for bit on one device, where TensorFlow's
    operations are deterministic. The state is that of weights, optimizer, running
    averages, random generators, the order of the data, two-stage training, schedules,
    logs, `history`, and the numbers and lists of arrays that other callbacks remember
    (patience and best weights of `EarlyStopping`). `fit` calls it after all other
    callbacks.

    The state is one file, replaced as a whole, so that there is always a good one. It
    stays when the run ends: the same command then trains no more. Delete the folder to
    begin anew, or pass more epochs to go on; a run that a callback has stopped is over.
    Of several workers the chief writes; all
    read, so that they must share the folder.

    Data are read as in an uninterrupted run where their order is a function of the
    epoch, as that of arrays is. A stream is read from its beginning in every epoch, and
    in the middle of one the batches that were trained on are read and thrown away.
    `tf.data`'s `shuffle`, which orders each epoch anew, begins with its first order.

    Args:
        directory: the folder, made where it does not exist. One run has one folder.
        save_freq: `"epoch"`, or after how many batches the state is written, beside
            each epoch's end; the latter needs TensorFlow. With `steps_per_execution`
            it is written after the execution that reaches that number.

    Raises:
        ValueError: if `save_freq` is neither; and as `fit` begins, if the state is of
            another model.
        OSError: if the state cannot be written, as `fit` begins or later. What was
            written last is then still there.

    Example:

    >>> import tempfile
    >>> import keras, numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), "float32")
    >>> folder = tempfile.mkdtemp()
    >>> def train(epochs):
    ...     vae = kvv.recipes.vae((8, 8, 1), 2, backbone=kvv.backbones.mlp)
    ...     vae.compile(keras.optimizers.Adam(1e-3))
    ...     resume = kvv.callbacks.Resume(folder)
    ...     return vae.fit(x, epochs=epochs, callbacks=[resume], verbose=0)
    >>> losses = train(2).history["loss"]
    >>> longer = train(3)
    >>> longer.epoch, longer.history["loss"][:2] == losses
    ([0, 1, 2], True)
    """

    comes_last = True  # for `fit`: the state is that after all other callbacks

    def __init__(self, directory, save_freq="epoch"):
        super().__init__()
        batches = isinstance(save_freq, int) and not isinstance(save_freq, bool)
        if save_freq != "epoch" and not (batches and save_freq > 0):
            raise ValueError(
                '`save_freq` must be "epoch" or a positive number of batches. '
                f"Received: save_freq={save_freq!r}"
            )
        if batches:
            kvv_ops.need_tensorflow("Resume in the middle of an epoch")
        self.directory = pathlib.Path(directory)
        self.save_freq = save_freq
        self.others = []  # the other callbacks of the run: see `Fitting.fit`

    def on_train_begin(self, logs=None):
        """Loads the state, or writes the first one."""
        strategy = getattr(self.model, "distribute_strategy", None)
        self._writes = strategy is None or strategy.extended.should_checkpoint
        self._epochs, self._history = [], {}
        path = self.directory / _STATE
        self._restored = record = _read(path) if path.exists() else None
        # Before the chief writes, and another worker finds what it has written.
        place = (-1, 0) if record is None else (record["epoch"], record["step"])
        self.model.check_workers(epoch=place[0], step=place[1])
        if record is None:
            self._save(0, 0)  # before any work could be lost
        else:
            self._load(path, record)
            self._remind_others(record)  # also where no epoch is left

    def on_epoch_begin(self, epoch, logs=None):
        """Restores what Keras resets as the run begins."""
        self._epoch, self._saved_step, self._replayed = epoch, 0, None
        record, self._restored = self._restored, None
        if record is None:
            return
        self._saved_step = record["step"]
        self.model.skip_batches(record["step"])
        self._replayed = record if record["step"] else None
        averages = zip(self.model.metrics_variables, record["metrics"], strict=False)
        for variable, value in averages:  # of the epoch that was begun
            variable.assign(value)
        self._give_history(record)
        self._remind_others(record)

    def on_train_batch_end(self, batch, logs=None):
        """Writes the state each `save_freq` batches."""
        if self._replayed is not None:
            if batch + 1 >= self._replayed["step"]:
                # At batches that are thrown away, the others have changed things.
                self.model.load_weights(self.directory / _STATE)
                self._remind_others(self._replayed)
                self._replayed = None
            return
        if self.save_freq == "epoch" or batch + 1 < self._saved_step + self.save_freq:
            return
        self._saved_step = batch + 1
        self._save(self._epoch, batch + 1)

    def _remind_others(self, record):
        memories = zip(record["callbacks"], record["arrays"], strict=True)
        for callback, ((name, numbers), arrays) in zip(
            self.others, memories, strict=False
        ):
            if type(callback).__name__ == name:
                vars(callback).update(numbers | arrays)

    def on_epoch_end(self, epoch, logs=None):
        """Writes the state after the epoch."""
        self._epochs.append(epoch)
        for name, value in (logs or {}).items():
            self._history.setdefault(name, []).append(float(value))
        self._save(epoch + 1, 0)

    def on_train_end(self, logs=None):
        """Gives a run that was over already its history."""
        if self._restored is not None:
            self._give_history(self._restored)

    def _give_history(self, record):
        self.model.history.epoch = list(record["epochs"])
        history = {name: list(values) for name, values in record["history"].items()}
        self.model.history.history = history

    def _record(self, epoch, step):
        metrics = self.model.metrics_variables if step else []
        return {
            "epoch": epoch,
            "step": step,
            "seed": self.model.seed,
            "metrics": [float(ops.convert_to_numpy(v)) for v in metrics],
            "epochs": self._epochs,
            "history": self._history,
            "callbacks": [[type(c).__name__, _numbers(c)] for c in self.others],
            "stopped": bool(self.model.stop_training),
        }

    def _save(self, epoch, step):
        if not self._writes:
            return
        record = json.dumps(self._record(epoch, step)).encode()
        unfinished = self.directory / _UNFINISHED
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.model.save_weights(unfinished)
            with h5py.File(unfinished, "a") as file:
                file[_RECORD] = np.frombuffer(record, "uint8")
                for i, callback in enumerate(self.others):
                    for key, arrays in _arrays(callback).items():
                        for j, array in enumerate(arrays):
                            file[f"{_ARRAYS}/{i}/{key}/{j}"] = array
            with open(unfinished, "rb") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, self.directory / _STATE)
        except (OSError, RuntimeError) as error:  # h5py has both for a full disk
            unfinished.unlink(missing_ok=True)
            raise OSError(
                "`directory` must be a folder that can be written, with space left. "
                "The state that was written last, if any, is still there. "
                f"Received: directory={self.directory}: {error}"
            ) from error

    def _load(self, path, record):
        try:
            self.model.load_weights(path)
        except (ValueError, KeyError) as error:
            raise _foreign(path, error) from error
        # Where the seed was drawn, this process has drawn another one.
        self.model.seed = record["seed"]
        self.model._initial_epoch = _OVER if record["stopped"] else record["epoch"]
        self._epochs = list(record["epochs"])
        self._history = {name: list(v) for name, v in record["history"].items()}


def _read(path):
    try:
        with h5py.File(path, "r") as file:
            record = json.loads(file[_RECORD][()].tobytes())
            groups = [
                file.get(f"{_ARRAYS}/{i}", {}) for i in range(len(record["callbacks"]))
            ]
            record["arrays"] = [
                {
                    key: [arrays[str(j)][()] for j in range(len(arrays))]
                    for key, arrays in group.items()
                }
                for group in groups
            ]
            return record
    except (ValueError, KeyError) as error:
        raise _foreign(path, error) from error


def _foreign(path, error):
    return ValueError(
        "`directory` must hold the state of a run of this model, or nothing. "
        f"Received: directory={path.parent}: {error}"
    )


def _numbers(callback):
    """The numbers among the attributes of a callback."""
    kinds = (bool, int, float, type(None))
    return {key: v for key, v in vars(callback).items() if isinstance(v, kinds)}


def _arrays(callback):
    """The lists of arrays among them."""
    lists = {key: v for key, v in vars(callback).items() if isinstance(v, list)}
    return {
        key: v
        for key, v in lists.items()
        if v and all(isinstance(array, (np.ndarray, np.generic)) for array in v)
    }
