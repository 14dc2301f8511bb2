"""A Gaussian and a logistic decoder of levels: one component, in 256 bins."""

import keras
from keras import ops

from .. import ops as kvv_ops
from ..variances import Learned
from . import levels
from .base import MeanAndVariance

__all__ = ["DiscretizedGaussian", "DiscretizedLogistic"]


class _Discretized(MeanAndVariance):
    """A continuous distribution of which `p(x|z)` has the probabilities of 256 bins.

    A subclass overrides `_log_bin`, `_cdf` and `_noise`.
    """

    discrete = True
    unit_interval = True

    def __init__(self, variance=None, **kwargs):
        super().__init__(Learned() if variance is None else variance, **kwargs)

    def call(self, x, parameters, latent=None, training=False):
        mean, v = self._mean_and_variance(x, parameters, latent, training)
        return -kvv_ops.sum_event(self._log_bin(x, mean, ops.sqrt(v)))

    def mean(self, parameters):
        return self.moments(parameters)[0]

    def variance(self, parameters):
        return self.moments(parameters)[1]

    def diagnostics(self, parameters):
        mean, stddev = self._continuous(parameters)
        return mean, ops.broadcast_to(ops.square(stddev), ops.shape(mean))

    def sample(self, parameters, seed=None):
        mean, stddev = self._continuous(parameters)
        x = mean + stddev * self._noise(ops.shape(mean), seed)
        return levels.as_value(levels.as_level(x))

    def moments(self, parameters):
        mean, stddev = self._continuous(parameters)
        return levels.moments(
            self._cdf, mean[..., None], stddev[..., None], ops.ones((1,), "float32")
        )

    def _continuous(self, parameters):
        """Mean and standard deviation before the bins."""
        mean = ops.cast(parameters["mean"], "float32")
        return mean, ops.sqrt(self.variance_model.predict(parameters))

    def _log_bin(self, x, mean, stddev):
        """Log probability of the bin of each scalar."""
        raise NotImplementedError

    def _cdf(self, t):
        """Probability that the noise is below `t`."""
        raise NotImplementedError

    def _noise(self, shape, seed):
        """Draws of mean 0 and variance 1."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class DiscretizedGaussian(_Discretized):
    """A Gaussian's probability of the bin around each level.

        nll = -sum_k log [ F((i_k + 1/2)/255) - F((i_k - 1/2)/255) ],   i = round(255 x)

    with `F` the Gaussian's distribution function, 0 below the first bin and 1 above the
    last, which are open-ended. P2, Section 3.2 and Table 4. The decoder gives `mean`,
    final, and what the variance model asks for.

    The variance is that of the Gaussian before the bins. By default it is one learned
    number, as in Table 4, which starts at the mean squared error of the first batch:
    the optimum for the decoder as it is then, whatever the data. The closed forms of
    `MaximumLikelihood` are those of the Gaussian; they are the optimum of the bins too
    where the standard deviation is well above 1/255 and few pixels are black or white.

    The methods `mean` and `variance` are those of the levels, by sums over the bins.

    Args:
        variance: one of `variances`, kept as `variance_model`; the default is
            `variances.Learned()`.

    Raises:
        TypeError: if `variance` is not a variance model.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> variance = kvv.variances.Fixed(0.01)
    >>> likelihood = kvv.likelihoods.DiscretizedGaussian(variance)
    >>> x = np.full((2, 8, 8, 1), 0.5, "float32")
    >>> nll = likelihood(x, {"mean": x})
    >>> density = kvv.likelihoods.Gaussian(variance)(x, {"mean": x})
    >>> round(float(nll[0] - density[0]) / 64, 2)  # near log 255
    5.54
    """

    def _log_bin(self, x, mean, stddev):
        return levels.gaussian_log_bin(x, mean, stddev)

    def _cdf(self, t):
        return levels.normal_cdf(t)

    def _noise(self, shape, seed):
        return kvv_ops.normal(shape, seed)


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class DiscretizedLogistic(_Discretized):
    """A logistic distribution's probability of the bin around each level.

        nll = -sum_k log [ F((i_k + 1/2)/255) - F((i_k - 1/2)/255) ],   i = round(255 x)

    with `F(t) = sigmoid((t - mean) / scale)`, 0 below the first bin and 1 above the
    last, which are open-ended. P2, Section 3.2 and Table 4. The decoder gives `mean`,
    final, and what the variance model asks for.

    The variance is that of the logistic distribution before the bins, `scale^2 pi^2/3`.
    By default it is one learned number, as in Table 4, which starts at the mean squared
    error of the first batch: near the optimum for the decoder as it is then, whatever
    the data.

    The methods `mean` and `variance` are those of the levels, by sums over the bins.

    Args:
        variance: one of `variances`, kept as `variance_model`; the default is
            `variances.Learned()`.

    Raises:
        TypeError: if `variance` is not a variance model.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.DiscretizedLogistic(kvv.variances.Fixed(0.01))
    >>> x = np.full((2, 8, 8, 1), 0.5, "float32")
    >>> parameters = {"mean": x}
    >>> print(likelihood(x, parameters).shape)
    (2,)
    >>> level = 255 * likelihood.sample(parameters, seed=0)
    >>> bool(np.all(np.abs(level - np.round(level)) < 1e-4))
    True
    """

    def _log_bin(self, x, mean, stddev):
        return levels.logistic_log_bin(x, mean, stddev / levels.LOGISTIC_STDDEV)

    def _cdf(self, t):
        return ops.sigmoid(levels.LOGISTIC_STDDEV * t)

    def _noise(self, shape, seed):
        return levels.logistic_noise(shape, seed) / levels.LOGISTIC_STDDEV
