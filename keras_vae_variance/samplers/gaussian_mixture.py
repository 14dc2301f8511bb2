"""A mixture of full Gaussians, fitted to draws of the aggregate posterior."""

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from ..ops import LOG_2_PI
from .base import Sampler, posteriors
from .mixtures import Mixture

__all__ = ["GaussianMixture", "TriangularMixture"]


class GaussianMixture(Sampler):
    """A mixture of Gaussians with full covariances, fitted to the codes of the data.

        p(z) = sum_k w_k N(z; mu_k, S_k),    fitted to draws z ~ q(z|x)

    P0, Eq. 13; P1, Sec. 6. The fit is to draws and not to the posterior means, whose
    distribution is narrower than the aggregate posterior. scikit-learn fits, by
    expectation maximisation or by variational Bayes, of which the expected weights,
    means and covariances are kept. Of a deterministic posterior the draws are the
    codes themselves.

    Args:
        num_components: number of components; the papers have 10, 32, 100 and 500.
        method: `"em"` or `"variational"`, which leaves components that it does not
            need with almost no weight.
        samples_per_example: number of draws `z ~ q(z|x)` an example.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> sampler = kvv.samplers.GaussianMixture(2).fit(vae, x, seed=0)
    >>> z = sampler.sample(5, seed=1)
    >>> sampler.log_prob(z).shape
    TensorShape([5])
    """

    def __init__(self, num_components=32, method="em", samples_per_example=1):
        super().__init__()
        for name, value in (
            ("num_components", num_components),
            ("samples_per_example", samples_per_example),
        ):
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(
                    f"`{name}` must be an int of at least 1. Received: {name}={value!r}"
                )
        if method not in ("em", "variational"):
            raise ValueError(
                f'`method` must be "em" or "variational". Received: method={method!r}'
            )
        self.num_components = int(num_components)
        self.method = method
        self.samples_per_example = int(samples_per_example)

    def get_config(self):
        """Returns the constructor's arguments, all of them plain values."""
        return {
            "num_components": self.num_components,
            "method": self.method,
            "samples_per_example": self.samples_per_example,
        }

    def _learn(self, vae, x, generator):
        # Noise comes from one stream in the order of the examples, so that the codes
        # do not depend on the batches that the data come in.
        codes = []
        for mean, variance in posteriors(vae, x):
            noise = generator.standard_normal(
                (len(mean), self.samples_per_example, mean.shape[1])
            )
            z = mean[:, None] + np.sqrt(variance)[:, None] * noise
            codes.append(z.reshape(-1, mean.shape[1]))
        codes = np.concatenate(codes)
        if len(codes) < self.num_components:
            raise ValueError(
                "A mixture needs at least one code a component. Received: "
                f"num_components={self.num_components}, codes={len(codes)}"
            )
        # Imported here: it is slow, and importing the package must not need it.
        from sklearn import mixture

        family = {
            "em": mixture.GaussianMixture,
            "variational": mixture.BayesianGaussianMixture,
        }[self.method]
        fitted = family(
            n_components=self.num_components,
            random_state=int(generator.integers(2**32)),
        ).fit(codes)
        return {
            "weights": fitted.weights_.astype(np.float32),
            "mean": fitted.means_.astype(np.float32),
            "scale_tril": np.linalg.cholesky(fitted.covariances_).astype(np.float32),
        }

    def _build(self, weights, mean, scale_tril):
        return TriangularMixture(
            tfd.Categorical(probs=tf.constant(weights)),
            tfd.MultivariateNormalTriL(tf.constant(mean), tf.constant(scale_tril)),
        )


class TriangularMixture(Mixture):
    """A mixture of `tfd.MultivariateNormalTriL`, with a fast density and draws.

    log N(z; mu, S) = c + (P mu)' z - 1/2 z' P z,    P = S^-1
    """

    def _coefficients(self):
        loc = tf.cast(self.components_distribution.loc, tf.float64)
        tril = tf.cast(self.components_distribution.scale.to_dense(), tf.float64)
        latent_dim = loc.shape[-1]
        inverse = tf.linalg.triangular_solve(
            tril, tf.eye(latent_dim, batch_shape=loc.shape[:1], dtype=tf.float64)
        )
        precision = tf.matmul(inverse, inverse, transpose_a=True)
        linear = tf.linalg.matvec(precision, loc)
        # z' P z has each product of two entries twice; each is a feature once.
        row, column = np.triu_indices(latent_dim)
        self._pairs = row, column
        square = tf.gather(
            tf.reshape(precision, (-1, latent_dim**2)),
            row * latent_dim + column,
            axis=1,
        )
        square *= np.where(row == column, -0.5, -1.0)
        log_det = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(tril)), axis=-1)
        constant = -0.5 * (tf.reduce_sum(linear * loc, axis=-1) + latent_dim * LOG_2_PI)
        return constant - log_det, tf.concat([linear, square], axis=-1)

    def _features(self, z):
        row, column = self._pairs
        products = tf.gather(z, row, axis=1) * tf.gather(z, column, axis=1)
        return tf.concat([z, products], axis=-1)

    def _place(self, index, noise):
        components = self.components_distribution
        tril = tf.gather(components.scale.to_dense(), index)
        return tf.gather(components.loc, index) + tf.linalg.matvec(tril, noise)
