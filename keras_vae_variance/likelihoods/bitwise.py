"""A bitwise categorical decoder: a probability for each of the 8 bits of a level."""

import keras
import numpy as np
from keras import ops

from .. import ops as kvv_ops
from ..types import Head
from . import levels
from .base import Likelihood

__all__ = ["BitwiseCategorical"]

_BITS = np.arange(8, dtype="int32")
_PLACES = (2.0**_BITS).astype("float32")


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class BitwiseCategorical(Likelihood):
    """A Bernoulli for each bit of the level `i = round(255 x)` of each scalar.

        nll = -sum_k sum_b [ i_kb log p_kb + (1 - i_kb) log(1 - p_kb) ]

    with `i_kb` the bit of value `2^b` and `p = sigmoid(logits)`. P2, App. D: 8 outputs
    of the decoder for each scalar instead of 256. The decoder gives `logits`, of the
    shape of `x` and one more axis for the bits, the lowest first.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.BitwiseCategorical()
    >>> likelihood.heads((8, 8, 1))["logits"].shape
    (8, 8, 1, 8)
    >>> x = np.ones((2, 8, 8, 1), "float32")
    >>> nll = likelihood(x, {"logits": np.zeros((2, 8, 8, 1, 8), "float32")})
    >>> round(float(nll[0]), 3)  # 64 * 8 log 2
    354.891
    """

    discrete = True
    unit_interval = True

    def heads(self, x_shape):
        return {"logits": Head((*x_shape, len(_PLACES)))}

    def call(self, x, parameters, latent=None, training=False):
        logits = ops.cast(parameters["logits"], "float32")
        # As integers: in graphs TensorFlow divides floats by constants inexactly.
        level = ops.cast(levels.as_level(x), "int32")[..., None]
        bits = ops.bitwise_and(ops.right_shift(level, _BITS), 1)
        bits = ops.cast(bits, "float32")
        # -log p = softplus(-l) for a bit of 1, and softplus(l) for one of 0.
        return kvv_ops.sum_event(ops.softplus((1.0 - 2.0 * bits) * logits))

    def mean(self, parameters):
        p = ops.sigmoid(ops.cast(parameters["logits"], "float32"))
        return levels.as_value(ops.sum(ops.multiply(_PLACES, p), axis=-1))

    def variance(self, parameters):
        logits = ops.cast(parameters["logits"], "float32")
        # Bits are independent: their variances add.
        of_bits = ops.sigmoid(logits) * ops.sigmoid(-logits)
        return ops.sum(ops.square(levels.as_value(_PLACES)) * of_bits, axis=-1)

    def sample(self, parameters, seed=None):
        p = ops.sigmoid(ops.cast(parameters["logits"], "float32"))
        noise = keras.random.uniform(
            ops.shape(p), dtype="float32", seed=kvv_ops.as_seed(seed)
        )
        bits = ops.cast(noise < p, "float32")
        return levels.as_value(ops.sum(ops.multiply(_PLACES, bits), axis=-1))
