"""The distributions `p(z) = N(0, diag(S2))` of the latent variables."""

import keras
from keras import ops

from . import ops as kvv_ops
from .running import RunningAverage

__all__ = ["Floating", "Prior", "StandardNormal"]


class Prior(keras.layers.Layer):
    """Base class of the priors.

    A subclass overrides `call`. A user calls the layer with the posterior's mean and
    variance and gets the prior's, each of shape `(1, L)`.

    Attributes:
        floating: whether the variance follows the posteriors of the batch.
        batch_statistic: whether training takes a statistic of the batch.
    """

    floating = False
    batch_statistic = False

    def __init__(self, **kwargs):
        super().__init__(dtype="float32", **kwargs)

    def call(self, mean, variance, training=False):
        """Mean and variance of `p(z)`.

        Args:
            mean: the posteriors' means, `(batch, L)`.
            variance: their variances, `(batch, L)`, or `(1, L)` where shared.
            training: whether statistics of the batch are taken, and running averages
                updated.
        """
        raise NotImplementedError

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        config.pop("dtype")
        return config


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class StandardNormal(Prior):
    """The standard normal, `S2 = 1`.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> prior = kvv.priors.StandardNormal()
    >>> z = np.zeros((2, 3), "float32")
    >>> prior_mean, prior_variance = prior(z, z + 1.0)
    >>> tuple(prior_variance.shape)
    (1, 3)
    """

    def call(self, mean, variance, training=False):
        shape = (1, mean.shape[-1])
        return ops.zeros(shape, "float32"), ops.ones(shape, "float32")


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class Floating(Prior):
    """A prior whose variance is the one that the posteriors call for.

        S2_j = mean over the global batch of (s2_j + mu_j^2)       (P4, Eq. 4)

    which minimises the mean KL. The gradient flows through it. Evaluation, sampling and
    export take a running average, which `VAE.calibrate` makes exact.

    Args:
        decay: of the running average, a batch.

    Raises:
        ValueError: if `decay` is not between 0 and 1.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> prior = kvv.priors.Floating()
    >>> mean = np.array([[1.0], [-1.0]], "float32")
    >>> _, prior_variance = prior(mean, np.ones((1, 1), "float32"), training=True)
    >>> float(prior_variance[0, 0])
    2.0
    """

    floating = True
    batch_statistic = True

    def __init__(self, decay=0.99, **kwargs):
        super().__init__(**kwargs)
        self.decay = decay
        self.running = RunningAverage(initial=1.0, decay=decay, name="running")

    def build(self, mean_shape):
        kvv_ops.build_once(self.running, (1, mean_shape[-1]))

    def call(self, mean, variance, training=False):
        zeros = ops.zeros((1, mean.shape[-1]), dtype="float32")
        if not training:
            return zeros, ops.copy(self.running.value)
        batch = kvv_ops.batch_of(mean)
        second_moment = batch.mean(ops.square(mean) + variance)
        self.running.update(ops.stop_gradient(second_moment), batch.total)
        # Without any example the variance would be 0, and the logarithm with it.
        some = batch.total > 0
        return zeros, ops.where(some, second_moment, ops.copy(self.running.value))

    def get_config(self):
        return {**super().get_config(), "decay": self.decay}
