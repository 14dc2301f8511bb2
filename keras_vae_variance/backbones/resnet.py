"""Residual networks, as P3 has them."""

import keras

from keras_vae_variance.backbones import heads, layers

__all__ = ["residual_mlp", "resnet"]


def residual_mlp(
    input_shape,
    latent_dim,
    likelihood,
    mean_activation=None,
    units=200,
    blocks=4,
):
    """Make residual dense networks, as P3 has them for points of the plane.

    P3, Sec. 4.1: "a ResNet with 4 residual blocks of 200 neurons" for both networks. A
    block is read as He et al. (2016), Fig. 2, with dense layers and without batch
    normalisation, of which P3 says nothing:

        encoder   dense 200, relu; 4 blocks h = relu(h + dense(relu(dense(h))))
        decoder   the same from the latents; one dense layer for each head

    Args:
        input_shape: shape of one example, `(2,)` for points of the plane; of any rank,
            it is flattened.
        latent_dim: number of latent variables.
        likelihood: asked for the decoder's outputs by `likelihood.heads(input_shape)`.
        mean_activation: activation of the head named `"mean"`: None for unscaled data,
            `"sigmoid"` for data in [0, 1].
        units: width of all layers but the heads.
        blocks: number of residual blocks of each network.

    Returns:
        The encoder, `(batch, *input_shape)` to `(batch, units)`, and the decoder,
        `(batch, latent_dim)` to a dict of `(batch, *head.shape)` by head name.

    Raises:
        ValueError: for a shape, a latent dimension, a likelihood or a size that cannot
            be used.

    Example:
        >>> import numpy as np
        >>> import keras_vae_variance as kvv
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
        >>> encoder, decoder = kvv.backbones.residual_mlp((2,), 2, likelihood)
        >>> encoder.output_shape
        (None, 200)
        >>> decoder.predict(np.zeros((5, 2)), verbose=0)["mean"].shape
        (5, 2)
    """
    shape = heads.check_arguments(input_shape, latent_dim, likelihood)
    heads.check_sizes(units=units, blocks=blocks)

    x = keras.Input(shape, name="x")
    features = _dense_blocks(keras.layers.Flatten()(x), units, blocks)
    encoder = keras.Model(x, features, name="encoder")

    z = keras.Input((latent_dim,), name="z")
    last = _dense_blocks(z, units, blocks)
    outputs = heads.outputs(likelihood, shape, mean_activation, last)
    return encoder, keras.Model(z, outputs, name="decoder")


def resnet(
    input_shape,
    latent_dim,
    likelihood,
    mean_activation="sigmoid",
    convolutions=3,
    blocks=4,
    channels=32,
):
    """Make residual convolutional networks, as P3 has them for MNIST and CelebA.

    P3, App. B.1: "3 convolution layers followed by 4 residual blocks for the encoder,
    and 4 residual blocks followed by 3 transposed convolutions for the decoder", 256
    latents for MNIST. App. B.2: 4 convolutions and 5 blocks, 2048 latents for CelebA.
    P3 gives no kernels, strides or channels. They are read as convolutions of stride 2
    whose channels double, and as blocks without batch normalisation. `C(f, k)` is a
    convolution with an `f x f` kernel to `k` channels, `T(f, k)` a transposed one. At
    `(28, 28, 1)`:

        encoder   C(4, 32) C(4, 64) C(4, 128), stride 2, relu, to 4x4x128;
                  4 blocks h = relu(h + C(3, 128)(relu(C(3, 128)(h)))); flattened
        decoder   dense 2048, relu, as 4x4x128; 4 blocks; T(4, 64) T(4, 32), stride 2,
                  relu; T(4, 1), stride 2, to 32x32x1, of which 28x28x1 are kept

    Sides of any length are halved `convolutions` times, rounding up. The decoder
    doubles them as often, and what is then too much at the bottom and at the right is
    cut off.

    Heads with numbers for each pixel are transposed convolutions of the last map, also
    those of role `"variance"`. Other heads are dense layers on the decoder's first map.

    Args:
        input_shape: `(height, width, channels)`.
        latent_dim: number of latent variables.
        likelihood: asked for the decoder's outputs by `likelihood.heads(input_shape)`.
        mean_activation: activation of the head named `"mean"`: `"sigmoid"` for data in
            [0, 1], None for unscaled data.
        convolutions: number of convolutions, and of transposed ones.
        blocks: number of residual blocks of each network.
        channels: channels of the encoder's first convolution.

    Returns:
        The encoder, `(batch, height, width, channels)` to `(batch, features)`, and the
        decoder, `(batch, latent_dim)` to a dict of `(batch, *head.shape)` by head name.

    Raises:
        ValueError: for data that are not images, and for a latent dimension, a
            likelihood or a size that cannot be used.

    Example:
        >>> import keras_vae_variance as kvv
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
        >>> encoder, decoder = kvv.backbones.resnet(
        ...     (12, 10, 3), 4, likelihood, blocks=1, channels=8
        ... )
        >>> encoder.output_shape
        (None, 128)
        >>> decoder.output["mean"].shape
        (None, 12, 10, 3)
    """
    shape = heads.check_image_arguments(input_shape, latent_dim, likelihood)
    heads.check_sizes(convolutions=convolutions, blocks=blocks, channels=channels)
    widths = [channels * 2**level for level in range(convolutions)]

    x = inputs = keras.Input(shape, name="x")
    for level, width in enumerate(widths, start=1):
        x = layers.convolution(x, width, 4, 2, f"conv_{level}")
    x = layers.residual_blocks(x, widths[-1], blocks)
    encoder = keras.Model(inputs, keras.layers.Flatten()(x), name="encoder")

    z = keras.Input((latent_dim,), name="z")
    start = layers.start(z, shape, convolutions, widths[-1], activation="relu")
    last = layers.residual_blocks(start, widths[-1], blocks)
    for level in range(convolutions - 1, 0, -1):
        last = layers.transposed(last, widths[level - 1], 4, 2, f"conv_{level}")

    def image_head(name, head, activation):
        return heads.transposed_head(last, name, head, activation, 4, strides=2)

    outputs = heads.outputs(likelihood, shape, mean_activation, start, image_head)
    return encoder, keras.Model(z, outputs, name="decoder")


def _dense_blocks(x, units, blocks):
    x = keras.layers.Dense(units, activation="relu", name="start")(x)
    for block in range(1, blocks + 1):
        y = keras.layers.Dense(units, activation="relu", name=f"block_{block}_1")(x)
        y = keras.layers.Dense(units, name=f"block_{block}_2")(y)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    return x
