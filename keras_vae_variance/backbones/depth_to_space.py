"""Convolutions down, depth-to-space up: the network of P0 for MNIST."""

import keras

from keras_vae_variance.backbones import heads, layers

__all__ = ["depth_to_space"]

_MIN_SIDE, _MAX_SIDE = 8, 128
_MAX_CHANNELS = 256  # the widest map of P0's network
_TAP = 2  # variance heads start from the map at a quarter = 1 / 2**2 of the sides


def depth_to_space(input_shape, latent_dim, likelihood, mean_activation="sigmoid"):
    """Make convolutional networks that upsample by depth-to-space.

    P0, App. B.1, layer for layer at `(28, 28, 1)`. `C(f, k)` is a convolution with an
    `f x f` kernel to `k` channels, `D2S` depth-to-space by 2:

        encoder   symmetric padding to 32x32;
                  C(4, 16) C(4, 64) C(4, 256), stride 2, relu; dense 64, linear
        decoder   dense 4096, relu, as 4x4x256; C(3, 256) relu, D2S; 8x8x64 (tap);
                  C(3, 64) relu, D2S; C(3, 16) relu, D2S; C(5, 1) valid
        variance  from the tap: C(3, 128) relu, D2S; C(3, 32) relu, D2S; C(5, 1) valid

    Other sizes follow the same rule:

    - Each side is padded to the next power of two, by mirroring the image at its edges.
      The maps are halved until the shorter side is 4.
    - After `n` halvings a map has `min(4 * 4**n, 256)` channels in the encoder and the
      decoder, 4 at full size: 16, 64, 256, and 256 again for the fourth and fifth
      halving that sides of 64 and 128 need. Before each `D2S` a convolution makes four
      times the channels of the map that follows it (1024 at most).
    - The tap is the decoder's map at a quarter of the padded sides, with 64 channels
      (for a side of 8 the first map, at half, with 16). A variance head has twice the
      channels of the decoder's maps of the same size.
    - The last convolution has a 5x5 kernel and no padding of its own: the map is first
      brought to `(height + 4, width + 4)`, by cropping or by zeros at its border. At
      28x28 it has that size; at 32x32 this is "same" padding.
    - Convolutions to 4x4x256, three quarters of P0's operations, take fewer products in
      training (`winograd.WinogradConvolution`).
    - The dense layer of the encoder has 64 units, or `2 * latent_dim` if that is more,
      so that it does not limit the posterior's mean and variance.

    Heads with numbers for each pixel, `(height, width, ...)`, end in that convolution:
    those of role `"variance"` on their own branch from the tap, the others on the
    decoder's last map. Heads of any other shape, such as one variance an image, are a
    dense layer on the flattened tap.

    Args:
        input_shape: `(height, width, channels)`, sides from 8 to 128.
        latent_dim: number of latent variables.
        likelihood: asked for the decoder's outputs by `likelihood.heads(input_shape)`.
        mean_activation: activation of the head named `"mean"`: `"sigmoid"` for data in
            [0, 1], None for unscaled data. Other heads bring their own; P0's sigmoid of
            the variance is the link of `variances.Predicted`.

    Returns:
        The encoder, `(batch, height, width, channels)` to `(batch, features)`, and the
        decoder, `(batch, latent_dim)` to a dict of `(batch, *head.shape)` by head name.

    Raises:
        ValueError: for data that are not images of such sides, and for a latent
            dimension or a likelihood that cannot be used.

    Example:
        >>> import numpy as np
        >>> import keras_vae_variance as kvv
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
        >>> encoder, decoder = kvv.backbones.depth_to_space((28, 28, 1), 16, likelihood)
        >>> encoder.output_shape
        (None, 64)
        >>> outputs = decoder.predict(np.zeros((2, 16)), verbose=0)
        >>> outputs["mean"].shape, outputs["raw_variance"].shape
        ((2, 28, 28, 1), (2, 28, 28, 1))
    """
    shape = heads.check_arguments(input_shape, latent_dim, likelihood)
    sides = shape[:2]
    if len(shape) != 3 or min(sides) < _MIN_SIDE or max(sides) > _MAX_SIDE:
        raise ValueError(
            "`input_shape` must be (height, width, channels), both sides from "
            f"{_MIN_SIDE} to {_MAX_SIDE}; for other data use another backbone. "
            f"Received: input_shape={input_shape}"
        )
    margins = [_margin(side) for side in sides]
    padded = [side + sum(margin) for side, margin in zip(sides, margins, strict=True)]
    halvings = min(padded).bit_length() - 3  # down to a shorter side of 4 = 2**2
    encoder = _encoder(shape, margins, halvings, features=max(64, 2 * latent_dim))
    start = [side >> halvings for side in padded]

    z = keras.Input((latent_dim,), name="z")
    tap, last = _decoder_maps(z, start, halvings)

    def image_head(name, head, activation):
        x = last
        if head.role == "variance":
            x = _variance_map(tap, min(_TAP, halvings), name)
        return _last_convolution(x, margins, name, head, activation)

    outputs = heads.outputs(likelihood, shape, mean_activation, tap, image_head)
    return encoder, keras.Model(z, outputs, name="decoder")


def _encoder(shape, margins, halvings, features):
    x = inputs = keras.Input(shape, name="x")
    if any(map(any, margins)):
        x = keras.ops.pad(x, ((0, 0), *margins, (0, 0)), mode="symmetric")
    for level in range(1, halvings + 1):
        x = layers.convolution(x, _channels(level), 4, 2, f"conv_{level}")
    x = keras.layers.Flatten()(x)
    return keras.Model(
        inputs, keras.layers.Dense(features, name="features")(x), name="encoder"
    )


def _decoder_maps(z, start, halvings):
    """Return the tap and the map before the last D2S, `(batch, *padded / 2, 16)`."""
    rows, columns = start
    units = rows * columns * _channels(halvings)
    x = keras.layers.Dense(units, activation="relu", name="start")(z)
    # P0 has 1x1x4096 and depth-to-space by 4, which is this reshape.
    x = keras.layers.Reshape((rows, columns, _channels(halvings)))(x)
    tap = x
    for level in range(halvings, 0, -1):
        x = layers.convolution(x, 4 * _channels(level - 1), 3, 1, f"conv_{level}")
        if level > 1:
            x = keras.ops.depth_to_space(x, 2)
        if level - 1 == _TAP:
            tap = x
    return tap, x


def _variance_map(x, tap_level, name):
    """Return a variance head's map before the last D2S, `(batch, *padded / 2, 32)`."""
    for level in range(tap_level, 0, -1):
        x = layers.convolution(
            x, 8 * _channels(level - 1), 3, 1, f"{name}_conv_{level}"
        )
        if level > 1:
            x = keras.ops.depth_to_space(x, 2)
    return x


def _last_convolution(x, margins, name, head, activation):
    """Add the last D2S and the 5x5 convolution after it."""
    if all(edge % 2 == 0 for margin in margins for edge in margin):
        x = _fit(x, [[edge // 2 for edge in margin] for margin in margins], 1)
        return heads.subpixel_head(x, name, head, activation)
    x = _fit(keras.ops.depth_to_space(x, 2), margins, 2)
    return heads.conv_head(x, name, head, activation, 5, padding="valid")


def _fit(x, margins, edges):
    """Bring a map of the padded size to the image's size and `edges` more at each."""
    crop = [[max(edge - edges, 0) for edge in margin] for margin in margins]
    zeros = [[max(edges - edge, 0) for edge in margin] for margin in margins]
    if any(map(any, crop)):
        x = keras.layers.Cropping2D(crop)(x)
    if any(map(any, zeros)):
        x = keras.layers.ZeroPadding2D(zeros)(x)
    return x


def _margin(side):
    """Padding before and after, to the next power of two."""
    extra = (1 << (side - 1).bit_length()) - side
    return extra // 2, extra - extra // 2


def _channels(level):
    """Channels after `level` halvings."""
    return min(4 ** (level + 1), _MAX_CHANNELS)
