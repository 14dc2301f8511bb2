"""What the backbones share: the check of their arguments and the decoder's outputs.

An output has the name of its head, and so has the layer that owns its weights. Outputs
are float32 under any dtype policy: a variance or a log probability in half precision
would spoil the loss.
"""

import math
import numbers

import keras

from keras_vae_variance.backbones import layers

__all__ = [
    "check_arguments",
    "check_image_arguments",
    "check_sizes",
    "conv_head",
    "dense_head",
    "outputs",
    "subpixel_head",
    "transposed_head",
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
            "`input_shape` must be the shape of one example, a tuple of positive "
            f"integers without the batch. Received: input_shape={input_shape}"
        )
    if not _is_positive_integer(latent_dim):
        raise ValueError(
            "`latent_dim` must be a positive integer, the number of latent variables. "
            f"Received: latent_dim={latent_dim!r}"
        )
    if isinstance(likelihood, type) or not callable(getattr(likelihood, "heads", None)):
        raise ValueError(
            "`likelihood` must be an object with a method heads(input_shape), such as "
            "likelihoods.Gaussian(variance): it says which outputs the decoder has. "
            f"Received: likelihood={likelihood}"
        )
    return tuple(map(int, shape))


def check_image_arguments(input_shape, latent_dim, likelihood):
    """Check what a backbone for images is given, as `check_arguments`.

    Args:
        input_shape: `(height, width, channels)`.
        latent_dim: number of latent variables, a positive integer.
        likelihood: an object with a method `heads(input_shape)`.

    Returns:
        `input_shape` as a tuple of ints.

    Raises:
        ValueError: as `check_arguments`, and for a shape of another rank.
    """
    shape = check_arguments(input_shape, latent_dim, likelihood)
    if len(shape) != 3:
        raise ValueError(
            "`input_shape` must be (height, width, channels); for other data use "
            f"another backbone, such as mlp. Received: input_shape={input_shape}"
        )
    return shape


def check_sizes(**sizes):
    """Check the sizes of a network, such as its channels.

    Args:
        **sizes: values by the name of the backbone's argument.

    Raises:
        ValueError: for one that is not a positive integer.
    """
    for name, value in sizes.items():
        if not _is_positive_integer(value):
            raise ValueError(
                f"`{name}` must be a positive integer. Received: {name}={value!r}"
            )


def outputs(likelihood, input_shape, mean_activation, dense_input, image_head=None):
    """Make the decoder's outputs, one for each head of the likelihood.

    Args:
        likelihood: asked for the heads by `likelihood.heads(input_shape)`.
        input_shape: shape of one example.
        mean_activation: activation of the head named `"mean"`; the others bring theirs.
        dense_input: symbolic tensor from which a dense layer makes each head that has
            not numbers for each pixel, `(height, width, ...)`.
        image_head: function of a head's name, its `types.Head` and its activation that
            makes an output with numbers for each pixel; None makes all heads dense.

    Returns:
        Dict of symbolic tensors `(batch, *head.shape)` by head name.
    """
    result = {}
    for name, head in likelihood.heads(input_shape).items():
        activation = mean_activation if name == "mean" else head.activation
        is_image = len(head.shape) > 2 and tuple(head.shape[:2]) == input_shape[:2]
        if image_head is not None and is_image:
            result[name] = image_head(name, head, activation)
        else:
            result[name] = dense_head(dense_input, name, head, activation)
    return result


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


def subpixel_head(x, name, head, activation):
    """Add depth-to-space by 2, and an output by a 5x5 convolution after it.

    Args:
        x: symbolic tensor `(batch, height / 2 + 2, width / 2 + 2, channels)`, a pixel
            more at each edge than half of the image.
        name: name of the head and of the layer.
        head: its `types.Head`, `(height, width, ...)`.
        activation: activation of the convolution.

    Returns:
        Symbolic tensor `(batch, *head.shape)`, float32.
    """
    filters = math.prod(head.shape[2:])
    x = layers.SubpixelConvolution(filters, activation, dtype="float32", name=name)(x)
    return _reshape(x, head)


def transposed_head(x, name, head, activation, kernel_size, strides=1):
    """Add an output with numbers for each pixel by a transposed convolution.

    Args:
        x: symbolic tensor `(batch, rows, columns, channels)`. Where `strides` times its
            sides are more than the image's, the surplus is cut off at the bottom and at
            the right.
        name: name of the head and of the transposed convolution.
        head: its `types.Head`, `(height, width, ...)`.
        activation: activation of the transposed convolution.
        kernel_size: side of the kernel.
        strides: factor by which the sides of `x` grow.

    Returns:
        Symbolic tensor `(batch, *head.shape)`, float32.
    """
    x = keras.layers.Conv2DTranspose(
        math.prod(head.shape[2:]),
        kernel_size,
        strides=strides,
        padding="same",
        activation=activation,
        dtype="float32",
        name=name,
    )(x)
    return _reshape(layers.crop(x, head.shape, dtype="float32"), head)


def _reshape(x, head):
    shape = tuple(head.shape)
    if tuple(x.shape[1:]) == shape:
        return x
    return keras.layers.Reshape(shape, dtype="float32")(x)


def _is_positive_integer(value):
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and value > 0
