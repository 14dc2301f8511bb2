"""How far latents are from the prior, and which of their dimensions are used."""

import math
import numbers
from typing import NamedTuple

import numpy as np

from ..data import generator
from .base import (
    Estimate,
    check_integer,
    check_one_vector,
    encodings,
    float64,
    log_density,
)
from .mixtures import prior

__all__ = ["ActiveUnits", "active_units", "kl_to_prior"]


def kl_to_prior(sampler, vae=None, num_samples=10_000, num_runs=10, seed=None):
    """KL divergence of a density of latent vectors from the prior, by draws.

        KL(q_hat(z) || p(z)) = E_q_hat [ log q_hat(z) - log p(z) ]

    P0, Table 1, where `q_hat` is the Gaussian mixture that was fitted to the codes. The
    paper gives mean and standard deviation of 10 runs of 10,000 draws; the standard
    error here is that of the mean, so that its number behind the +- is
    `standard_error * num_runs**0.5`.

    Args:
        sampler: a fitted sampler with a `log_prob`, or a TFP distribution over latent
            vectors. With a `SecondStage`, whose `log_prob` is a lower bound, the result
            is one of the divergence.
        vae: the `VAE` whose prior is meant. None takes the standard normal.
        num_samples: draws of a run.
        num_runs: number of runs, at least 2.
        seed: integer of at least 0, or None for a fresh one from Python's `random`,
            which `keras.utils.set_random_seed` seeds.

    Returns:
        An `Estimate` in nats, of independent runs.

    Raises:
        TypeError: if `sampler` neither draws nor has a density.
        ValueError: if `sampler` and `vae` are of different dimensions, a count is not
            an int, or too small, or `vae` is a model of sequences.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> sampler = kvv.samplers.OptimalPrior().fit(vae, x)
    >>> float(kvv.metrics.kl_to_prior(sampler, seed=0)) > 0
    True
    """
    if not (hasattr(sampler, "sample") and hasattr(sampler, "log_prob")):
        raise TypeError(
            "`sampler` must be a fitted sampler, or a distribution, with `sample` and "
            f"`log_prob`. Received: sampler={sampler!r}"
        )
    check_integer("num_samples", num_samples)
    check_integer("num_runs", num_runs, least=2)
    if vae is not None:
        check_one_vector(vae)
    rng = generator(seed)
    seeds, others = (
        rng.integers(2**31, size=(num_runs, 2)).astype("int32") for _ in range(2)
    )
    runs = []
    for words, other in zip(seeds, others, strict=True):
        draws = sampler.sample(num_samples, seed=words)
        z = float64(draws)
        log_q = float64(log_density(sampler, draws, other))
        runs.append(np.mean(log_q - prior(vae, z).log_prob(z)[:, 0]))
    return Estimate.of(runs)


class ActiveUnits(NamedTuple):
    """What `active_units` finds.

    Attributes:
        count: number of active latent dimensions.
        variances: variance over the data of each dimension's posterior mean, `(L,)`.
    """

    count: int
    variances: np.ndarray


def active_units(vae, x, threshold=0.01):
    """Latent dimensions that the codes make use of.

        variance over x of mu_j(x) > threshold

    Burda et al., 2016, Importance weighted autoencoders. A dimension whose posterior
    has collapsed to the prior has a mean that hardly depends on `x`. Their threshold
    belongs to a standard normal prior: it is in squared units of `z`.

    The data are read once, and nothing is kept of them.

    Args:
        vae: a trained `VAE`.
        x: the images, in any form that `VAE.fit` takes. Labels and weights are ignored.
        threshold: the variance above which a dimension is active.

    Returns:
        An `ActiveUnits`: the `count`, and the `variances` of all dimensions.

    Raises:
        ValueError: if `threshold` is not a finite number of at least 0, or `x` is
            empty.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> kvv.metrics.active_units(vae, x, threshold=0.0).count
    2
    """
    if not (isinstance(threshold, numbers.Real) and 0 <= threshold < math.inf):
        raise ValueError(
            "`threshold` must be a finite number of at least 0. "
            f"Received: threshold={threshold!r}"
        )
    count, mean, squares = 0, 0.0, 0.0
    for _, latent in encodings(vae, x):
        added = len(latent.mean)
        distance = latent.mean.mean(axis=0) - mean
        share = added / (count + added)
        # Chan et al.: no difference of large sums where the codes are far from 0.
        squares += added * latent.mean.var(axis=0) + count * share * distance**2
        mean += share * distance
        count += added
    variances = squares / count
    return ActiveUnits(int(np.sum(variances > threshold)), variances)
