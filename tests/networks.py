"""What the tests of the backbones share: stand-ins for likelihoods, small instances."""

from functools import partial

import numpy as np

from keras_vae_variance import backbones
from keras_vae_variance.types import Head

# Every exported backbone, as narrow as it goes while each weight still has a part.
SMALL = {
    "barron": partial(backbones.barron, channels=8),
    "depth_to_space": backbones.depth_to_space,
    "infogan": partial(backbones.infogan, channels=8, units=16),
    "infogan_faces": partial(backbones.infogan_faces, channels=4),
    "mlp": partial(backbones.mlp, hidden=(16,)),
    "residual_mlp": partial(backbones.residual_mlp, units=16, blocks=2),
    "resnet": partial(backbones.resnet, channels=8, blocks=1),
    "second_stage": partial(backbones.second_stage, hidden=(16, 8)),
    "small_conv": partial(backbones.small_conv, channels=8),
    "transposed": partial(backbones.transposed, channels=64),
}
DENSE = ["mlp", "residual_mlp", "second_stage"]


class Heads:
    """What a backbone sees of a likelihood."""

    def __init__(self, **variance_shapes):
        self.variance_shapes = variance_shapes

    def heads(self, x_shape):
        specs = {"mean": Head(x_shape)}
        for name, shape in self.variance_shapes.items():
            specs[name] = Head(shape or x_shape, role="variance")
        return specs


class ClassHeads:
    """A likelihood of several numbers a pixel, whose head has no mean."""

    def __init__(self, *classes):
        self.classes = classes

    def heads(self, x_shape):
        return {"logits": Head((*x_shape[:-1], *self.classes), "softplus")}


def arrays(shape, latent_dim, batch=2):
    """Images in [0, 1] and latents."""
    random = np.random.default_rng(0)
    x = random.uniform(size=(batch, *shape)).astype("float32")
    return x, random.normal(size=(batch, latent_dim)).astype("float32")


def layer_parameters(model):
    """Numbers of parameters by the names of the layers that have any."""
    return {layer.name: layer.count_params() for layer in model.layers if layer.weights}
