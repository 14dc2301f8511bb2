"""One variance, or one a pixel, learned by gradient."""

import math
import numbers

import keras
from keras import ops

from .. import ops as kvv_ops
from .base import Variance

__all__ = ["Learned"]

# A decoder that fits its first batch exactly would start the logarithm at -inf.
_SMALLEST_START = 1e-10


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class Learned(Variance):
    """A global variance learned with the networks.

        v = exp(rate * parameter)

    P0, Eq. 9 (stage 1); P1, trainable Iso-I, and with `per_pixel` trainable Diag-I; P2,
    Eq. 3 (shared sigma-VAE); P3, Eq. 10 (LS-VAE). Its optimum is the mean squared error
    (P0, Eq. 10).

    Adam moves a parameter by at most its learning rate a step, so a log variance that
    starts at 0 takes 10,000 steps of 5e-4 to reach 0.0067. By default it starts at the
    mean squared error of the first batch and moves at ten times the learning rate.

    Args:
        per_pixel: one variance for each scalar of `x` instead of one for all.
        initial: the variance to start from, or None for the mean squared error of the
            first training batch. Until then the variance is 1. Rather too large than
            too small: gradients are `mse / v` times as large below the optimum, and
            Adam's steps stay small for long after them.
        rate: how far the log variance moves for each unit of its parameter. `initial=1`
            and `rate=1` are a plain log variance, `rate=2` P2's log stddev.

    Raises:
        ValueError: if `initial` or `rate` is not a positive finite number.

    Example:

    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Learned())
    >>> plain = kvv.variances.Learned(initial=1.0, rate=1.0)
    """

    def __init__(self, per_pixel=False, initial=None, rate=10.0, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("initial", initial), ("rate", rate)):
            if value is None and name == "initial":
                continue
            if not (isinstance(value, numbers.Real) and 0 < value < math.inf):
                raise ValueError(
                    f"`{name}` must be a positive finite number. "
                    f"Received: {name}={value}"
                )
        self.per_pixel = per_pixel
        self.initial = None if initial is None else float(initial)
        self.rate = float(rate)

    def build(self, squared_error_shape):
        shape = (1, *squared_error_shape[1:]) if self.per_pixel else ()
        self.parameter = self.add_weight(
            shape=shape,
            initializer=keras.initializers.Constant(self._initial_parameter()),
            aggregation="mean",
            name="parameter",
        )
        if self.initial is None:
            self.started = self.add_weight(
                shape=(),
                initializer="zeros",
                trainable=False,
                aggregation="mean",
                name="started",
            )

    def call(self, squared_error, parameters, latent=None, training=False):
        if training and self.initial is None:
            self._start(squared_error)
        return self.predict(parameters)

    def predict(self, parameters):
        return ops.exp(self.rate * self.parameter)

    def _initial_parameter(self):
        return 0.0 if self.initial is None else math.log(self.initial) / self.rate

    def _start(self, squared_error):
        batch = kvv_ops.batch_of(squared_error)
        # One number for all pixels: a pixel that is constant in the first batch would
        # else start at a variance of 0.
        start = ops.mean(batch.mean(squared_error))
        start = ops.log(ops.maximum(start, _SMALLEST_START)) / self.rate
        first = ops.logical_and(self.started < 0.5, batch.count > 0)
        # Added, so that the parameter's gradient passes where assignment is functional.
        step = ops.where(first, start - self.parameter, 0.0)
        self.parameter.assign(self.parameter + ops.stop_gradient(step))
        some = ops.cast(batch.count > 0, "float32")
        self.started.assign(ops.maximum(self.started, some))

    def get_config(self):
        return {
            **super().get_config(),
            "per_pixel": self.per_pixel,
            "initial": self.initial,
            "rate": self.rate,
        }
