"""What a likelihood is."""

import keras

__all__ = ["Likelihood"]


class Likelihood(keras.layers.Layer):
    """Base class of the decoder's distributions `p(x|z)`.

    A subclass overrides `heads`, `call`, `mean`, `variance` and `sample`. A user calls
    the layer for the negative log likelihood, and the methods for the distribution that
    the decoder's outputs (`parameters`, by name) stand for.

    Attributes:
        normalized: whether `p(x|z)` is a density (or a probability) that integrates to
            1 over the data it is used for, so that log likelihoods can be compared.
        unit_interval: whether `x` must lie in [0, 1].
        batch_statistic: whether training takes a statistic of the batch.
    """

    normalized = True
    unit_interval = False
    batch_statistic = False

    def __init__(self, **kwargs):
        # Under mixed precision Keras would cast x and the parameters down at __call__.
        super().__init__(dtype="float32", **kwargs)

    def heads(self, x_shape):
        """The decoder outputs for examples of shape `x_shape`, `{name: types.Head}`."""
        raise NotImplementedError

    def call(self, x, parameters, latent=None, training=False):
        """Negative log likelihood `-log p(x|z)` of each example.

        Args:
            x: data, of shape `(batch, ...)`.
            parameters: the decoder's outputs by name.
            latent: `types.Latent` of the batch.
            training: whether batch statistics are taken, and running averages updated.

        Returns:
            Nats, summed over the event, of shape `(batch,)`.
        """
        raise NotImplementedError

    def mean(self, parameters):
        """Mean of `p(x|z)`, of the shape of `x`."""
        raise NotImplementedError

    def variance(self, parameters):
        """Variance of each scalar under `p(x|z)`, of the shape of `x`."""
        raise NotImplementedError

    def sample(self, parameters, seed=None):
        """A draw of `p(x|z)`, of the shape of `x`."""
        raise NotImplementedError

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        config.pop("dtype")
        return config
