"""P2: calibrated decoders."""

import math

from .. import likelihoods, variances
from .base import compose, gaussian

__all__ = [
    "bernoulli_vae",
    "bitwise_categorical_vae",
    "categorical_vae",
    "discretized_gaussian_vae",
    "discretized_logistic_vae",
    "logistic_mixture_vae",
    "optimal_sigma",
    "per_image_sigma",
    "per_pixel_sigma",
    "shared_sigma",
    "student_t_vae",
]


def shared_sigma(input_shape, latent_dim, **options):
    """The shared sigma-VAE: one learned variance.

        v = exp(10 parameter), from the first batch's squared error on

    P2, Eq. 3; Tables 1 to 3, "Shared sigma-VAE", Table 4, "Gaussian sigma-VAE".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.shared_sigma((28, 28, 3), 20)
    """
    return gaussian(input_shape, latent_dim, variances.Learned(), **options)


def optimal_sigma(input_shape, latent_dim, **options):
    """The optimal sigma-VAE: one variance in closed form.

        v = mean of r^2 over batch and pixels

    P2, Eq. 5; Tables 2 and 3, "Optimal sigma-VAE". The same as `iso_i`.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.optimal_sigma((28, 28, 3), 20)
    """
    return gaussian(input_shape, latent_dim, variances.MaximumLikelihood(), **options)


def per_image_sigma(input_shape, latent_dim, **options):
    """The optimal per-image sigma-VAE: a variance for each image in closed form.

        v = mean of r^2 over the pixels

    P2, Section 4; Table 2, "Opt. per-image sigma-VAE". The same as `iso_d`.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.per_image_sigma((28, 28, 3), 20)
    """
    variance = variances.MaximumLikelihood(per_example=True)
    return gaussian(input_shape, latent_dim, variance, **options)


def per_pixel_sigma(input_shape, latent_dim, **options):
    """The per-pixel sigma-VAE: a variance predicted for each pixel and channel.

        log stddev = -6 + softplus(head(z) / 2 + 6)

    P2, Eq. 1 and Section 3.1; Table 2, "Per-pixel sigma-VAE". Clipped softly from
    below, without which it diverges (P2, Section 5.3).

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.per_pixel_sigma((28, 28, 3), 20)
    """
    variance = variances.Predicted(link="exp", bounds=(math.exp(-12.0), None))
    return gaussian(input_shape, latent_dim, variance, **options)


def bernoulli_vae(input_shape, latent_dim, **options):
    """A VAE with a Bernoulli decoder.

    P1, Table 4, "VAE w/ Bernoulli"; P2, Tables 2 and 3, "Bernoulli VAE"; P4, Section
    7.1, "learned". On grey images it is not a normalised density.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.bernoulli_vae((28, 28, 1), 2, backbone=kvv.backbones.mlp)
    """
    return compose(input_shape, latent_dim, likelihoods.Bernoulli(), **options)


def categorical_vae(input_shape, latent_dim, **options):
    """A VAE with a 256-way softmax for each pixel and channel.

    P2, Section 3.2; Tables 2 to 4, "Categorical VAE".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.categorical_vae((8, 8, 1), 2)
    """
    return compose(input_shape, latent_dim, likelihoods.Categorical(), **options)


def bitwise_categorical_vae(input_shape, latent_dim, **options):
    """A VAE with a Bernoulli for each of the 8 bits of a pixel and channel.

    P2, App. D; Tables 2 and 3, "Bitwise-categorical VAE".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.bitwise_categorical_vae((8, 8, 1), 2)
    """
    return compose(input_shape, latent_dim, likelihoods.BitwiseCategorical(), **options)


def logistic_mixture_vae(input_shape, latent_dim, num_components=5, **options):
    """A VAE with a mixture of discretised logistics for each pixel.

    P2, App. D; Tables 2 and 3, "Logistic mixture VAE"; P1, Table 4, "VAE w/ MoL".

    Args:
        num_components: components of the mixture.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.logistic_mixture_vae((8, 8, 1), 2)
    """
    likelihood = likelihoods.LogisticMixture(num_components=num_components)
    return compose(input_shape, latent_dim, likelihood, **options)


def discretized_gaussian_vae(input_shape, latent_dim, **options):
    """A VAE with a Gaussian on the 256 levels, of one learned scale.

    P2, Table 4, "Disc. Gaussian sigma-VAE".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.discretized_gaussian_vae((28, 28, 3), 20)
    """
    return compose(
        input_shape, latent_dim, likelihoods.DiscretizedGaussian(), **options
    )


def discretized_logistic_vae(input_shape, latent_dim, **options):
    """A VAE with a logistic distribution on the 256 levels, of one learned scale.

    P2, Table 4, "Disc. Logistic sigma-VAE".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.discretized_logistic_vae((28, 28, 3), 20)
    """
    return compose(
        input_shape, latent_dim, likelihoods.DiscretizedLogistic(), **options
    )


def student_t_vae(input_shape, latent_dim, **options):
    """A VAE with a Student-t distribution predicted for each pixel.

    P2, Table 2, "Student-t VAE", after Takahashi et al., 2018.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.student_t_vae((28, 28, 3), 20)
    """
    return compose(input_shape, latent_dim, likelihoods.StudentT(), **options)
