"""P0: a global variance, then one a pixel."""

from .. import variances
from .base import gaussian

__all__ = [
    "learned_variance",
    "two_stage",
]


def learned_variance(input_shape, latent_dim, **options):
    """P0's global variance, one number that is learned with the networks.

        loss = |r|^2 / (2 v) + D/2 log(2 pi v) + kl,    v learned

    P0, Eq. 9; Tables 1 to 3, the rows "Ours" with one variance.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.learned_variance((28, 28, 1), 16)
    """
    return gaussian(input_shape, latent_dim, variances.Learned(), **options)


def two_stage(input_shape, latent_dim, **options):
    """P0's variance for each pixel, to be trained by `fit_two_stage`.

        v = sigmoid(head(z)) + 1/2 v_dataset

    P0, Eq. 11 and Algorithm 1; Tables 2 and 3, "Ours", with a variance a pixel, shared
    by the channels.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.two_stage((28, 28, 1), 16)
    """
    variance = variances.Predicted(per_channel=False)
    return gaussian(input_shape, latent_dim, variance, **options)
