"""What a regularizer is."""

import math
import numbers
import random

import keras

__all__ = ["RandomRegularizer", "Regularizer"]


class Regularizer(keras.layers.Layer):
    """Base class of the terms beside the reconstruction.

    A subclass overrides `call` and names its `term`; where not every posterior or prior
    will do, also `check`. The objective adds `weight * term`.

    Attributes:
        term: name of the term in the objective and in the logs.
        batch_statistic: whether it takes a statistic of the batch.
        layered: whether it takes several layers of latents.
        weight: a variable, so that a schedule works in compiled graphs.
    """

    term = None
    batch_statistic = False
    layered = False

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        if not (isinstance(weight, numbers.Real) and 0 <= weight < math.inf):
            raise ValueError(
                "`weight` must be a finite number of at least 0. "
                f"Received: weight={weight}"
            )
        self.initial_weight = float(weight)
        self.weight = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(weight),
            trainable=False,
            aggregation="mean",
            name="weight",
        )

    def check(self, posterior, prior):
        """Raises a `ValueError` where the regularizer does not suit the model."""

    def call(self, x, latent, decode=None, training=False):
        """The unweighted term.

        Args:
            x: data, of shape `(batch, ...)`.
            latent: `types.Latent` of the batch, or a tuple of them, one for each layer
                of latents.
            decode: a callable from latents to the likelihood's parameters.
            training: whether statistics of the batch are taken.

        Returns:
            Nats (or the term's own unit) for each example, of shape `(batch,)`, or a
            scalar of the global batch.
        """
        raise NotImplementedError

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        config.pop("dtype")
        return {**config, "weight": self.initial_weight}


class RandomRegularizer(Regularizer):
    """Base class of the regularizers that draw random numbers.

    Attributes:
        seed_generator: the source of the draws, whose state a model saves.
    """

    def __init__(self, weight=1.0, seed=None, **kwargs):
        super().__init__(weight, **kwargs)
        if seed is not None and not isinstance(seed, numbers.Integral):
            raise ValueError(
                f"`seed` must be an integer or None. Received: seed={seed}"
            )
        self.seed = random.randrange(2**31) if seed is None else int(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
