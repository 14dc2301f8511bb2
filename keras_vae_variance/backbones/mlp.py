"""Fully connected networks, for vectors, small images and latent codes."""

import keras

from keras_vae_variance.backbones import heads

__all__ = ["mlp", "second_stage"]


def mlp(
    input_shape,
    latent_dim,
    likelihood,
    mean_activation="sigmoid",
    hidden=(200, 200, 200),
):
    """Make dense networks, as P4 has them for MNIST.

    P4, Sec. 7: "four densely connected layers having 200 hidden units" each, read as
    three hidden relu layers of 200 and the output. The encoder's output is made by the
    posterior, so the encoder here ends at its last hidden layer. The decoder has the
    hidden layers in reverse and one dense layer for each head, all from its last hidden
    layer.

    With `hidden=()` the encoder only flattens, and the decoder is linear up to the
    heads' activations.

    Args:
        input_shape: shape of one example, of any rank: `(size,)`, `(height, width)`,
            `(height, width, channels)`; it is flattened.
        latent_dim: number of latent variables.
        likelihood: asked for the decoder's outputs by `likelihood.heads(input_shape)`.
        mean_activation: activation of the head named `"mean"`: `"sigmoid"` for data in
            [0, 1], None for unscaled data.
        hidden: units of the encoder's hidden layers, first to last.

    Returns:
        The encoder, `(batch, *input_shape)` to `(batch, hidden[-1])`, and the decoder,
        `(batch, latent_dim)` to a dict of `(batch, *head.shape)` by head name.

    Raises:
        ValueError: for a shape, a latent dimension or a likelihood that cannot be used.

    Example:
        >>> import numpy as np
        >>> import keras_vae_variance as kvv
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
        >>> encoder, decoder = kvv.backbones.mlp((28, 28, 1), 2, likelihood)
        >>> encoder.output_shape
        (None, 200)
        >>> decoder.predict(np.zeros((5, 2)), verbose=0)["mean"].shape
        (5, 28, 28, 1)
    """
    shape = heads.check_arguments(input_shape, latent_dim, likelihood)
    _check_hidden(hidden)

    x = keras.Input(shape, name="x")
    encoder = keras.Model(
        x, _hidden_layers(keras.layers.Flatten()(x), hidden), name="encoder"
    )

    z = keras.Input((latent_dim,), name="z")
    last = _hidden_layers(z, reversed(hidden))
    outputs = heads.outputs(likelihood, shape, mean_activation, last)
    return encoder, keras.Model(z, outputs, name="decoder")


def second_stage(
    input_shape,
    latent_dim,
    likelihood,
    mean_activation=None,
    hidden=(1024, 1024, 1024),
):
    """Make the networks of a second-stage VAE, which models another VAE's codes.

    P1, Sec. 6 and App. I, after Dai and Wipf, "Diagnosing and Enhancing VAE Models"
    (2019), Sec. 4. The encoder and the decoder are alike:

        dense 1024, 1024, 1024, relu; the input again, concatenated; the heads

    so that a code can pass both networks linearly. The encoder's heads are the
    posterior's, and the encoder here ends at the concatenation.

    Args:
        input_shape: shape of one example, `(latent_dim,)` of the first stage for codes;
            of any rank, it is flattened.
        latent_dim: number of latent variables; in the papers that of the first stage.
        likelihood: asked for the decoder's outputs by `likelihood.heads(input_shape)`.
        mean_activation: activation of the head named `"mean"`: None for unscaled data,
            as codes are.
        hidden: units of the encoder's hidden layers, first to last; the decoder has
            them in reverse.

    Returns:
        The encoder, `(batch, *input_shape)` to `(batch, size + hidden[-1])` with `size`
        the product of `input_shape`, and the decoder, `(batch, latent_dim)` to a dict
        of `(batch, *head.shape)` by head name.

    Raises:
        ValueError: for a shape, a latent dimension or a likelihood that cannot be used.

    Example:
        >>> import numpy as np
        >>> import keras_vae_variance as kvv
        >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Learned())
        >>> encoder, decoder = kvv.backbones.second_stage((16,), 16, likelihood)
        >>> encoder.output_shape
        (None, 1040)
        >>> decoder.predict(np.zeros((5, 16)), verbose=0)["mean"].shape
        (5, 16)
    """
    shape = heads.check_arguments(input_shape, latent_dim, likelihood)
    _check_hidden(hidden)

    x = keras.Input(shape, name="x")
    flat = keras.layers.Flatten()(x)
    features = keras.layers.Concatenate()([flat, _hidden_layers(flat, hidden)])
    encoder = keras.Model(x, features, name="encoder")

    z = keras.Input((latent_dim,), name="z")
    last = keras.layers.Concatenate()([z, _hidden_layers(z, reversed(hidden))])
    outputs = heads.outputs(likelihood, shape, mean_activation, last)
    return encoder, keras.Model(z, outputs, name="decoder")


def _check_hidden(hidden):
    for units in hidden if isinstance(hidden, (tuple, list)) else (hidden,):
        heads.check_sizes(hidden=units)
    if not isinstance(hidden, (tuple, list)):
        raise ValueError(
            "`hidden` must be a tuple of the layers' units, such as (200, 200). "
            f"Received: hidden={hidden}"
        )


def _hidden_layers(x, units):
    for index, size in enumerate(units, start=1):
        x = keras.layers.Dense(size, activation="relu", name=f"hidden_{index}")(x)
    return x
