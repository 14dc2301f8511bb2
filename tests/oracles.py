"""The formulas of the papers in float64 NumPy, SciPy and TFP: slow and plain.

Arrays are `(batch, ...)`; terms are sums over the event, in nats. The notation is that
of the papers: `r2` are squared errors, `v` variances of the decoder, `mu` and `s2` mean
and variance of the posterior, `S2` the variance of the prior.
"""

import numpy as np
import scipy.special
import scipy.stats
import tensorflow_probability as tfp

tfd = tfp.distributions

LOG_2_PI = np.log(2 * np.pi)


def float64(array):
    return np.asarray(array, "float64")


def sum_event(array):
    return float64(array).reshape(len(array), -1).sum(axis=1)


# --------------------------------------------------------------------------------------
# Densities


def gaussian_nll(x, mean, v):
    """-log N(x; mean, v) of each example."""
    x, mean, v = np.broadcast_arrays(float64(x), float64(mean), float64(v))
    return -sum_event(scipy.stats.norm.logpdf(x, mean, np.sqrt(v)))


def bernoulli_nll(x, logits):
    """-sum_k [x_k log p_k + (1 - x_k) log(1 - p_k)] of each example."""
    x, logits = float64(x), float64(logits)
    log_p, log_not_p = (scipy.special.log_expit(sign * logits) for sign in (1, -1))
    return -sum_event(x * log_p + (1 - x) * log_not_p)


def log_bin(distribution, level, mean, scale):
    """Log probability of the bin of each level `i/255` under a symmetric distribution.

    A difference of distribution functions, on the side where both are small; the first
    and the last bin are open-ended.
    """
    level, mean, scale = (float64(a) for a in (level, mean, scale))
    a, b = ((level + half) / 255 - mean for half in (-0.5, 0.5))
    a, b = a / scale, b / scale
    upper, lower = np.where(a + b > 0, -a, b), np.where(a + b > 0, -b, a)
    log_upper, log_lower = distribution.logcdf(upper), distribution.logcdf(lower)
    inner = log_upper + np.log(-np.expm1(log_lower - log_upper))
    first, last = distribution.logcdf(b), distribution.logsf(a)
    return np.where(level == 0, first, np.where(level == 255, last, inner))


def gaussian_kl(mu, s2, m, S2):
    """KL of diagonal Gaussians by TFP, of each example."""
    mu, s2, m, S2 = np.broadcast_arrays(*(float64(a) for a in (mu, s2, m, S2)))
    posterior = tfd.MultivariateNormalDiag(mu, np.sqrt(s2))
    prior = tfd.MultivariateNormalDiag(m, np.sqrt(S2))
    return posterior.kl_divergence(prior).numpy()


# --------------------------------------------------------------------------------------
# P1, Table 2, with the constants that it leaves out: D/2 (1 + log 2 pi) and, where it
# has the logarithm of a sum, the -D/2 log of the number of terms.


def iso_i(r2, epsilon=0.0):
    d = r2[0].size
    total = sum_event(r2).mean()  # P1 adds no epsilon here
    return d / 2 * np.log(total) + d / 2 * (1 + LOG_2_PI - np.log(d))


def iso_d(r2, epsilon=0.0):
    d = r2[0].size
    totals = sum_event(r2) + epsilon
    return np.mean(d / 2 * np.log(totals)) + d / 2 * (1 + LOG_2_PI - np.log(d))


def diag_i(r2, epsilon=0.0):
    means = float64(r2).mean(axis=0) + epsilon
    return np.sum(np.log(means)) / 2 + r2[0].size / 2 * (1 + LOG_2_PI)


def diag_d(r2, epsilon=0.0):
    logs = np.log(float64(r2) + epsilon)
    return sum_event(logs).mean() / 2 + r2[0].size / 2 * (1 + LOG_2_PI)


def maximum_likelihood_variance(r2, per_pixel, per_example, epsilon=0.0):
    """The variance that each of them puts in, `(batch or 1, ...)`."""
    r2 = float64(r2)
    if not per_example:
        r2 = r2.mean(axis=0, keepdims=True)
    if not per_pixel:
        size = r2[0].size
        r2 = r2.mean(axis=tuple(range(1, r2.ndim)), keepdims=True)
        epsilon = epsilon / size if per_example else 0.0
    return r2 + epsilon


# --------------------------------------------------------------------------------------
# The rest


def soft_clip(t, lower=None, upper=None):
    """P2's two lines: first the upper bound, then the lower."""
    t = float64(t)
    if upper is not None:
        t = upper - np.logaddexp(0, upper - t)
    if lower is not None:
        t = lower + np.logaddexp(0, t - lower)
    return t


def bilbo(mu, s2):
    """P4, Eq. 24: the logarithm of the determinant of `I + M / s2`, halved."""
    mu, s2 = float64(mu), float64(s2).reshape(-1)
    moments = np.mean(mu**2, axis=0)  # diagonal of M_B
    return 0.5 * np.linalg.slogdet(np.eye(len(s2)) + np.diag(moments / s2))[1]


def dip(mu, s2, kind, factor):
    """DIP-VAE's penalty, without its weight."""
    c = np.atleast_2d(np.cov(float64(mu).T, bias=True))
    if kind == "II":
        c = c + np.diag(np.mean(float64(s2), axis=0))
    off = sum(c[i, j] ** 2 for i, j in np.ndindex(*c.shape) if i != j)
    return off + factor * np.sum((np.diag(c) - 1) ** 2)


def multiquadratic(a, b):
    """The inverse multiquadratic kernel of two points, summed over 7 scales."""
    distance = np.sum((float64(a) - b) ** 2)
    scales = [2 * len(a) * s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
    return sum(c / (c + distance) for c in scales)


def mmd(z, p, weights=None):
    """The unbiased squared MMD of two samples, by double loops.

    Pairs of `z` count by the product of their weights.
    """
    weights = np.ones(len(z)) if weights is None else float64(weights)

    def within(t, weights):
        pairs = [(i, j) for i, j in np.ndindex(len(t), len(t)) if i != j]
        kernels = [multiquadratic(t[i], t[j]) for i, j in pairs]
        return np.average(kernels, weights=[weights[i] * weights[j] for i, j in pairs])

    across = np.average(
        [[multiquadratic(a, b) for b in p] for a in z], axis=0, weights=weights
    )
    return within(z, weights) + within(p, np.ones(len(p))) - 2 * np.mean(across)


def running_average(values, decay):
    """The bias-corrected exponential average, as a weighted mean of all values."""
    values = float64(values)
    weights = decay ** np.arange(len(values) - 1.0, -1.0, -1.0)
    return np.tensordot(weights, values, axes=1) / weights.sum()


def numeric_gradient(function, *arrays, step=1e-6):
    """Central differences of a float64 function, one array for each argument."""
    arrays = [float64(a).copy() for a in arrays]
    gradients = []
    for array in arrays:
        gradient = np.zeros_like(array)
        for index in np.ndindex(*array.shape):
            value = array[index]
            array[index] = value + step
            above = function(*arrays)
            array[index] = value - step
            gradient[index] = (above - function(*arrays)) / (2 * step)
            array[index] = value
        gradients.append(gradient)
    return gradients


# --------------------------------------------------------------------------------------
# The linear Gaussian model: z ~ N(0, I), x = z W + b + noise of variance v


def evidence(x, w, b, v):
    """log p(x) of each example, `(batch, D)`; `w` is `(L, D)`, `v` one number or D."""
    covariance = float64(w).T @ float64(w) + np.diag(np.broadcast_to(v, len(b)))
    return scipy.stats.multivariate_normal(b, covariance).logpdf(float64(x))


def linear_posterior(w, b, v):
    """`a`, `c` and covariance of `p(z|x) = N(x a + c, covariance)`."""
    w, b = float64(w), float64(b)
    precision = np.diag(1 / np.broadcast_to(float64(v), b.shape))
    covariance = np.linalg.inv(np.eye(len(w)) + w @ precision @ w.T)
    a = precision @ w.T @ covariance
    return a, -b @ a, covariance


def probabilistic_pca(x, latent_dim):
    """`w`, `b`, `v` of the greatest likelihood (Tipping and Bishop, 1999)."""
    x = float64(x)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    v = values[latent_dim:].mean()
    scale = np.sqrt(values[:latent_dim] - v)
    return (vectors[:, :latent_dim] * scale).T, x.mean(axis=0), v
