"""A mixture of discretised logistic distributions."""

import keras
from keras import ops

from .. import ops as kvv_ops
from ..checks import check_integer
from ..types import Head
from . import levels
from .base import Likelihood

__all__ = ["LogisticMixture"]

_SMALLEST_LOG_SCALE = -7.0


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class LogisticMixture(Likelihood):
    """A mixture of discretised logistic distributions for each pixel.

        nll = -sum_p log sum_j w_pj prod_c [ F_pcj(i + 1/2) - F_pcj(i - 1/2) ]
        F_pcj(t) = sigmoid( (t/255 - m_pcj) / s_pcj ),   i = round(255 x_pc)

    over pixels `p`, channels `c` and components `j`; the first and the last of the 256
    bins are open-ended. P2, App. D, after Salimans et al. (2017, PixelCNN++) without
    the dependence of one channel on another. The weights are shared by the channels of
    a pixel, which makes these dependent; a `(size,)` of `x` has no channels.

    The decoder gives, with a last axis for the components, `component_weight`, logits
    of `w`, of a pixel's shape; and of the shape of `x` `component_mean` and
    `component_log_scale`, which are those of data in [-1, 1]:

        m = (1 + component_mean) / 2,   s = 1/2 exp(max(component_log_scale, -7))

    so that outputs near 0, as networks start, stand for the middle of the data and for
    a scale as wide as them.

    Args:
        num_components: number of components.

    Raises:
        ValueError: if `num_components` is not a positive integer.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.LogisticMixture(num_components=5)
    >>> heads = likelihood.heads((8, 8, 3))
    >>> {name: head.shape for name, head in heads.items()}
    {'component_weight': (8, 8, 5),
     'component_mean': (8, 8, 3, 5),
     'component_log_scale': (8, 8, 3, 5)}
    """

    discrete = True
    unit_interval = True

    def __init__(self, num_components=5, **kwargs):
        super().__init__(**kwargs)
        check_integer("num_components", num_components)
        self.num_components = int(num_components)

    def heads(self, x_shape):
        # Channels are the last axis of images (height, width, channels) and beyond.
        pixels = x_shape[:-1] if len(x_shape) > 2 else x_shape
        each = Head((*x_shape, self.num_components))
        return {
            "component_weight": Head((*pixels, self.num_components)),
            "component_mean": each,
            "component_log_scale": each,
        }

    def call(self, x, parameters, latent=None, training=False):
        log_weight, mean, scale = self._components(parameters)
        log_p = levels.logistic_log_bin(x[..., None], mean, scale)
        if len(log_weight.shape) < len(log_p.shape):
            log_p = ops.sum(log_p, axis=-2)  # over the channels
        return -kvv_ops.sum_event(ops.logsumexp(log_weight + log_p, axis=-1))

    def mean(self, parameters):
        return self.moments(parameters)[0]

    def variance(self, parameters):
        return self.moments(parameters)[1]

    def diagnostics(self, parameters):
        log_weight, mean, scale = self._components(parameters)
        # What lies beyond falls into the first or the last bin: means of pixels that
        # are always black go far below 0.
        mean = ops.clip(mean, 0.0, 1.0)
        weight = _per_scalar(ops.exp(log_weight), mean)
        center = ops.sum(weight * mean, axis=-1)
        square = ops.square(levels.LOGISTIC_STDDEV * scale)
        square = square + ops.square(mean - center[..., None])
        return center, ops.sum(weight * square, axis=-1)

    def sample(self, parameters, seed=None):
        log_weight, mean, scale = self._components(parameters)
        component_seed, noise_seed = kvv_ops.split_seed(seed, 2)
        component = keras.random.categorical(
            ops.reshape(log_weight, (-1, self.num_components)),
            1,
            seed=kvv_ops.as_seed(component_seed),
        )
        component = ops.reshape(component, ops.shape(log_weight)[:-1])
        chosen = _per_scalar(
            ops.one_hot(component, self.num_components, dtype="float32"), mean
        )
        mean, scale = (ops.sum(chosen * t, axis=-1) for t in (mean, scale))
        x = mean + scale * levels.logistic_noise(ops.shape(mean), noise_seed)
        return levels.as_value(levels.as_level(x))

    def _components(self, parameters):
        """Log weights of each pixel; means and scales, in units of `x`."""
        weight, mean, log_scale = (
            ops.cast(parameters[f"component_{name}"], "float32")
            for name in ("weight", "mean", "log_scale")
        )
        scale = 0.5 * ops.exp(ops.maximum(log_scale, _SMALLEST_LOG_SCALE))
        return ops.log_softmax(weight, axis=-1), 0.5 * (1.0 + mean), scale

    def moments(self, parameters):
        log_weight, mean, scale = self._components(parameters)
        weight = _per_scalar(ops.exp(log_weight), mean)
        return levels.moments(ops.sigmoid, mean, scale, weight)

    def get_config(self):
        return {**super().get_config(), "num_components": self.num_components}


def _per_scalar(of_pixels, of_scalars):
    """Gives what the channels of a pixel share an axis for them."""
    if len(of_pixels.shape) < len(of_scalars.shape):
        return of_pixels[..., None, :]
    return of_pixels
