"""P3: learned sharpness."""

from .. import variances
from .base import gaussian

__all__ = [
    "l_vae_scalar",
    "l_vae_vector",
]


def l_vae_scalar(input_shape, latent_dim, **options):
    """P3's VAE with a learned scalar standard deviation, which starts at 1.

        -log p(x|z) = |r|^2 / (2 v) + D/2 log(2 pi v),    v = exp(10 parameter)

    P3, Eq. 10; Table 1, "LS-VAE".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.l_vae_scalar((2,), 2, mean_activation=None)
    """
    variance = variances.Learned(initial=1.0)
    return gaussian(input_shape, latent_dim, variance, **options)


def l_vae_vector(input_shape, latent_dim, bounds=None, **options):
    """P3's VAE with a standard deviation that the decoder gives for each scalar.

        -log p(x|z) = sum_k r_k^2 / (2 v_k(z)) + 1/2 log(2 pi v_k(z))

    P3, Eq. 11; Tables 1 and 2, "LV-VAE". Where `v` starts far above the squared error,
    the mean gets little gradient and `v` may stay there: an upper bound, or
    `fit_two_stage`, leads out (`examples/learned_sharpness.py`).

    Args:
        bounds: two variances between which `v` is clipped softly, or None; see
            `variances.Predicted`. P3 has none.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.l_vae_vector((2,), 2, mean_activation=None)
    """
    variance = variances.Predicted(link="exp", bounds=bounds)
    return gaussian(input_shape, latent_dim, variance, **options)
