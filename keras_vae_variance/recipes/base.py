"""How a recipe's parts are put together."""

from .. import backbones, likelihoods, posteriors
from ..vae import VAE

__all__ = ["compose", "gaussian"]


def compose(
    input_shape,
    latent_dim,
    likelihood,
    *,
    backbone=None,
    mean_activation="sigmoid",
    posterior=None,
    prior=None,
    regularizers=None,
    change_decoder=None,
    seed=None,
):
    """A VAE of the given parts.

    Args:
        input_shape: shape of one example.
        latent_dim: number of latent variables.
        likelihood: one of `likelihoods`.
        backbone: a function that makes encoder and decoder, as those of `backbones`.
        mean_activation: handed on to it.
        posterior: one of `posteriors`; the default is `DiagonalGaussian`.
        prior: as `VAE` has it.
        regularizers: as `VAE` has it.
        change_decoder: a function from the backbone's decoder to the one to use.
        seed: as `VAE` has it.
    """
    if backbone is None:
        backbone = backbones.mlp
        if len(input_shape) == 3 and all(8 <= side <= 128 for side in input_shape[:2]):
            backbone = backbones.depth_to_space
    encoder, decoder = backbone(
        input_shape, latent_dim, likelihood, mean_activation=mean_activation
    )
    return VAE(
        encoder,
        decoder if change_decoder is None else change_decoder(decoder),
        posteriors.DiagonalGaussian(latent_dim) if posterior is None else posterior,
        likelihood,
        prior=prior,
        regularizers=regularizers,
        seed=seed,
    )


def gaussian(input_shape, latent_dim, variance, **options):
    """A VAE with a Gaussian decoder of the given variance; options as of `compose`."""
    return compose(input_shape, latent_dim, likelihoods.Gaussian(variance), **options)
