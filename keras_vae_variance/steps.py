"""The training and test steps on TensorFlow, over one `VAE._forward`."""

import keras
import tensorflow as tf
from keras import ops

from . import ops as kvv_ops

__all__ = ["NonFiniteLossError", "TensorFlowSteps"]


class NonFiniteLossError(ValueError):
    """The loss, a term of it or the gradient became NaN or infinite.

    The step at which it did left weights, optimizer and running averages unchanged.
    """


class GlobalMean(keras.metrics.Metric):
    """A weighted mean of values that all replicas know alike.

    Keras's own `Mean` sums its variables over replicas at every step, those of earlier
    steps included.
    """

    def __init__(self, name):
        super().__init__(name=name, dtype="float32")
        self.total = self.add_variable((), "zeros", aggregation="mean", name="total")
        self.count = self.add_variable((), "zeros", aggregation="mean", name="count")

    def update_state(self, value, count):
        # A mean of no examples is 0 / 0; it counts nothing.
        value = ops.where(count > 0, value * count, 0.0)
        self.total.assign(self.total + value)
        self.count.assign(self.count + count)

    def result(self):
        return self.total / ops.maximum(self.count, 1e-30)


class TensorFlowSteps:
    """A mixin: steps that stop at a non-finite loss, and means over the global batch.

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
            terms, means, batch = self._forward(x, True, sample_weight)
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

        tests = [*self._input_tests(x), *(_finite(means[name]) for name in terms)]
        tests.append(_finite(means["loss"]))
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # That one meets infinite gradients in its search for a scale, and skips.
            given = [tf.cast(g, tf.float32) for g in gradients if g is not None]
            tests.append(_finite(sum((tf.reduce_sum(g) for g in given), 0.0)))
        good = self._note_failures(tests)
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
        self._check_compiled(None)
        if self._is_current("train", self.train_function) and not force:
            return
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        super().make_train_function(force=True)
        self.train_function = self._raising(self.train_function, training=True)

    def make_test_function(self, force=False):
        self._check_compiled(None)
        if self._is_current("test", self.test_function) and not force:
            return
        super().make_test_function(force=True)
        self.test_function = self._raising(self.test_function, training=False)

    def make_predict_function(self, force=False):
        if self._is_current("predict", self.predict_function) and not force:
            return
        super().make_predict_function(force=True)

    def _is_current(self, name, function):
        """Whether a function was made in the stage that the weights are in now.

        Weights can change the stage: `set_weights`, or EarlyStopping's best ones.
        """
        stages, stage = self.__dict__.setdefault("_stages", {}), self._stage()
        current = function is not None and stages.get(name) == stage
        stages[name] = stage
        return current

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing: all is built, and Keras would take a batch of a stream for it.

        Under tf.distribute it also fails on batches whose shares differ in shape.
        """

    @property
    def metrics(self):
        """The averages in the logs; there are no compiled metrics."""
        return list(self._averages)

    def _log(self, means, batch):
        for average in self._averages:
            average.update_state(means[average.name], batch.total)
        return self.get_metrics_result()

    def _changed_by_forward(self):
        """Variables that a forward pass may assign."""
        # Learned's first value; not `trainable_variables`, for it may be frozen.
        likelihood = self.likelihood._flatten_layers()
        changed = [v for layer in likelihood for v in layer._trainable_variables]
        for layer in self._flatten_layers():
            changed += layer._non_trainable_variables  # running averages, moments
        return changed

    def _input_tests(self, x):
        if x.dtype == tf.uint8:
            return [tf.constant(True)] * 2
        inside = tf.constant(True)
        if self.likelihood.unit_interval:
            inside = tf.reduce_all((x >= 0) & (x <= 1) | ~tf.math.is_finite(x))
        return [tf.reduce_all(tf.math.is_finite(x)), inside]

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
                self._raise(failures, training)
            return logs

        return run

    def _raise(self, failures, training):
        outside = "outside [0, 1]"
        names = ["x", outside, *self._term_names, "loss", "gradient"]
        failed = [name for i, name in enumerate(names) if failures >> i & 1]
        if outside in failed:
            raise ValueError(
                "`x` must lie in [0, 1] for this likelihood, and the model has not "
                f"changed at this batch. Received: values of x {outside}"
            )
        if not training:
            raise ValueError(
                "`x` must be finite. Received: values of x that are NaN or infinite"
            )
        advice = (
            "Try a lower learning rate, `clipnorm` in the optimizer, a floor under the "
            "variance (`floor` or `epsilon`), or mixed_bfloat16 in place of "
            "mixed_float16."
        )
        if "x" in failed:
            advice = "The cause is the data: clean them, or drop such examples."
        step = int(kvv_ops.concrete(self.optimizer.iterations))
        raise NonFiniteLossError(
            f"Step {step} gave a value that is NaN or infinite. Weights, optimizer and "
            f"running averages are as they were before that step. {advice} "
            f"Received: non-finite {', '.join(failed)}"
        )


def _finite(scalar):
    return tf.math.is_finite(scalar)


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
