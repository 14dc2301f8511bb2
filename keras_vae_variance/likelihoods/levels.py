"""The 256 levels `i/255` of an image: bins, their probabilities, and moments.

The bin of level `i` reaches from `(i - 1/2)/255` to `(i + 1/2)/255`; the first and the
last are open-ended (P2, App. D). Probabilities are logarithms that keep their precision
in float32 from scales far below a bin's width to far above the range of the data.
"""

import keras
import numpy as np
from keras import ops

from .. import ops as kvv_ops

__all__ = [
    "LOGISTIC_STDDEV",
    "NUM_LEVELS",
    "as_level",
    "as_value",
    "gaussian_log_bin",
    "logistic_log_bin",
    "logistic_noise",
    "moments",
    "normal_cdf",
]

NUM_LEVELS = 256
LOGISTIC_STDDEV = float(np.pi / np.sqrt(3.0))  # at scale 1
_LAST = NUM_LEVELS - 1
_WIDTH = 1.0 / _LAST


def as_level(x):
    """The level `i = round(255 x)` nearest to `x`, from 0 to 255; a float32 tensor."""
    level = ops.round(_LAST * ops.cast(x, "float32"))
    return ops.clip(level, 0.0, float(_LAST))


def as_value(level):
    """The value `i/255` of a level."""
    return ops.cast(level, "float32") / float(_LAST)


def logistic_log_bin(x, mean, scale):
    """Log probability of the bin of `x` under a logistic distribution.

        log [ F(b) - F(a) ] = log F(b) + log(1 - F(a)) + log(1 - exp(a - b))

    with `a`, `b` the edges of the bin in units of the scale and `F` the sigmoid: an
    identity that never subtracts probabilities. Open ends drop two of the terms.

    Args:
        x: data in [0, 1]; rounded to a level.
        mean: mean, of a shape that broadcasts with `x`.
        scale: scale, likewise; the standard deviation is `scale * pi / sqrt(3)`.

    Returns:
        Nats, of the shape that they broadcast to.
    """
    distance, first, last = _place(x, mean)
    below = -ops.softplus(-(distance + 0.5 * _WIDTH) / scale)
    above = -ops.softplus((distance - 0.5 * _WIDTH) / scale)
    inside = ops.log(-ops.expm1(-_WIDTH / scale))
    return (
        ops.where(last, 0.0, below)
        + ops.where(first, 0.0, above)
        + ops.where(ops.logical_or(first, last), 0.0, inside)
    )


def logistic_noise(shape, seed):
    """Draws of a logistic distribution of mean 0 and scale 1."""
    u = keras.random.uniform(shape, dtype="float32", seed=kvv_ops.as_seed(seed))
    return ops.log(u) - ops.log(1.0 - u)  # -inf at 0 is in the first bin


def gaussian_log_bin(x, mean, stddev):
    """Log probability of the bin of `x` under a Gaussian.

        log [ Phi(b) - Phi(a) ]

    Where the density changes little over the bin, by quadrature of the density, since a
    difference of nearly equal probabilities would cancel; else by the logarithms of the
    probabilities beyond the two edges, on the side where they are small.

    Args:
        x: data in [0, 1]; rounded to a level.
        mean: mean, of a shape that broadcasts with `x`.
        stddev: standard deviation, likewise.

    Returns:
        Nats, of the shape that they broadcast to.
    """
    distance, first, last = _place(x, mean)
    center, half = distance / stddev, 0.5 * _WIDTH / stddev
    far = ops.abs(center)

    upper = ops.where(last, -center, ops.where(first, center, -far)) + half
    log_upper, log_lower = _log_normal_cdf(upper), _log_normal_cdf(-far - half)
    # The bound alters nothing where this branch is taken for an inner bin. Without it
    # the other bins' gradients would be 0 times infinity.
    ratio = ops.maximum(log_upper - log_lower, 0.5)
    end = ops.logical_or(first, last)
    by_tails = log_upper + ops.where(end, 0.0, ops.log(-ops.expm1(-ratio)))

    # phi(center) times the integral of exp(-center t - t^2/2) from -half to half, by
    # Gauss-Legendre with six nodes, of which those of opposite sign make a cosh.
    slope, reach = ops.minimum(far * half, 1.0), ops.minimum(half, 1.0)
    mean_ratio = sum(
        weight * ops.cosh(slope * node) * ops.exp(-0.5 * ops.square(reach * node))
        for node, weight in zip(*_QUADRATURE, strict=True)
    )
    by_density = (
        ops.log(2.0 * half * mean_ratio)
        - 0.5 * ops.square(center)
        - 0.5 * kvv_ops.LOG_2_PI
    )
    steep = ops.logical_or(far * half > 1.0, half > 1.0)
    return ops.where(ops.logical_or(end, steep), by_tails, by_density)


def normal_cdf(t):
    """Probability that a standard normal variable is below `t`."""
    return 0.5 * (1.0 + ops.erf(t * float(np.sqrt(0.5))))


def moments(cdf, mean, scale, weight):
    """Mean and variance of the levels under a mixture, by sums over all edges of bins.

        E[n] = sum_{j>0} [P(n >= j) - P(n <= -j)]
        E[n^2] = sum_{j>0} (2j - 1) [P(n >= j) + P(n <= -j)],   n = level - center

    Sums of positive terms that are small where `n` is large, so that nothing cancels;
    a few edges at a time, for the sake of the memory.

    Args:
        cdf: distribution function of a component of mean 0 and scale 1, symmetric.
        mean: means of the components, of shape `(..., components)`.
        scale: scales, of a shape that broadcasts with `mean`.
        weight: weights, likewise; they sum to 1.

    Returns:
        Mean and variance of the value `level/255`, of shape `(...)`.
    """
    center = as_level(ops.sum(weight * ops.clip(mean, 0.0, 1.0), axis=-1))
    mean, scale, weight = (t[..., None] for t in (mean, scale, weight))
    edges = ops.convert_to_tensor(_EDGES)

    def add(block, sums):
        distance = edges[block] - center[..., None]  # an integer and a half
        sign = ops.sign(distance)
        # The probability beyond each edge, from (..., components, edges).
        t = sign[..., None, :] * (mean - edges[block] / _LAST) / scale
        beyond = ops.sum(weight * cdf(t), axis=-2)
        return (
            sums[0] + ops.sum(sign * beyond, axis=-1),
            sums[1] + ops.sum(2.0 * ops.abs(distance) * beyond, axis=-1),
        )

    zeros = ops.zeros_like(center)
    first, second = ops.fori_loop(0, len(_EDGES), add, (zeros, zeros))
    return (center + first) / _LAST, (second - ops.square(first)) / _LAST**2


def _place(x, mean):
    """Distance of the level of `x` from the mean; whether it is the first, the last."""
    level = as_level(x)
    return as_value(level) - mean, level < 0.5, level > _LAST - 0.5


# Between the levels: 255 edges in blocks of 17.
_EDGES = (np.arange(_LAST, dtype="float32") + 0.5).reshape(-1, 17)

_nodes, _weights = np.polynomial.legendre.leggauss(6)
_QUADRATURE = _nodes[3:].tolist(), _weights[3:].tolist()  # weights sum to 1

# Numerical Recipes, 3rd ed., Section 6.2.2: erfc(z) = t exp(-z^2 + P(t)) for z >= 0,
# t = 2 / (2 + z), to a relative 1.2e-7. Keras has no function for the logarithm.
_ERFC = (
    -1.26551223,
    1.00002368,
    0.37409196,
    0.09678418,
    -0.18628806,
    0.27886807,
    -1.13520398,
    1.48851587,
    -0.82215223,
    0.17087277,
)


def _log_normal_cdf(t):
    """Log of the probability that a standard normal variable is below `t`."""
    z = ops.where(t < 0, -t, t) * float(np.sqrt(0.5))
    u = 2.0 / (2.0 + z)
    polynomial = 0.0
    for coefficient in reversed(_ERFC):
        polynomial = coefficient + u * polynomial
    # Of half of erfc(z), the probability beyond |t|.
    log_beyond = ops.log(0.5 * u) - ops.square(z) + polynomial
    return ops.where(t < 0, log_beyond, ops.log1p(-ops.exp(log_beyond)))
