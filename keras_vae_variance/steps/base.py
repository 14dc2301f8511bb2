"""What the steps of all Keras backends share."""

import contextlib

import keras
from keras import ops

from .. import ops as kvv_ops

__all__ = ["BaseSteps", "GlobalMean", "NonFiniteLossError"]


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
        # Of one replica, so that one worker can read it without the others.
        first = "only_first_replica"
        self.total = self.add_variable((), "zeros", aggregation=first, name="total")
        self.count = self.add_variable((), "zeros", aggregation=first, name="count")

    def update_state(self, value, count):
        # A mean of no examples is 0 / 0; it counts nothing.
        value = ops.where(count > 0, value * count, 0.0)
        self.total.assign(self.total + value)
        self.count.assign(self.count + count)

    def result(self):
        return self.total / ops.maximum(self.count, 1e-30)


class BaseSteps:
    """A mixin: steps that stop at a non-finite loss, and means over the global batch.

    A step is one `VAE._forward`, which has the example weights; `call`, the
    reconstruction, has no part in it. A subclass for a backend overrides `train_step`
    and `test_step`, and sees to it that a failing step changes nothing and raises.
    """

    skipped_steps = 0
    _skips = False

    def _make_flag(self):
        """Creates what steps need beside the weights, in the constructor."""

    def check_workers(self, **numbers):
        """Raises where the workers of a cluster do not all have the same `numbers`."""

    def skip_batches(self, number):
        """Lets `fit` read that many batches before it trains on the next one."""
        if number:
            kvv_ops.need_tensorflow("Resume in the middle of an epoch")

    def skip_nonfinite(self, skips):
        """Whether `fit` counts non-finite steps in `skipped_steps`, or raises."""
        self._skips = skips
        self.skipped_steps = 0

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The loss of a batch, with its terms taken into the logs.

        Args:
            x: data, `(batch, ...)`.
            y: ignored.
            y_pred: ignored.
            sample_weight: weights of the examples, `(batch,)`, or None.
            training: whether batch statistics are taken, and running averages updated.

        Returns:
            A scalar, in nats.
        """
        _, means, batch = self._forward(x, training, sample_weight)
        self._log(means, batch.total)
        return means["loss"]

    @property
    def metrics(self):
        """The averages in the logs; there are no compiled metrics."""
        return list(self._averages)

    def _log(self, means, total):
        """Takes means over examples of this `total` weight into the logs."""
        for average in self._averages:
            average.update_state(means[average.name], total)
        return self.get_metrics_result()

    def _changed_by_forward(self):
        """Variables that a forward pass may assign."""
        # Learned's first value; not `trainable_variables`, for it may be frozen.
        likelihood = self.likelihood._flatten_layers()
        changed = [v for layer in likelihood for v in layer._trainable_variables]
        for layer in self._flatten_layers():
            changed += layer._non_trainable_variables  # running averages, moments
        return changed

    # ----------------------------------------------------------------------------------
    # Functions of Keras's trainers

    def make_train_function(self, force=False):
        self._check_compiled(None)
        if self._is_current("train", self.train_function) and not force:
            return
        if not self.optimizer.built:
            with self._scope():
                self.optimizer.build(self.trainable_variables)
        super().make_train_function(force=True)

    def make_test_function(self, force=False):
        self._check_compiled(None)
        if self._is_current("test", self.test_function) and not force:
            return
        super().make_test_function(force=True)

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

    def _symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing: all is built, and Keras would take a batch of a stream for it.

        Under tf.distribute it also fails on batches whose shares differ in shape.
        """

    _maybe_symbolic_build = _symbolic_build

    def _scope(self):
        """Where variables are created."""
        return contextlib.nullcontext()

    # ----------------------------------------------------------------------------------
    # What must be finite

    def _input_tests(self, x):
        if keras.backend.standardize_dtype(x.dtype) == "uint8":
            return [ops.convert_to_tensor(True)] * 2
        finite, inside = ops.isfinite(x), ops.convert_to_tensor(True)
        if self.likelihood.unit_interval:
            bounded = ops.logical_and(x >= 0, x <= 1)
            inside = ops.all(ops.logical_or(bounded, ops.logical_not(finite)))
        return [ops.all(finite), inside]

    def _training_tests(self, x, means, gradients):
        tests = self._input_tests(x)
        tests += [ops.isfinite(means[name]) for name in (*self._term_names, "loss")]
        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # That one meets infinite gradients in its search for a scale, and skips.
            given = [ops.cast(g, "float32") for g in gradients if g is not None]
            tests.append(ops.isfinite(sum((ops.sum(g) for g in given), 0.0)))
        return tests

    def _failed_step(self, passed, number=1):
        """Counts a training step that changed nothing, or raises for it."""
        inside = passed[1]  # data out of range are a mistake: see `_input_tests`
        if self._skips and inside:
            self.skipped_steps += number
        else:
            self._raise(passed, training=True)

    def _raise(self, passed, training):
        """Raises for the tests that failed; `passed` has a bool for each, in order."""
        outside = "outside [0, 1]"
        names = ["x", outside, *self._term_names, "loss", "gradient"]
        # Not strict: evaluation tests the input alone.
        failed = [name for name, good in zip(names, passed, strict=False) if not good]
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
            "variance (`floor` or `epsilon`), data of a smaller scale such as [0, 1], "
            "or mixed_bfloat16 in place of mixed_float16."
        )
        if "x" in failed:
            advice = "The cause is the data: clean them, or drop such examples."
        step = int(kvv_ops.concrete(self.optimizer.iterations))
        raise NonFiniteLossError(
            f"Step {step} gave a value that is NaN or infinite. Weights, optimizer and "
            f"running averages are as they were before that step. {advice} "
            f"Received: non-finite {', '.join(failed)}"
        )
