"""Networks for video: DCGAN or VGG for the frames, LSTMs for time."""

import keras

from keras_vae_variance.backbones import heads, layers

__all__ = ["svg"]

_LEAKY = 0.2
_MAX_DOUBLINGS = 3


def svg(
    input_shape,
    latent_dim,
    likelihood,
    mean_activation="sigmoid",
    frames="dcgan",
    features=128,
    units=256,
    channels=64,
    skips=True,
):
    """Make the networks of SVG-LP (Denton and Fergus, 2018) for `SequenceVAE`.

    Paper and code (edenton/svg). `C(f, k)` is a convolution with an `f x f` kernel to
    `k` channels, `T` a transposed one, each with batch normalisation and a leaky relu
    of slope 0.2 behind it. At 64x64:

        dcgan    C(4, 64) C(4, 128) C(4, 256) C(4, 512), stride 2, to 4x4x512;
                 C(4, 128) valid, tanh in place of the relu
                 T(4, 512) from 1x1 to 4x4; T(4, 256) T(4, 128) T(4, 64), stride 2;
                 T(4, 1), stride 2, the output
        vgg      blocks of C(3, .): 64 64 | 128 128 | 256 256 256 | 512 512 512, max
                 pooling by 2 after each; C(4, 128) valid, tanh
                 T(4, 512); then, each after the side is doubled by repetition,
                 512 512 256 | 256 256 128 | 128 64 | 64 and T(3, 1), the output
        posterior, prior   dense 256, LSTM 256; their heads are the model's
        predictor          dense 256, LSTM 256, LSTM 256, dense 128, tanh

    The maps before each halving skip to where the decoder has the side again, before
    its layer there (dcgan: the maps after each halving), and are put beside its map.

    Other sizes follow the same rule: images are padded with zeros, at the bottom and at
    the right, to a square whose side is a power of two of at least 8, and halved until
    the side is 4; outputs are cut off there. Convolutions before a batch normalisation
    have no bias here, and LSTMs one bias where PyTorch has two: these add nothing.

    Heads with numbers for each pixel are the output layer; others are dense layers on
    the decoder's input.

    Args:
        input_shape: of a frame, `(height, width, channels)`.
        latent_dim: number of latent variables of a step.
        likelihood: asked for the decoder's outputs by `likelihood.heads(input_shape)`.
        mean_activation: activation of the head named `"mean"`: `"sigmoid"` for data in
            [0, 1], None for unscaled data.
        frames: `"dcgan"` or `"vgg"`.
        features: size of `h`, and of the predictor's output.
        units: of the LSTMs.
        channels: of the first convolution.
        skips: whether the encoder's maps skip to the decoder; without, for `n_past=0`.

    Returns:
        Encoder, decoder, posterior network, predictor and prior network: the first
        arguments of `SequenceVAE`.

    Raises:
        ValueError: for data that are not images, and for arguments that cannot be used.

    Example:
        >>> import keras_vae_variance as kvv
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
        >>> networks = kvv.backbones.svg((16, 16, 1), 4, likelihood, channels=8)
        >>> encoder, decoder, posterior_network, predictor, prior_network = networks
        >>> [tuple(t.shape) for t in encoder.outputs]
        [(None, 128), (None, 8, 8, 8), (None, 4, 4, 16)]
        >>> predictor.output_shape
        (None, None, 128)
    """
    shape = heads.check_image_arguments(input_shape, latent_dim, likelihood)
    heads.check_sizes(features=features, units=units, channels=channels)
    if frames not in ("dcgan", "vgg"):
        raise ValueError(f"`frames` must be dcgan or vgg. Received: frames={frames!r}")
    side = 8
    while side < max(shape[:2]):
        side *= 2
    stages = side.bit_length() - 3
    widths = [channels * 2 ** min(i, _MAX_DOUBLINGS) for i in range(stages)]
    down, up = (_dcgan_down, _dcgan_up) if frames == "dcgan" else (_vgg_down, _vgg_up)

    x = inputs = keras.Input(shape, name="x")
    if (side, side) != shape[:2]:
        surplus = [(0, side - s) for s in shape[:2]]
        x = keras.layers.ZeroPadding2D(surplus)(x)
    x, maps = down(x, widths)
    x = layers.convolution(
        x, features, 4, 1, "features", "tanh", batch_norm=True, padding="valid"
    )
    h = keras.layers.Flatten()(x)
    encoder = keras.Model(inputs, [h, *maps] if skips else h, name="encoder")

    g = keras.Input((features,), name="g")
    given = [keras.Input(m.shape[1:], name=f"skip_{i}") for i, m in enumerate(maps)]
    x = keras.layers.Reshape((1, 1, features))(g)
    x = _normalized(
        keras.layers.Conv2DTranspose(widths[-1], 4, use_bias=False, name="start"), x
    )
    last, kernel, strides = up(x, widths, given if skips else [None] * stages)

    def image_head(name, head, activation):
        return heads.transposed_head(last, name, head, activation, kernel, strides)

    outputs = heads.outputs(likelihood, shape, mean_activation, g, image_head)
    decoder = keras.Model([g, *given] if skips else g, outputs, name="decoder")
    return (
        encoder,
        decoder,
        _recurrent(features, units, 1, "posterior_network"),
        _predictor(features, latent_dim, units),
        _recurrent(features, units, 1, "prior_network"),
    )


def _recurrent(features, units, number, name):
    h = keras.Input((None, features), name="h")
    return keras.Model(h, _lstms(h, units, number), name=name)


def _predictor(features, latent_dim, units):
    h = keras.Input((None, features), name="h")
    z = keras.Input((None, latent_dim), name="z")
    x = _lstms(keras.layers.Concatenate()([h, z]), units, 2)
    g = keras.layers.Dense(features, activation="tanh", name="output")(x)
    return keras.Model([h, z], g, name="predictor")


def _lstms(x, units, number):
    x = keras.layers.Dense(units, name="embed")(x)
    for i in range(number):
        x = keras.layers.LSTM(units, return_sequences=True, name=f"lstm_{i + 1}")(x)
    return x


def _normalized(layer, x):
    x = layers.BatchNormalization(name=f"{layer.name}_norm")(layer(x))
    return keras.layers.LeakyReLU(_LEAKY)(x)


def _beside(x, skip):
    return x if skip is None else keras.layers.Concatenate()([x, skip])


def _convolution(filters, kernel, strides, name):
    return keras.layers.Conv2D(
        filters, kernel, strides, padding="same", use_bias=False, name=name
    )


def _dcgan_down(x, widths):
    maps = []
    for i, width in enumerate(widths):
        x = _normalized(_convolution(width, 4, 2, f"conv_{i + 1}"), x)
        maps.append(x)
    return x, maps


def _dcgan_up(x, widths, skips):
    for i in reversed(range(1, len(widths))):
        layer = keras.layers.Conv2DTranspose(
            widths[i - 1], 4, 2, "same", use_bias=False, name=f"up_{i + 1}"
        )
        x = _normalized(layer, _beside(x, skips[i]))
    return _beside(x, skips[0]), 4, 2


def _vgg_down(x, widths):
    maps = []
    for i, width in enumerate(widths):
        for j in range(2 if i < 2 else 3):
            x = _normalized(_convolution(width, 3, 1, f"conv_{i + 1}_{j + 1}"), x)
        maps.append(x)
        x = keras.layers.MaxPooling2D(2)(x)
    return x, maps


def _vgg_up(x, widths, skips):
    for i in reversed(range(len(widths))):
        x = _beside(keras.layers.UpSampling2D(2)(x), skips[i])
        block = [widths[i]] * (1 if i < 2 else 2) + [widths[i - 1]] * (i > 0)
        for j, width in enumerate(block):
            x = _normalized(_convolution(width, 3, 1, f"up_{i + 1}_{j + 1}"), x)
    return x, 3, 1
