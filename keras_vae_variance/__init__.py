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
from .vae import VAE, NonFiniteLossError

__all__ = [
    "VAE",
    "NonFiniteLossError",
    "backbones",
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
