"""Variational autoencoders with a learned decoder variance, on Keras 3."""

from . import (
    backbones,
    datasets,
    likelihoods,
    metrics,
    plots,
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
    "datasets",
    "fit_two_stage",
    "likelihoods",
    "metrics",
    "plots",
    "posteriors",
    "priors",
    "regularizers",
    "samplers",
    "types",
    "variances",
]

__version__ = "0.1.0"
