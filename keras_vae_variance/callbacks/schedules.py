"""Schedules of the decoder's variance and of the regularizers' weights."""

import keras
import numpy as np
from keras import ops

from ..variances import Fixed
from .base import steps_taken, variance_model

__all__ = ["Schedule", "VarianceSchedule", "WeightSchedule"]


class Schedule(keras.callbacks.Callback):
    """Base class of the callbacks that set a number of the model at every step.

    A step is one of the optimizer, counted by its `iterations`, so that a resumed run
    and a second `fit` go on where the schedule was. The number is a variable of the
    model: it takes effect in compiled graphs, it is saved with the model and it stays
    at its last value when training ends. With `steps_per_execution=k` it changes only
    every `k` steps, where an execution begins.

    A subclass overrides `variable`, `positive` and the docstring.

    Args:
        schedule: a callable from the step, an int from 0 on, to the number, such as a
            function or a `keras.optimizers.schedules.LearningRateSchedule`; or the
            numbers themselves, one for each step, of which the last one holds on.

    Raises:
        ValueError: if `schedule` is neither, or gives a number that cannot be used;
            and at the start of `fit`, if the model has no such number.
    """

    positive = True  # whether 0 is out of range too

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule
        if not callable(schedule):
            self._numbers = self._check_numbers(schedule)

    def variable(self, model):
        """The variable of `model` that the schedule sets."""
        raise NotImplementedError

    def set_model(self, model):
        """Finds the variable, before training begins."""
        super().set_model(model)
        self._variable = self.variable(model)

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the number of this step."""
        self._variable.assign(self._at(steps_taken(self.model)))

    def _at(self, step):
        if not callable(self.schedule):
            return self._numbers[min(step, len(self._numbers) - 1)]
        number = np.asarray(ops.convert_to_numpy(self.schedule(step)), "float32")
        if number.shape != () or not self._usable(number):
            raise ValueError(
                f"`schedule` must give one {self._range()} number at every step. "
                f"Received: schedule({step})={number}"
            )
        return float(number)

    def _check_numbers(self, schedule):
        try:
            numbers = np.asarray(schedule, "float32")
        except (TypeError, ValueError):
            numbers = np.zeros(())
        if numbers.ndim != 1 or not len(numbers):
            raise ValueError(
                "`schedule` must be a callable from the step to a number, or a "
                f"sequence of numbers, one for each step. Received: schedule={schedule}"
            )
        usable = self._usable(numbers)
        if not usable.all():
            step = int(np.argmin(usable))
            raise ValueError(
                f"`schedule` must hold {self._range()} numbers alone. "
                f"Received: schedule[{step}]={numbers[step]}"
            )
        return numbers.tolist()

    def _usable(self, numbers):
        # In float32, which the variables have: a smaller number would be 0 there.
        lowest = numbers > 0 if self.positive else numbers >= 0
        return np.isfinite(numbers) & lowest

    def _range(self):
        return "positive finite" if self.positive else "finite non-negative"


class VarianceSchedule(Schedule):
    """Drives a fixed decoder variance through a schedule over the optimizer's steps.

        v_t = schedule(t)

    P3, App. A.2: a model whose fixed variance follows the values that a learned one
    took in another run (see `VarianceHistory`) gives the same results, so that it is
    the annealing that counts. The value is one of `variances.Fixed`, in squared units
    of `x`; the validation after an epoch has the last one.

    Args:
        schedule: a callable from the step, an int from 0 on, to the variance, such as
            a function, a `keras.optimizers.schedules.LearningRateSchedule` or a
            `VarianceHistory`; or the variances themselves, one for each step, of which
            the last one holds on. Epochs are steps too: `0.99 ** (step // 938)` falls
            once an epoch of 938 batches.

    Raises:
        ValueError: if `schedule` is neither, or gives a variance that is not a positive
            finite number; and at the start of `fit`, if the model's variance is not
            `variances.Fixed`.

    Example:

    >>> import keras, numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), "float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> vae.compile(keras.optimizers.Adam(1e-3))
    >>> schedule = kvv.callbacks.VarianceSchedule([1.0, 0.5])
    >>> history = vae.fit(x, callbacks=[schedule], verbose=0)
    >>> float(likelihood.variance_model.predict({}))
    0.5
    """

    def variable(self, model):
        """The value of the model's `Fixed` variance."""
        variance = variance_model(model)
        if not isinstance(variance, Fixed):
            raise ValueError(
                "VarianceSchedule sets the value of a fixed variance: make the model "
                "with likelihoods.Gaussian(variances.Fixed(...)). "
                f"Received: model with the variance {variance}"
            )
        return variance.variance


class WeightSchedule(Schedule):
    """Drives the weight of a regularizer through a schedule over the optimizer's steps.

        loss_t = reconstruction + schedule(t) * term + the other terms

    With the KL and weights that rise from 0 to 1 this is KL annealing. The validation
    after an epoch has the last weight.

    Args:
        schedule: a callable from the step, an int from 0 on, to the weight, such as a
            function or a `keras.optimizers.schedules.LearningRateSchedule`; or the
            weights themselves, one for each step, of which the last one holds on.
        term: name of the regularizer's term in the logs.

    Raises:
        ValueError: if `schedule` is neither, or gives a weight that is not a finite
            number of at least 0; and at the start of `fit`, if the model has no
            regularizer of that term.

    Example:

    >>> import keras_vae_variance as kvv
    >>> annealing = kvv.callbacks.WeightSchedule(lambda step: min(step / 1000, 1.0))
    """

    positive = False

    def __init__(self, schedule, term="kl"):
        super().__init__(schedule)
        self.term = term

    def variable(self, model):
        """The weight of the model's regularizer of that term."""
        weights = {r.term: r.weight for r in getattr(model, "regularizers", ())}
        if self.term not in weights:
            raise ValueError(
                "`term` must be that of one of the model's regularizers, "
                f"{', '.join(weights) or 'of which it has none'}. "
                f"Received: term={self.term}"
            )
        return weights[self.term]
