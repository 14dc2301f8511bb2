"""The steps on TensorFlow."""

import keras
import tensorflow as tf

from .. import ops as kvv_ops
from ..distribute import Distributed
from .base import BaseSteps

__all__ = ["TensorFlowSteps"]

# Weights from which on it pays to have XLA compile the optimizer (some seconds, once).
_MANY_WEIGHTS = 4_000_000


class TensorFlowSteps(Distributed, BaseSteps):
    """A mixin: the steps in eager mode, in graphs, and under `tf.distribute`.

    Which quantity failed is a bit of `_failed`, a variable that the host reads after
    every execution: XLA drops assertions. From the failing step on nothing changes any
    more, however many steps an execution has; or only failing steps change nothing,
    where they are skipped.
    """

    def _make_flag(self):
        def variable(value, name):
            return tf.Variable(
                value,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                name=name,
            )

        self._failed = variable(tf.constant(0, tf.int64), "failed")
        self._failed_steps = variable(tf.constant(0, tf.int64), "failed_steps")
        self._goes_on = variable(False, "goes_on")
        self._batches_to_skip = 0

    def skip_batches(self, number):
        """Lets `fit` read that many batches before it trains on the next one."""
        self._batches_to_skip = number

    def skip_nonfinite(self, skips):
        """Whether `fit` counts non-finite steps in `skipped_steps`, or raises."""
        super().skip_nonfinite(skips)
        self._goes_on.assign(skips)

    def train_step(self, data):
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        saved = [(v, tf.identity(v.value)) for v in self._changed_by_forward()]
        with tf.GradientTape() as tape:
            _, means, batch = self._forward(x, True, sample_weight)
            # Every replica holds the global loss, and the optimizer sums gradients.
            loss = means["loss"] / kvv_ops.num_replicas()
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_loss, variables)
        if self._stage() is not None:
            # The head in stage 1, the global variance in stage 2: out of the step.
            used = [g is not None for g in gradients]
            variables = [v for v, u in zip(variables, used, strict=True) if u]
            gradients = [g for g in gradients if g is not None]
        good = self._note_failures(self._training_tests(x, means, gradients))
        for variable, old in saved:
            variable.assign(tf.where(good, variable.value, old))
        _apply_if(good, self.optimizer, gradients, variables)
        return self._log(means, tf.where(good, batch.total, 0.0))

    def test_step(self, data):
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        _, means, batch = self._forward(x, False, sample_weight)
        self._note_failures(self._input_tests(x))
        return self._log(means, batch.total)

    def make_train_function(self, force=False):
        before = self.train_function
        super().make_train_function(force)
        if self.train_function is not before:
            self.train_function = self._raising(self.train_function, training=True)

    def make_test_function(self, force=False):
        before = self.test_function
        super().make_test_function(force)
        if self.test_function is not before:
            self.test_function = self._raising(self.test_function, training=False)

    def _resolve_auto_jit_compile(self):
        """On a CPU, XLA's convolutions are slower than TensorFlow's own."""
        # Physical ones: asking for logical devices would fix their configuration.
        accelerators = [d for d in tf.config.list_physical_devices() if d[1] != "CPU"]
        return bool(accelerators) and super()._resolve_auto_jit_compile()

    def _scope(self):
        return self.distribute_strategy.scope()

    def _note_failures(self, tests):
        bits = [tf.where(t, 0.0, 1.0) for t in tests]
        # An input may be bad on one replica alone.
        bits = kvv_ops.all_reduce(tf.stack(bits)) > 0
        powers = tf.constant([2**i for i in range(len(tests))], tf.int64)
        failures = tf.reduce_sum(tf.where(bits, powers, 0))
        before = self._failed.read_value()
        counts = (before == 0) | self._goes_on.read_value()
        failures = tf.where(counts, failures, 0)
        self._failed.assign(tf.bitwise.bitwise_or(before, failures))
        self._failed_steps.assign_add(tf.cast(failures > 0, tf.int64))
        return counts & (failures == 0)

    def _raising(self, function, training):
        def run(iterator):
            if training and self._batches_to_skip:
                return self._skip(iterator)
            logs = function(iterator)
            failures = int(self._failed.numpy())
            if failures:
                number = int(self._failed_steps.numpy())
                self._failed.assign(0)
                self._failed_steps.assign(0)
                passed = [not failures >> i & 1 for i in range(failures.bit_length())]
                if training:
                    # One bit is of the data's range, and may be the last of those read.
                    self._failed_step([*passed, True], number)
                else:
                    self._raise(passed, training)
            return logs

        return run

    def _skip(self, iterator):
        """Reads an execution's batches; the logs are those that were restored."""
        for _ in range(min(self.steps_per_execution, self._batches_to_skip)):
            next(iterator)
            self._batches_to_skip -= 1
        return self.get_metrics_result()


def _apply_if(condition, optimizer, gradients, variables):
    """Applies the gradients where the condition, equal on all replicas, holds."""

    def apply():
        optimizer.apply(gradients, variables)

    if not tf.distribute.has_strategy():
        if _compiles(optimizer, gradients):
            apply = tf.function(apply, jit_compile=True)
        tf.cond(condition, apply, lambda: None)
        return

    # A branch of tf.cond in replica context must not call merge_call, as optimizers do
    # also where a strategy has one device; so the branch is taken outside of it, as in
    # Keras's LossScaleOptimizer.
    def across_replicas(strategy, condition, gradients):
        condition = strategy.experimental_local_results(condition)[0]

        def apply_on_each():
            strategy.extended.call_for_each_replica(
                optimizer.apply, args=(gradients, variables)
            )

        tf.cond(condition, apply_on_each, lambda: None)

    tf.distribute.get_replica_context().merge_call(
        across_replicas, args=(condition, gradients)
    )


def _compiles(optimizer, gradients):
    """Whether XLA compiles the optimizer's step, into one pass over large weights.

    Keras's Adam makes a dozen passes, which take a fifth of a step of P1's network.
    """
    if tf.executing_eagerly() or not isinstance(optimizer, keras.Optimizer):
        return False
    own = type(optimizer).__module__.startswith(
        "keras."
    )  # XLA may not know others' ops
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    dense = all(isinstance(g, tf.Tensor) for g in gradients)
    size = sum(g.shape.num_elements() or 0 for g in gradients) if dense else 0
    return own and not scaled and size >= _MANY_WEIGHTS
