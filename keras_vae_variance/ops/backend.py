"""The only switches between Keras's backends."""

import functools

import keras
import numpy as np
from keras import ops

__all__ = [
    "all_gather",
    "all_reduce",
    "compiled",
    "concrete",
    "host",
    "jacobian",
    "jvp",
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


def jvp(function, x, tangent):
    """The value of `function` at `x`, and its derivative along `tangent`.

    Returns:
        `y = function(x)`, and `J tangent`, of the shape of `y`.
    """
    y, pull_back = vjp(function, x)
    # The pull-back is linear in its cotangent, so that its own is the push-forward.
    _, push_forward = vjp(pull_back, ops.zeros_like(y))
    return y, push_forward(tangent)


def jacobian(function, x):
    """The derivative of each row of `function(x)` by the same row of `x`.

    Args:
        function: it must treat each row by itself. It is called once, with each row as
            many times as a row has numbers.
        x: tensor of shape `(batch, L)`.

    Returns:
        `d y_n / d x_nj` at `[n, j]`, of shape `(batch, L, ...)` for `y` of shape
        `(batch, ...)`.
    """
    size = x.shape[1]
    units = ops.broadcast_to(ops.eye(size), (ops.shape(x)[0], size, size))
    tangents = ops.reshape(units, (-1, size))
    _, columns = jvp(function, ops.repeat(x, size, axis=0), tangents)
    return ops.reshape(columns, (-1, size, *columns.shape[1:]))


def compiled(function, *shapes):
    """`function` of float32 tensors, compiled once on TensorFlow.

    Args:
        function: it takes one tensor for each of `shapes`, and is called with arrays.
        shapes: shapes of its arguments; None stands for any size.
    """

    def traced():
        return function

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
        graph = tf.function(function, input_signature=signature, autograph=False)
        # Concrete, from the first call on: TensorFlow warns of other functions that are
        # traced again for each model.
        traced = functools.cache(graph.get_concrete_function)
    return lambda *arrays: traced()(
        *(ops.convert_to_tensor(array, "float32") for array in arrays)
    )


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
