"""How a recipe's parts are put together."""

from .. import backbones, likelihoods, posteriors
from ..backbones import heads
from ..vae import VAE

__all__ = ["compose", "gaussian"]


def compose(
    input_shape,
    latent_dim,
    likelihood,
    *,
    backbone=None,
    mean_activation=...,
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
        mean_activation: handed on to it where it is given.
        posterior: one of `posteriors`; the default is `DiagonalGaussian`.
        prior: as `VAE` has it.
        regularizers: as `VAE` has it.
        change_decoder: a function from the backbone's decoder to the one to use.
        seed: as `VAE` has it.
    """
    shape = heads.check_arguments(input_shape, latent_dim, likelihood)
    if backbone is None:
        backbone = _backbone_for(shape)
    if not callable(backbone):
        raise ValueError(
            "`backbone` must be a function such as backbones.mlp. "
            f"Received: backbone={backbone!r}"
        )
    given = {} if mean_activation is ... else {"mean_activation": mean_activation}
    encoder, decoder = backbone(shape, latent_dim, likelihood, **given)
    return VAE(
        encoder,
        decoder if change_decoder is None else change_decoder(decoder),
        posteriors.DiagonalGaussian(latent_dim) if posterior is None else posterior,
        likelihood,
        prior=prior,
        regularizers=regularizers,
        seed=seed,
    )


def _backbone_for(shape):
    if len(shape) > 3:
        raise ValueError(
            "`input_shape` must be the shape of one example, without the batch; pass "
            "`backbone` for examples of more than three axes. "
            f"Received: input_shape={shape}"
        )
    image = len(shape) == 3 and all(8 <= side <= 128 for side in shape[:2])
    return backbones.depth_to_space if image else backbones.mlp


def gaussian(input_shape, latent_dim, variance, **options):
    """A VAE with a Gaussian decoder of the given variance; options as of `compose`."""
    return compose(input_shape, latent_dim, likelihoods.Gaussian(variance), **options)
