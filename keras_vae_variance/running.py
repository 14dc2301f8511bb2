"""Running averages of batch statistics, which stand in for them outside training."""

import numbers

import keras
from keras import ops

__all__ = ["RunningAverage"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class RunningAverage(keras.layers.Layer):
    """An exponential average with bias correction, or an exact mean.

        weight <- decay * weight + gain
        value  <- value + (batch value - value) * gain / weight

    With `gain = 1 - decay` this is the bias-corrected exponential average: the first
    batch counts fully, as P2's "running average of the variance over the training
    data" needs after few steps. While `exact` is set, `decay` is 1 and `gain` the
    number of examples in the batch, which gives the mean over all examples seen.

    Args:
        initial: the value before any update.
        decay: share of the old value that a batch leaves.

    Raises:
        ValueError: if `decay` is not between 0 and 1.
    """

    def __init__(self, initial=0.0, decay=0.99, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        if not (isinstance(decay, numbers.Real) and 0 < decay < 1):
            raise ValueError(
                f"`decay` must lie between 0 and 1. Received: decay={decay}"
            )
        self.initial = initial
        self.decay = decay
        self.exact = False

    def build(self, shape):
        # Replicas all assign the same global value: "mean" leaves it as it is, and
        # without an aggregation they would drift apart silently.
        self.value = self.add_weight(
            shape=tuple(shape),
            initializer=keras.initializers.Constant(self.initial),
            trainable=False,
            aggregation="mean",
            name="value",
        )
        self.weight = self.add_weight(
            shape=(),
            initializer="zeros",
            trainable=False,
            aggregation="mean",
            name="weight",
        )

    def update(self, batch_value, count, enough=True):
        """Takes in one batch: its mean, and its number (or weight) of examples.

        Args:
            batch_value: mean over the global batch, of the shape of `value`.
            count: float scalar; a batch without any example changes nothing.
            enough: a condition, as a tensor, without which nothing changes. An exact
                mean takes in every example all the same.
        """
        if self.exact:
            decay, gain, enough = 1.0, count, True
        else:
            decay, gain = self.decay, 1.0 - self.decay
        enough = ops.logical_and(count > 0, enough)
        # Not the variables themselves: JAX compiles no `where` of these.
        old_value = ops.convert_to_tensor(self.value)
        old_weight = ops.convert_to_tensor(self.weight)
        weight = decay * old_weight + gain
        # Not from the initial value on: an initial 1 would leave its rounding error of
        # 6e-8, 6 % of a variance of 1e-6, and all of one of 1e-8.
        old = ops.where(old_weight > 0, old_value, batch_value)
        new = old + (batch_value - old) * gain / ops.maximum(weight, 1e-30)
        self.value.assign(ops.where(enough, new, old_value))
        self.weight.assign(ops.where(enough, weight, old_weight))

    def taken_in(self, before):
        """The batch value of the last update, from the value before it, of one shape.

        That update was not of an exact mean. The rounding of `value` is in it a hundred
        times at the default decay, 6e-6 of it.
        """
        weight, value = ops.convert_to_numpy(self.weight), self.value
        return before + (ops.convert_to_numpy(value) - before) * weight / (
            1.0 - self.decay
        )

    def reset(self):
        """Forgets all batches."""
        self.value.assign(ops.full(self.value.shape, self.initial))
        self.weight.assign(0.0)

    def settle(self):
        """Ends an exact pass: later batches count as after many earlier ones."""
        self.weight.assign(ops.minimum(self.weight, 1.0))
