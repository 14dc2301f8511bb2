"""Sums over the event, in nats."""

import numpy as np
from keras import ops

__all__ = [
    "LOG_2_PI",
    "gaussian_kl",
    "gaussian_log_prob",
    "slerp",
    "soft_clip",
    "sum_event",
]

LOG_2_PI = float(np.log(2.0 * np.pi))


def sum_event(t):
    """Sums `t` of shape `(batch, ...)` over all axes but the first."""
    return ops.sum(ops.reshape(t, (ops.shape(t)[0], -1)), axis=1)


def gaussian_kl(mean, variance, prior_mean, prior_variance):
    """KL divergence of diagonal Gaussians, summed over the latent dimensions.

        1/2 sum_j [ s2_j/S2_j + (mu_j - m_j)^2/S2_j - 1 - log(s2_j/S2_j) ]

    P1, under Eq. 3, for a standard normal prior; P4, Eq. 2, for any.

    Args:
        mean: `mu`, of shape `(batch, L)`.
        variance: `s2`, of shape `(batch, L)`, or `(1, L)` where shared.
        prior_mean: `m`, likewise.
        prior_variance: `S2`, likewise.

    Returns:
        The divergence in nats, of shape `(batch,)`.
    """
    ratio = variance / prior_variance
    distance = ops.square(mean - prior_mean) / prior_variance
    return 0.5 * ops.sum(ratio + distance - 1.0 - ops.log(ratio), axis=-1)


def gaussian_log_prob(x, mean, variance):
    """Log density of a diagonal Gaussian, summed over the event, of shape `(batch,)`.

    -1/2 sum_k [ (x_k - m_k)^2 / v_k + log v_k + log 2 pi ]   (P0, Eq. 8 and 11)
    """
    return -0.5 * sum_event(
        ops.square(x - mean) / variance + ops.log(variance) + LOG_2_PI
    )


def slerp(a, b, ratio):
    """Spherical interpolation of vectors, along the last axis.

        sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b

    Shoemake (1985), `w` being the angle between `a` and `b`. Where they point in one
    direction or in opposite ones, or one is 0, no arc is singled out, and the result is
    `(1 - t) a + t b`.

    Args:
        a: vectors `(n, L)`, the result at ratio 0.
        b: vectors `(n, L)`, the result at ratio 1.
        ratio: `t`, a number for all, or `(n,)`.

    Returns:
        A float32 tensor of shape `(n, L)`.
    """
    a, b, t = (ops.convert_to_tensor(x, dtype="float32") for x in (a, b, ratio))
    t = ops.expand_dims(t, -1)
    lengths = [ops.norm(x, axis=-1, keepdims=True) for x in (a, b)]
    u, v = (x / ops.maximum(n, 1e-30) for x, n in zip((a, b), lengths, strict=True))
    # An arccos would lose half of the digits near 0 and pi.
    apart, together = (ops.norm(x, axis=-1, keepdims=True) for x in (u - v, u + v))
    angle = 2.0 * ops.arctan2(apart, together)
    sine = ops.sin(angle)
    # Below it, the weights are as the linear ones to 1e-6, or lose four digits.
    straight = (sine < 1e-3) | (ops.minimum(*lengths) == 0.0)
    sine = ops.where(straight, 1.0, sine)
    weight_a = ops.where(straight, 1.0 - t, ops.sin((1.0 - t) * angle) / sine)
    weight_b = ops.where(straight, t, ops.sin(t * angle) / sine)
    return weight_a * a + weight_b * b


def soft_clip(t, lower=None, upper=None):
    """Bounds `t` smoothly, as P2 bounds log standard deviations.

        t = upper - softplus(upper - t);  t = lower + softplus(t - lower)

    Near the lower bound the result lies above `t`, by up to `log 2`, and near the upper
    one below it. The lower bound always holds; far above both, the second line lifts
    the upper one by `log(1 + exp(lower - upper))`.
    """
    if upper is not None:
        t = upper - ops.softplus(upper - t)
    if lower is not None:
        t = lower + ops.softplus(t - lower)
    return t
