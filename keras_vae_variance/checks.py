"""Checks of arguments that parts of all kinds share."""

import numbers

import numpy as np
from keras import ops

__all__ = ["check_causal", "check_input", "check_integer"]


def check_integer(name, value, least=1):
    """Raises where `value` is not an integer of at least `least`.

    Example:

    >>> from keras_vae_variance.checks import check_integer
    >>> check_integer("epochs", 0)
    Traceback (most recent call last):
    ValueError: `epochs` must be an integer of at least 1. Received: epochs=0
    """
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integer or value < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. "
            f"Received: {name}={value!r}"
        )


def check_input(name, network, shapes, what):
    """Raises where a network does not take inputs of these shapes.

    Args:
        name: of the network.
        network: a Keras model; nothing is known of one without an `input_shape`.
        shapes: of one example of each input. A size that the network leaves open fits.
        what: what has these shapes.

    Example:

    >>> import keras
    >>> from keras_vae_variance.checks import check_input
    >>> network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> check_input("network", network, [(3,)], "three features")
    """
    if not callable(network):
        raise ValueError(f"`{name}` must be a Keras model. Received: {name}={network}")
    given = getattr(network, "input_shape", None)
    inputs = [given] if isinstance(given, tuple) else given
    if not isinstance(inputs, list):
        return
    pairs = zip(inputs, shapes, strict=False)
    if len(inputs) != len(shapes) or not all(_fits(i[1:], s) for i, s in pairs):
        expected = ", ".join(
            f"({', '.join(map(str, ('None', *shape)))})" for shape in shapes
        )
        raise ValueError(
            f"`{name}` must take inputs of shape {expected}, that of {what}. "
            f"Received: {name}.input_shape={given}"
        )


def check_causal(name, run, shapes):
    """Raises where a network of sequences looks ahead.

    Its outputs are compared for inputs that differ in the last step alone.

    Args:
        name: of the network.
        run: calls it with a list of inputs.
        shapes: of one example of each input, `(time, ...)`.

    Example:

    >>> import keras
    >>> from keras_vae_variance.checks import check_causal
    >>> network = keras.layers.LSTM(2, return_sequences=True)
    >>> check_causal("network", lambda x: network(*x), [(3, 4)])
    """
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((1, *shape)).astype("float32") for shape in shapes]
    first = ops.convert_to_numpy(ops.cast(run(inputs), "float32"))
    for x in inputs:
        x[:, -1] += 1.0
    second = ops.convert_to_numpy(ops.cast(run(inputs), "float32"))
    if not np.allclose(first[:, :-1], second[:, :-1], rtol=1e-3, atol=1e-5):
        raise ValueError(
            f"`{name}` must be causal: what it gives for a step may depend on no later "
            "one. Received: a network whose first steps change with the last"
        )


def _fits(given, shape):
    sizes = zip(given, shape, strict=False)
    return len(given) == len(shape) and all(g in (None, s) for g, s in sizes)
