"""A Gaussian decoder, with a variance model of choice."""

import keras
from keras import ops

from .. import ops as kvv_ops
from .base import MeanAndVariance

__all__ = ["Gaussian"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class Gaussian(MeanAndVariance):
    """A Gaussian with diagonal covariance.

        nll = 1/2 sum_k [ (x_k - mean_k)^2 / v_k + log v_k + log 2 pi ]

    P0, Eq. 8 and 11; P2, Section 3.1; P1, Eq. 7b, and P3, Eq. 10 and 11, without the
    constant. The decoder gives `mean`, final, and what the variance model asks for.

    Args:
        variance: one of `variances`; kept as `variance_model`.

    Raises:
        TypeError: if `variance` is not a variance model.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))
    >>> x = np.zeros((2, 8, 8, 1), "float32")
    >>> nll = likelihood(x, {"mean": x})
    >>> print(nll.shape, round(float(nll[0]), 3))  # 64/2 log(2 pi)
    (2,) 58.812
    """

    def call(self, x, parameters, latent=None, training=False):
        mean, v = self._mean_and_variance(x, parameters, latent, training)
        return -kvv_ops.gaussian_log_prob(x, mean, v)

    def mean(self, parameters):
        return ops.cast(parameters["mean"], "float32")

    def variance(self, parameters):
        v = self.variance_model.predict(parameters)
        return ops.broadcast_to(v, ops.shape(parameters["mean"]))

    def sample(self, parameters, seed=None):
        mean = self.mean(parameters)
        noise = kvv_ops.normal(ops.shape(mean), seed)
        return mean + ops.sqrt(self.variance_model.predict(parameters)) * noise

    def zscore(self, x, parameters, latent=None):
        mean, v = self._mean_and_variance(x, parameters, latent, training=False)
        return ops.convert_to_numpy((x - mean) / ops.sqrt(v)).astype("float64")
