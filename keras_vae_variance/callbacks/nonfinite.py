"""Training that goes on over steps that fail."""

import warnings

import keras

from ..checks import check_integer
from ..steps import NonFiniteLossError

__all__ = ["SkipNonFinite"]


class SkipNonFinite(keras.callbacks.Callback):
    """Skips steps whose loss or gradient is NaN or infinite, and counts them.

    Without it the first such step ends training with `NonFiniteLossError`. With it the
    step changes nothing, as before, and training goes on with the next batch; that is
    for rare bad batches in long runs, not for a model that has diverged: `limit` such
    steps in a row end training after all. Logs and `history` hold the number of an
    epoch as `skipped`, and an epoch that skipped any warns.

    Args:
        limit: number of failing steps in a row that is too many.

    Attributes:
        skipped: number of steps that this `fit` has skipped.

    Raises:
        ValueError: if `limit` is not a positive integer.
        NonFiniteLossError: during `fit`, after `limit` failing steps in a row.

    Example:

    >>> import warnings
    >>> import keras, numpy as np, tensorflow as tf
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), "float32")
    >>> x[40] = np.nan
    >>> vae = kvv.recipes.vae((8, 8, 1), 2, backbone=kvv.backbones.mlp)
    >>> vae.compile(keras.optimizers.Adam(1e-3))
    >>> stream = tf.data.Dataset.from_tensor_slices(x).batch(16)
    >>> skip = kvv.callbacks.SkipNonFinite()
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     history = vae.fit(stream, callbacks=[skip], verbose=0)
    >>> skip.skipped
    1
    """

    def __init__(self, limit=10):
        super().__init__()
        check_integer("limit", limit)
        self.limit = int(limit)
        self.skipped = 0

    def on_train_begin(self, logs=None):
        """Lets the model skip, until this `fit` ends."""
        self.model.skip_nonfinite(True)
        self.skipped = self._in_a_row = self._before_epoch = 0
        self._batch = -1

    def on_epoch_begin(self, epoch, logs=None):
        """Counts for this epoch."""
        self._before_epoch, self._batch = self.skipped, -1

    def on_train_batch_end(self, batch, logs=None):
        """Counts, and ends a run that fails all the time."""
        new, steps = self.model.skipped_steps - self.skipped, batch - self._batch
        self.skipped, self._batch = self.model.skipped_steps, batch
        self._in_a_row = self._in_a_row + new if new == steps else 0
        if self._in_a_row >= self.limit:
            raise NonFiniteLossError(
                f"{self._in_a_row} steps in a row gave a value that is NaN or "
                "infinite. Weights, optimizer and running averages are as they were "
                f"before them. Received: limit={self.limit}"
            )

    def on_epoch_end(self, epoch, logs=None):
        """Reports what the epoch has skipped."""
        new = self.skipped - self._before_epoch
        if logs is not None:
            logs["skipped"] = new
        if new:
            warnings.warn(
                f"{new} steps of epoch {epoch + 1} gave a value that is NaN or "
                "infinite, and were skipped.",
                stacklevel=2,
            )

    def on_train_end(self, logs=None):
        """Lets the model stop at such steps again."""
        self.model.skip_nonfinite(False)
