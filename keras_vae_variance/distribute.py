"""Keras's loops under `tf.distribute`, where Keras 3 itself fails.

Tried with Keras 3.15.1 and TensorFlow 2.21. There `fit` fails under
`MultiWorkerMirroredStrategy` always, since logs that are scalars are averaged over
their first axis, and under `MirroredStrategy` with `steps_per_execution` above 1, since
optimizers cannot merge replicas inside of `tf.cond`, be there one device or several.
"""

import keras
import numpy as np
import tensorflow as tf

__all__ = ["Distributed"]


class Distributed:
    """A mixin before Keras's trainer; without a strategy all is Keras's own."""

    def check_workers(self, **numbers):
        """Raises where the workers of a cluster do not all have the same `numbers`."""
        strategy = self.distribute_strategy
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return
        own = tf.constant([float(value) for value in numbers.values()], tf.float64)

        def means_of_powers():
            context = tf.distribute.get_replica_context()
            return context.all_reduce("MEAN", tf.stack([own, own**2]))

        @tf.function
        def moments():
            return strategy.run(means_of_powers)

        means = strategy.experimental_local_results(moments())[0]
        # All are equal where their variance around this one's is 0.
        if not np.allclose(means, [own, own**2], rtol=1e-12):
            names = " and ".join(numbers)
            raise ValueError(
                f"All workers must have the same {names}: give the model a `seed`, and "
                f"let them share the folder of `Resume`. Received: {numbers}, on "
                f"average {means[0].numpy()}"
            )

    def _make_function(self, step):
        strategy = self.distribute_strategy
        with strategy.scope():
            if not tf.distribute.has_strategy():  # TensorFlow's default one
                return super()._make_function(step)
        step = self._autoconvert_optionals(step)

        @tf.autograph.experimental.do_not_convert
        def one_step(data):
            logs = strategy.run(step, args=(data,))
            # All replicas know the same: terms are means over the global batch.
            return keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], logs
            )

        if not self.run_eagerly:
            one_step = tf.function(one_step, reduce_retracing=True)

        def function(iterator):
            logs = None
            # In Python, where optimizers can merge replicas. Data are not read in the
            # graph: of a step for which none are left it would draw the noise.
            for _ in range(self.steps_per_execution):
                try:
                    data = next(iterator)
                except (StopIteration, tf.errors.OutOfRangeError):
                    if logs is None:
                        raise
                    break
                logs = one_step(data)
            return logs

        return function
