"""What a variance model is."""

import keras

__all__ = ["Variance"]


class Variance(keras.layers.Layer):
    """Base class of the variance models of a decoder.

    A subclass overrides `call`, and where it needs them `build`, `heads` and
    `predict`. A likelihood calls the layer with the squared error of a batch, and
    `predict` where there is no `x`, as in generation.

    Attributes:
        batch_statistic: whether training takes a statistic of the batch, which a batch
            of one example does not have.
        depends_on_x: whether evaluation takes the variance from `x` itself; the
            likelihood is then not a normalised density.
    """

    batch_statistic = False
    depends_on_x = False

    def __init__(self, **kwargs):
        # Under mixed precision Keras would cast the squared errors down at __call__.
        super().__init__(dtype="float32", **kwargs)

    def build(self, squared_error_shape):
        """Creates the weights for squared errors of the shape `(None, ...)`."""

    def heads(self, x_shape):
        """The decoder outputs that this model needs, `{name: types.Head}`."""
        return {}

    def check(self, posterior, prior):
        """Raises a `ValueError` where the variance does not suit the model."""

    def call(self, squared_error, parameters, latent=None, training=False):
        """The variance for a batch.

        Args:
            squared_error: `r^2 = (x - mean)^2`, of shape `(batch, ...)`.
            parameters: the decoder's outputs by name.
            latent: `types.Latent` of the batch.
            training: whether batch statistics are taken, and running averages updated.

        Returns:
            `v`, of a shape that broadcasts to that of `squared_error`.
        """
        raise NotImplementedError

    def predict(self, parameters):
        """The variance without `x`; broadcasts to the shape of the decoder's mean."""
        raise NotImplementedError

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        config.pop("dtype")
        return config
