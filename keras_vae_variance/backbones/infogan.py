"""Convolutions and transposed convolutions after InfoGAN: the networks of P1."""

import keras

from keras_vae_variance.backbones import heads, layers

__all__ = ["infogan", "infogan_faces"]


def infogan(
    input_shape,
    latent_dim,
    likelihood,
    mean_activation="sigmoid",
    batch_norm=True,
    kernel_size=5,
    channels=64,
    units=1024,
):
    """Make the convolutional networks that P1 has for MNIST.

    P1, App. I.1. `C(f, k)` is a convolution with an `f x f` kernel to `k` channels,
    `T(f, k)` a transposed one, all of stride 2, `BN` batch normalisation. At
    `(28, 28, 1)`:

        encoder   C(5, 64) relu; C(5, 128) relu; flattened; dense 1024, BN, relu
        decoder   dense 1024, BN, relu; dense 6272, BN, relu, as 7x7x128;
                  T(5, 64) BN relu; T(5, 1)

    App. D.1 has the same with `batch_norm=False, kernel_size=4`. A layer before `BN`
    has no bias. The moments of `BN` are those of the whole batch, over all replicas;
    its momentum and epsilon, which P1 does not give, are Keras's.

    Sides of any length are halved twice, rounding up. The decoder doubles them as
    often, and what is then too much at the bottom and at the right is cut off.

    Heads with numbers for each pixel are transposed convolutions of the last map, also
    those of role `"variance"`. Other heads are dense layers on the decoder's first map.

    Args:
        input_shape: `(height, width, channels)`.
        latent_dim: number of latent variables, 16 in App. I.1 and 8 in D.1.
        likelihood: asked for the decoder's outputs by `likelihood.heads(input_shape)`.
        mean_activation: activation of the head named `"mean"`: `"sigmoid"` for data in
            [0, 1], None for unscaled data.
        batch_norm: whether there is batch normalisation.
        kernel_size: side of all kernels.
        channels: channels of the first convolution.
        units: units of the dense layers of 1024.

    Returns:
        The encoder, `(batch, height, width, channels)` to `(batch, features)`, and the
        decoder, `(batch, latent_dim)` to a dict of `(batch, *head.shape)` by head name.

    Raises:
        ValueError: for data that are not images, and for a latent dimension, a
            likelihood or a size that cannot be used.

    Example:
        >>> import keras_vae_variance as kvv
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
        >>> encoder, decoder = kvv.backbones.infogan((28, 28, 1), 16, likelihood)
        >>> encoder.output_shape
        (None, 1024)
        >>> decoder.output["mean"].shape
        (None, 28, 28, 1)
    """
    shape = heads.check_image_arguments(input_shape, latent_dim, likelihood)
    heads.check_sizes(kernel_size=kernel_size, channels=channels, units=units)

    x = inputs = keras.Input(shape, name="x")
    x = layers.convolution(x, channels, kernel_size, 2, "conv_1")
    x = layers.convolution(x, 2 * channels, kernel_size, 2, "conv_2")
    x = keras.layers.Flatten()(x)
    x = layers.dense(x, units, "features", "relu", batch_norm)
    encoder = keras.Model(inputs, x, name="encoder")

    z = keras.Input((latent_dim,), name="z")
    x = layers.dense(z, units, "hidden", "relu", batch_norm)
    start = layers.start(x, shape, 2, 2 * channels, "relu", batch_norm)
    last = layers.transposed(
        start, channels, kernel_size, 2, "conv_1", batch_norm=batch_norm
    )

    def image_head(name, head, activation):
        return heads.transposed_head(last, name, head, activation, kernel_size, 2)

    outputs = heads.outputs(likelihood, shape, mean_activation, start, image_head)
    return encoder, keras.Model(z, outputs, name="decoder")


def infogan_faces(
    input_shape, latent_dim, likelihood, mean_activation="sigmoid", channels=128
):
    """Make the convolutional networks that P1 has for CelebA and CelebA-HQ.

    P1, App. I.2 and I.3. `C(f, k)` is a convolution with an `f x f` kernel to `k`
    channels, `T(f, k)` a transposed one, `BN` batch normalisation. At `(64, 64, 3)`:

        encoder   C(5, 128) relu; C(5, 256) C(5, 512) C(5, 1024), each BN, relu, all of
                  stride 2, to 4x4x1024; flattened; its dense layer is the posterior's
        decoder   dense 65536, linear, as 8x8x1024; T(5, 512) relu; T(5, 256) T(5, 128),
                  each BN, relu, these of stride 2; T(5, 3), stride 1

    At `(128, 128, 3)` the dense layer makes 16x16x1024. A layer before `BN` has no
    bias. The moments of `BN` are those of the whole batch, over all replicas; its
    momentum and epsilon, which P1 does not give, are Keras's.

    Sides of any length are halved four times, rounding up. The decoder starts from an
    eighth of them, rounding up, doubles it three times, and what is then too much at
    the bottom and at the right is cut off.

    Heads with numbers for each pixel are transposed convolutions of the last map, also
    those of role `"variance"`. Other heads are dense layers on the decoder's first map.

    Args:
        input_shape: `(height, width, channels)`.
        latent_dim: number of latent variables, 64 and 256 in P1.
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
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
        >>> encoder, decoder = kvv.backbones.infogan_faces(
        ...     (64, 64, 3), 8, likelihood, channels=16
        ... )
        >>> encoder.output_shape
        (None, 2048)
        >>> decoder.output["mean"].shape
        (None, 64, 64, 3)
    """
    shape = heads.check_image_arguments(input_shape, latent_dim, likelihood)
    heads.check_sizes(channels=channels)

    x = inputs = keras.Input(shape, name="x")
    for level in (1, 2, 3, 4):
        width = channels * 2 ** (level - 1)
        x = layers.convolution(x, width, 5, 2, f"conv_{level}", batch_norm=level > 1)
    encoder = keras.Model(inputs, keras.layers.Flatten()(x), name="encoder")

    z = keras.Input((latent_dim,), name="z")
    last = start = layers.start(z, shape, 3, 8 * channels)
    for level in (3, 2, 1):
        width = channels * 2 ** (level - 1)
        last = layers.transposed(
            last, width, 5, 2, f"conv_{level}", batch_norm=level < 3
        )

    def image_head(name, head, activation):
        return heads.transposed_head(last, name, head, activation, 5)

    outputs = heads.outputs(likelihood, shape, mean_activation, start, image_head)
    return encoder, keras.Model(z, outputs, name="decoder")
