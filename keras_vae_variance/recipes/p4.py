"""P4: a constant posterior variance under a floating prior."""

from .. import likelihoods, posteriors, priors, regularizers, variances
from .base import compose, gaussian

__all__ = [
    "baggins",
    "bilbo",
    "constant_posterior",
]


def constant_posterior(
    input_shape, latent_dim, likelihood=None, posterior_variance=1.0, **options
):
    """P4's VAE with a constant posterior variance and a prior that floats.

        loss = -log p(x|z) + kl(N(mu, s2), N(0, s2 + mean(mu^2))),    s2 a constant

    P4, Eq. 2 and 4, Section 4.3; Figs. 4 and 5, "Constant Sigma".

    Args:
        likelihood: the default is a Bernoulli.
        posterior_variance: `s2`: 1, or 1/100 for complex data.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.constant_posterior((28, 28, 1), 2)
    """
    return compose(
        input_shape,
        latent_dim,
        likelihoods.Bernoulli() if likelihood is None else likelihood,
        **_floating(latent_dim, posterior_variance, options),
    )


def bilbo(input_shape, latent_dim, likelihood=None, posterior_variance=1.0, **options):
    """P4's batch information lower bound.

        loss = -log p(x|z) + 1/2 sum_j log(1 + mean_batch(mu_j^2) / s2)

    P4, Eq. 24; Figs. 4, 5, 7 to 9 and 13, "BILBO".

    Args:
        likelihood: the default is a Bernoulli.
        posterior_variance: `s2`: 1, or 1/100 for complex data.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.bilbo((28, 28, 1), 2)
    """
    return compose(
        input_shape,
        latent_dim,
        likelihoods.Bernoulli() if likelihood is None else likelihood,
        regularizers=[regularizers.BILBO()],
        **_floating(latent_dim, posterior_variance, options),
    )


def baggins(
    input_shape, latent_dim, information_factor=0.2, posterior_variance=1.0, **options
):
    """P4's Gaussian decoder whose variance is bounded by the information.

        v_n = information_factor * |r_n|^2 / information

    P4, Eq. 29 and 30; Figs. 6, 11 and 15, "BAGGINS". It goes with BILBO.

    Args:
        information_factor: `tau`; 1/5 and 1 in P4.
        posterior_variance: `s2`.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.baggins((28, 28, 1), 2, mean_activation=None)
    """
    return gaussian(
        input_shape,
        latent_dim,
        variances.Baggins(information_factor=information_factor),
        regularizers=[regularizers.BILBO()],
        **_floating(latent_dim, posterior_variance, options),
    )


def _floating(latent_dim, posterior_variance, options):
    posterior = options.get("posterior")
    if posterior is None:
        posterior = posteriors.ConstantGaussian(latent_dim, posterior_variance)
    elif posterior_variance != 1.0:
        raise ValueError(
            "`posterior_variance` is that of the recipe's own posterior; give one of "
            f"the two. Received: posterior_variance={posterior_variance}, "
            f"posterior={posterior}"
        )
    return {"prior": priors.Floating(), **options, "posterior": posterior}
