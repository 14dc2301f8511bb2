"""Log densities of many points under many Gaussians, in float64."""

import numpy as np
from keras import ops

from ..ops import LOG_2_PI
from .base import float64

__all__ = ["CHUNK", "Components", "log_sum_exp", "prior"]

CHUNK = 2**22  # log densities that the metrics hold at a time, of 8 bytes each


class Components:
    """Diagonal Gaussians `N(mean_n, diag(variance_n))`, such as posteriors.

        log N(z; mu, s2) = c + sum_j (mu_j / s2_j) z_j - 1/2 sum_j z_j^2 / s2_j

    It is linear in `z` and its square, so that one matrix product gives all pairs of
    points and components. To cancellation that loses 1e-8 nats where a mean lies ten
    thousand standard deviations from 0.

    Args:
        mean: float64 array of shape `(n, L)`.
        variance: likewise.
    """

    def __init__(self, mean, variance):
        linear = mean / variance
        self._constant = -0.5 * np.sum(
            linear * mean + np.log(variance) + LOG_2_PI, axis=1
        )
        self._weights = np.concatenate([linear, -0.5 / variance], axis=1).T

    def log_prob(self, z, variance=0.0):
        """Log density of each of the points `(m, L)` under each component, `(m, n)`.

        With a `variance`, its mean over the Gaussian around each point.
        """
        joint = np.concatenate([z, np.square(z) + variance], axis=1) @ self._weights
        joint += self._constant
        return joint


def log_sum_exp(t):
    """`log sum exp` of each row of `t`, which it overwrites."""
    top = t.max(axis=1)
    top[top == -np.inf] = 0.0  # of nothing but zeros, the logarithm of 0
    t -= top[:, None]
    np.exp(t, out=t)
    with np.errstate(divide="ignore"):
        return top + np.log(t.sum(axis=1))


def prior(vae, z):
    """The prior of a VAE, of None the standard normal, for latents like `z`."""
    shape = (1, z.shape[1])
    if vae is None:
        return Components(np.zeros(shape), np.ones(shape))
    if z.shape[1] != vae.latent_dim:
        raise ValueError(
            f"`sampler` must draw latents of dimension {vae.latent_dim}, as `vae` has "
            f"them. Received: sampler with draws of dimension {z.shape[1]}"
        )
    # In evaluation a prior does not depend on the posterior that it is given.
    zeros = ops.zeros(shape)
    moments = vae.prior(zeros, ops.ones_like(zeros), training=False)
    return Components(*(np.broadcast_to(float64(t), shape) for t in moments))
