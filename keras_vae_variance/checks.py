"""Checks of arguments that parts of all kinds share."""

import numbers

__all__ = ["check_input", "check_integer"]


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


def _fits(given, shape):
    sizes = zip(given, shape, strict=False)
    return len(given) == len(shape) and all(g in (None, s) for g, s in sizes)
