"""Convolutions down, transposed ones up by 4: the network of P0 for CelebA."""

import keras

from keras_vae_variance.backbones import heads, layers

__all__ = ["transposed"]

_MIN_SIDE = 8
_FRACTION = 32  # P0's first convolution has 1/32 of the channels of the last, 1024


def transposed(
    input_shape, latent_dim, likelihood, mean_activation="sigmoid", channels=1024
):
    """Make convolutional networks that upsample by transposed convolutions.

    P0, App. B.2. `C(f, k)` is a convolution with an `f x f` kernel to `k` channels,
    `T(f, k, s)` a transposed one of stride `s`, `BN` batch normalisation, `lrelu` a
    leaky relu, whose slope P0 does not give: 0.2, as in TensorFlow. At
    `(128, 128, 3)`:

        encoder   C(4, 32) C(4, 64) C(4, 128) C(4, 256) C(4, 512), stride 2, lrelu, to
                  4x4x512; C(4, 1024) valid, lrelu, to 1x1x1024; dense 512, linear
        decoder   dense 256, lrelu, as 1x1x256; C(1, 4096), linear;
                  T(4, 1024, 1) T(4, 512, 4), each BN, lrelu, to 4x4x512 (tap);
                  T(4, 256, 4) T(4, 128, 4), each BN, lrelu, to 64x64x128; T(4, 3, 2)
        variance  from the tap: T(4, 256, 4) T(4, 128, 4), lrelu; T(4, 1, 2)

    P0 prints 64x64x3 at the end; stride 2 gives the 128x128x3 of the data. A layer
    before `BN` has no bias. `T(4, 1024, 1)` is kept as printed, though on a map of one
    pixel only one entry in 16 of its kernel is ever used.

    Other sizes follow the same rule:

    - Images are padded with zeros, at the bottom and at the right, to a square whose
      side is a power of two and at least 8; the decoder's outputs are cut off there.
    - The encoder's maps are halved until the side is 4; their channels start from 32,
      double, and are 512 at most.
    - The decoder's last layer doubles the side. Before it, sides grow by 4 as often as
      possible and then by 2 where needed, while the channels halve: the strides are
      4, 2 for a side of 8; 4, 2, 2 for 16; 4, 4, 2 for 32; 4, 4, 2, 2 for 64.
    - The dense layer of the encoder has 512 units, or `2 * latent_dim` if that is more,
      so that it does not limit the posterior's mean and variance.

    Heads with numbers for each pixel end in that last layer: those of role
    `"variance"` on their own branch from the tap, the others on the decoder's last map.
    Heads of any other shape, such as one variance an image, are a dense layer on the
    flattened tap.

    Args:
        input_shape: `(height, width, channels)`.
        latent_dim: number of latent variables, 256 in P0.
        likelihood: asked for the decoder's outputs by `likelihood.heads(input_shape)`.
        mean_activation: activation of the head named `"mean"`: `"sigmoid"` for data in
            [0, 1], None for unscaled data.
        channels: channels of the widest map, a multiple of 32; all other widths are
            P0's in proportion.

    Returns:
        The encoder, `(batch, height, width, channels)` to `(batch, features)`, and the
        decoder, `(batch, latent_dim)` to a dict of `(batch, *head.shape)` by head name.

    Raises:
        ValueError: for data that are not images, and for a latent dimension, a
            likelihood or a size that cannot be used.

    Example:
        >>> import keras_vae_variance as kvv
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
        >>> encoder, decoder = kvv.backbones.transposed(
        ...     (128, 128, 3), 16, likelihood, channels=64
        ... )
        >>> encoder.output_shape
        (None, 32)
        >>> decoder.output["mean"].shape, decoder.output["raw_variance"].shape
        ((None, 128, 128, 3), (None, 128, 128, 3))
    """
    shape = heads.check_image_arguments(input_shape, latent_dim, likelihood)
    heads.check_sizes(channels=channels)
    if channels % _FRACTION:
        raise ValueError(
            f"`channels` must be a multiple of {_FRACTION}: P0's widths are fractions "
            f"of its widest map's. Received: channels={channels}"
        )
    side = max(_MIN_SIDE, 1 << (max(shape[:2]) - 1).bit_length())
    halvings = side.bit_length() - 3  # down to a side of 4 = 2**2

    x = inputs = keras.Input(shape, name="x")
    margins = [(0, side - length) for length in shape[:2]]
    if any(map(any, margins)):
        x = keras.layers.ZeroPadding2D(margins)(x)
    for level in range(1, halvings + 1):
        width = min(channels // _FRACTION * 2 ** (level - 1), channels // 2)
        x = layers.convolution(x, width, 4, 2, f"conv_{level}", "leaky_relu")
    x = layers.convolution(
        x, channels, 4, 1, "conv_valid", "leaky_relu", padding="valid"
    )
    x = keras.layers.Flatten()(x)
    x = layers.dense(x, max(channels // 2, 2 * latent_dim), "features")
    encoder = keras.Model(inputs, x, name="encoder")

    z = keras.Input((latent_dim,), name="z")
    x = layers.dense(z, channels // 4, "start", "leaky_relu")
    x = keras.layers.Reshape((1, 1, channels // 4))(x)
    x = layers.convolution(x, 4 * channels, 1, 1, "conv_1x1", activation=None)
    x = layers.transposed(x, channels, 4, 1, "conv_1", "leaky_relu", batch_norm=True)
    tap = layers.transposed(
        x, channels // 2, 4, 4, "conv_4", "leaky_relu", batch_norm=True
    )
    last = _grow(tap, side, "", batch_norm=True)

    def image_head(name, head, activation):
        x = last
        if head.role == "variance":
            x = _grow(tap, side, f"{name}_", batch_norm=False)
        return heads.transposed_head(x, name, head, activation, 4, 2)

    outputs = heads.outputs(likelihood, shape, mean_activation, tap, image_head)
    return encoder, keras.Model(z, outputs, name="decoder")


def _grow(x, side, prefix, batch_norm):
    """Bring the tap to half of `side`, in steps of 4 as far as possible."""
    size = x.shape[1]
    while 2 * size < side:
        step = min(4, side // 2 // size)
        size *= step
        x = layers.transposed(
            x,
            max(1, x.shape[-1] // 2),
            4,
            step,
            f"{prefix}conv_{size}",
            "leaky_relu",
            batch_norm,
        )
    return x
