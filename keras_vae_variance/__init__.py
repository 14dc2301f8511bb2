"""Variational autoencoders with a learned decoder variance, on Keras 3."""

import keras as _keras

if _keras.backend.backend() not in ("tensorflow", "jax", "torch"):
    raise ImportError(
        "keras_vae_variance trains on Keras's TensorFlow, JAX and torch backends: set "
        "KERAS_BACKEND to one of tensorflow, jax, torch before keras is imported. "
        f"Received: backend={_keras.backend.backend()}"
    )

from . import (  # noqa: E402 - what it imports needs such a backend
    backbones,
    callbacks,
    datasets,
    likelihoods,
    metrics,
    plots,
    posteriors,
    priors,
    recipes,
    regularizers,
    samplers,
    types,
    variances,
)
from .hierarchical import HierarchicalVAE
from .sequence import SequenceVAE
from .training import fit_two_stage
from .vae import VAE, NonFiniteLossError

__all__ = [
    "VAE",
    "HierarchicalVAE",
    "NonFiniteLossError",
    "SequenceVAE",
    "backbones",
    "callbacks",
    "datasets",
    "fit_two_stage",
    "likelihoods",
    "metrics",
    "plots",
    "posteriors",
    "priors",
    "recipes",
    "regularizers",
    "samplers",
    "types",
    "variances",
]

__version__ = "0.1.0"
