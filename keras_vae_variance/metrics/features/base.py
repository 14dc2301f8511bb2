"""What the feature extractors share, and the reader of feature vectors."""

import contextlib
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from ... import ops as kvv_ops
from ...data import batches
from ..base import check_integer, float64

__all__ = ["FID_FEATURES", "Kind", "Reader", "float32_layers"]

# The name of the only features whose Frechet distance is the FID.
FID_FEATURES = "inception_2015"


class Kind(NamedTuple):
    """What images are and what sees them; two sets that are compared must agree in it.

    Attributes:
        features: name of the feature extractor.
        shape: `(height, width, channels)` of an image.
        dtype: `"uint8"` for levels from 0 to 255, `"float"` for numbers in [0, 1].
    """

    features: str
    shape: tuple
    dtype: str


class Reader:
    """Feature vectors of images, in batches.

    The first batch that is read sets the kind of all that follow.

    Args:
        features: a Keras model, or another callable with a `name`: from float32 images
            in [0, 1], `(n, height, width, channels)`, to vectors, `(n, F)`. Grey images
            are shown to a network of colours as three equal channels.
        batch_size: the most images that it is given at a time.
        kind: the `Kind` that the images must be of, if it is known before.

    Raises:
        TypeError: if `features` is not such a callable.
        ValueError: if `kind` is of other features, and for another network by the name
            of `Inception2015`, which would make its distance an FID.
    """

    def __init__(self, features, batch_size, kind=None):
        name = getattr(features, "name", None)
        if not callable(features) or not isinstance(name, str):
            raise TypeError(
                "`features` must be a Keras model, or another callable with a `name` "
                f"for its results to carry. Received: features={features!r}"
            )
        from .inception import Inception2015  # which imports this module

        if name == FID_FEATURES and not isinstance(features, Inception2015):
            raise ValueError(
                f"`features` must have another name than {FID_FEATURES!r}, or be "
                f"features.Inception2015. Received: features={features!r}"
            )
        check_integer("batch_size", batch_size)
        if kind is not None and kind.features != name:
            raise ValueError(
                f"`features` must be {kind.features}, of which the given moments are. "
                f"Received: features={name}"
            )
        self.features = features
        self.batch_size = batch_size
        self.kind = kind
        self._extract = None

    def __call__(self, x, name):
        """Reads `x`, data in any form that `VAE.fit` takes, once and in order.

        Yields:
            Feature vectors of up to `batch_size` images, float64 `(n, F)`.

        Raises:
            TypeError: for integers other than uint8.
            ValueError: for what are not finite images of a known range, images of
                another kind than those before, and features that are not finite
                vectors. The message calls the images `name`.
        """
        for images, _ in batches(x, self.batch_size):
            for start in range(0, len(images), self.batch_size):
                part = images[start : start + self.batch_size]
                yield self._vectors(ops.convert_to_numpy(part), name)

    def _vectors(self, images, name):
        kind = Kind(self.features.name, images.shape[1:], _range(images, name))
        self.kind = self.kind or kind
        if kind != self.kind:
            raise ValueError(
                "Real and generated images must be of one shape and one range, here "
                f"{self.kind.shape} and {self.kind.dtype}. To compare floats with "
                "uint8, divide the latter by 255. "
                f"Received: {name} of shape {kind.shape} and {kind.dtype}"
            )
        images = images.astype("float32")
        if kind.dtype == "uint8":
            images = images / np.float32(255)
        images = self._shown(images, name)
        if self._extract is None:
            self._extract = _extractor(self.features, images.shape[1:])
        vectors = float64(self._extract(images))
        if vectors.ndim != 2 or len(vectors) != len(images):
            raise ValueError(
                f"`features` must give one vector for each of {len(images)} images. "
                f"Received: features of shape {vectors.shape}"
            )
        if not np.isfinite(vectors).all():
            raise ValueError(
                "`features` must give finite vectors. "
                f"Received: {name} whose features are NaN or infinite"
            )
        return vectors

    def _shown(self, images, name):
        """The images as the network takes them, if it says what it takes."""
        expected = getattr(self.features, "input_shape", None)
        if not isinstance(expected, tuple) or len(expected) != 4:
            return images
        if expected[-1] == 3 and images.shape[-1] == 1:
            images = np.repeat(images, 3, axis=-1)
        sizes = zip(images.shape[1:], expected[1:], strict=True)
        if any(wanted not in (None, size) for size, wanted in sizes):
            raise ValueError(
                f"`{name}` must have the shape {expected} that the features "
                f"{self.features.name} take. Received: {name}.shape={images.shape}"
            )
        return images


def _extractor(features, shape):
    """The features as a function of images of this shape, compiled once for a model."""
    if not isinstance(features, keras.Model):
        return features
    if keras.backend.backend() != "tensorflow":
        return features.predict_on_batch
    # Under a strategy `predict_on_batch` shows every replica the whole batch.
    return kvv_ops.compiled(lambda x: features(x, training=False), (None, *shape))


def _range(images, name):
    """The `dtype` of a `Kind`; raises where the images are of no known range."""
    if images.ndim != 4:
        hint = f" Add the channel with `{name}[..., None]`." if images.ndim == 3 else ""
        raise ValueError(
            f"`{name}` must be images, (n, height, width, channels).{hint} "
            f"Received: {name}.shape={images.shape}"
        )
    dtype = keras.backend.standardize_dtype(images.dtype)
    if dtype == "uint8":
        return "uint8"
    if "float" not in dtype:
        raise TypeError(
            f"`{name}` must be uint8, or floats in [0, 1]. "
            f"Received: {name}.dtype={dtype}"
        )
    lowest, highest = images.min(initial=0.0), images.max(initial=1.0)
    if not (lowest >= 0 and highest <= 1):  # NaN too
        raise ValueError(
            f"`{name}` must lie in [0, 1] where it is float; images from a decoder "
            "without an activation are to be clipped. "
            f"Received: values from {lowest:g} to {highest:g}"
        )
    return "float"


@contextlib.contextmanager
def float32_layers():
    """Layers made in this scope compute in float32, whatever the global policy.

    A distance must not depend on the precision that a model is trained in.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
