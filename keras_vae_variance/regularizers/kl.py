"""The KL divergence from the prior to the posterior."""

import keras

from ..types import Latent
from .base import Regularizer

__all__ = ["KL"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class KL(Regularizer):
    """KL divergence of the posterior from the prior, for each example.

        kl = 1/2 sum_j [ s2_j/S2_j + mu_j^2/S2_j - 1 - log(s2_j/S2_j) ]

    P1, under Eq. 3; P4, Eq. 2. Over several layers of latents, each with its prior
    given the layer above, it is the sum of theirs (`types.Latent.kl`). A weight beta
    beside unit variance is the beta-VAE; it has the optimum of weight 1 beside variance
    beta (P2, 3.1).

    Args:
        weight: its weight in the objective; 1 makes the loss the negative ELBO.

    Raises:
        ValueError: beside a deterministic posterior, whose divergence is infinite.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> z, one = np.zeros((2, 3), "float32"), np.ones((1, 3), "float32")
    >>> latent = kvv.types.Latent(z, z + 1.0, one, 0.0 * one, one)
    >>> kvv.regularizers.KL()(z, latent).numpy().tolist()
    [1.5, 1.5]
    """

    term = "kl"
    layered = True

    def check(self, posterior, prior):
        if posterior.deterministic:
            raise ValueError(
                "The KL divergence of a deterministic posterior is infinite: pass "
                "`regularizers` without KL, such as []. "
                f"Received: posterior={posterior}"
            )

    def call(self, x, latent, decode=None, training=False):
        layers = (latent,) if isinstance(latent, Latent) else latent
        return sum(layer.kl() for layer in layers)
