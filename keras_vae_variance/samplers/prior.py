"""Normal samplers: the prior, and the prior that fits the codes best."""

import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow_probability import distributions as tfd

from .base import Sampler, posteriors

__all__ = ["OptimalPrior", "Prior"]


class Normal(Sampler):
    """A diagonal normal distribution, `N(mean, diag(variance))`."""

    def _build(self, mean, variance):
        return tfd.MultivariateNormalDiag(
            tf.constant(mean, tf.float32), tf.constant(np.sqrt(variance), tf.float32)
        )


class Prior(Normal):
    """The VAE's own prior.

        p(z) = N(m, diag(S2))

    `m = 0` and `S2 = 1` for a standard normal prior; a floating one (P4, Sec. 4.3)
    gives its running averages. No data is read: `fit(vae)` is enough.

    Example:

    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> sampler = kvv.samplers.Prior().fit(vae)
    >>> sampler.sample(3, seed=0).shape
    TensorShape([3, 2])
    """

    def fit(self, vae, x=None, seed=None):
        """Takes mean and variance of the prior over from the VAE.

        Args:
            vae: a `VAE`.
            x: ignored, here for the signature of all samplers.
            seed: ignored.

        Returns:
            The sampler itself.
        """
        return super().fit(vae, x, seed=0)

    def _learn(self, vae, x, generator):
        if hasattr(vae, "predict_frames"):
            raise ValueError(
                "The prior of a model of sequences knows the frames before: call its "
                f"`predict_frames`. Received: {vae.name}"
            )
        # In evaluation a prior does not depend on the posterior that it is given.
        zeros = ops.zeros((1, vae.latent_dim))
        mean, variance = vae.prior(zeros, ops.ones_like(zeros), training=False)
        return {
            name: np.broadcast_to(
                ops.convert_to_numpy(value).astype("float32"), zeros.shape
            )[0]
            for name, value in (("mean", mean), ("variance", variance))
        }


class OptimalPrior(Normal):
    """The diagonal normal distribution of mean zero that is closest to the codes.

        p(z) = N(0, diag(S2)),    S2_j = mean over the data of (s2_j + mu_j^2)

    P4, Eq. 4, in the general case where the posterior variance differs between the
    examples. Among the priors of this form it has the least mean KL divergence. The
    sum runs in float64.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> sampler = kvv.samplers.OptimalPrior().fit(vae, x)
    >>> sampler.distribution.variance().shape
    TensorShape([2])
    """

    def _learn(self, vae, x, generator):
        total, count = 0.0, 0
        for mean, variance in posteriors(vae, x):
            total += np.sum(np.square(mean, dtype=np.float64) + variance, axis=0)
            count += len(mean)
        return {
            "mean": np.zeros(len(total), np.float32),
            "variance": (total / count).astype(np.float32),
        }
