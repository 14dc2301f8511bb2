"""P1: maximum-likelihood variances, and the same learned by gradient."""

from .. import variances
from .base import gaussian

__all__ = [
    "diag_d",
    "diag_i",
    "iso_d",
    "iso_i",
    "trainable_diag_d",
    "trainable_diag_i",
    "trainable_iso_d",
    "trainable_iso_i",
]


def iso_i(input_shape, latent_dim, **options):
    """One maximum-likelihood variance for the data set.

        v = mean of r^2 over batch and pixels

    P1, Table 2 and Tables 3 to 7, "Iso-I".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.iso_i((28, 28, 1), 16)
    """
    return _maximum_likelihood(input_shape, latent_dim, False, False, options)


def diag_i(input_shape, latent_dim, **options):
    """A maximum-likelihood variance for each pixel.

        v = mean of r^2 over the batch

    P1, Table 2 and Tables 3 to 7, "Diag-I".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.diag_i((28, 28, 1), 16)
    """
    return _maximum_likelihood(input_shape, latent_dim, True, False, options)


def iso_d(input_shape, latent_dim, **options):
    """A maximum-likelihood variance for each image.

        v = mean of r^2 over the pixels

    P1, Table 2 and Tables 3 to 7, "Iso-D". Its likelihood is not a normalised density.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.iso_d((28, 28, 1), 16)
    """
    return _maximum_likelihood(input_shape, latent_dim, False, True, options)


def diag_d(input_shape, latent_dim, **options):
    """A maximum-likelihood variance for each pixel of each image.

        v = r^2 + 1e-6

    P1, Table 2 and Tables 3 to 7, "Diag-D". Its likelihood is not a normalised density.
    From random weights it tends to end at one image for all codes, with a kl of 0:
    train the same networks by `iso_i` first, and hand on the weights of `encoder`,
    `posterior` and `decoder`, as examples/variance_parameterizations.py does.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.diag_d((28, 28, 1), 16)
    """
    return _maximum_likelihood(input_shape, latent_dim, True, True, options)


def _maximum_likelihood(input_shape, latent_dim, per_pixel, per_example, options):
    variance = variances.MaximumLikelihood(per_pixel=per_pixel, per_example=per_example)
    return gaussian(input_shape, latent_dim, variance, **options)


def trainable_iso_i(input_shape, latent_dim, **options):
    """One variance for the data set, learned by gradient.

        v = exp(10 parameter), from the first batch's squared error on

    P1, Section 6 and Table 4, "Trainable Iso-I".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.trainable_iso_i((28, 28, 1), 16)
    """
    return gaussian(input_shape, latent_dim, variances.Learned(), **options)


def trainable_diag_i(input_shape, latent_dim, **options):
    """A variance for each pixel, learned by gradient.

        v = exp(10 parameters), from the first batch's squared error on

    P1, Section 6 and Table 4, "Trainable Diag-I".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.trainable_diag_i((28, 28, 1), 16)
    """
    variance = variances.Learned(per_pixel=True)
    return gaussian(input_shape, latent_dim, variance, **options)


def trainable_iso_d(input_shape, latent_dim, **options):
    """A variance for each image, predicted from `z`.

        v = exp(head(z)), one number

    P1, Section 6 and Table 4, "Trainable Iso-D".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.trainable_iso_d((28, 28, 1), 16)
    """
    variance = variances.Predicted(per_pixel=False, per_channel=False, link="exp")
    return gaussian(input_shape, latent_dim, variance, **options)


def trainable_diag_d(input_shape, latent_dim, **options):
    """A variance for each pixel, predicted from `z`.

        v = exp(head(z))

    P1, Section 6 and Table 4, "Trainable Diag-D".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.trainable_diag_d((28, 28, 1), 16)
    """
    return gaussian(input_shape, latent_dim, variances.Predicted(link="exp"), **options)
