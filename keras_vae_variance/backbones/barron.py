"""Convolutions of stride 2 down to one pixel and up again: P4's network for CelebA."""

import keras

from keras_vae_variance.backbones import heads, layers

__all__ = ["barron"]


def barron(input_shape, latent_dim, likelihood, mean_activation="sigmoid", channels=32):
    """Make convolutional networks down to one pixel, as P4 has them for CelebA.

    P4, Sec. 7: "the network architecture from [Bar17] with the RGB Pixel model and 16
    latent dimensions", which is that of Barron, "A General and Adaptive Robust Loss
    Function" (2019). The layers are those of its public code (google-research,
    robust_loss/vae.py), which has P4's BILBO too. `C(f, k)` is a convolution with an
    `f x f` kernel to `k` channels, `T(f, k)` a transposed one. At `(64, 64, 3)`, all
    with leaky relu of slope 0.2:

        encoder   2 x - 1; C(5, 32) C(5, 32) C(5, 64) C(5, 64) C(5, 128)
                  C(5, 4 * latent_dim), stride 2, to 1x1; its dense layer is the
                  posterior's
        decoder   the latents as 1x1; T(5, 128) T(5, 128) T(5, 64) T(5, 64) T(5, 32)
                  T(5, 32), stride 2; C(5, 3)

    Other sizes have as many convolutions as bring the longer side to 1 by halving,
    rounding up; their channels double at every second one. The decoder makes a square
    whose side is a power of two, and what of it is too much at the bottom and at the
    right is cut off before the last convolution.

    Heads with numbers for each pixel are convolutions of the last map, also those of
    role `"variance"`. Other heads are dense layers on the decoder's first map.

    Args:
        input_shape: `(height, width, channels)`.
        latent_dim: number of latent variables, 16 in P4.
        likelihood: asked for the decoder's outputs by `likelihood.heads(input_shape)`.
        mean_activation: activation of the head named `"mean"`: `"sigmoid"` for data in
            [0, 1], None for unscaled data.
        channels: channels of the encoder's first convolution.

    Returns:
        The encoder, `(batch, height, width, channels)` to `(batch, features)`, and the
        decoder, `(batch, latent_dim)` to a dict of `(batch, *head.shape)` by head name.

    Raises:
        ValueError: for data that are not images, and for a latent dimension, a
            likelihood or a size that cannot be used.

    Example:
        >>> import keras_vae_variance as kvv
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Learned())
        >>> encoder, decoder = kvv.backbones.barron((64, 64, 3), 16, likelihood)
        >>> encoder.output_shape
        (None, 64)
        >>> decoder.output["mean"].shape
        (None, 64, 64, 3)
    """
    shape = heads.check_image_arguments(input_shape, latent_dim, likelihood)
    heads.check_sizes(channels=channels)
    halvings = max(1, (max(shape[:2]) - 1).bit_length())
    widths = [channels * 2 ** (level // 2) for level in range(halvings)]

    x = inputs = keras.Input(shape, name="x")
    x = keras.layers.Rescaling(2.0, -1.0)(x)
    for level, width in enumerate([*widths[:-1], 4 * latent_dim], start=1):
        x = layers.convolution(x, width, 5, 2, f"conv_{level}", "leaky_relu")
    encoder = keras.Model(inputs, keras.layers.Flatten()(x), name="encoder")

    z = keras.Input((latent_dim,), name="z")
    maps = [keras.layers.Reshape((1, 1, latent_dim))(z)]
    for level in range(halvings, 0, -1):
        width = widths[level - 1]
        maps.append(
            layers.transposed(maps[-1], width, 5, 2, f"conv_{level}", "leaky_relu")
        )
    last = layers.crop(maps[-1], shape)

    def image_head(name, head, activation):
        return heads.conv_head(last, name, head, activation, 5)

    outputs = heads.outputs(likelihood, shape, mean_activation, maps[1], image_head)
    return encoder, keras.Model(z, outputs, name="decoder")
