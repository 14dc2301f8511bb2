"""The penalty that makes the aggregate posterior's covariance the identity."""

import math
import numbers

import keras
from keras import ops

from .. import ops as kvv_ops
from .base import Regularizer

__all__ = ["DIP"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class DIP(Regularizer):
    """The penalty of DIP-VAE I and II, beside the KL: `[KL(), DIP()]`.

        dip = sum_{i != j} C_ij^2 + diagonal_factor * sum_i (C_ii - 1)^2

        I     C = Cov_batch(mu)
        II    C = Cov_batch(mu) + diag(mean_batch(s2))

    Kumar et al., "Variational inference of disentangled latent concepts from unlabeled
    observations", named in P0, Section 5. Both triangles count, and the covariance is
    divided by the number of examples in the global batch. A batch of one example
    has none and contributes 0. Evaluation takes the covariance of the batch that it
    evaluates, so that the value depends on the batch size.

    Args:
        kind: "I" or "II".
        weight: the weight `l_od` of the squares off the diagonal. 10 is usual.
        diagonal_factor: `l_d / l_od`, how much more the squares on the diagonal weigh.
            The default is 10 for I and 1 for II.

    Raises:
        ValueError: on another kind, or a `diagonal_factor` that is negative or not
            finite.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> mean = np.array([[1.0, 1.0], [-1.0, -1.0]], "float32")  # all covariances are 1
    >>> one = np.ones((1, 2), "float32")
    >>> latent = kvv.types.Latent(mean, mean, one, 0.0 * one, one)
    >>> float(kvv.regularizers.DIP("I")(mean, latent))
    2.0
    """

    term = "dip"
    batch_statistic = True

    def __init__(self, kind="I", weight=10.0, diagonal_factor=None, **kwargs):
        super().__init__(weight, **kwargs)
        if kind not in ("I", "II"):
            raise ValueError(f"`kind` must be I or II. Received: kind={kind}")
        if diagonal_factor is None:
            diagonal_factor = 10.0 if kind == "I" else 1.0
        is_number = isinstance(diagonal_factor, numbers.Real)
        if not (is_number and 0 <= diagonal_factor < math.inf):
            raise ValueError(
                "`diagonal_factor` must be a finite number of at least 0, or None. "
                f"Received: diagonal_factor={diagonal_factor}"
            )
        self.kind = kind
        self.diagonal_factor = float(diagonal_factor)

    def call(self, x, latent, decode=None, training=False):
        batch = kvv_ops.batch_of(latent.mean)
        centred = latent.mean - batch.mean(latent.mean)
        covariance = batch.mean(centred[:, :, None] * centred[:, None, :])[0]
        identity = ops.eye(latent.mean.shape[-1], dtype="float32")
        if self.kind == "II":
            covariance = covariance + identity * batch.mean(latent.variance)
        weights = 1.0 + (self.diagonal_factor - 1.0) * identity
        penalty = ops.sum(weights * ops.square(covariance - identity))
        return ops.where(batch.count > 1, penalty, 0.0)

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "diagonal_factor": self.diagonal_factor,
        }
