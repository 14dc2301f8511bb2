"""The exact aggregate posterior."""

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from ..ops import LOG_2_PI
from .base import Sampler, posteriors
from .mixtures import Mixture

__all__ = ["AggregatePosterior", "DiagonalMixture"]


class AggregatePosterior(Sampler):
    """The mixture of the posteriors of all examples.

        p(z) = 1/N sum_n q(z|x_n) = 1/N sum_n N(z; mu(x_n), diag(s2(x_n)))

    P0, Eq. 12. It has a component for each example, hence is meant for small `N`, and
    as the reference of P0's Table 1: a density of `n` points takes `n N` terms, and
    the sampler holds about `24 N latent_dim` bytes.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((32, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> sampler = kvv.samplers.AggregatePosterior().fit(vae, x)
    >>> sampler.sample(5, seed=0).shape
    TensorShape([5, 2])
    """

    def fit(self, vae, x, seed=None):
        """Keeps the posterior of every example of `x`, read once and in order.

        Args:
            vae: a trained `VAE` with a posterior that is not deterministic.
            x: the images, in any form that `VAE.fit` takes. Labels and weights are
                ignored.
            seed: ignored, here for the signature of all samplers.

        Returns:
            The sampler itself.

        Raises:
            ValueError: if the posterior is deterministic, `x` is empty or a code is
                not finite.
        """
        if vae.posterior.deterministic:
            raise ValueError(
                "A deterministic posterior has no density, hence neither has their "
                "mixture: fit a GaussianMixture to the codes instead. "
                f"Received: posterior={vae.posterior}"
            )
        return super().fit(vae, x, seed=0)

    def _learn(self, vae, x, generator):
        means, variances = zip(*posteriors(vae, x), strict=True)
        return {"mean": np.concatenate(means), "variance": np.concatenate(variances)}

    def _build(self, mean, variance):
        return DiagonalMixture(
            tfd.Categorical(logits=tf.zeros(len(mean))),
            tfd.MultivariateNormalDiag(
                tf.constant(mean), tf.constant(np.sqrt(variance))
            ),
        )


class DiagonalMixture(Mixture):
    """A mixture of `tfd.MultivariateNormalDiag`, with a fast density and draws.

    log N(z; mu, s2) = c + sum_j (mu_j / s2_j) z_j - 1/2 sum_j z_j^2 / s2_j
    """

    def _coefficients(self):
        loc = tf.cast(self.components_distribution.loc, tf.float64)
        stddev = tf.cast(self.components_distribution.scale.diag_part(), tf.float64)
        precision = 1.0 / tf.square(stddev)
        linear = precision * loc
        constant = -0.5 * tf.reduce_sum(
            linear * loc + 2.0 * tf.math.log(stddev) + LOG_2_PI, axis=-1
        )
        return constant, tf.concat([linear, -0.5 * precision], axis=-1)

    def _features(self, z):
        return tf.transpose(tf.concat([z, tf.square(z)], axis=-1))

    def _place(self, index, noise):
        components = self.components_distribution
        stddev = tf.gather(components.scale.diag_part(), index)
        return tf.gather(components.loc, index) + stddev * noise
