"""What a likelihood is, and what those with a variance model share."""

import keras
from keras import ops

from .. import ops as kvv_ops
from ..types import Head
from ..variances import Variance

__all__ = ["Likelihood", "MeanAndVariance"]


class Likelihood(keras.layers.Layer):
    """Base class of the decoder's distributions `p(x|z)`.

    A subclass overrides `heads`, `call`, `mean`, `variance` and `sample`. A user calls
    the layer for the negative log likelihood, and the methods for the distribution that
    the decoder's outputs (`parameters`, by name) stand for.

    Attributes:
        normalized: whether `p(x|z)` is a density (or a probability) that integrates to
            1 over the data it is used for, so that log likelihoods can be compared.
        discrete: whether `p(x|z)` is a probability of levels such as `i/255`, not a
            density. The two do not compare as they stand: see `metrics.Score`.
        unit_interval: whether `x` must lie in [0, 1].
        batch_statistic: whether training takes a statistic of the batch.
    """

    normalized = True
    discrete = False
    unit_interval = False
    batch_statistic = False

    def __init__(self, **kwargs):
        # Under mixed precision Keras would cast x and the parameters down at __call__.
        super().__init__(dtype="float32", **kwargs)

    def heads(self, x_shape):
        """The decoder outputs for examples of shape `x_shape`, `{name: types.Head}`."""
        raise NotImplementedError

    def check(self, posterior, prior):
        """Raises a `ValueError` where the likelihood does not suit the model."""

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

    def moments(self, parameters):
        """`mean` and `variance` together, where one comes with the other."""
        return self.mean(parameters), self.variance(parameters)

    def diagnostics(self, parameters):
        """Mean and variance for the logs of training, at little cost for each step.

        They are the `moments`, or where these take sums over 256 levels, those of the
        distribution before it was cut into bins.
        """
        return self.moments(parameters)

    def sample(self, parameters, seed=None):
        """A draw of `p(x|z)`, of the shape of `x`."""
        raise NotImplementedError

    def zscore(self, x, parameters, latent=None):
        """The z-score of each scalar, standard normal where `p(x|z)` is right.

            z = Phi^-1( F(x) )

        with `F` the distribution function of `p(x|z)` and `Phi` the standard normal's:
        for a Gaussian `(x - mean) / stddev`. A central interval of probability `c` is
        `|z| <= Phi^-1((1 + c)/2)`, and `z` says by how much where `F` is rounded to 1.

        Args:
            x: data, of shape `(batch, ...)`.
            parameters: the decoder's outputs by name.
            latent: `types.Latent` of the batch.

        Returns:
            A float64 NumPy array of the shape of `x`.

        Raises:
            ValueError: for a distribution of levels, whose `F` has jumps.
        """
        raise ValueError(
            "z-scores need a continuous p(x|z), such as likelihoods.Gaussian. "
            f"Received: likelihood={self}"
        )

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        config.pop("dtype")
        return config


class MeanAndVariance(Likelihood):
    """Base class of the likelihoods of a mean and a variance model.

    The decoder gives `mean`, final, and what the variance model asks for. A subclass
    overrides what `Likelihood` says, but for `heads`.

    Args:
        variance: one of `variances`; kept as `variance_model`.

    Raises:
        TypeError: if `variance` is not a variance model.
    """

    def __init__(self, variance, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(variance, Variance):
            raise TypeError(
                "`variance` must be one of keras_vae_variance.variances, such as "
                f"variances.Fixed(1.0). Received: variance={variance}"
            )
        self.variance_model = variance

    @property
    def normalized(self):
        return not self.variance_model.depends_on_x

    @property
    def batch_statistic(self):
        return self.variance_model.batch_statistic

    def heads(self, x_shape):
        mean = {"mean": Head(tuple(x_shape))}
        return mean | self.variance_model.heads(tuple(x_shape))

    def build(self, x_shape):
        kvv_ops.build_once(self.variance_model, x_shape)

    def check(self, posterior, prior):
        self.variance_model.check(posterior, prior)

    def _mean_and_variance(self, x, parameters, latent, training):
        """The decoder's mean and the model's variance, for a batch of `x`."""
        mean = ops.cast(parameters["mean"], "float32")
        squared_error = ops.square(x - mean)
        v = self.variance_model(squared_error, parameters, latent, training=training)
        return mean, v

    def get_config(self):
        variance = keras.saving.serialize_keras_object(self.variance_model)
        return {**super().get_config(), "variance": variance}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        variance = keras.saving.deserialize_keras_object(config.pop("variance"))
        return cls(variance, **config)
