"""The steps on TensorFlow."""

import keras
import tensorflow as tf

from .. import ops as kvv_ops
from .base import BaseSteps

__all__ = ["TensorFlowSteps"]


class TensorFlowSteps(BaseSteps):
    """A mixin: the steps in eager mode, in graphs, and under `tf.distribute`.

    Which quantity failed is a bit of `_failed`, a variable that the host reads after
    every execution: XLA drops assertions. From the failing step on nothing changes any
    more, however many steps an execution has.
    """

    def _make_flag(self):
        self._failed = tf.Variable(
            0,
            dtype=tf.int64,
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            name="failed",
        )

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
        return self._log(means, batch)

    def test_step(self, data):
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        _, means, batch = self._forward(x, False, sample_weight)
        self._note_failures(self._input_tests(x))
        return self._log(means, batch)

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
        first = before == 0
        self._failed.assign(tf.where(first, failures, before))
        return first & (failures == 0)

    def _raising(self, function, training):
        def run(iterator):
            logs = function(iterator)
            failures = int(self._failed.numpy())
            if failures:
                self._failed.assign(0)
                bits = range(failures.bit_length())
                self._raise([not failures >> i & 1 for i in bits], training)
            return logs

        return run


def _apply_if(condition, optimizer, gradients, variables):
    """Applies the gradients where the condition, equal on all replicas, holds."""

    def apply():
        optimizer.apply(gradients, variables)

    if kvv_ops.num_replicas() == 1:
        tf.cond(condition, apply, lambda: None)
        return

    # A branch of tf.cond in replica context must not call merge_call, as optimizers
    # do; so the branch is taken outside of it, as in Keras's LossScaleOptimizer.
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
