"""Variational autoencoders with a learned decoder variance, on Keras 3."""

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_vae_variance needs Keras's TensorFlow backend: set "
        "KERAS_BACKEND=tensorflow before keras is imported. "
        f"Received: backend={_keras.backend.backend()}"
    )

from . import (  # noqa: E402 - what it imports needs TensorFlow
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
