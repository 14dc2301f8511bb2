"""How far the decoder's image moves with its latents."""

import math
import numbers

import numpy as np
from keras import ops

from .. import ops as kvv_ops
from .base import (
    Estimate,
    check_integer,
    encoding_chunks,
    float64,
    key,
    noise,
    streams,
)

__all__ = ["expected_gap", "local_smoothness"]


def expected_gap(vae, x, variance=1e-2, num_samples=1, seed=None, chunk_size=512):
    """Squared distance of two images from neighbouring latents.

        E | m(mu(x) + e) - m(mu(x) + e') |^2,   e, e' ~ N(0, s I)

    P1, Eq. 5, with `m` the mean of `p(x|z)` and the norm over all scalars of an image.
    As `s` becomes small the gap tends to `2 s` times `local_smoothness` (P1, Eq. C.8).

    Args:
        vae: a trained `VAE`, of any posterior.
        x: the images, in any form that `VAE.fit` takes. Labels and weights are ignored.
        variance: `s`, in squared units of `z`; P1 takes 1e-2 and 1e-3. Below about 1e-6
            the gap is one of float32's rounding errors.
        num_samples: pairs of an example.
        seed: int, or None for a fresh one from Python's `random`, which
            `keras.utils.set_random_seed` seeds. The noise is a function of it and the
            place of the example.
        chunk_size: the most images that the decoder makes at a time.

    Returns:
        An `Estimate`, in squared units of `x`, over examples and their noise.

    Raises:
        ValueError: if `variance` is not a positive finite number, `x` is empty, or
            `num_samples` or `chunk_size` is not a positive int.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> gaps = [kvv.metrics.expected_gap(vae, x, s, seed=0) for s in (1e-2, 1e-3)]
    >>> 5 < float(gaps[0]) / float(gaps[1]) < 20
    True
    """
    if not (isinstance(variance, numbers.Real) and 0 < variance < math.inf):
        raise ValueError(
            "`variance` must be a positive finite number. "
            f"Received: variance={variance!r}"
        )
    check_integer("num_samples", num_samples)
    mean, stddev = _mean(vae), math.sqrt(variance)

    def gap(z, e):
        one, other = (mean(z + stddev * e[:, i]) for i in range(2))
        return kvv_ops.sum_event(ops.square(one - other))

    pairs = _probes(seed, (num_samples, 2, vae.latent_dim))
    return _mean_at_codes(gap, vae, x, pairs, chunk_size)


def local_smoothness(vae, x, num_probes=None, seed=None, chunk_size=512):
    """Squared norm of the decoder's Jacobian at the codes.

        E |dm/dz (mu(x))|_F^2 = E_x E_v |dm/dz v|^2,   v ~ N(0, I)

    P1, Eq. 6 and C.7, with `m` the mean of `p(x|z)`. The smaller, the smoother. P1's
    Table 1 prints it divided by its number of latent dimensions, 8.

    Args:
        vae: a trained `VAE`, of any posterior.
        x: the images, in any form that `VAE.fit` takes. Labels and weights are ignored.
        num_probes: draws of `v` an example, for an unbiased estimate. None takes the
            derivative along every latent dimension, which is exact.
        seed: of the probes: int, or None for a fresh one from Python's `random`, which
            `keras.utils.set_random_seed` seeds. They are functions of it and the place
            of the example.
        chunk_size: the most images that the decoder makes at a time.

    Returns:
        An `Estimate`, in squared units of `x` for one of `z`, over examples and their
        probes.

    Raises:
        ValueError: if `x` is empty, or `num_probes` or `chunk_size` is not a positive
            int.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> exact = kvv.metrics.local_smoothness(vae, x)
    >>> probed = kvv.metrics.local_smoothness(vae, x, num_probes=50, seed=0)
    >>> abs(float(probed) / float(exact) - 1) < 0.2
    True
    """
    mean, size = _mean(vae), vae.latent_dim

    def push(z, v):
        return kvv_ops.sum_event(ops.square(kvv_ops.jvp(mean, z, v)[1]))

    if num_probes is None:
        # The mean over these directions is the sum over the unit vectors.
        axes = math.sqrt(size) * np.eye(size)

        def directions(start, count):
            return np.broadcast_to(axes, (count, size, size))

    else:
        check_integer("num_probes", num_probes)
        directions = _probes(seed, (num_probes, size))
    return _mean_at_codes(push, vae, x, directions, chunk_size)


def _mean(vae):
    """The mean of `p(x|z)` as a function of `z`."""
    return lambda z: vae.likelihood.mean(vae.decode(z))


def _probes(seed, shape):
    """Noise `(count, *shape)` for `count` examples, from number `start` on."""
    noise_key = key(seed)
    return lambda start, count: noise(streams(noise_key, start, count), shape)


def _mean_at_codes(function, vae, x, directions, chunk_size):
    """The mean of `function(mu(x), direction)` over the data and their directions."""
    check_integer("chunk_size", chunk_size)
    each, *shape = directions(0, 1).shape[1:]
    function = kvv_ops.compiled(function, (None, vae.latent_dim), (None, *shape))
    values, count = [], 0
    for _, latent in encoding_chunks(vae, x, max(1, chunk_size // each)):
        z = np.repeat(latent.mean, each, axis=0)
        v = directions(count, len(latent.mean)).reshape(-1, *shape)
        count += len(latent.mean)
        parts = [
            float64(function(z[start : start + chunk_size], v[start:][:chunk_size]))
            for start in range(0, len(z), chunk_size)
        ]
        values.append(np.concatenate(parts).reshape(-1, each).mean(axis=1))
    return Estimate.of(np.concatenate(values))
