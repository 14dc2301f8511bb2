"""A variance that is chosen, not learned."""

import math
import numbers

import keras
from keras import ops

from .base import Variance

__all__ = ["Fixed"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class Fixed(Variance):
    """A constant variance: `v = value`.

    The plain VAE has 1/2 (P0, Section 5.2) or 1 (P1, P2). `Fixed(beta)` has the optimum
    of `1/2 |r|^2 + beta kl`, the beta-VAE (P2, Section 3.1).

    Args:
        value: the variance, a positive number, in squared units of `x`.

    Raises:
        ValueError: if `value` is not a positive finite number.

    Example:

    >>> import keras_vae_variance as kvv
    >>> variance = kvv.variances.Fixed(0.5)
    >>> float(variance.predict({}))
    0.5
    """

    def __init__(self, value, **kwargs):
        super().__init__(**kwargs)
        if not (isinstance(value, numbers.Real) and 0 < value < math.inf):
            raise ValueError(
                "`value` must be a positive finite number: it is a variance. "
                f"Received: value={value}"
            )
        self.value = float(value)
        # A weight, not a number in the graph, so that schedules can change it.
        self.variance = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.value),
            trainable=False,
            aggregation="mean",
            name="variance",
        )

    def call(self, squared_error, parameters, latent=None, training=False):
        return self.predict(parameters)

    def predict(self, parameters):
        return ops.copy(self.variance)

    def get_config(self):
        return {**super().get_config(), "value": self.value}
