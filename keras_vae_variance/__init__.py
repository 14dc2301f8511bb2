"""Variational autoencoders with a learned decoder variance, on Keras 3."""

from . import (
    backbones,
    likelihoods,
    metrics,
    posteriors,
    priors,
    regularizers,
    samplers,
    types,
    variances,
)
from .training import fit_two_stage
from .vae import VAE, NonFiniteLossError

__all__ = [
    "VAE",
    "NonFiniteLossError",
    "backbones",
    "fit_two_stage",
    "likelihoods",
    "metrics",
    "posteriors",
    "priors",
    "regularizers",
    "samplers",
    "types",
    "variances",
]

__version__ = "0.1.0"
