"""The steps on JAX."""

import functools

import keras
from keras import ops

from .base import BaseSteps

__all__ = ["JAXSteps"]


def _giving_back(method):
    """Lets a method of Keras's trainer return the variables' values after an error."""

    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        finally:
            self.jax_state_sync()

    return wrapped


class JAXSteps(BaseSteps):
    """A mixin: steps that are functions of the state, as Keras's trainer compiles them.

    While a loop runs the variables are empty, and their values are the state that goes
    from step to step, each of which consumes the arrays of the one before. So the last
    state stays at hand in `_jax_state`, to be given back after an error too.
    """

    evaluate = _giving_back(keras.Model.evaluate)
    predict = _giving_back(keras.Model.predict)
    train_on_batch = _giving_back(keras.Model.train_on_batch)
    test_on_batch = _giving_back(keras.Model.test_on_batch)
    predict_on_batch = _giving_back(keras.Model.predict_on_batch)

    def train_step(self, state, data):
        import jax

        trainable, non_trainable, optimizer, metrics = state
        x, sample_weight = _unpacked(data)

        def scaled_loss(trainable):
            before = trainable, non_trainable, metrics
            loss, logs, after = self._run_loss(before, x, sample_weight, training=True)
            scale = zip(self.optimizer.variables, optimizer, strict=True)
            with keras.StatelessScope(list(scale)):
                return self.optimizer.scale_loss(loss), (logs, after)

        gradients, (logs, after) = jax.grad(scaled_loss, has_aux=True)(trainable)
        # Not the weights of before: Learned starts from the first batch.
        trainable, non_trainable, metrics = after
        updated, optimizer = self.optimizer.stateless_apply(
            optimizer, gradients, trainable
        )
        if self._stage() is not None:
            # The head in stage 1, the global variance in stage 2: out of the step,
            # weight decay included.
            triples = zip(gradients, updated, trainable, strict=True)
            updated = [ops.where(ops.any(g != 0), new, old) for g, new, old in triples]
        passed = ops.stack(self._training_tests(x, logs, gradients))
        state = jax.tree.map(
            lambda new, old: ops.where(ops.all(passed), new, old),
            (updated, non_trainable, optimizer, metrics),
            tuple(map(list, state)),
        )
        return {**logs, "passed": passed}, state

    def test_step(self, state, data):
        x, sample_weight = _unpacked(data)
        _, logs, state = self._run_loss(state, x, sample_weight, training=False)
        return {**logs, "passed": ops.stack(self._input_tests(x))}, state

    def _run_loss(self, state, x, sample_weight, training):
        """Loss, logs and the state after `compute_loss` from the given state."""
        variables = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.metrics_variables,
        )
        mapping = [
            pair
            for refs, values in zip(variables, state, strict=True)
            for pair in zip(refs, values, strict=True)
        ]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            loss = self.compute_loss(x, sample_weight=sample_weight, training=training)
            logs = self.get_metrics_result()
        after = tuple([scope.get_current_value(v) for v in refs] for refs in variables)
        return loss, logs, after

    def _get_jax_state(self, **which):
        state = super()._get_jax_state(**which)
        self._jax_state = _by_name(state)
        return state

    def _make_function(self, step_function, concatenate_outputs=False):
        def step(state, data):
            outputs, state = step_function(state, data)
            self._jax_state = _by_name(state)
            if not concatenate_outputs:  # as of predictions
                passed, training = outputs.pop("passed"), len(state) == 4
                if not passed.all():
                    self.jax_state_sync()
                    if not training:
                        self._raise(passed.tolist(), training=False)
                    self._failed_step(passed.tolist())
            return outputs, state

        return super()._make_function(step, concatenate_outputs)


def _unpacked(data):
    x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    # In eager mode NumPy, of which `prepare` would test the values itself.
    return ops.convert_to_tensor(x), sample_weight


def _by_name(state):
    """The state of a train, test or predict step as Keras's trainer keeps it."""
    names = {
        4: ("trainable", "non_trainable", "optimizer", "metrics"),
        3: ("trainable", "non_trainable", "metrics"),
        2: ("trainable", "non_trainable"),
    }[len(state)]
    return {
        f"{name}_variables": values for name, values in zip(names, state, strict=True)
    }
