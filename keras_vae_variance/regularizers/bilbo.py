"""The KL divergence of a batch from the prior that floats with it."""

import keras
from keras import ops

from .. import ops as kvv_ops
from .base import Regularizer

__all__ = ["BILBO"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class BILBO(Regularizer):
    """The latent cost of a constant posterior variance under a floating prior.

        bilbo = 1/2 sum_j log(1 + mean_batch(mu_j^2) / s2_j)        (P4, Eq. 24)

    It equals the batch mean of `KL` to the floating prior, in value and gradient. In
    evaluation it is the KL to the running prior, for each example.

    Args:
        weight: its weight in the objective.

    Raises:
        ValueError: without the `Floating` prior, or with a posterior variance that
            differs between examples.

    Example:

    >>> import keras_vae_variance as kvv
    >>> posterior = kvv.posteriors.ConstantGaussian(2)
    >>> bilbo = kvv.regularizers.BILBO()
    >>> bilbo.check(posterior, kvv.priors.Floating())
    """

    term = "bilbo"
    batch_statistic = True

    def check(self, posterior, prior):
        if not prior.floating:
            raise ValueError(
                "BILBO is the KL to a floating prior: pass `prior=priors.Floating()`. "
                f"Received: prior={prior}"
            )
        if posterior.deterministic or not posterior.shared_variance:
            raise ValueError(
                "BILBO needs a posterior variance that all examples share, as with "
                "posteriors.ConstantGaussian or posteriors.IsotropicGaussian. "
                f"Received: posterior={posterior}"
            )

    def call(self, x, latent, decode=None, training=False):
        if latent.variance.shape[0] != 1:
            raise ValueError(
                "BILBO needs a posterior variance shared by the batch, with a leading "
                f"size of 1. Received: latent.variance.shape={latent.variance.shape}"
            )
        if not training:
            return kvv_ops.gaussian_kl(*latent[1:])
        # S2 = s2 + mean(mu^2), so S2 / s2 is P4's 1 + mean(mu^2) / s2.
        return 0.5 * ops.sum(ops.log(latent.prior_variance / latent.variance))
