"""What the callbacks ask of a model."""

import keras

from .. import ops as kvv_ops

__all__ = ["steps_taken", "variance_model"]


def variance_model(model):
    """The variance part of a model's likelihood, or None."""
    return getattr(getattr(model, "likelihood", None), "variance_model", None)


def steps_taken(model):
    """The number of steps that the optimizer has taken."""
    if keras.backend.backend() == "jax":
        # During `fit` the variables are empty and their values travel as arguments.
        model.jax_state_sync()
    return int(kvv_ops.concrete(model.optimizer.iterations))
