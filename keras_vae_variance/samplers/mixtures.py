"""Mixtures of Gaussians as TFP distributions, made fast."""

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from .base import in_chunks, stateless_seed

__all__ = ["Mixture"]

CHUNK = 2**22  # numbers that a mixture holds at a time, of 8 bytes each


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
        """Returns `f(z)` of shape `(n, F)` for `z` of `(n, latent_dim)`, in float64."""
        raise NotImplementedError

    def _place(self, index, noise):
        """Returns draws of the components `index` made of standard normal `noise`."""
        raise NotImplementedError

    def _log_prob(self, x):
        def log_prob(z):
            features = self._features(tf.cast(z, tf.float64))
            joint = self._constant + features @ self._weights
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
        size = CHUNK // self.event_shape[0] ** 2
        return in_chunks(self._place, [index, noise], size)
