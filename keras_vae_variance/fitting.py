"""Keras's `fit`, `evaluate` and `predict`, with the data checked and in order."""

import inspect

import keras
import numpy as np

from . import data
from .checks import check_integer

__all__ = ["Fitting"]


class Fitting:
    """A mixin of `VAE`: what it does with data before Keras takes over."""

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Trains the model; arguments and result are those of `keras.Model.fit`.

        Arrays are checked before training, streams batch by batch. The order of arrays
        is a function of the model's seed and of the epoch: epochs differ, a rerun
        repeats them and a resumed run continues them. Streams, a `PyDataset` too, are
        read in their own order.
        """
        self._check_compiled(class_weight)
        _check_batch_size(batch_size)
        self.check_workers(seed=self.seed)
        # BackupAndRestore leaves the epoch it resumed at behind, for every later fit.
        self._initial_epoch = None
        self.skip_batches(0)
        self.skip_nonfinite(False)
        callbacks = _in_order(list_of(callbacks))
        x, y, sample_weight = _take_apart(x, y, sample_weight)
        if data.is_array(x):
            x = np.asarray(x)
            self._check_array(x, batch_size or 32)
            sample_weight = self._check_weights(sample_weight, x)
            if validation_split and validation_data is None:
                x, sample_weight, validation_data = _split(
                    x, sample_weight, validation_split
                )
            y = _labels(sample_weight)
            if shuffle:
                arrays = (x,) if y is None else (x, y, sample_weight)
                order = _Order()
                x = data.shuffled(
                    arrays, batch_size or 32, order.seed, order.epoch, steps_per_epoch
                )
                callbacks = [order, *callbacks]
                y = sample_weight = steps_per_epoch = None
        elif validation_split and validation_data is None:
            raise ValueError(
                "`validation_split` needs arrays; pass `validation_data` beside a "
                f"stream. Received: validation_split={validation_split}"
            )
        if validation_data is not None:
            x_val, _, w_val = _take_apart(validation_data, None, None)
            if data.is_array(x_val):
                x_val = np.asarray(x_val)
                self._check_values(x_val, "validation_data")
                w_val = self._check_weights(w_val, x_val)
                validation_data = (x_val, _labels(w_val), w_val)
        return super().fit(
            x=x,
            y=y,
            batch_size=batch_size if data.is_array(x) else None,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_data=validation_data,
            shuffle=shuffle if data.is_array(x) else False,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size or batch_size,
            validation_freq=validation_freq,
        )

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        **kwargs,
    ):
        """The terms over a data set; arguments and result are those of Keras.

        Running averages take the place of batch statistics, and `z` is one draw of the
        posterior.
        """
        _check_batch_size(batch_size)
        x, _, sample_weight = _take_apart(x, y, sample_weight)
        if data.is_array(x):
            x = np.asarray(x)
            self._check_values(x, "x")
            sample_weight = self._check_weights(sample_weight, x)
        return super().evaluate(
            x=x,
            y=_labels(sample_weight),
            batch_size=batch_size,
            verbose=verbose,
            sample_weight=sample_weight,
            **kwargs,
        )

    def predict(self, x, batch_size=None, verbose="auto", **kwargs):
        """`reconstruct` over a data set; arguments are those of Keras."""
        _check_batch_size(batch_size)
        x, _, _ = _take_apart(x, None, None)
        if data.is_array(x):
            x = np.asarray(x)
            self._check_values(x, "x")
        return super().predict(x, batch_size=batch_size, verbose=verbose, **kwargs)

    def check_data(self, x, batch_size=None):
        """Raises what `fit` would of a model or of arrays that it cannot train with.

        Args:
            x: data in any form that `fit` takes; streams are left alone.
            batch_size: examples in a batch.
        """
        self._check_compiled(None)
        _check_batch_size(batch_size)
        x, _, _ = _take_apart(x, None, None)
        if data.is_array(x):
            self._check_array(np.asarray(x), batch_size or 32)

    def _check_compiled(self, class_weight):
        self._assert_compile_called("fit")
        if self._compile_loss is not None or self._compile_metrics is not None:
            raise ValueError(
                "A VAE is compiled with an optimizer alone: its loss is its own "
                "objective. Received: `loss` or `metrics` as an argument of compile()"
            )
        if class_weight is not None:
            raise ValueError(
                "Labels are ignored, so `class_weight` has no meaning; pass "
                f"`sample_weight`. Received: class_weight={class_weight}"
            )

    def _check_array(self, x, batch_size):
        self._check_values(x, "x")
        if x.min() == x.max():
            raise ValueError(
                "`x` must vary: a constant data set has no variance to learn. "
                f"Received: {len(x)} examples of the one value {x.flat[0]}"
            )
        parts = [self.likelihood, self.prior, *self.regularizers]
        names = [type(part).__name__ for part in parts if part.batch_statistic]
        if batch_size * self._steps == 1 and names:
            raise ValueError(
                f"`batch_size` must be at least 2: {', '.join(names)} takes a "
                "statistic of the batch, which one example does not have. "
                "Received: batch_size=1"
            )

    def _check_values(self, x, name):
        unit_interval = self.likelihood.unit_interval
        data.check_images(x, self.event_shape, unit_interval, name, what=self._shape_of)
        data.check_not_empty(x, name)

    def _check_weights(self, sample_weight, x):
        if sample_weight is None:
            return None
        weights = np.asarray(sample_weight, "float32")
        valid = np.isfinite(weights) & (weights >= 0)
        if weights.shape != (len(x),) or not valid.all():
            raise ValueError(
                f"`sample_weight` must be {len(x)} finite numbers of at least 0, one "
                f"for each example. Received: sample_weight of shape {weights.shape}, "
                f"with {valid.size - np.count_nonzero(valid)} invalid values"
            )
        return weights


class _Order(keras.callbacks.Callback):
    """Tells the shuffling the model's seed, which a resume may set, and the epoch."""

    def __init__(self):
        super().__init__()
        import tensorflow as tf

        self.seed = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

    def on_epoch_begin(self, epoch, logs=None):
        self.seed.assign(self.model.seed % 2**31)
        self.epoch.assign(epoch)


def list_of(callbacks):
    """The callbacks of `fit`, which may be one or none, as a list."""
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def _in_order(callbacks):
    """Puts those that save a run's state last, and tells them of the others."""
    last = [c for c in callbacks if getattr(c, "comes_last", False)]
    others = [c for c in callbacks if c not in last]
    for callback in last:
        callback.others = others
    return others + last


def _check_batch_size(batch_size):
    if batch_size is not None:
        check_integer("batch_size", batch_size)


def _take_apart(x, y, sample_weight):
    """Lets `fit((x, y))` mean what it does for a data set of such tuples."""
    if isinstance(x, (tuple, list)) and y is None and sample_weight is None:
        x, sample_weight = data.unpack(x)
    if inspect.isgenerator(x):
        x = data.as_tuples(x)
    return x, y, sample_weight


def _labels(weights):
    """Labels to pass beside weights, which Keras silently drops without any."""
    return None if weights is None else np.zeros(len(weights), "uint8")


def _split(x, weights, share):
    """Splits off the last examples for validation, as Keras does."""
    size = int(len(x) * (1.0 - share))
    if not 0 < size < len(x):
        raise ValueError(
            "`validation_split` must leave examples on both sides. "
            f"Received: validation_split={share} of {len(x)} examples"
        )
    held_out = (x[size:],)
    if weights is not None:
        held_out = (x[size:], None, weights[size:])
        weights = weights[:size]
    return x[:size], weights, held_out
