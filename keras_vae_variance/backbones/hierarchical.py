"""Residual convolutions for a stack of latent maps."""

import keras

from keras_vae_variance.backbones import heads, layers

__all__ = ["hierarchical"]

_SCALES = 3  # halvings of the sides, from the image to the top


def hierarchical(
    input_shape,
    likelihood,
    num_layers=15,
    inference="bottom_up",
    mean_activation="sigmoid",
    channels=64,
    latent_channels=8,
    blocks=1,
):
    """Make residual convolutional networks for a stack of latent maps.

    P2, Sec. 5 and App. B, uses the baseline of BIVA (Maaloe et al., 2019): 15 layers of
    latents, without connections that skip any. P2 gives no sizes. They are read as maps
    at three scales, a third of the layers at each: 14, 7 and 4 for images of 28x28, 16,
    8 and 4 for those of 32x32. `C(f, k)` is a convolution with an `f x f` kernel to `k`
    channels, `T(f, k)` a transposed one:

        encoder l   C(3, 64) relu, of stride 2 where the scale changes, and for x;
                    blocks h = relu(h + C(3, 64)(relu(C(3, 64)(h))))
        decoder l   C(3, 64) relu, or T(4, 64) of stride 2 where the scale changes;
                    blocks as above
        decoder 1   the same at the scale of z_1, and T(4, k), stride 2, for each head

    Sides are halved rounding up; what is then too much of a doubled map is cut off.
    Heads with numbers for each pixel are transposed convolutions of the last map, other
    heads dense layers on it.

    Args:
        input_shape: `(height, width, channels)`.
        likelihood: asked for the decoder's outputs by `likelihood.heads(input_shape)`.
        num_layers: number `L` of layers of latents.
        inference: `"bottom_up"` or `"top_down"`, as `HierarchicalVAE` has it: encoders
            take the latents below, or what the encoder below gave.
        mean_activation: activation of the head named `"mean"`: `"sigmoid"` for data in
            [0, 1], None for unscaled data.
        channels: channels of all maps but those of latents.
        latent_channels: channels of each map of latents, a number for all, or one for
            each layer, from `z_1` to `z_L`.
        blocks: residual blocks of each network.

    Returns:
        Two lists of `L` models, the encoders and the decoders of `HierarchicalVAE`.

    Raises:
        ValueError: for data that are not images, and for a likelihood, a kind of
            inference or a size that cannot be used.

    Example:
        >>> import keras_vae_variance as kvv
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
        >>> networks = kvv.backbones.hierarchical((28, 28, 1), likelihood)
        >>> vae = kvv.HierarchicalVAE(*networks, None, likelihood)
        >>> vae.latent_shapes[0], vae.latent_shapes[-1]
        ((14, 14, 8), (4, 4, 8))
    """
    widths = latent_channels
    if not isinstance(widths, (list, tuple)):
        heads.check_sizes(num_layers=num_layers, latent_channels=widths)
        widths = [widths] * num_layers
    heads.check_sizes(num_layers=num_layers, channels=channels, blocks=blocks)
    for width in widths:
        heads.check_sizes(latent_channels=width)
    shape = heads.check_image_arguments(
        input_shape, widths[0] if widths else 1, likelihood
    )
    if len(widths) != num_layers:
        raise ValueError(
            f"`latent_channels` must be a number, or one for each of {num_layers} "
            f"layers. Received: latent_channels={latent_channels}"
        )
    if inference not in ("bottom_up", "top_down"):
        raise ValueError(
            "`inference` must be bottom_up or top_down. "
            f"Received: inference={inference!r}"
        )

    sides = [shape[:2]]  # of x, z_1, ..., z_L
    for layer in range(num_layers):
        rows, columns = sides[-1]
        halved = layer == 0 or _scale(layer, num_layers) > _scale(layer - 1, num_layers)
        sides.append((-(-rows // 2), -(-columns // 2)) if halved else (rows, columns))
    below = [shape[-1]]  # channels of what an encoder takes
    below += widths[:-1] if inference == "bottom_up" else [channels] * (num_layers - 1)

    encoders, decoders = [], []
    for layer in range(num_layers):
        x = inputs = keras.Input((*sides[layer], below[layer]), name="below")
        strides = 1 if sides[layer] == sides[layer + 1] else 2
        x = layers.convolution(x, channels, 3, strides, "start")
        x = layers.residual_blocks(x, channels, blocks)
        encoders.append(keras.Model(inputs, x, name=f"encoder_{layer + 1}"))

        z = inputs = keras.Input((*sides[layer + 1], widths[layer]), name="z")
        if layer and strides == 2:
            z = layers.transposed(z, channels, 4, 2, "start")
            z = layers.crop(z, sides[layer])
        else:
            z = layers.convolution(z, channels, 3, 1, "start")
        last = layers.residual_blocks(z, channels, blocks)
        if layer == 0:

            def image_head(name, head, activation, last=last):
                return heads.transposed_head(last, name, head, activation, 4, strides=2)

            last = heads.outputs(likelihood, shape, mean_activation, last, image_head)
        decoders.append(keras.Model(inputs, last, name=f"decoder_{layer + 1}"))
    return encoders, decoders


def _scale(layer, num_layers):
    return _SCALES * layer // num_layers
