"""A variance that the decoder predicts, with a floor under it."""

import math
import numbers

import keras
import numpy as np
from keras import ops

from .. import ops as kvv_ops
from ..types import Head
from .base import Variance

__all__ = ["Predicted"]

_LINKS = {
    "sigmoid": ops.sigmoid,
    "softplus": ops.softplus,
    "exp": ops.exp,
}
# Of the variance itself the logarithm would be -inf, and its gradient NaN, where the
# link underflows: with bounds, that is where they hold.
_LOG_LINKS = {
    "sigmoid": lambda a: -ops.softplus(-a),
    "softplus": lambda a: ops.where(
        a < -15.0, a, ops.log(ops.softplus(ops.maximum(a, -15.0)))
    ),
    "exp": lambda a: a,
}
_INVERSE_LINKS = {
    "sigmoid": lambda v: math.log(v / (1.0 - v)),
    "softplus": lambda v: v + math.log(-math.expm1(-v)),
    "exp": math.log,
}


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class Predicted(Variance):
    """A variance predicted from `z` by a head of the decoder.

        v = link(head(z) + offset) + floor

    P0, Eq. 11, and with the floor of `fit_two_stage` P0, Algorithm 1; P1, trainable
    Iso-D and Diag-D; P2, Eq. 1 (per-pixel sigma-VAE); P3, Eq. 11 (LV-VAE). The head is
    the decoder's output `raw_variance`, before the link.

    With `stage1`, a global variance model, the variance is that model's for as long as
    stage 1 lasts, and the head stays out of the computation (see `fit_two_stage`).

    Args:
        per_pixel: one variance a pixel instead of one an image.
        per_channel: one for each channel too, instead of one shared by the channels
            (P0's CelebA network shares; P2 and P3 do not).
        link: "sigmoid" (P0; for data in [0, 1]), "softplus" (for unscaled data) or
            "exp" (the head is a log variance; P2's and P3's are half of it, log
            standard deviations).
        bounds: None, or a pair (lower, upper) of variances, each possibly None, between
            which the log standard deviation is clipped softly. P2's `l_min = -6` is
            `(math.exp(-12), None)`. Biased near a bound.
        floor: a variance that is added after the link and the bounds.
        stage1: a variance model without heads, normally set by `fit_two_stage`.

    Raises:
        ValueError: on an unknown link, on bounds that are not two increasing positive
            variances, on a negative floor.

    Example:

    >>> import keras_vae_variance as kvv
    >>> variance = kvv.variances.Predicted(link="softplus", floor=0.01)
    >>> variance.heads((28, 28, 3))["raw_variance"].shape
    (28, 28, 3)
    >>> kvv.variances.Predicted(per_channel=False).heads((28, 28, 3))[
    ...     "raw_variance"
    ... ].shape
    (28, 28, 1)
    """

    def __init__(
        self,
        per_pixel=True,
        per_channel=True,
        link="sigmoid",
        bounds=None,
        floor=0.0,
        stage1=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if link not in _LINKS:
            raise ValueError(
                f"`link` must be one of {', '.join(_LINKS)}. Received: link={link}"
            )
        if not (isinstance(floor, numbers.Real) and 0 <= floor < math.inf):
            raise ValueError(
                f"`floor` must be a variance of at least 0. Received: floor={floor}"
            )
        self.per_pixel = per_pixel
        self.per_channel = per_channel
        self.link = link
        self.bounds = _check_bounds(bounds)
        self.initial_floor = float(floor)
        self.stage1 = None
        if stage1 is not None:
            self._add_stage1(stage1)

    @property
    def batch_statistic(self):
        return self.stage == 1 and self.stage1.batch_statistic

    @property
    def depends_on_x(self):
        return self.stage == 1 and self.stage1.depends_on_x

    @property
    def stage(self):
        """1 or 2 in two-stage training, None outside of it."""
        return None if self.stage1 is None else int(kvv_ops.concrete(self._stage))

    def heads(self, x_shape):
        # Channels are the last axis of images (height, width, channels) and beyond.
        axes = len(x_shape) - 1 if len(x_shape) > 2 else len(x_shape)
        pixels, channels = tuple(x_shape[:axes]), tuple(x_shape[axes:])
        if not self.per_pixel:
            pixels = (1,) * len(pixels)
        if not self.per_channel:
            channels = (1,) * len(channels)
        return {"raw_variance": Head(pixels + channels, role="variance")}

    def build(self, squared_error_shape):
        self._error_shape = tuple(squared_error_shape)
        self.floor = self._scalar("floor", self.initial_floor)
        # The link's input at which the head starts: 0, or where stage 1 ended.
        self.offset = self._scalar("offset", 0.0)
        if self.stage1 is not None:
            self._build_stage1()

    def call(self, squared_error, parameters, latent=None, training=False):
        if self.stage == 1:
            return self.stage1(squared_error, {}, latent, training=training)
        return self.predict(parameters)

    def predict(self, parameters):
        if self.stage == 1:
            return self.stage1.predict({})
        raw = ops.cast(parameters["raw_variance"], "float32") + self.offset
        if self.bounds is None:
            variance = _LINKS[self.link](raw)
        else:
            # Half the logarithm: P2 clips the log standard deviation.
            lower, upper = (
                None if bound is None else 0.5 * math.log(bound)
                for bound in self.bounds
            )
            log_stddev = 0.5 * _LOG_LINKS[self.link](raw)
            variance = ops.exp(2.0 * kvv_ops.soft_clip(log_stddev, lower, upper))
        return variance + self.floor

    # ----------------------------------------------------------------------------------
    # Two stages (P0, Algorithm 1)

    def begin_stage1(self, stage1):
        """Puts the global model `stage1` in the place of the head, from its start."""
        first = self.stage1 is None
        # Layers are closed to new weights once built; this opens this one again.
        self._tracker.unlock()
        try:
            self._add_stage1(stage1)
            if first:
                self._build_stage1()
            else:
                kvv_ops.build_once(self.stage1, self._error_shape)
        finally:
            self._tracker.lock()
        self._stage.assign(1)
        self.stage1_epochs.assign(0)
        self.previous_loss.assign(math.inf)
        self.v_dataset.assign(0.0)
        self.floor.assign(self.initial_floor)
        self.offset.assign(0.0)

    def begin_stage2(self, floor_fraction):
        """Freezes `v_dataset`, puts its share under the head and starts the head.

            v = link(head(z) + offset) + floor_fraction * v_dataset

        The offset makes a head of 0 give `v_dataset` in total: a sigmoid that starts
        at 0.5 would be far above it.
        """
        v_dataset = float(np.mean(ops.convert_to_numpy(self.stage1.predict({}))))
        self.v_dataset.assign(v_dataset)
        self.floor.assign(floor_fraction * v_dataset)
        start = max((1.0 - floor_fraction), 0.01) * v_dataset
        if self.link == "sigmoid":
            start = min(start, 0.5)
        self.offset.assign(_INVERSE_LINKS[self.link](start))
        self._stage.assign(2)

    def _add_stage1(self, stage1):
        if not isinstance(stage1, Variance) or stage1.heads((1,)):
            raise ValueError(
                "`stage1` must be a variance model that needs no head of the decoder, "
                f"such as variances.Learned(). Received: stage1={stage1}"
            )
        if self.stage1 is not None:
            self._tracker.untrack(self.stage1)  # Keras would keep its weights
        self.stage1 = stage1

    def _build_stage1(self):
        kvv_ops.build_once(self.stage1, self._error_shape)
        self._stage = self._scalar("stage", 1, dtype="int32")
        self.stage1_epochs = self._scalar("stage1_epochs", 0, dtype="int32")
        self.v_dataset = self._scalar("v_dataset", 0.0)
        self.previous_loss = self._scalar("previous_loss", math.inf)

    def _scalar(self, name, value, dtype="float32"):
        return self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(value),
            dtype=dtype,
            trainable=False,
            aggregation="mean" if dtype == "float32" else "only_first_replica",
            name=name,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "per_pixel": self.per_pixel,
            "per_channel": self.per_channel,
            "link": self.link,
            "bounds": self.bounds,
            "floor": self.initial_floor,
            "stage1": keras.saving.serialize_keras_object(self.stage1),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        stage1 = keras.saving.deserialize_keras_object(config.pop("stage1"))
        return cls(stage1=stage1, **config)


def _check_bounds(bounds):
    if bounds is None:
        return None
    pair = isinstance(bounds, (tuple, list)) and len(bounds) == 2
    given = [b for b in bounds if b is not None] if pair else []
    positive = all(isinstance(b, numbers.Real) and b > 0 for b in given)
    if not (pair and positive and given == sorted(set(given))):
        raise ValueError(
            "`bounds` must be two increasing positive variances, either of which may "
            f"be None. Received: bounds={bounds}"
        )
    return tuple(b if b is None else float(b) for b in bounds)
