"""Images between images."""

import numbers

import numpy as np
from keras import ops

from .. import ops as kvv_ops
from .base import encodings, key, streams

__all__ = ["interpolate"]

_IMAGES = 1000  # made at a time


def interpolate(vae, x1, x2, ratio=0.5, seed=None):
    """Images at spherical interpolations between the codes of pairs of images.

        m(z),   z = slerp(mu(x1), mu(x2), ratio)

    P1, Section 6.2 and Table 5, evaluates the Frechet distance of such images of 10,000
    random pairs: at the middle, and at a ratio drawn uniformly from [0, 1] for each
    pair. It does not say which point of the posterior is meant: here it is the mean.
    `ops.slerp` has the formula, and what happens where it has none.

    Args:
        vae: a trained `VAE`.
        x1: images in any form that `VAE.fit` takes, where the ratio is 0. Labels and
            weights are ignored.
        x2: as many, where the ratio is 1.
        ratio: a number in [0, 1] for all pairs, or `"random"` for one each.
        seed: of the random ratios: int, or None for a fresh one from Python's `random`,
            which `keras.utils.set_random_seed` seeds.

    Returns:
        The means of the decoder, a float32 NumPy array of shape `(n, ...)`.

    Raises:
        ValueError: for another ratio, or numbers of images that differ.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((20, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> networks = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(*networks, posterior, likelihood)
    >>> kvv.metrics.interpolate(vae, x[:10], x[10:], "random", seed=0).shape
    (10, 8, 8, 1)
    """
    number = isinstance(ratio, numbers.Real) and not isinstance(ratio, bool)
    if ratio != "random" and not (number and 0 <= ratio <= 1):
        raise ValueError(
            f'`ratio` must be a number in [0, 1] or "random". Received: ratio={ratio!r}'
        )
    z1, z2 = (_codes(vae, x) for x in (x1, x2))
    if len(z1) != len(z2):
        raise ValueError(
            "`x1` and `x2` must hold as many images as each other. "
            f"Received: x1 with {len(z1)}, x2 with {len(z2)}"
        )
    if ratio == "random":
        (stream,) = streams(key(seed), 0, 1)
        ratio = stream.random(len(z1), np.float32)
    z = kvv_ops.slerp(z1, z2, ratio)
    images = np.empty((len(z1), *vae.event_shape), np.float32)
    for start in range(0, len(z1), _IMAGES):
        part = slice(start, start + _IMAGES)
        mean = vae.likelihood.mean(vae.decode(z[part]))
        images[part] = ops.convert_to_numpy(mean)
    return images


def _codes(vae, x):
    codes = [latent.mean for _, latent in encodings(vae, x)]
    return np.concatenate(codes).astype("float32")
