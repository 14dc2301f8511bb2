"""A Gaussian decoder, with a variance model of choice."""

import keras
from keras import ops

from .. import ops as kvv_ops
from ..types import Head
from ..variances import Variance
from .base import Likelihood

__all__ = ["Gaussian"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class Gaussian(Likelihood):
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

    def __init__(self, variance, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(variance, Variance):
            raise TypeError(
                "`variance` must be one of keras_vae_variance.variances, such as "
                f"variances.Fixed(1.0). Received: variance={variance}"
            )
        self.variance_model = variance

    @property
    def normalized(self):
        return not self.variance_model.depends_on_x

    @property
    def batch_statistic(self):
        return self.variance_model.batch_statistic

    def heads(self, x_shape):
        mean = {"mean": Head(tuple(x_shape))}
        return mean | self.variance_model.heads(tuple(x_shape))

    def build(self, x_shape):
        kvv_ops.build_once(self.variance_model, x_shape)

    def call(self, x, parameters, latent=None, training=False):
        squared_error = ops.square(x - ops.cast(parameters["mean"], "float32"))
        v = self.variance_model(squared_error, parameters, latent, training=training)
        return 0.5 * kvv_ops.sum_event(
            squared_error / v + ops.log(v) + kvv_ops.LOG_2_PI
        )

    def mean(self, parameters):
        return ops.cast(parameters["mean"], "float32")

    def variance(self, parameters):
        v = self.variance_model.predict(parameters)
        return ops.broadcast_to(v, ops.shape(parameters["mean"]))

    def sample(self, parameters, seed=None):
        mean = self.mean(parameters)
        noise = kvv_ops.normal(ops.shape(mean), seed)
        return mean + ops.sqrt(self.variance_model.predict(parameters)) * noise

    def get_config(self):
        variance = keras.saving.serialize_keras_object(self.variance_model)
        return {**super().get_config(), "variance": variance}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        variance = keras.saving.deserialize_keras_object(config.pop("variance"))
        return cls(variance, **config)
