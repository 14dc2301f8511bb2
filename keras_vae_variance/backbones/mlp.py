"""Fully connected networks, for vectors and small images."""

import keras

from keras_vae_variance.backbones import heads

__all__ = ["mlp"]


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

    x = keras.Input(shape, name="x")
    encoder = keras.Model(
        x, _hidden_layers(keras.layers.Flatten()(x), hidden), name="encoder"
    )

    z = keras.Input((latent_dim,), name="z")
    last = _hidden_layers(z, reversed(hidden))
    outputs = {}
    for name, head in likelihood.heads(shape).items():
        activation = heads.activation_of(name, head, mean_activation)
        outputs[name] = heads.dense_head(last, name, head, activation)
    return encoder, keras.Model(z, outputs, name="decoder")


def _hidden_layers(x, units):
    for index, size in enumerate(units, start=1):
        x = keras.layers.Dense(size, activation="relu", name=f"hidden_{index}")(x)
    return x
