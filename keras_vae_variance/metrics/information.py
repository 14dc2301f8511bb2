"""What the codes know of the data: the aggregate posterior and mutual information."""

import math
from typing import NamedTuple

import numpy as np

from ..ops import LOG_2_PI
from .base import Estimate, check_density, check_integer, encodings, key, noise, streams
from .mixtures import CHUNK, Components, log_sum_exp, prior

__all__ = [
    "MutualInformationBound",
    "marginal_kl",
    "mutual_information",
    "mutual_information_bound",
]


def marginal_kl(vae, x, num_samples=1, seed=None):
    """KL divergence of the aggregate posterior of `x` from the prior.

        E_q(z) [ log q(z) - log p(z) ],   q(z) = 1/N sum_n q(z|x_n)

    P2, Eq. 6: with the mutual information it adds up to the mean KL, here for one seed
    exactly. As the mutual information cannot exceed `log N`, the result is not below
    the mean KL less `log N`: in expectation it is an upper bound of what all images of
    the kind of `x` would have.

    Each example has its draws of `q(z|x_n)`, whose noise is a function of the seed and
    the place of the example. Their `log q(z|x_n) - log p(z)` exceeds its known mean,
    the KL, by chance: the multiple of this excess that explains most is taken off.

    The codes are kept, about `60 N L` bytes. The pairs of `N` draws and `N` components
    are taken in chunks of constant size, each by a matrix product, in float64.

    Args:
        vae: a trained `VAE` with a posterior that is not deterministic.
        x: the images, in any form that `VAE.fit` takes. Labels and weights are ignored.
        num_samples: draws of each example.
        seed: int, or None for a fresh one from Python's `random`, which
            `keras.utils.set_random_seed` seeds.

    Returns:
        An `Estimate` in nats: the mean KL in closed form less `mutual_information`. Its
        error is over examples and their draws, with `q(z)` held.

    Raises:
        ValueError: if the posterior is deterministic, `x` is empty, or `num_samples` is
            not a positive int.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> information = kvv.metrics.mutual_information(vae, x, seed=0)
    >>> rate = float(information) + float(kvv.metrics.marginal_kl(vae, x, seed=0))
    >>> bool(abs(rate - np.mean(vae.elbo(x)["kl"])) < 1e-4)
    True
    """
    draws = _draw(vae, x, num_samples, seed)
    return Estimate.of(draws.kl[:, 0] - _information(draws))


def mutual_information(vae, x, num_samples=1, seed=None):
    """Mutual information of the images `x` and their codes.

        I(x; z) = E[ KL(q(z|x) || p(z)) ] - KL(q(z) || p(z))
                = E_x E_q(z|x) [ log q(z|x) - log q(z) ]

    P2, Eq. 6; P1, Eq. A.2, with `q(z)` the mixture of the posteriors of `x`. It is that
    of drawing one of these `N` images, hence at most `log N`, and in expectation a
    lower bound of that of all images of their kind: see `mutual_information_bound`.

    Args:
        vae: a trained `VAE` with a posterior that is not deterministic.
        x: the images, in any form that `VAE.fit` takes. Labels and weights are ignored.
        num_samples: draws of each example.
        seed: int, or None for a fresh one from Python's `random`, which
            `keras.utils.set_random_seed` seeds.

    Returns:
        An `Estimate` in nats. For its error, the draws and the memory see
        `marginal_kl`.

    Raises:
        ValueError: if the posterior is deterministic, `x` is empty, or `num_samples` is
            not a positive int.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> float(kvv.metrics.mutual_information(vae, x, seed=0)) < 3.47  # log 32
    True
    """
    return Estimate.of(_information(_draw(vae, x, num_samples, seed)))


class MutualInformationBound(NamedTuple):
    """What `mutual_information_bound` finds, in nats.

    Attributes:
        included: `Estimate` with each example's own code among the others'.
        left_out: `Estimate` without it.
        log_count: `log N`, which `included` cannot exceed by more than its error.
    """

    included: Estimate
    left_out: Estimate
    log_count: float


def mutual_information_bound(vae, x, num_samples=1, seed=None):
    """P1's bound of the mutual information, with and without an example's own code.

        - E_q(z) log E_x' [ exp(-|z - mu(x')|^2 / (2 s2)) ] - L/2

    P1, Eq. D.1, for a posterior of one variance `s2`; `L/2`, which the paper prints as
    half the dimension of `x`, belongs to the entropy of a Gaussian over `z`. For any
    posterior it is

        - E_q(z) log E_x' [ q(z|x') ] - E_x [ entropy of q(z|x) ]

    Where `x'` runs over the same `N` examples as `z`, the result cannot exceed about
    `log N`, and is in expectation a lower bound of the mutual information of codes and
    all images of the kind of `x`. Where the example that `z` was drawn from is left out
    of the mean, it is an upper bound, which has no limit (Poole et al., 2019, On
    variational bounds of mutual information). P1's Table 1 takes `N` = 10,000 and has
    values far above `log N` = 9.21: compare it with `left_out`.

    The codes are kept, about `60 N L` bytes; pairs are taken in chunks of constant
    size, each by a matrix product, in float64.

    Args:
        vae: a trained `VAE` with a posterior that is not deterministic.
        x: at least two images, in any form that `VAE.fit` takes. Labels and weights are
            ignored.
        num_samples: draws of each example.
        seed: int, or None for a fresh one from Python's `random`, which
            `keras.utils.set_random_seed` seeds.

    Returns:
        A `MutualInformationBound`: `included`, `left_out` and `log_count`. Errors are
        over examples and their draws, with `q(z)` held.

    Raises:
        ValueError: if the posterior is deterministic, `x` holds less than two examples,
            or `num_samples` is not a positive int.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.IsotropicGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> bound = kvv.metrics.mutual_information_bound(vae, x, seed=0)
    >>> float(bound.included) < bound.log_count  # log 32
    True
    """
    draws = _draw(vae, x, num_samples, seed)
    count = len(draws.own)
    if count < 2:
        raise ValueError(
            "`x` must hold at least two examples, to leave one out. "
            f"Received: x of {count} example"
        )

    def estimate(log_q):
        return Estimate.of(np.mean(-draws.entropy - log_q, axis=1))

    return MutualInformationBound(
        estimate(draws.log_q()),
        estimate(draws.others - math.log(count - 1)),
        math.log(count),
    )


# --------------------------------------------------------------------------------------
# Draws of the aggregate posterior


class _Draws(NamedTuple):
    """Log densities at draws `z ~ q(z|x_n)`, `(n, num_samples)`, and what is known."""

    own: np.ndarray  # log q(z|x_n)
    others: np.ndarray  # log sum of q(z|x_m) over the other examples m
    log_p: np.ndarray  # log p(z)
    kl: np.ndarray  # KL(q(z|x_n) || p(z)), (n, 1)
    entropy: np.ndarray  # of q(z|x_n), (n, 1)

    def log_q(self):
        """Log q(z) of the mixture."""
        return np.logaddexp(self.own, self.others) - math.log(len(self.own))


def _draw(vae, x, num_samples, seed):
    """The `_Draws` of a data set; pairs are held in chunks."""
    check_density(vae, "an infinite KL to the prior and to other codes")
    check_integer("num_samples", num_samples)
    noise_key = key(seed)
    codes = [latent[1:3] for _, latent in encodings(vae, x)]
    mean, variance = map(np.concatenate, zip(*codes, strict=True))
    count = len(mean)
    p, mixture = prior(vae, mean), Components(mean, variance)
    # log q(z|x) = -1/2 sum_j (noise_j^2 + log s2_j + log 2 pi)
    log_scale = np.sum(np.log(variance) + LOG_2_PI, axis=1, keepdims=True)
    # KL(q(z|x) || p(z)) = - entropy - E log p(z)
    entropy = 0.5 * (log_scale + mean.shape[1])

    own, others, log_p = np.empty((3, count, num_samples))
    size = max(1, CHUNK // count)
    for start in range(0, count, size):
        rows = np.arange(start, min(start + size, count))
        sources = streams(noise_key, start, len(rows))
        for k in range(num_samples):
            drawn = noise(sources, mean.shape[1:]).astype(np.float64)
            z = mean[rows] + np.sqrt(variance[rows]) * drawn
            own[rows, k] = -0.5 * (np.sum(drawn**2, axis=1) + log_scale[rows, 0])
            log_p[rows, k] = p.log_prob(z)[:, 0]
            joint = mixture.log_prob(z)
            joint[rows - start, rows] = -np.inf
            others[rows, k] = log_sum_exp(joint)
    kl = -entropy - p.log_prob(mean, variance)
    return _Draws(own, others, log_p, kl, entropy)


def _information(draws):
    """Of each example, with the noise taken off that is known to have mean 0."""
    information = draws.own - draws.log_q()
    excess = draws.own - draws.log_p - draws.kl
    centred = excess - excess.mean()
    power = np.sum(centred**2)
    slope = np.sum(centred * information) / power if power > 0 else 0.0
    return np.mean(information - slope * excess, axis=1)
