"""VAEs of linear networks with given weights, whose metrics have closed forms.

z ~ N(0, diag(S2)),  x = z W + b + noise of variance v,  q(z|x) = N(x a + c, s2)
"""

import numpy as np
import oracles

import keras_vae_variance as kvv


def model(w, b, v, a, c, s2, prior_variance=None):
    """The VAE; `w` is `(L, D)`, `v` one number or `D`, `s2` one number or `L`.

    A `prior_variance`, one number or `L`, is that of a floating prior.
    """
    latent_dim, size = np.shape(w)
    variance = kvv.variances.Learned(per_pixel=np.ndim(v) > 0, initial=1.0, rate=1.0)
    likelihood = kvv.likelihoods.Gaussian(variance)
    encoder, decoder = kvv.backbones.mlp(
        (size,), latent_dim, likelihood, mean_activation=None, hidden=()
    )
    posterior = kvv.posteriors.DiagonalGaussian(latent_dim)
    prior = None if prior_variance is None else kvv.priors.Floating()
    vae = kvv.VAE(encoder, decoder, posterior, likelihood, prior, seed=0)
    variance.parameter.assign(np.log(v)[None] if np.ndim(v) else np.log(v))
    decoder.set_weights([w, b])
    posterior.mean.set_weights([a, c])
    log_s2 = np.log(np.broadcast_to(s2, (latent_dim,)))
    posterior.spread.set_weights([np.zeros((size, latent_dim)), log_s2])
    if prior is not None:
        scale = np.broadcast_to(prior_variance, (1, latent_dim))
        prior.running.value.assign(scale)
    return vae


def posterior(w, b, v, prior_variance=1.0):
    """`a`, `c` and covariance of the true posterior `N(x a + c, covariance)`."""
    s = np.sqrt(np.broadcast_to(prior_variance, (len(w),)))
    # In units of the prior's.
    a, c, covariance = oracles.linear_posterior(s[:, None] * w, b, v)
    return a * s, c * s, s[:, None] * covariance * s


def evidence(x, w, b, v, prior_variance=1.0):
    """log p(x) of each example."""
    s = np.sqrt(np.broadcast_to(prior_variance, (len(w),)))
    return oracles.evidence(x, s[:, None] * w, b, v)


def identity(mean, s2, prior_variance=None):
    """A VAE whose code of `x` is `x` itself; of the rest no test makes use."""
    size = np.shape(mean)[-1]
    eye, zero = np.eye(size), np.zeros(size)
    return model(eye, zero, 1.0, eye, zero, s2, prior_variance)
