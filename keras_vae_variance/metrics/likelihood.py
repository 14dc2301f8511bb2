"""The importance-weighted log likelihood."""

import warnings

import keras
import numpy as np
from keras import ops

from .base import (
    check_integer,
    check_one_vector,
    chunks,
    float64,
    key,
    log_density,
    noise,
    streams,
)

__all__ = ["log_likelihood"]


def log_likelihood(
    vae,
    x,
    num_samples=20,
    sampler=None,
    seed=None,
    chunk_size=512,
    return_errors=False,
):
    """Importance-weighted estimate of the log likelihood of each example.

        log 1/K sum_k exp( log p(x|z_k) + log p(z_k) - log q(z_k|x) ),   z_k ~ q(z|x)

    P0, Table 3 (K = 20); P1, Table 7 (K = 500). Of several layers of latents, `z` is
    all of them. Its expectation is a lower bound of
    `log p(x)` that is the ELBO for K = 1, grows with K and tends to `log p(x)`; where
    `q(z|x)` is the exact posterior each weight is `p(x)` itself. It is the likelihood
    under the `p(z)` that images are generated from: the prior, or a fitted sampler
    (of the top layer, where there are several).

    The noise of a sample is a function of the seed, the place of the example in the
    data and the number of the sample. The result therefore depends on `chunk_size`, and
    on the batches of a stream, by rounding alone, and more samples continue fewer. (A
    `SecondStage`, whose density is by draws itself, makes them by chunk.)

    Args:
        vae: a trained `VAE`.
        x: the images, in any form that `VAE.fit` takes. Labels and weights are ignored.
        num_samples: number `K` of draws an example.
        sampler: a fitted sampler with a `log_prob`, taken as `p(z)`. None takes the
            VAE's prior.
        seed: int, or None for a fresh one from Python's `random`, which
            `keras.utils.set_random_seed` seeds.
        chunk_size: the most images that the decoder makes at a time. The memory grows
            with it, and not with `num_samples`.
        return_errors: whether to return the Monte Carlo error of each too.

    Returns:
        A float64 NumPy array of shape `(n,)`, in nats and in the order of `x`. With
        `return_errors` a pair of it and of the standard errors over other draws,
        `sqrt((mean(w^2) / mean(w)^2 - 1) / (K - 1))` of the weights `w`, to first
        order; NaN for K = 1. They say nothing of the bias. An error near 1, which is
        the most, is of a sum that is one weight's alone: there the result is well below
        `log p(x)`, and more samples raise it.

    Raises:
        ValueError: if the posterior is deterministic, or `num_samples` or `chunk_size`
            is not a positive int.

    Warns:
        UserWarning: if `p(x|z)` is not a normalised density, as where its variance
            depends on `x`: the result is then no log likelihood.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> kvv.metrics.log_likelihood(vae, x, num_samples=5, seed=0).shape
    (32,)
    """
    check_integer("num_samples", num_samples)
    check_one_vector(vae)
    check_integer("chunk_size", chunk_size)
    if vae.posterior.deterministic:
        raise ValueError(
            "A deterministic posterior has no density, and the log likelihood no "
            f"importance weights. Received: posterior={vae.posterior}"
        )
    if not vae.likelihood.normalized:
        warnings.warn(
            "p(x|z) of this likelihood is not a normalised density over x: the result "
            "is no log likelihood, and does not compare with one. "
            f"Received: likelihood={vae.likelihood}",
            UserWarning,
            stacklevel=2,
        )
    noise_key = key(seed)

    weigh = None
    results, errors, count = [], [], 0
    for batch in chunks(x, chunk_size):
        # With several layers all but the noise depends on the draw of the one before.
        latent = ()
        if len(vae.latent_dims) == 1:
            latent = vae.encode(batch)
        else:
            vae.prepare(batch)  # checks values, which it cannot in the graph of `weigh`
        if weigh is None:
            weigh = _compiled(vae, batch, latent)
        sources, first = streams(noise_key, count, len(batch)), count
        count += len(batch)
        total, squares = np.full((2, len(batch)), -np.inf)
        step = max(1, chunk_size // len(batch))
        for start in range(0, num_samples, step):
            shape = (min(step, num_samples - start), sum(vae.latent_dims))
            draws = noise(sources, shape).swapaxes(0, 1)
            nll, log_q, log_p, z = weigh(batch, latent, draws)
            if sampler is not None:
                words = np.random.SeedSequence([*map(int, noise_key), first, start])
                log_p = log_density(sampler, z, words.generate_state(2) >> 1)
            # A small difference of numbers in the thousands: in float64.
            log_weights = float64(log_p) - float64(nll) - float64(log_q)
            log_weights = log_weights.reshape(-1, len(batch))
            total = np.logaddexp(total, np.logaddexp.reduce(log_weights, axis=0))
            if return_errors:
                log_weights *= 2.0
                added = np.logaddexp.reduce(log_weights, axis=0)
                squares = np.logaddexp(squares, added)
        results.append(total - np.log(num_samples))
        errors.append(_error(total, squares, num_samples))
    results, errors = (
        np.concatenate(t) if t else np.zeros(0) for t in (results, errors)
    )
    return (results, errors) if return_errors else results


def _error(log_sum, log_sum_of_squares, count):
    """Of the logarithm of a mean of weights, by the logarithms of their sums."""
    if count == 1:
        return np.full(log_sum.shape, np.nan)
    excess = count * np.exp(log_sum_of_squares - 2.0 * log_sum) - 1.0
    return np.sqrt(np.maximum(excess, 0.0) / (count - 1))


def _compiled(vae, batch, latent):
    """The terms of the weights, compiled for any number of images like `batch`."""
    size_of_noise = sum(vae.latent_dims)

    def weigh(x, latent, noise):
        # noise is (samples, batch, L); the rows below are (samples * batch, ...).
        samples, size = ops.shape(noise)[0], ops.shape(noise)[1]

        def rows(t):
            repeated = ops.broadcast_to(t, (samples, size, *t.shape[1:]))
            return ops.reshape(repeated, (-1, *t.shape[1:]))

        x = rows(vae.prepare(x))
        noise = ops.reshape(noise, (-1, size_of_noise))
        return vae.log_terms(x, noise, keras.tree.map_structure(rows, latent))

    if keras.backend.backend() != "tensorflow":
        return weigh
    import tensorflow as tf

    codes = tf.TensorSpec((None, vae.latent_dim), tf.float32)
    signature = [
        tf.TensorSpec((None, *batch.shape[1:]), batch.dtype),
        keras.tree.map_structure(lambda _: codes, latent),
        tf.TensorSpec((None, None, size_of_noise), tf.float32),
    ]
    function = tf.function(weigh, input_signature=signature, autograph=False)
    # TensorFlow warns of what is traced again for each model, but for these.
    return function.get_concrete_function()
