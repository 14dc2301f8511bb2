"""Networks: functions that return an encoder and a decoder.

A backbone is a function `(input_shape, latent_dim, likelihood, ...)` that returns two
plain `keras.Model`s. The encoder maps images to features, from which the posterior
makes its parameters. The decoder maps latents `(batch, latent_dim)` to a dict with the
outputs that `likelihood.heads(input_shape)` asks for.

P0 to P4, here and in the docstrings, are the papers listed in the README.
"""

from keras_vae_variance.backbones.depth_to_space import depth_to_space
from keras_vae_variance.backbones.mlp import mlp

__all__ = ["depth_to_space", "mlp"]
