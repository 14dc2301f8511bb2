"""What a run did, step by step."""

import bisect

import keras
import numpy as np
from keras import ops

from .. import ops as kvv_ops
from .base import steps_taken, variance_model

__all__ = ["VarianceHistory"]


class VarianceHistory(keras.callbacks.Callback):
    """Records the decoder's global variance at every step of `fit`.

    The logs hold means over the batches of an epoch; this holds the variance that each
    step used, in squared units of `x`, the mean over the pixels where each has its own.
    Called with a step it gives the variance recorded there, so that
    `VarianceSchedule(history)` replays the run (P3, Fig. 10 and App. A.2).

    With `steps_per_execution=k` there is one record for `k` steps, that of the first.
    Of `variances.MaximumLikelihood` it is then the running average that the model has
    without `x`, as it is of `Baggins` always. As Keras's `History`, it begins anew with
    every `fit`.

    Attributes:
        steps: the optimizer's steps, a list of ints.
        variance: the variance that each of them used, a list of floats.

    Raises:
        ValueError: at the start of `fit`, if the model's variance is not a global one
            but predicted from `z`; and when called without a record.

    Example:

    >>> import keras, numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), "float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Learned(initial=1.0))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> vae.compile(keras.optimizers.Adam(1e-3))
    >>> record = kvv.callbacks.VarianceHistory()
    >>> history = vae.fit(x, callbacks=[record], verbose=0)
    >>> record.steps, record.variance[0]
    ([0, 1], 1.0)
    >>> replay = kvv.callbacks.VarianceSchedule(record)
    """

    def __init__(self):
        super().__init__()
        self.steps = []
        self.variance = []

    def __call__(self, step):
        """The variance at `step`: that of the last record up to it, or of the first."""
        if not self.steps:
            raise ValueError(
                "VarianceHistory holds no record: pass it to `fit` as a callback. "
                f"Received: step={step}"
            )
        return self.variance[max(bisect.bisect_right(self.steps, step) - 1, 0)]

    def set_model(self, model):
        """Checks that the model has a global variance."""
        super().set_model(model)
        variance = variance_model(model)
        of_example = variance is None or variance.depends_on_x
        if of_example or variance.heads(model.event_shape):
            raise ValueError(
                "VarianceHistory records a variance that all examples share, such as "
                f"variances.Learned. Received: model with the variance {variance}"
            )
        self._variance = variance

    def on_train_begin(self, logs=None):
        """Forgets an earlier run."""
        self.steps, self.variance = [], []
        self._starts = False

    def on_train_batch_begin(self, batch, logs=None):
        """Records the variance that this step uses, as far as it is known before."""
        self._before = None
        if getattr(self.model, "_batches_to_skip", 0):  # of a run that is resumed
            return
        self.steps.append(steps_taken(self.model))
        self._before = ops.convert_to_numpy(self._variance.predict({}))
        self.variance.append(float(np.mean(self._before)))
        # Learned starts within its first step, at the error of its first batch.
        started = getattr(self._variance, "started", None)
        self._starts = started is not None and not kvv_ops.concrete(started)

    def on_train_batch_end(self, batch, logs=None):
        """Corrects the record of a variance that is known after the step alone."""
        if self._starts:
            self.variance[-1] = float(logs["variance"])
        running = getattr(self._variance, "running", None)
        if running is None or self._before is None:
            return
        if steps_taken(self.model) == self.steps[-1] + 1:
            own = running.taken_in(self._before)
            self.variance[-1] = float(np.mean(own))
