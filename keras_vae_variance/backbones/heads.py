"""What the backbones share: the check of their arguments and the decoder's outputs.

An output has the name of its head, and so has the layer that owns its weights. Outputs
are float32 under any dtype policy: a variance or a log probability in half precision
would spoil the loss.
"""

import math
import numbers

import keras

__all__ = [
    "activation_of",
    "check_arguments",
    "conv_head",
    "dense_head",
    "is_image_head",
]


def check_arguments(input_shape, latent_dim, likelihood):
    """Check what every backbone is given.

    Args:
        input_shape: shape of one example, positive integers.
        latent_dim: number of latent variables, a positive integer.
        likelihood: an object with a method `heads(input_shape)`.

    Returns:
        `input_shape` as a tuple of ints.

    Raises:
        ValueError: for a shape that is empty or not of positive integers, a latent
            dimension that is not a positive integer, or a likelihood without `heads`.
    """
    shape = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else ()
    if not shape or not all(map(_is_positive_integer, shape)):
        raise ValueError(
            "input_shape must be the shape of one example, a tuple of positive "
            f"integers without the batch. Received: input_shape={input_shape}"
        )
    if not _is_positive_integer(latent_dim):
        raise ValueError(
            "latent_dim must be a positive integer, the number of latent variables. "
            f"Received: latent_dim={latent_dim}"
        )
    if isinstance(likelihood, type) or not callable(getattr(likelihood, "heads", None)):
        raise ValueError(
            "likelihood must be an object with a method heads(input_shape), such as "
            "likelihoods.Gaussian(variance): it says which outputs the decoder has. "
            f"Received: likelihood={likelihood}"
        )
    return tuple(map(int, shape))


def activation_of(name, head, mean_activation):
    """Activation of one head: the backbone's for `"mean"`, else the head's own.

    Args:
        name: name of the head.
        head: its `types.Head`.
        mean_activation: activation that the user chose for the mean.

    Returns:
        What Keras layers take as `activation`; None is linear.
    """
    return mean_activation if name == "mean" else head.activation


def is_image_head(head, input_shape):
    """Whether a head has numbers for each pixel, rather than for a whole image.

    Args:
        head: a `types.Head`.
        input_shape: `(height, width, channels)`.

    Returns:
        True for heads `(height, width, ...)`.
    """
    return len(head.shape) > 2 and tuple(head.shape[:2]) == tuple(input_shape[:2])


def dense_head(x, name, head, activation):
    """Add an output of any shape by a dense layer.

    Args:
        x: symbolic tensor `(batch, ...)`; it is flattened.
        name: name of the head and of the dense layer.
        head: its `types.Head`.
        activation: activation of the dense layer.

    Returns:
        Symbolic tensor `(batch, *head.shape)`, float32.
    """
    if len(x.shape) > 2:
        x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(
        math.prod(head.shape), activation=activation, dtype="float32", name=name
    )(x)
    return _reshape(x, head)


def conv_head(x, name, head, activation, kernel_size, padding="same"):
    """Add an output with numbers for each pixel by a convolution.

    Args:
        x: symbolic tensor `(batch, rows, columns, channels)`.
        name: name of the head and of the convolution.
        head: its `types.Head`, `(height, width, ...)`.
        activation: activation of the convolution.
        kernel_size: side of the kernel.
        padding: `"same"`, or `"valid"` where `x` is larger than the image.

    Returns:
        Symbolic tensor `(batch, *head.shape)`, float32.
    """
    x = keras.layers.Conv2D(
        math.prod(head.shape[2:]),
        kernel_size,
        padding=padding,
        activation=activation,
        dtype="float32",
        name=name,
    )(x)
    return _reshape(x, head)


def _reshape(x, head):
    shape = tuple(head.shape)
    if tuple(x.shape[1:]) == shape:
        return x
    return keras.layers.Reshape(shape, dtype="float32")(x)


def _is_positive_integer(value):
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and value > 0
