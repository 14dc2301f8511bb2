"""Networks: functions that return an encoder and a decoder.

A backbone is a function `(input_shape, latent_dim, likelihood, ...)` that returns two
plain `keras.Model`s. The encoder maps images to features, from which the posterior
makes its parameters. The decoder maps latents `(batch, latent_dim)` to a dict with the
outputs that `likelihood.heads(input_shape)` asks for.

P0 to P4, here and in the docstrings, are the papers listed in the README.
"""

from keras_vae_variance.backbones.barron import barron
from keras_vae_variance.backbones.depth_to_space import depth_to_space
from keras_vae_variance.backbones.hierarchical import hierarchical
from keras_vae_variance.backbones.infogan import infogan, infogan_faces
from keras_vae_variance.backbones.mlp import mlp, second_stage
from keras_vae_variance.backbones.resnet import residual_mlp, resnet
from keras_vae_variance.backbones.small_conv import small_conv
from keras_vae_variance.backbones.svg import svg
from keras_vae_variance.backbones.transposed import transposed

__all__ = [
    "barron",
    "depth_to_space",
    "hierarchical",
    "infogan",
    "infogan_faces",
    "mlp",
    "residual_mlp",
    "resnet",
    "second_stage",
    "small_conv",
    "svg",
    "transposed",
]
