"""The variance that maximises the likelihood of the batch, in closed form."""

import math
import numbers

import keras
from keras import ops

from .. import ops as kvv_ops
from ..running import RunningAverage
from .base import Variance

__all__ = ["MaximumLikelihood"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class MaximumLikelihood(Variance):
    """The maximum-likelihood variance in its four forms (P1, Table 2).

        Iso-I   mean of r^2 over batch and pixels      per_pixel=False per_example=False
        Diag-I  mean of r^2 over the batch             per_pixel=True  per_example=False
        Iso-D   mean of r^2 over the pixels            per_pixel=False per_example=True
        Diag-D  r^2                                    per_pixel=True  per_example=True

    Iso-I is P0, Eq. 10, and the optimal sigma-VAE of P2, Eq. 5; Iso-D is P2's optimal
    per-image sigma-VAE. Means over the batch are those of the global batch.

    Training holds `v` constant: at the maximum its gradient is zero, and with an
    `epsilon` constant `v` is what gives the gradient of P1's objectives. Generation
    takes a running average. So does evaluation for the two `-I` forms; the two `-D`
    forms are functions of `x` by definition, and their likelihood is not a normalised
    density.

    Args:
        per_pixel: one variance for each scalar of `x` instead of one for all.
        per_example: one variance for each example instead of one for the batch.
        epsilon: P1's constant, which keeps an exactly fitted pixel from variance 0. It
            is added to `v` in Diag-I and Diag-D, to the sum of squares in Iso-D (that
            is, epsilon/D to `v`), and not at all in Iso-I, as in P1.
        decay: of the running average, a batch.

    Raises:
        ValueError: if `epsilon` is negative, or `decay` not between 0 and 1.

    Example:

    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
    >>> diag_d = kvv.variances.MaximumLikelihood(per_pixel=True, per_example=True)
    """

    def __init__(
        self, per_pixel=False, per_example=False, epsilon=1e-6, decay=0.99, **kwargs
    ):
        super().__init__(**kwargs)
        if not (isinstance(epsilon, numbers.Real) and 0 <= epsilon < math.inf):
            raise ValueError(
                "`epsilon` must be a finite number of at least 0. "
                f"Received: epsilon={epsilon}"
            )
        self.per_pixel = per_pixel
        self.per_example = per_example
        self.epsilon = float(epsilon)
        self.decay = decay
        self.running = RunningAverage(initial=1.0, decay=decay, name="running")

    @property
    def batch_statistic(self):
        return not self.per_example

    @property
    def depends_on_x(self):
        return self.per_example

    def build(self, squared_error_shape):
        event_shape = squared_error_shape[1:]
        shape = (1, *event_shape) if self.per_pixel else (1,) * (len(event_shape) + 1)
        kvv_ops.build_once(self.running, shape)

    def call(self, squared_error, parameters, latent=None, training=False):
        if not (training or self.per_example):
            return self.predict(parameters)
        variance = self._estimate(squared_error)
        batch = kvv_ops.batch_of(squared_error)
        # One example does not give a variance for each of its pixels.
        lone = self.per_pixel and not self.per_example
        enough = batch.count > (1 if lone else 0)
        if training:
            mean = batch.mean(variance) if self.per_example else variance
            self.running.update(mean, batch.total, enough)
        if not self.per_example:
            # Nor does a batch without any: its mean of 0 would divide the error.
            variance = ops.where(enough, variance, self.predict(parameters))
        return variance

    def predict(self, parameters):
        return ops.copy(self.running.value)

    def _estimate(self, squared_error):
        variance = ops.stop_gradient(squared_error)
        epsilon = self.epsilon
        if not self.per_example:
            variance = kvv_ops.batch_mean(variance)
        if not self.per_pixel:
            axes = tuple(range(1, len(variance.shape)))
            variance = ops.mean(variance, axis=axes, keepdims=True)
            size = 1
            for axis in axes:
                size *= squared_error.shape[axis]
            epsilon = self.epsilon / size if self.per_example else 0.0
        return variance + epsilon

    def get_config(self):
        return {
            **super().get_config(),
            "per_pixel": self.per_pixel,
            "per_example": self.per_example,
            "epsilon": self.epsilon,
            "decay": self.decay,
        }
