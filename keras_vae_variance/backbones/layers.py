"""Layers in the notation of the papers' appendices, with batch normalisation or not."""

import keras
import numpy as np
from keras import ops

from .. import ops as kvv_ops
from . import winograd

__all__ = [
    "BatchNormalization",
    "SubpixelConvolution",
    "convolution",
    "crop",
    "dense",
    "residual_blocks",
    "start",
    "transposed",
]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer, with the moments of the whole batch over all replicas.

    Keras refuses `synchronized=True` on backends without replicas, also in a saved
    model's configuration; so it is no argument here.

    Args:
        **kwargs: as of Keras's layer.
    """

    def __init__(self, **kwargs):
        kwargs["synchronized"] = keras.backend.backend() == "tensorflow"
        super().__init__(**kwargs)

    def get_config(self):
        config = super().get_config()
        del config["synchronized"]
        return config

    def _moments(self, inputs, mask):
        if kvv_ops.num_replicas() == 1 or mask is not None:
            return super()._moments(inputs, mask)
        # The example that fills an empty share must not count.
        axes, present = self._reduction_axes, kvv_ops.present()
        size = ops.size(inputs) // inputs.shape[self.axis]
        count = kvv_ops.all_reduce(present * ops.cast(size, inputs.dtype))
        count = ops.maximum(count, 1.0)
        sums = ops.stack([ops.sum(inputs, axes), ops.sum(ops.square(inputs), axes)])
        mean, square = ops.unstack(kvv_ops.all_reduce(present * sums) / count)
        return mean, ops.maximum(square - ops.square(mean), 0.0)


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class SubpixelConvolution(keras.layers.Layer):
    """Depth-to-space by 2 and a 5x5 convolution after it, computed before it.

    With few channels a convolution is slow for its size. The same numbers, from the
    same kernel, come from a 3x3 convolution of 4 times the channels to 4 times the
    filters at half of the sides, with depth-to-space after it: 2.5 times as fast.

    Args:
        filters: channels of the result.
        activation: comes last; None is linear.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, filters, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.activation = keras.activations.get(activation)

    def build(self, shape):
        self.channels = shape[-1] // 4
        self.kernel = self.add_weight(
            shape=(5, 5, self.channels, self.filters),
            initializer="glorot_uniform",
            name="kernel",
        )
        self.bias = self.add_weight(
            shape=(self.filters,), initializer="zeros", name="bias"
        )

    def call(self, x):
        # The pixel 2 r + p of the result takes the pixels 2 r + p + k of what
        # depth-to-space would give, k = 0 .. 4: those at 2 a + i = p + k of the 3x3
        # blocks of 2x2 pixels from r on. Rows and columns alike.
        a, i, p, k = np.ogrid[:3, :2, :2, :5]
        taken = (2 * a + i == p + k).astype("float32")
        kernel = ops.einsum("aipk,bjql,klcf->abijcpqf", taken, taken, self.kernel)
        shape = (3, 3, 4 * self.channels, 4 * self.filters)
        x = ops.conv(x, ops.reshape(kernel, shape), padding="valid")
        return self.activation(ops.depth_to_space(x, 2) + self.bias)

    def compute_output_shape(self, shape):
        batch, rows, columns, _ = shape
        return batch, 2 * rows - 4, 2 * columns - 4, self.filters

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        config = {"filters": self.filters, "activation": activation}
        return {**super().get_config(), **config}


def dense(x, units, name, activation=None, batch_norm=False):
    """Add a dense layer, batch normalisation where asked for, and an activation.

    Args:
        x: symbolic tensor `(batch, features)`.
        units: number of units.
        name: name of the dense layer; its batch normalisation is `{name}_norm`.
        activation: comes last; None is linear.
        batch_norm: whether to normalise. The layer then has no bias, which the
            normalisation would take away again.

    Returns:
        Symbolic tensor `(batch, units)`.
    """
    return _add(keras.layers.Dense, x, name, activation, batch_norm, units=units)


def convolution(
    x,
    filters,
    kernel_size,
    strides,
    name,
    activation="relu",
    batch_norm=False,
    padding="same",
):
    """Add a convolution, batch normalisation where asked for, and an activation.

    Args:
        x: symbolic tensor `(batch, rows, columns, channels)`.
        filters: channels of the result.
        kernel_size: side of the kernel.
        strides: factor by which the sides shrink.
        name: name of the convolution; its batch normalisation is `{name}_norm`.
        activation: comes last; None is linear.
        batch_norm: as in `dense`.
        padding: `"same"` or `"valid"`.

    Returns:
        Symbolic tensor `(batch, rows / strides, columns / strides, filters)`, rounded
        up, with `"same"`.
    """
    return _add(
        winograd.layer_for(x, filters, kernel_size, strides, padding),
        x,
        name,
        activation,
        batch_norm,
        filters=filters,
        kernel_size=kernel_size,
        strides=strides,
        padding=padding,
    )


def transposed(
    x, filters, kernel_size, strides, name, activation="relu", batch_norm=False
):
    """Add a transposed convolution, batch normalisation or not, and an activation.

    Args:
        x: symbolic tensor `(batch, rows, columns, channels)`.
        filters: channels of the result.
        kernel_size: side of the kernel.
        strides: factor by which the sides grow.
        name: name of the convolution; its batch normalisation is `{name}_norm`.
        activation: comes last; None is linear.
        batch_norm: as in `dense`.

    Returns:
        Symbolic tensor `(batch, rows * strides, columns * strides, filters)`.
    """
    return _add(
        keras.layers.Conv2DTranspose,
        x,
        name,
        activation,
        batch_norm,
        filters=filters,
        kernel_size=kernel_size,
        strides=strides,
        padding="same",
    )


def residual_blocks(x, channels, blocks):
    """Add blocks h = relu(h + C(3, channels)(relu(C(3, channels)(h)))).

    Args:
        x: symbolic tensor `(batch, rows, columns, channels)`.
        channels: channels of `x`.
        blocks: number of blocks.

    Returns:
        Symbolic tensor of the shape of `x`.
    """
    for block in range(1, blocks + 1):
        y = convolution(x, channels, 3, 1, f"block_{block}_1")
        y = convolution(y, channels, 3, 1, f"block_{block}_2", activation=None)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    return x


def start(z, input_shape, doublings, channels, activation=None, batch_norm=False):
    """Add a dense layer for the first map of a decoder that doubles its sides.

    Args:
        z: symbolic tensor `(batch, features)`.
        input_shape: `(height, width, ...)` of an image.
        doublings: how often the decoder doubles the sides.
        channels: channels of the map.
        activation: of the dense layer.
        batch_norm: as in `dense`.

    Returns:
        Symbolic tensor `(batch, rows, columns, channels)` with `rows` and `columns` the
        image's sides over `2**doublings`, rounded up. The layer's name is `"start"`.
    """
    rows, columns = (-(-side // 2**doublings) for side in input_shape[:2])
    x = dense(z, rows * columns * channels, "start", activation, batch_norm)
    return keras.layers.Reshape((rows, columns, channels))(x)


def crop(x, sides, dtype=None):
    """Cut off what a map has too much at the bottom and at the right.

    Args:
        x: symbolic tensor `(batch, rows, columns, channels)`.
        sides: the wanted height and width first, then anything.
        dtype: of the result; None for that of the dtype policy.

    Returns:
        Symbolic tensor `(batch, height, width, channels)`.
    """
    surplus = [have - want for have, want in zip(x.shape[1:3], sides[:2], strict=True)]
    if not any(surplus):
        return x
    return keras.layers.Cropping2D([(0, extra) for extra in surplus], dtype=dtype)(x)


def _add(layer, x, name, activation, batch_norm, **arguments):
    if not batch_norm:
        return layer(activation=activation, name=name, **arguments)(x)
    x = layer(use_bias=False, name=name, **arguments)(x)
    x = BatchNormalization(name=f"{name}_norm")(x)
    return keras.layers.Activation(activation)(x)
