"""The training and test steps, those of the Keras backend at work."""

import keras

from .base import GlobalMean, NonFiniteLossError

if keras.backend.backend() == "tensorflow":
    from .tensorflow import TensorFlowSteps as Steps
elif keras.backend.backend() == "jax":
    from .jax import JAXSteps as Steps
else:
    from .torch import TorchSteps as Steps

__all__ = ["GlobalMean", "NonFiniteLossError", "Steps"]
