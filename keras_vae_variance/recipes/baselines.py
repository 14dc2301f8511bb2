"""The models that the papers compare with: fixed variances, and autoencoders."""

import keras

from .. import posteriors, regularizers, variances
from .base import gaussian

__all__ = [
    "ae",
    "beta_vae",
    "dip_vae",
    "rae",
    "vae",
    "wae_mmd",
]


def vae(input_shape, latent_dim, variance=0.5, **options):
    """The plain VAE, with a fixed variance.

        loss = |r|^2 / (2 v) + D/2 log(2 pi v) + kl

    P0, Tables 2 and 3, "VAE" (variance 0.5) and "beta-VAE" (variance 1); P1, Table 4,
    "VAE w/ Gaussian" (1); P2, Table 2, "Gaussian VAE" (1); P3, Tables 1 and 2, "F-VAE"
    (0.5 for images), and "F*-VAE" with the variance that `l_vae_scalar` ended at.

    Args:
        variance: the variance `v`, in squared units of `x`.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.vae((28, 28, 1), 16, variance=1.0)
    """
    return gaussian(input_shape, latent_dim, variances.Fixed(variance), **options)


def beta_vae(input_shape, latent_dim, beta, **options):
    """The beta-VAE: unit variance, and a weight on the KL divergence.

        loss = 1/2 |r|^2 + D/2 log(2 pi) + beta kl

    P2, Eq. 4 and Tables 1 to 3, whose squared error goes without the half: its row
    beta is `beta / 2` here. The optimum is that of `vae(variance=beta)`.

    Args:
        beta: weight of the KL divergence.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.beta_vae((28, 28, 3), 20, beta=0.005)
    """
    return gaussian(
        input_shape,
        latent_dim,
        variances.Fixed(1.0),
        regularizers=[regularizers.KL(weight=beta)],
        **options,
    )


def dip_vae(input_shape, latent_dim, variance=0.5, kind="I", weight=10.0, **options):
    """The DIP-VAE: a VAE whose codes are pushed to an identity covariance.

        loss = |r|^2 / (2 v) + D/2 log(2 pi v) + kl + weight dip

    P0, Tables 2 and 3, "DIP-VAE", after Kumar et al., 2018. P0 names neither kind nor
    weights; those here are within the range of the original's.

    Args:
        variance: the variance `v`.
        kind: "I" or "II".
        weight: of the covariances off the diagonal; see `regularizers.DIP`.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.dip_vae((28, 28, 1), 16)
    """
    penalties = [regularizers.KL(), regularizers.DIP(kind=kind, weight=weight)]
    return gaussian(
        input_shape,
        latent_dim,
        variances.Fixed(variance),
        regularizers=penalties,
        **options,
    )


def wae_mmd(input_shape, latent_dim, weight=100.0, **options):
    """The Wasserstein autoencoder with the maximum mean discrepancy.

        loss = 1/2 |r|^2 + D/2 log(2 pi) + weight MMD^2(q(z), p(z))

    P1, Tables 4 to 6, "WAE-MMD" (a deterministic encoder); P0, Table 2, "WAE". The
    weight is the usual public default, 10 beside `0.05 |r|^2`.

    Args:
        weight: of the squared discrepancy.
        **options: see the module. P0's WAE has very sharp Gaussian posteriors:
            `posterior=posteriors.ConstantGaussian(latent_dim, variance=1e-4)`.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.wae_mmd((28, 28, 1), 16)
    """
    return gaussian(
        input_shape,
        latent_dim,
        variances.Fixed(1.0),
        regularizers=[regularizers.MMD(weight=weight)],
        **_deterministic(latent_dim, options),
    )


def rae(input_shape, latent_dim, weight=1e-2, kind="l2", penalty=1e-4, **options):
    """The regularized autoencoder, in its three forms.

        loss = 1/2 |r|^2 + D/2 log(2 pi) + weight/2 |z|^2 + the decoder's penalty

        l2    penalty * |kernels of the decoder|^2           (weight decay)
        gp    penalty * |d m/d z|^2, the Frobenius norm of its Jacobian
        sn    none: the decoder's layers are divided by their spectral norms

    P1, Section 6 and Table 4, "RAE" (`"l2"`) and "RAE-GP" (`"gp"`), after Ghosh et
    al., 2020. P1 does not print its weights; the defaults are of the order of the
    original's.

    Args:
        weight: of the norm of the codes.
        kind: "l2", "gp" or "sn".
        penalty: weight of the decoder's penalty; "sn" has none.

    Raises:
        ValueError: on another `kind`.

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.rae((28, 28, 1), 16, kind="gp")
    """
    if kind not in ("l2", "gp", "sn"):
        raise ValueError(f"`kind` must be l2, gp or sn. Received: kind={kind}")
    penalties = [regularizers.LatentNorm(weight=weight)]
    if kind == "gp":
        penalties.append(regularizers.DecoderGradientPenalty(weight=penalty))
    changes = {
        "l2": lambda decoder: _with_weight_decay(decoder, penalty),
        "sn": _with_spectral_norm,
    }
    return gaussian(
        input_shape,
        latent_dim,
        variances.Fixed(1.0),
        regularizers=penalties,
        change_decoder=changes.get(kind),
        **_deterministic(latent_dim, options),
    )


def ae(input_shape, latent_dim, **options):
    """The autoencoder, without anything that shapes its latent space.

        loss = 1/2 |r|^2 + D/2 log(2 pi)

    P1, Tables 4 to 6, "AE".

    Example:

    >>> import keras_vae_variance as kvv
    >>> vae = kvv.recipes.ae((28, 28, 1), 16)
    """
    return gaussian(
        input_shape,
        latent_dim,
        variances.Fixed(1.0),
        regularizers=[],
        **_deterministic(latent_dim, options),
    )


def _deterministic(latent_dim, options):
    if options.get("posterior") is None:
        options = {**options, "posterior": posteriors.Deterministic(latent_dim)}
    return options


_WITH_KERNELS = (
    keras.layers.Dense,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
)


def _with_weight_decay(decoder, weight):
    """The decoder with a penalty on the kernels of its layers, by Keras's own means."""

    def change(layer):
        config = layer.get_config()
        config["kernel_regularizer"] = keras.regularizers.L2(weight)
        return type(layer).from_config(config)

    return _with_kernels_changed(decoder, change)


def _with_spectral_norm(decoder):
    """The decoder with each kernel divided by its spectral norm."""

    def change(layer):
        clone = type(layer).from_config(layer.get_config())
        return keras.layers.SpectralNormalization(
            clone, name=layer.name, dtype=layer.dtype_policy
        )

    return _with_kernels_changed(decoder, change)


def _with_kernels_changed(decoder, change):
    changed = []

    def clone(layer):
        if not isinstance(layer, _WITH_KERNELS):
            return type(layer).from_config(layer.get_config())
        changed.append(layer.name)
        return change(layer)

    try:
        result = keras.models.clone_model(decoder, clone_function=clone, recursive=True)
    except ValueError as error:  # a subclassed model has no layers to go through
        raise ValueError(
            "`backbone` must give a functional or sequential decoder, whose layers can "
            f"be changed. Received: decoder={decoder}"
        ) from error
    if not changed:
        raise ValueError(
            "`backbone` must give a decoder with dense layers or convolutions, whose "
            f"kernels can be changed. Received: decoder={decoder} without any"
        )
    return result
