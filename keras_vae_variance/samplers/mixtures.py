"""Mixtures of Gaussians as TFP distributions, made fast."""

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from ..ops import LOG_2_PI
from .base import in_chunks, stateless_seed

__all__ = ["BLOCK", "Mixture", "quadratic_coefficients", "quadratic_features"]

CHUNK = 2**22  # numbers that a mixture holds at a time, of 8 bytes each
BLOCK = 16  # draws of a component that are placed by one product


def quadratic_features(z):
    """The entries of `z`, `(n, L)`, and their products: `(L (L + 3) / 2, n)`.

    Products come in the order of `np.triu_indices(L)`.
    """
    # In columns, since a gather of rows is several times faster than one of columns.
    z = tf.transpose(z)
    row, column = np.triu_indices(z.shape[0])
    return tf.concat([z, tf.gather(z, row) * tf.gather(z, column)], axis=0)


def quadratic_coefficients(loc, tril):
    """Returns `c` and `W`: `log N(z; loc_k, S_k) = c_k + W_k . f(z)`, `S = tril tril'`.

        log N(z; mu, S) = c + (P mu)' z - 1/2 z' P z,    P = S^-1

    Args:
        loc: `(K, L)`, in float64.
        tril: `(K, L, L)`, in float64.

    Returns:
        Tensors of shape `(K,)` and `(K, L (L + 3) / 2)`; `f` is `quadratic_features`.
    """
    count, latent_dim = loc.shape
    inverse = tf.linalg.triangular_solve(
        tril, tf.eye(latent_dim, batch_shape=(count,), dtype=tf.float64)
    )
    precision = tf.matmul(inverse, inverse, transpose_a=True)
    linear = tf.linalg.matvec(precision, loc)
    # z' P z has each product of two entries twice; each is a feature once.
    row, column = np.triu_indices(latent_dim)
    square = tf.gather(
        tf.reshape(precision, (-1, latent_dim**2)), row * latent_dim + column, axis=1
    )
    square *= np.where(row == column, -0.5, -1.0)
    log_det = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(tril)), axis=-1)
    constant = -0.5 * (tf.reduce_sum(linear * loc, axis=-1) + latent_dim * LOG_2_PI)
    return constant - log_det, tf.concat([linear, square], axis=-1)


class Mixture(tfd.MixtureSameFamily):
    """A mixture of Gaussians with a fast density and fast draws.

        log p(z) = logsumexp_k [ log w_k + log N(z; mu_k, S_k) ]

    Each `log N` is linear in features of `z`, its entries and their products, so that
    one matrix product gives all components. TFP's own class solves a triangular
    system for each, and draws from every component to keep one.

    The product loses to cancellation what differences `z - mu_k` would keep (six digits
    where `mu_k` is a thousand standard deviations from 0), hence the float64. Points
    are taken in chunks, which bounds the memory.

    A subclass overrides `_coefficients`, `_features` and `_place`.
    """

    def __init__(self, mixture_distribution, components_distribution, name="Mixture"):
        parameters = dict(locals())
        super().__init__(mixture_distribution, components_distribution, name=name)
        self._parameters = parameters
        logits = tf.cast(mixture_distribution.logits_parameter(), tf.float64)
        self._cdf = tf.cumsum(tf.nn.softmax(logits))
        constant, weights = self._coefficients()
        self._constant = constant + tf.nn.log_softmax(logits)
        self._weights = tf.transpose(weights)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        # TFP wants it beside each __init__: the arguments are those of the parent.
        return super()._parameter_properties(dtype, num_classes)

    def _coefficients(self):
        """Returns `c` of shape (K,) and `W` of (K, F): `log N_k = c_k + W_k . f(z)`."""
        raise NotImplementedError

    def _features(self, z):
        """Returns `f(z)` of shape `(F, n)` for `z` of `(n, latent_dim)`, in float64."""
        raise NotImplementedError

    def _place(self, index, noise):
        """Returns draws of the components `index` made of standard normal `noise`."""
        raise NotImplementedError

    def _log_prob(self, x):
        def log_prob(z):
            features = self._features(tf.cast(z, tf.float64))
            joint = tf.matmul(features, self._weights, transpose_a=True)
            joint += self._constant
            return tf.reduce_logsumexp(tf.cast(joint, self.dtype), axis=-1)

        size = CHUNK // sum(self._weights.shape)
        result = in_chunks(log_prob, [tf.reshape(x, (-1, x.shape[-1]))], size)
        return tf.reshape(result, tf.shape(x)[:-1])

    def _sample_n(self, n, seed=None):
        seeds = tf.random.experimental.stateless_split(stateless_seed(seed), 2)
        # A component a draw, by inversion: draws come in no order.
        uniform = tf.random.stateless_uniform((n,), seeds[0], dtype=tf.float64)
        index = tf.searchsorted(self._cdf, uniform * self._cdf[-1], side="right")
        noise = tf.random.stateless_normal((n, *self.event_shape), seeds[1])
        latent_dim = self.event_shape[0]
        size = min(BLOCK * CHUNK // latent_dim**2, CHUNK // latent_dim)
        return in_chunks(self._place, [index, noise], size)
