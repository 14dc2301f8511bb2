"""The distance between the aggregate posterior and the prior, by kernels."""

import keras
from keras import ops

from .. import ops as kvv_ops
from .base import RandomRegularizer

__all__ = ["MMD"]

_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS = 256  # of a kernel matrix that stand in memory at once


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class MMD(RandomRegularizer):
    """The squared maximum mean discrepancy of WAE-MMD, without bias.

        mmd = mean_{i != j} k(z_i, z_j) + mean_{i != j} k(p_i, p_j)
              - 2 mean_{i, j} k(z_i, p_j)

        k(a, b) = sum over 7 scales of c / (c + |a - b|^2)       c = 2 L * scale

    between the batch's samples `z ~ q(z)` and as many draws `p ~ p(z)`; the scales are
    0.1, 0.2, 0.5, 1, 2, 5 and 10. Tolstikhin et al., "Wasserstein auto-encoders", as P1
    has it in Section 6; kernels are summed, not averaged. Being unbiased, it can be
    negative.

    All pairs of the global batch count, in memory that grows with its size, not with
    the square of it. Weights count examples: those of weight 3 are three of them, with
    the pairs that these make. A batch of one example has no pairs and contributes 0.
    Evaluation takes the pairs of the batch that it evaluates.

    Args:
        weight: its weight in the objective. The usual 10 beside `0.05 |r|^2` is 100
            beside `1/2 |r|^2`, that is a Gaussian likelihood of variance 1.
        seed: integer behind the draws. The default draws one, from Python's generator.

    Example:

    >>> import keras_vae_variance as kvv
    >>> posterior = kvv.posteriors.Deterministic(2)
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))
    >>> networks = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> mmd = kvv.regularizers.MMD(100.0)
    >>> wae = kvv.VAE(*networks, posterior, likelihood, regularizers=[mmd])
    """

    term = "mmd"
    batch_statistic = True

    def __init__(self, weight=100.0, seed=None, **kwargs):
        super().__init__(weight, seed, **kwargs)

    def call(self, x, latent, decode=None, training=False):
        z = latent.sample
        batch = kvv_ops.batch_of(z)
        total = ops.maximum(batch.total, 1e-15)
        z_share = batch.weights / total
        all_z, all_shares = kvv_ops.all_gather(z), kvv_ops.all_gather(z_share)
        # Of its w^2 pairs with itself, an example of weight w has w max(w - 1, 0) as
        # one that is repeated; the others pair a draw with itself.
        own = ops.sum(batch.weights * ops.minimum(batch.weights, 1.0))
        z_own = kvv_ops.all_reduce(own) / ops.square(total)

        # Every replica draws the same, as many as there are examples on all of them.
        number = ops.shape(all_z)[0]
        noise = kvv_ops.normal((number, z.shape[-1]), self.seed_generator)
        p = latent.prior_mean + ops.sqrt(latent.prior_variance) * noise
        p_own = 1.0 / ops.cast(number, "float32")
        p_share = p_own * ops.ones_like(p[:, 0])

        z_row = _unbiased(_kernel_means(z, all_z, all_shares), z_own)
        z_row = z_row - _kernel_means(z, p, p_share)
        p_row = _unbiased(_kernel_means(p, p, p_share), p_own)
        p_row = p_row - _kernel_means(p, all_z, all_shares)
        mmd = kvv_ops.all_reduce(ops.sum(z_share * z_row)) + ops.sum(p_share * p_row)
        return ops.where(batch.count > 1, mmd, 0.0)


def _unbiased(mean, own):
    """The mean over all pairs without the share `own` of them, in which `k = 7`."""
    # `own` is 1 for a lone example, whose result is not used.
    return (mean - len(_SCALES) * own) / ops.maximum(1.0 - own, 1e-3)


def _kernel_means(points, others, shares):
    """`sum_j shares_j k(points_i, others_j)` for each point, by blocks of points.

    Its gradient is that of a sum over all pairs, in which every point comes up twice,
    as `points_i` and as `others_j` of the same kernel or of its mirror image: by
    symmetry twice the gradient by `points` alone. It is worked out beside the value:
    automatic differentiation would keep all blocks, or gather gradients of `others`.
    """
    points_now, others, shares = map(ops.stop_gradient, (points, others, shares))
    latent_dim = points.shape[-1]
    norms = ops.sum(ops.square(others), axis=-1)

    def block(rows):
        distances = ops.sum(ops.square(rows), axis=-1, keepdims=True) + norms
        distances = ops.maximum(distances - 2.0 * rows @ ops.transpose(others), 0.0)
        kernels, slopes = 0.0, 0.0
        for scale in _SCALES:
            c = 2.0 * latent_dim * scale
            kernel = c / (c + distances)
            kernels = kernels + kernel
            slopes = slopes - ops.square(kernel) / c  # by the squared distance
        slopes = shares * slopes
        gradients = rows * ops.sum(slopes, axis=-1, keepdims=True) - slopes @ others
        return ops.sum(shares * kernels, axis=-1), 2.0 * gradients

    # Blocks of equal size, at least one, filled up with zeros.
    number = ops.shape(points)[0]
    blocks = number // _ROWS + 1
    size = -(-number // blocks)
    filling = ops.zeros((blocks * size - number, latent_dim), "float32")
    rows = ops.concatenate([points_now, filling], axis=0)
    means, gradients = ops.map(block, ops.reshape(rows, (blocks, size, latent_dim)))
    means = ops.reshape(means, (-1,))[:number]
    gradients = ops.reshape(gradients, (-1, latent_dim))[:number]
    means, gradients = ops.stop_gradient(means), ops.stop_gradient(gradients)
    # Adds 0, with twice the gradient.
    return means + 2.0 * ops.sum((points - points_now) * gradients, axis=-1)
