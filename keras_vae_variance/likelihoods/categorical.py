"""A categorical decoder: a probability for each of the 256 levels."""

import keras
from keras import ops

from .. import ops as kvv_ops
from ..types import Head
from . import levels
from .base import Likelihood

__all__ = ["Categorical"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class Categorical(Likelihood):
    """A 256-way softmax for each scalar, of the level `i = round(255 x)`.

        nll = -sum_k log [ exp(logits_ki) / sum_j exp(logits_kj) ],   i = round(255 x_k)

    P2, Section 3.2. The most general distribution of independent scalars, at 256
    outputs of the decoder for each. The decoder gives `logits`, of the shape of `x` and
    one more axis for the levels.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.Categorical()
    >>> likelihood.heads((8, 8, 1))["logits"].shape
    (8, 8, 1, 256)
    >>> x = np.ones((2, 8, 8, 1), "float32")
    >>> nll = likelihood(x, {"logits": np.zeros((2, 8, 8, 1, 256), "float32")})
    >>> round(float(nll[0]), 3)  # 64 log 256
    354.891
    """

    discrete = True
    unit_interval = True

    def heads(self, x_shape):
        return {"logits": Head((*x_shape, levels.NUM_LEVELS))}

    def call(self, x, parameters, latent=None, training=False):
        logits = ops.cast(parameters["logits"], "float32")
        level = ops.cast(levels.as_level(x), "int32")
        return kvv_ops.sum_event(
            ops.sparse_categorical_crossentropy(level, logits, from_logits=True)
        )

    def mean(self, parameters):
        return self.moments(parameters)[0]

    def variance(self, parameters):
        return self.moments(parameters)[1]

    def moments(self, parameters):
        p = ops.softmax(ops.cast(parameters["logits"], "float32"), axis=-1)
        values = levels.as_value(ops.arange(levels.NUM_LEVELS))
        mean = ops.sum(p * values, axis=-1)
        return mean, ops.sum(p * ops.square(values - mean[..., None]), axis=-1)

    def sample(self, parameters, seed=None):
        logits = ops.cast(parameters["logits"], "float32")
        level = keras.random.categorical(
            ops.reshape(logits, (-1, levels.NUM_LEVELS)), 1, seed=kvv_ops.as_seed(seed)
        )
        return levels.as_value(ops.reshape(level, ops.shape(logits)[:-1]))
