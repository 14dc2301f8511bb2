"""A Student-t decoder."""

import math

import keras
import numpy as np
from keras import ops

from .. import ops as kvv_ops
from ..types import Head
from .base import Likelihood

__all__ = ["StudentT"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class StudentT(Likelihood):
    """A Student-t distribution for each scalar, with degrees of freedom of its own.

        nll = sum_k [ (n + 1)/2 log(1 + (x_k - mean_k)^2 / (n s^2)) + log s
                      + 1/2 log(pi n) + log Gamma(n/2) - log Gamma((n + 1)/2) ]
        s = exp(log_scale_k),   n = 2 + softplus(raw_degrees_k)

    P2, Table 2, after Takahashi et al. (2018). With more than two degrees of freedom
    the variance `s^2 n / (n - 2)` exists. The decoder gives `mean`, final, and
    `log_scale` and `raw_degrees`, before their links, each of the shape of `x`. It is a
    density on the whole line: `x` need not be in [0, 1].

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.StudentT()
    >>> zero = np.zeros((2, 8, 8, 1), "float32")
    >>> parameters = {"mean": zero, "log_scale": zero, "raw_degrees": zero}
    >>> print(likelihood(zero, parameters).shape)
    (2,)
    >>> round(float(likelihood.variance(parameters)[0, 0, 0, 0]), 3)  # 1 + 2 / log 2
    3.885
    """

    def heads(self, x_shape):
        x_shape = tuple(x_shape)
        return {
            "mean": Head(x_shape),
            "log_scale": Head(x_shape, role="variance"),
            "raw_degrees": Head(x_shape, role="variance"),
        }

    def call(self, x, parameters, latent=None, training=False):
        mean, log_scale, excess = self._read(parameters)
        n = 2.0 + excess
        z = (x - mean) * ops.exp(-log_scale)
        return kvv_ops.sum_event(
            0.5 * (n + 1.0) * ops.log1p(ops.square(z) / n)
            + log_scale
            + 0.5 * ops.log(math.pi * n)
            - _log_gamma_ratio(0.5 * n)
        )

    def mean(self, parameters):
        return ops.cast(parameters["mean"], "float32")

    def variance(self, parameters):
        _, log_scale, excess = self._read(parameters)
        return ops.exp(2.0 * log_scale) * (1.0 + 2.0 / excess)

    def sample(self, parameters, seed=None):
        mean, log_scale, excess = self._read(parameters)
        # Bailey (1994): the polar form of Box and Muller for any degrees of freedom.
        n, shape = 2.0 + excess, ops.shape(mean)
        u, angle = (
            keras.random.uniform(shape, dtype="float32", seed=kvv_ops.as_seed(part))
            for part in kvv_ops.split_seed(seed, 2)
        )
        # 1 - u is never 0.
        radius = ops.sqrt(n * ops.expm1(-2.0 / n * ops.log(1.0 - u)))
        return mean + ops.exp(log_scale) * radius * ops.cos(2.0 * math.pi * angle)

    def zscore(self, x, parameters, latent=None):
        # Keras has no incomplete beta function.
        from scipy.special import ndtri, stdtr

        mean, log_scale, excess = self._read(parameters)
        t, n = (
            ops.convert_to_numpy(a).astype("float64")
            for a in ((x - mean) * ops.exp(-log_scale), 2.0 + excess)
        )
        # In the lower tail, where F keeps its precision; down to z = -37.5.
        beyond = np.maximum(stdtr(n, -np.abs(t)), np.finfo("float64").tiny)
        return np.copysign(ndtri(beyond), t)

    def _read(self, parameters):
        """Mean, log scale, and the degrees of freedom beyond two."""
        mean, log_scale, raw_degrees = (
            ops.cast(parameters[name], "float32")
            for name in ("mean", "log_scale", "raw_degrees")
        )
        return mean, log_scale, ops.softplus(raw_degrees)


def _log_gamma_ratio(a):
    """`log Gamma(a + 1/2) - log Gamma(a)` for `a >= 1`, to 1e-6.

    By its own asymptotic series: a difference of two functions would cancel where `a`
    is large, and the Student-t near the Gaussian.
    """
    # Three steps of Gamma(a + 1) = a Gamma(a), which bring `a` to 4 and beyond.
    steps = sum(ops.log1p(-0.5 / (a + k + 0.5)) for k in range(3))
    a = a + 3.0
    inverse = 1.0 / a
    series = 0.5 * ops.log(a)
    for power, coefficient in ((1, -1 / 8), (3, 1 / 192), (5, -1 / 640)):
        series = series + coefficient * inverse**power
    return steps + series
