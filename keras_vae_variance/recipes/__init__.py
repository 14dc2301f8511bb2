"""The papers' models by name: each a choice of parts, without behaviour of its own.

Every recipe takes `input_shape`, the shape of one example, and `latent_dim`, the number
of latent variables, and gives an uncompiled `VAE`. All have these options besides, by
name:

- `backbone`: a function of `backbones`, or one of your own with the same arguments
  `(input_shape, latent_dim, likelihood, mean_activation=...)`. The default is
  `backbones.depth_to_space` for images that it takes and `backbones.mlp` for any other
  data. `functools.partial` sets a backbone's own options.
- `mean_activation`: of the decoder's mean; `"sigmoid"` for data in [0, 1], None for
  others. The default is the backbone's own.
- `posterior`: one of `posteriors`, instead of the recipe's.
- `prior` and `regularizers`, as `VAE` has them, where the recipe has none of its own.
- `seed`: of the VAE.

Rows are those of the papers' tables of results. Variances are sigma squared.
"""

from .baselines import ae, beta_vae, dip_vae, rae, vae, wae_mmd
from .p0 import learned_variance, two_stage
from .p1 import (
    diag_d,
    diag_i,
    iso_d,
    iso_i,
    trainable_diag_d,
    trainable_diag_i,
    trainable_iso_d,
    trainable_iso_i,
)
from .p2 import (
    bernoulli_vae,
    bitwise_categorical_vae,
    categorical_vae,
    discretized_gaussian_vae,
    discretized_logistic_vae,
    logistic_mixture_vae,
    optimal_sigma,
    per_image_sigma,
    per_pixel_sigma,
    shared_sigma,
    student_t_vae,
)
from .p3 import l_vae_scalar, l_vae_vector
from .p4 import baggins, bilbo, constant_posterior

__all__ = [
    "ae",
    "baggins",
    "bernoulli_vae",
    "beta_vae",
    "bilbo",
    "bitwise_categorical_vae",
    "categorical_vae",
    "constant_posterior",
    "diag_d",
    "diag_i",
    "dip_vae",
    "discretized_gaussian_vae",
    "discretized_logistic_vae",
    "iso_d",
    "iso_i",
    "l_vae_scalar",
    "l_vae_vector",
    "learned_variance",
    "logistic_mixture_vae",
    "optimal_sigma",
    "per_image_sigma",
    "per_pixel_sigma",
    "rae",
    "shared_sigma",
    "student_t_vae",
    "trainable_diag_d",
    "trainable_diag_i",
    "trainable_iso_d",
    "trainable_iso_i",
    "two_stage",
    "vae",
    "wae_mmd",
]
