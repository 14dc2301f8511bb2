"""A mixture of full Gaussians, fitted to draws of the aggregate posterior."""

import tempfile

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from ..checks import check_integer
from .base import Sampler, posteriors
from .expectation_maximization import expectation_maximization
from .mixtures import BLOCK, Mixture, quadratic_coefficients, quadratic_features

__all__ = ["Codes", "GaussianMixture", "TriangularMixture"]

MEMORY = 2**26  # bytes of codes that are held in memory; more go to a file


class GaussianMixture(Sampler):
    """A mixture of Gaussians with full covariances, fitted to the codes of the data.

        p(z) = sum_k w_k N(z; mu_k, S_k),    fitted to draws z ~ q(z|x)

    P0, Eq. 13; P1, Sec. 6. The fit is to draws and not to the posterior means, whose
    distribution is narrower than the aggregate posterior. Of a deterministic posterior
    the draws are the codes themselves.

    Expectation maximisation gives what scikit-learn's does, and warns like it where it
    does not converge; `fit` raises a `ValueError` where a component loses all codes or
    has a singular covariance, as repeated codes may have it. It reads the codes in
    chunks, on the devices of a `tf.distribute` strategy where `fit` is called in its
    scope, and the memory does not grow with their number: beyond 64 MiB they are in a
    temporary file, in the folder of Python's `tempfile`. It starts from k-means, on a
    random 100,000 codes where there are more.

    By variational Bayes scikit-learn fits, with all codes in memory; the expected
    weights, means and covariances are kept.

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
        check_integer("num_components", num_components)
        check_integer("samples_per_example", samples_per_example)
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
        with Codes(vae.latent_dim) as codes:
            # Noise comes from one stream in the order of the examples, so that the
            # codes do not depend on the batches that the data come in.
            for mean, variance in posteriors(vae, x):
                noise = generator.standard_normal(
                    (len(mean), self.samples_per_example, mean.shape[1])
                )
                z = mean[:, None] + np.sqrt(variance)[:, None] * noise
                codes.append(z.reshape(-1, mean.shape[1]))
            if codes.shape[0] < self.num_components:
                raise ValueError(
                    "A mixture needs at least one code a component. Received: "
                    f"num_components={self.num_components}, codes={codes.shape[0]}"
                )
            seed = int(generator.integers(2**32))
            fit = {"em": expectation_maximization, "variational": _variational}
            weights, means, covariances, *_ = fit[self.method](
                codes, self.num_components, seed
            )
        return {
            "weights": weights.astype(np.float32),
            "mean": means.astype(np.float32),
            "scale_tril": np.linalg.cholesky(covariances).astype(np.float32),
        }

    def _build(self, weights, mean, scale_tril):
        return TriangularMixture(
            tfd.Categorical(probs=tf.constant(weights)),
            tfd.MultivariateNormalTriL(tf.constant(mean), tf.constant(scale_tril)),
        )


class Codes:
    """Latent vectors in float32: in memory or, where they are many, in a file.

    Rows are appended, and slices read. The file is a temporary one, which closing
    deletes. It is read and not mapped: pages of a map count as the process's memory.

    Args:
        latent_dim: numbers of a code.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance.samplers.gaussian_mixture import Codes
    >>> with Codes(latent_dim=2) as codes:
    ...     codes.append(np.zeros((3, 2)))
    ...     codes.append(np.ones((1, 2)))
    ...     codes.shape, codes[2:4].tolist()
    ((4, 2), [[0.0, 0.0], [1.0, 1.0]])
    """

    def __init__(self, latent_dim):
        self.shape = 0, latent_dim
        self._file = tempfile.SpooledTemporaryFile(MEMORY)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._file.close()

    def append(self, z):
        """Adds codes of shape `(n, latent_dim)`."""
        self._file.seek(0, 2)
        self._file.write(np.asarray(z, np.float32).tobytes())
        self.shape = self.shape[0] + len(z), self.shape[1]

    def __getitem__(self, rows):
        count, latent_dim = self.shape
        start, stop, _ = rows.indices(count)
        self._file.seek(start * latent_dim * 4)
        data = self._file.read((stop - start) * latent_dim * 4)
        return np.frombuffer(data, np.float32).reshape(-1, latent_dim)


def _variational(codes, num_components, seed):
    # Imported here: it is slow, and importing the package must not need it.
    from sklearn.mixture import BayesianGaussianMixture

    fit = BayesianGaussianMixture(n_components=num_components, random_state=seed)
    fit.fit(codes[:].astype(np.float64))
    return fit.weights_, fit.means_, fit.covariances_


class TriangularMixture(Mixture):
    """A mixture of `tfd.MultivariateNormalTriL`, with a fast density and draws."""

    def _coefficients(self):
        loc = tf.cast(self.components_distribution.loc, tf.float64)
        tril = tf.cast(self.components_distribution.scale.to_dense(), tf.float64)
        return quadratic_coefficients(loc, tril)

    def _features(self, z):
        return quadratic_features(z)

    def _place(self, index, noise):
        # By component and in blocks of one, so that a factor is read once a block and
        # not once a draw.
        loc = self.components_distribution.loc
        tril = self.components_distribution.scale.to_dense()
        count, latent_dim = loc.shape
        order = tf.argsort(index, stable=True)
        component = tf.gather(index, order)
        draws = tf.math.bincount(index, minlength=count, maxlength=count)
        blocks = -(-draws // BLOCK)
        first = tf.gather(tf.cumsum(draws, exclusive=True), component)
        slot = tf.gather(tf.cumsum(blocks, exclusive=True), component) * BLOCK
        slot += tf.range(tf.shape(index)[0]) - first
        size = tf.reduce_sum(blocks) * BLOCK, latent_dim
        rows = tf.scatter_nd(slot[:, None], tf.gather(noise, order), size)
        rows = tf.matmul(
            tf.reshape(rows, (-1, BLOCK, latent_dim)),
            tf.gather(tril, tf.repeat(tf.range(count), blocks)),
            transpose_b=True,
        )
        rows = tf.gather(tf.reshape(rows, (-1, latent_dim)), slot)
        return tf.gather(loc, index) + tf.scatter_nd(
            order[:, None], rows, tf.shape(noise)
        )
