"""The evidence of a VAE whose decoder is taken as linear around each code."""

import warnings

import numpy as np
from keras import ops

from .. import ops as kvv_ops
from ..types import Latent
from .base import (
    Estimate,
    check_density,
    check_integer,
    encoding_chunks,
    float64,
    variance,
)
from .mixtures import CHUNK, Components

__all__ = [
    "constant_variance_penalty",
    "linearized_elbo",
    "log_evidence",
    "optimal_decoder",
]

_EXAMPLES = 1000  # that `optimal_decoder` holds at a time


def log_evidence(vae, x, chunk_size=512):
    """Log evidence of each example, exact for a linear decoder.

        -1/2 [ D log 2 pi + |S^-1 mu|^2 + sum_k r_k^2 / v_k + log det(J S2 J^T + V) ]

    P4, Eq. 16 and 26, at `z = mu(x)`, with `r = x - m(mu)`, `J = dm/dz` there, `v` the
    decoder's variances (`V` the matrix of them) and `S2` the prior's. For a linear
    decoder with `mu` at the mean of the true posterior it is `log p(x)`, and equal to
    the ELBO at the optimum of that. Else it is a Laplace approximation, which does not
    bound `log p(x)`. No posterior variance enters: it may be deterministic. The
    determinant is taken in the latent dimension:

        log det(J S2 J^T + V) = sum_k log v_k + log det(I + S J^T V^-1 J S)

    `J^T V^-1 J` is the information of a Gaussian, without what a predicted variance
    itself says of `z`, and of a Bernoulli; of other likelihoods whose scalars are
    independent a lower bound. (The channels of a pixel of a `LogisticMixture` depend on
    each other, and what they say is counted for each.)

    Args:
        vae: a trained `VAE`.
        x: the images, in any form that `VAE.fit` takes. Labels and weights are ignored.
        chunk_size: the most images that the decoder makes at a time, or the number `L`
            of latent dimensions where that is more: an example takes `L`.

    Returns:
        A float64 NumPy array of shape `(n,)`, in nats and in the order of `x`.

    Raises:
        ValueError: if `x` is empty, or `chunk_size` not a positive int.

    Warns:
        UserWarning: if `p(x|z)` is not a normalised density, as where its variance
            depends on `x`: the result is then no log evidence.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> kvv.metrics.log_evidence(vae, x).shape
    (32,)
    """
    if not vae.likelihood.normalized:
        warnings.warn(
            "p(x|z) of this likelihood is not a normalised density over x: the result "
            "is no log evidence, and does not compare with one. "
            f"Received: likelihood={vae.likelihood}",
            UserWarning,
            stacklevel=2,
        )
    results = []
    for nll, latent, information in _linearized(vae, x, chunk_size):
        _, log_det = np.linalg.slogdet(_relative(information, latent.prior_variance))
        distance = np.square(latent.mean - latent.prior_mean) / latent.prior_variance
        results.append(-nll - 0.5 * (distance.sum(axis=1) + log_det))
    return np.concatenate(results)


def linearized_elbo(vae, x, chunk_size=512):
    """The ELBO of each example with a decoder that is linear around its code.

        -[ nll(x|mu) + 1/2 sum_jk s2_j/v_k (dm_k/dz_j)^2 + KL(q(z|x) || p(z)) ]

    P1, Eq. 4, 8 and B.4; P4, Eq. 17. It is the ELBO itself, without the error of draws,
    where the decoder is linear and its variance does not depend on `z`; how far it is
    from `VAE.elbo` shows how far the decoder is from that within the posterior. The
    middle term is the penalty on the decoder's gradient that the posterior variance
    stands for. It falls short of `log_evidence` by the KL from `q(z|x)` to
    `N(mu, (S2^-1 + J^T V^-1 J)^-1)` (P4, Eq. 18).

    Args:
        vae: a trained `VAE` with a posterior that is not deterministic.
        x: the images, in any form that `VAE.fit` takes. Labels and weights are ignored.
        chunk_size: as for `log_evidence`.

    Returns:
        A dict of float64 NumPy arrays of shape `(n,)`, in nats and in the order of `x`:
        `elbo`, `reconstruction` (-log p(x|z) at `z = mu`), `gradient_penalty` and `kl`.

    Raises:
        ValueError: if the posterior is deterministic, `x` is empty, or `chunk_size` not
            a positive int.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> list(kvv.metrics.linearized_elbo(vae, x))
    ['elbo', 'reconstruction', 'gradient_penalty', 'kl']
    """
    check_density(vae, "an infinite KL, and no ELBO")
    terms = []
    for nll, latent, information in _linearized(vae, x, chunk_size):
        growth = np.einsum("nj,njj->n", latent.variance, information)
        ratio = latent.variance / latent.prior_variance
        distance = np.square(latent.mean - latent.prior_mean) / latent.prior_variance
        kl = 0.5 * np.sum(ratio + distance - 1.0 - np.log(ratio), axis=1)
        terms.append([nll, 0.5 * growth, kl])
    reconstruction, gradient_penalty, kl = np.concatenate(terms, axis=1)
    return {
        "elbo": -(reconstruction + gradient_penalty + kl),
        "reconstruction": reconstruction,
        "gradient_penalty": gradient_penalty,
        "kl": kl,
    }


def constant_variance_penalty(vae, x, chunk_size=512):
    """What a posterior of constant variance costs the ELBO.

        1/4 E tr[ (A E[A]^-1 - I)^2 ],   A = S^-2 + J^T V^-1 J

    P4, Eq. 21 and 22: the squared relative variation of the posterior's precision,
    which is how much the best constant posterior covariance, `E[A]^-1`, leaves of the
    evidence, to the second order. (The paper's `tr^2(X)` is `tr(X^2)`.) It is 0 where
    the decoder is linear. For `J` and `V` see `log_evidence`.

    The matrices `A` of all examples are kept, `8 N L^2` bytes: of many latent
    dimensions take some thousand examples.

    Args:
        vae: a trained `VAE`, of any posterior.
        x: the images, in any form that `VAE.fit` takes. Labels and weights are ignored.
        chunk_size: as for `log_evidence`.

    Returns:
        An `Estimate` in nats, over examples.

    Raises:
        ValueError: if `x` is empty, or `chunk_size` not a positive int.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> linear = kvv.backbones.mlp((8, 8, 1), 2, likelihood, None, hidden=())
    >>> posterior = kvv.posteriors.ConstantGaussian(2)
    >>> vae = kvv.VAE(*linear, posterior, likelihood)
    >>> abs(float(kvv.metrics.constant_variance_penalty(vae, x))) < 1e-6
    True
    """
    precisions = [
        # S A S in place of A, which leaves the trace as it is.
        _relative(information, latent.prior_variance)
        for _, latent, information in _linearized(vae, x, chunk_size)
    ]
    return _relative_variation(precisions)


def optimal_decoder(vae, x, z):
    """The images that a decoder free of any network would make of latents.

        sum_n q(z|x_n) x_n / sum_n q(z|x_n)

    P4, Eq. 6: the mean of the data `x`, weighted by the density of `z` under each
    one's posterior. For a Gaussian likelihood whose variance does not depend on `x` it
    has the greatest ELBO on these data that any decoder has with this encoder.

    The data are read once. Beside the result, the log densities of a chunk of the pairs
    of latents and examples are held, in float64.

    Args:
        vae: a trained `VAE` with a posterior that is not deterministic.
        x: the images, in any form that `VAE.fit` takes. Labels and weights are ignored.
        z: latents, `(m, L)`.

    Returns:
        A float64 NumPy array of `m` images, in the units of the model.

    Raises:
        ValueError: if the posterior is deterministic, `x` is empty, or `z` of another
            shape.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> kvv.metrics.optimal_decoder(vae, x, z=np.zeros((3, 2))).shape
    (3, 8, 8, 1)
    """
    check_density(vae, "no weights for the data")
    z = float64(z)
    if z.ndim != 2 or z.shape[1] != vae.latent_dim:
        raise ValueError(
            f"`z` must have the shape (m, {vae.latent_dim}). "
            f"Received: z.shape={z.shape}"
        )
    # Sums relative to the greatest density so far, which alone may be far below 1.
    top = np.full((len(z), 1), -np.inf)
    total = np.zeros((len(z), 1))
    images = np.zeros((len(z), np.prod(vae.event_shape)))
    for batch, latent in encoding_chunks(vae, x, _EXAMPLES):
        pixels = float64(vae.prepare(batch)).reshape(len(batch), -1)
        components = Components(latent.mean, latent.variance)
        size = max(1, CHUNK // len(batch))
        for start in range(0, len(z), size):
            rows = slice(start, start + size)
            weights = components.log_prob(z[rows])
            before = top[rows].copy()
            top[rows] = np.maximum(before, weights.max(axis=1, keepdims=True))
            weights -= top[rows]
            np.exp(weights, out=weights)
            shrink = np.exp(before - top[rows])
            total[rows] = shrink * total[rows] + weights.sum(axis=1, keepdims=True)
            images[rows] = shrink * images[rows] + weights @ pixels
    return (images / total).reshape(len(z), *vae.event_shape)


def _linearized(vae, x, chunk_size):
    """The decoder around each code, in chunks of examples.

    Yields:
        `-log p(x|z)` at `z = mu(x)`, `(n,)`; the codes' `Latent`; and the information
        `J^T V^-1 J` on `z`, `(n, L, L)`; float64.
    """
    check_integer("chunk_size", chunk_size)

    def at_the_code(x, *latent):
        latent = Latent(latent[0], *latent)
        parameters = vae.decode(latent.mean)
        nll = vae.likelihood(x, parameters, latent, training=False)
        jacobian = kvv_ops.jacobian(
            lambda z: vae.likelihood.mean(vae.decode(z)), latent.mean
        )
        # Of a Bernoulli that is sure, the variance underflows with the Jacobian.
        v = ops.maximum(variance(vae.likelihood, x, parameters, latent), 1e-30)
        return nll, jacobian / ops.expand_dims(ops.sqrt(v), 1)

    codes = [(None, vae.latent_dim)] * 4
    at_the_code = kvv_ops.compiled(at_the_code, (None, *vae.event_shape), *codes)
    size = max(1, chunk_size // vae.latent_dim)
    for batch, latent in encoding_chunks(vae, x, size):
        nll, jacobian = map(float64, at_the_code(vae.prepare(batch), *latent[1:]))
        jacobian = jacobian.reshape(*jacobian.shape[:2], -1)
        # In float64: rounding would drown what a dimension of little effect adds.
        yield nll, latent, jacobian @ jacobian.swapaxes(1, 2)


def _relative_variation(precisions):
    """`1/4 E tr[(A E[A]^-1 - I)^2]` of matrices `A`, an `Estimate`.

    They come as a list of arrays, `(n, L, L)`, which are overwritten: there are many.
    """
    number = sum(map(len, precisions))
    # With C C^T = E[A], the trace is the squared norm of W - I, W = C^-1 A C^-T.
    mean = sum(part.sum(axis=0) for part in precisions) / number
    factor = np.linalg.inv(np.linalg.cholesky(mean))
    squares = 0.0
    for part in precisions:
        part[:] = factor @ part @ factor.T - np.eye(len(factor))
        squares = squares + np.sum(part @ part, axis=0) / number
    # E[A] is an estimate too, which adds -1/2 tr[(E[W^2] - I)(W - I)], of mean 0, to an
    # example's influence. E[W] = I, so that E[W^2] - I is the mean square of W - I.
    influences = [
        np.sum(np.square(part), axis=(1, 2)) / 4.0
        - np.tensordot(part, squares, 2) / 2.0
        for part in precisions
    ]
    return Estimate.of(np.concatenate(influences))


def _relative(information, prior_variance):
    """The posterior's precision in units of the prior's, `I + S J^T V^-1 J S`."""
    stddev = np.sqrt(prior_variance)
    scaled = stddev[:, :, None] * information * stddev[:, None, :]
    return np.eye(stddev.shape[1]) + scaled
