"""The only switches between Keras's backends."""

import keras
import numpy as np
from keras import ops

__all__ = [
    "all_gather",
    "all_reduce",
    "concrete",
    "host",
    "need_tensorflow",
    "num_replicas",
    "replica_context",
    "vjp",
]


def replica_context():
    """The context of `tf.distribute` where there are several replicas, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context


def num_replicas():
    """Number of replicas of the `tf.distribute` strategy at work, else 1."""
    context = replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def all_reduce(t):
    """Sum of `t` over the replicas, differentiable; `t` itself where there is one."""
    context = replica_context()
    return t if context is None else context.all_reduce("SUM", t)


def all_gather(t):
    """`t` of all replicas, joined along the first axis; `t` itself where there is one.

    Shares may differ in size, and may be empty.
    """
    context = replica_context()
    return t if context is None else context.all_gather(t, axis=0)


def vjp(function, x):
    """The value of `function` at `x`, and its pull-back.

    Returns:
        `y = function(x)`, and a function of one use from a cotangent `u` of the shape
        of `y` to `J^T u`, of the shape of `x`. It can be differentiated in turn.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, lambda u: tape.gradient(y, x, output_gradients=u)
    if backend == "jax":
        import jax

        y, pull_back = jax.vjp(function, x)
        return y, lambda u: pull_back(u)[0]
    import torch

    with torch.enable_grad():  # evaluation is without
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        y = function(x)
    return y, lambda u: torch.autograd.grad(y, x, u, create_graph=True)[0]


def concrete(variable):
    """The value of a Keras variable as NumPy, also while a graph is being traced."""
    if keras.backend.backend() == "jax":
        # Not the tracer of a scope. While a step runs, Keras's trainer has the value,
        # and there is the one that was asked for last.
        value = getattr(variable, "_value", variable)
        if value is not None:
            value = np.asarray(value)
            if isinstance(variable, keras.Variable):
                variable.last_concrete = value
            return value
        return variable.last_concrete
    if keras.backend.backend() == "torch":
        return np.asarray(ops.convert_to_numpy(variable))
    import tensorflow as tf

    with tf.init_scope():
        # With gradient accumulation an optimizer's `iterations` is a tensor.
        return np.asarray(getattr(variable, "value", variable).numpy())


def need_tensorflow(what):
    """Raises where Keras runs on another backend, on which there is no `what`."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"{what} needs Keras's TensorFlow backend: save the model, and load it in "
            "a process with KERAS_BACKEND=tensorflow. "
            f"Received: backend={keras.backend.backend()}"
        )


def host(t):
    """`t` itself on TensorFlow, graphs included; elsewhere a copy of it in NumPy.

    It brings tensors from the backend to TensorFlow's distributions, and back.
    """
    if keras.backend.backend() == "tensorflow":
        return t
    return np.asarray(ops.convert_to_numpy(t) if ops.is_tensor(t) else t)
