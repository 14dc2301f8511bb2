"""The steps on torch."""

import keras

from .base import BaseSteps

__all__ = ["TorchSteps"]


class TorchSteps(BaseSteps):
    """A mixin: eager steps, which look at their numbers before they use them."""

    def train_step(self, data):
        import torch

        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        changed = [*self._changed_by_forward(), *self.metrics_variables]
        saved = [(v, v.value.detach().clone()) for v in changed]
        # Not zero_grad, which leaves out the weights of networks in lists.
        for variable in self.trainable_variables:
            variable.value.grad = None
        loss = self.compute_loss(x, sample_weight=sample_weight, training=True)
        self.optimizer.scale_loss(loss).backward()
        variables = self.trainable_variables
        gradients = [v.value.grad for v in variables]
        if self._stage() is not None:
            # The head in stage 1, the global variance in stage 2: out of the step.
            used = [g is not None for g in gradients]
            variables = [v for v, u in zip(variables, used, strict=True) if u]
            gradients = [g for g in gradients if g is not None]
        with torch.no_grad():
            logs = self.get_metrics_result()
            passed = self._training_tests(x, logs, gradients)
            if not all(passed):
                for variable, old in saved:
                    variable.assign(old)
                self._failed_step(passed)
                return self.get_metrics_result()
            self.optimizer.apply(gradients, variables)
        return logs

    def test_step(self, data):
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self.compute_loss(x, sample_weight=sample_weight, training=False)
        passed = self._input_tests(x)
        if not all(passed):
            self._raise(passed, training=False)
        return self.get_metrics_result()
