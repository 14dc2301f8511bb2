"""A small convolutional network: that of P2 for SVHN and other small images."""

import keras

from keras_vae_variance.backbones import heads, layers

__all__ = ["small_conv"]


def small_conv(
    input_shape, latent_dim, likelihood, mean_activation="sigmoid", channels=32
):
    """Make small convolutional networks, as P2 has them for SVHN.

    P2, App. B: "the encoder has 3 convolutional layers followed by a fully connected
    layer, while the decoder has a fully connected layer followed by 3 convolutional
    layers", the channels "starts with 32 and increases 2 times in every layer". Kernels
    and strides are those of its authors' public code (orybkin/sigma-vae-pytorch).
    `C(f, k)` is a convolution with an `f x f` kernel to `k` channels, `T(f, k)` a
    transposed one. At `(28, 28, 3)`:

        encoder   C(3, 32) relu; C(4, 64) C(5, 128), stride 2, relu, to 7x7x128;
                  flattened; its dense layer is the posterior's
        decoder   dense 6272, linear, as 7x7x128; T(6, 64) T(6, 32), stride 2, relu;
                  T(5, 3)

    Sides of any length are halved twice, rounding up. The decoder doubles them as
    often, and what is then too much at the bottom and at the right is cut off.

    Heads with numbers for each pixel are transposed convolutions of the last map, also
    those of role `"variance"`. Other heads are dense layers on the decoder's first map.

    Args:
        input_shape: `(height, width, channels)`.
        latent_dim: number of latent variables, 20 in P2.
        likelihood: asked for the decoder's outputs by `likelihood.heads(input_shape)`.
        mean_activation: activation of the head named `"mean"`: `"sigmoid"` for data in
            [0, 1], None for unscaled data.
        channels: channels of the first convolution.

    Returns:
        The encoder, `(batch, height, width, channels)` to `(batch, features)`, and the
        decoder, `(batch, latent_dim)` to a dict of `(batch, *head.shape)` by head name.

    Raises:
        ValueError: for data that are not images, and for a latent dimension, a
            likelihood or a size that cannot be used.

    Example:
        >>> import keras_vae_variance as kvv
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
        >>> encoder, decoder = kvv.backbones.small_conv((28, 28, 3), 20, likelihood)
        >>> encoder.output_shape
        (None, 6272)
        >>> decoder.output["mean"].shape
        (None, 28, 28, 3)
    """
    shape = heads.check_image_arguments(input_shape, latent_dim, likelihood)
    heads.check_sizes(channels=channels)

    x = inputs = keras.Input(shape, name="x")
    x = layers.convolution(x, channels, 3, 1, "conv_1")
    x = layers.convolution(x, 2 * channels, 4, 2, "conv_2")
    x = layers.convolution(x, 4 * channels, 5, 2, "conv_3")
    encoder = keras.Model(inputs, keras.layers.Flatten()(x), name="encoder")

    z = keras.Input((latent_dim,), name="z")
    start = layers.start(z, shape, 2, 4 * channels)
    x = layers.transposed(start, 2 * channels, 6, 2, "conv_2")
    last = layers.transposed(x, channels, 6, 2, "conv_1")

    def image_head(name, head, activation):
        return heads.transposed_head(last, name, head, activation, 5)

    outputs = heads.outputs(likelihood, shape, mean_activation, start, image_head)
    return encoder, keras.Model(z, outputs, name="decoder")
