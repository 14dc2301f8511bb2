"""The variance that the information in the batch bounds from below."""

import math
import numbers

import keras
from keras import ops

from .. import ops as kvv_ops
from ..running import RunningAverage
from .base import Variance

__all__ = ["Baggins"]

# Of |r|^2: below it float32 has no correct digit of x - mean, unless both are tiny.
_EXACT_FIT = 1e-20


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class Baggins(Variance):
    """Bounded Aggregate Information Sampling: a variance for each example.

        v_n = tau * |r_n|^2 / information          information = sum_j S2_j / s2_j

    P4, Eq. 29, with `tau` the information factor. The gradient flows through `v`,
    numerator and denominator. P4 pairs it with a posterior of constant variance, the
    `Floating` prior and `BILBO`; the loss is then its Eq. 30, which is invariant to the
    unit of `x`. Where each example has an `s2` of its own, the information is the mean
    of the sum over the global batch.

    Every example has `|r_n|^2 / v_n = information / tau`: a large information costs
    as much as a large error, which is what keeps the variance from 0. An example that
    is fitted exactly would still have `log 0`; hence `|r_n|^2` counts as at least
    1e-20, and such an example has no gradient by `r_n`.

    Evaluation takes `|r_n|^2` from `x` and the information from a running average; the
    likelihood is not a normalised density. Generation takes the ratio of two running
    averages, of `|r_n|^2` and of the information: after `VAE.calibrate`, the mean of
    `v_n` over the data.

    Args:
        information_factor: `tau`, a positive number; P4 takes 1/5 and 1.
        decay: of the running averages, a batch.

    Raises:
        ValueError: if `information_factor` is not positive and finite, or `decay` not
            between 0 and 1; beside a deterministic posterior, whose information is
            infinite; in training, without a `latent`.

    Example:

    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Baggins())
    >>> prior, bilbo = kvv.priors.Floating(), kvv.regularizers.BILBO()
    >>> posterior = kvv.posteriors.ConstantGaussian(2)
    >>> networks = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> vae = kvv.VAE(*networks, posterior, likelihood, prior, [bilbo])
    """

    batch_statistic = True
    depends_on_x = True

    def __init__(self, information_factor=0.2, decay=0.99, **kwargs):
        super().__init__(**kwargs)
        is_number = isinstance(information_factor, numbers.Real)
        if not (is_number and 0 < information_factor < math.inf):
            raise ValueError(
                "`information_factor` must be a positive finite number. "
                f"Received: information_factor={information_factor}"
            )
        self.information_factor = float(information_factor)
        self.decay = decay
        # Of these initial values the variance is 1.
        self.error = RunningAverage(1.0 / information_factor, decay, name="error")
        self.information = RunningAverage(1.0, decay, name="information")

    def build(self, squared_error_shape):
        kvv_ops.build_once(self.error, (1,) * len(squared_error_shape))
        kvv_ops.build_once(self.information, ())

    def check(self, posterior, prior):
        if posterior.deterministic:
            raise ValueError(
                "Baggins needs a posterior of positive variance, such as "
                "posteriors.ConstantGaussian: the information of a deterministic one "
                f"is infinite. Received: posterior={posterior}"
            )

    def call(self, squared_error, parameters, latent=None, training=False):
        axes = tuple(range(1, len(squared_error.shape)))
        error = ops.sum(squared_error, axis=axes, keepdims=True)
        information = ops.copy(self.information.value)
        if training:
            batch = kvv_ops.batch_of(squared_error)
            found = _information(latent, batch)
            self.error.update(ops.stop_gradient(batch.mean(error)), batch.total)
            self.information.update(ops.stop_gradient(found), batch.total)
            # A batch without any example has an information of 0.
            information = ops.where(batch.total > 0, found, information)
        return self._variance(error, information)

    def predict(self, parameters):
        error, information = self.error.value, self.information.value
        return self._variance(ops.copy(error), ops.copy(information))

    def _variance(self, error, information):
        error = ops.maximum(error, _EXACT_FIT)
        return self.information_factor * error / information

    def get_config(self):
        return {
            **super().get_config(),
            "information_factor": self.information_factor,
            "decay": self.decay,
        }


def _information(latent, batch):
    """`sum_j S2_j / s2_j`, a scalar of the global batch."""
    if latent is None:
        raise ValueError(
            "Baggins takes the information of the batch from `latent`, a types.Latent. "
            f"Received: latent={latent}"
        )
    ratios = ops.sum(latent.prior_variance / latent.variance, axis=-1)
    return ops.reshape(batch.mean(ratios), ())
