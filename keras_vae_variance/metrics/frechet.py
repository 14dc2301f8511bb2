"""The Frechet distance between sets of images, by their features."""

import dataclasses

import numpy as np

from .features.base import FID_FEATURES, Kind, Reader

__all__ = ["Distance", "Moments", "frechet_distance"]


@dataclasses.dataclass(frozen=True)
class Distance:
    """A Frechet distance, and what it is of.

    `float(distance)` and NumPy take the value alone; printed, it says its name.

    Args:
        value: the squared distance, in squared units of the features.
        features: name of the features.
        num_real: number of real images.
        num_generated: number of generated images. Distances of different numbers do not
            compare: the fewer images, the larger they are.

    Example:

    >>> from keras_vae_variance.metrics import Distance
    >>> print(Distance(12.5, "mnist_classifier", 10000, 5000))
    Frechet distance by mnist_classifier 12.5 (10000 real, 5000 generated images)
    """

    value: float
    features: str
    num_real: int
    num_generated: int

    @property
    def label(self):
        """`"FID"` by the features of `Inception2015`, else the name with theirs."""
        if self.features == FID_FEATURES:
            return "FID"
        return f"Frechet distance by {self.features}"

    def __float__(self):
        return float(self.value)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype)

    def __str__(self):
        counts = f"{self.num_real} real, {self.num_generated} generated images"
        return f"{self.label} {self.value:.6g} ({counts})"


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of the features of a set of images.

    In `frechet_distance` it stands for the images, so that a set which many are
    compared with is read once.

    Args:
        count: number `N` of images.
        mean: mean of the features, `(F,)`.
        covariance: their covariance by `1/(N - 1)`, `(F, F)`.
        features: name of the features.
        shape: `(height, width, channels)` of the images.
        dtype: `"uint8"`, or `"float"` for images in [0, 1].

    Raises:
        ValueError: if the arrays are not of these shapes, or `count` is below 2.

    Example:

    >>> import tempfile, keras, numpy as np
    >>> from keras_vae_variance.metrics import Moments, frechet_distance
    >>> x = np.random.default_rng(0).random((64, 4, 4, 1), dtype="float32")
    >>> features = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    >>> real = Moments.of(x, features)
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     real.save(file.name)
    ...     real = Moments.load(file.name)
    >>> round(float(frechet_distance(real, x, features)), 6)
    0.0
    """

    count: int
    mean: np.ndarray
    covariance: np.ndarray
    features: str
    shape: tuple
    dtype: str

    def __post_init__(self):
        """Checks the shapes."""
        size = np.size(self.mean)
        shapes = np.shape(self.mean), np.shape(self.covariance)
        if self.count < 2 or shapes != ((size,), (size, size)):
            raise ValueError(
                "Moments must be of two images or more, a mean (F,) and a covariance "
                f"(F, F). Received: count={self.count}, mean and covariance of shapes "
                f"{shapes[0]} and {shapes[1]}"
            )

    @classmethod
    def of(cls, x, features, batch_size=64):
        """Reads a set of images once; kept are a mean and a covariance in float64.

        Args:
            x: images in any form that `VAE.fit` takes.
            features: as in `frechet_distance`.
            batch_size: the most images that `features` is given at a time.

        Returns:
            The `Moments`.

        Raises:
            TypeError: as `frechet_distance`.
            ValueError: as `frechet_distance`.
        """
        return cls._read(x, Reader(features, batch_size), "x")

    @classmethod
    def _read(cls, x, reader, name):
        # Batches are merged by their means and scatters (Chan, Golub, LeVeque, 1979):
        # E[f f^T] - E[f] E[f]^T would cancel where means are large.
        count, mean, scatter = 0, 0.0, 0.0
        for vectors in reader(x, name):
            size, centre = len(vectors), vectors.mean(axis=0)
            shift, vectors = centre - mean, vectors - centre
            scatter += vectors.T @ vectors
            scatter += np.outer(shift, shift) * (count * size / (count + size))
            mean += shift * (size / (count + size))
            count += size
        if count < 2:
            raise ValueError(
                f"`{name}` must hold at least two images. Received: {name} with {count}"
            )
        return cls(count, mean, scatter / (count - 1), *reader.kind)

    @property
    def kind(self):
        """What the images are and what sees them, a `Kind`."""
        return Kind(self.features, tuple(self.shape), self.dtype)

    def save(self, path):
        """Writes the moments to one `.npz` file, without pickle.

        Args:
            path: name of the file; taken as it is, nothing is appended.
        """
        with open(path, "wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path):
        """Reads what `save` has written.

        Args:
            path: name of the file.

        Returns:
            The `Moments`.

        Raises:
            ValueError: if the file was not written by `save`.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        with open(path, "rb") as file:
            try:
                with np.load(file, allow_pickle=False) as archive:
                    count, mean, covariance, features, shape, dtype = (
                        archive[name] for name in names
                    )
            except Exception as error:  # zip, zlib and NumPy have their own
                raise ValueError(
                    "The file is broken, or was not written by `Moments.save`. "
                    f"Received: path={str(path)!r}"
                ) from error
        shape = tuple(int(size) for size in shape)
        return cls(int(count), mean, covariance, str(features), shape, str(dtype))


def frechet_distance(real, generated, features=None, batch_size=64):
    """Squared Frechet distance between Gaussians fitted to the features of two sets.

        |m1 - m2|^2 + tr( C1 + C2 - 2 (C1 C2)^(1/2) )

    Heusel et al. (2017); P0, Table 2; P1, Tables 4 to 6. Covariances are by
    `1/(N - 1)`. The square root is taken by eigenvalues of `C1` and `C2`, so that fewer
    images than features are no trouble to it; the estimate is then far too large all
    the same, and compares at equal numbers of images only. P0 and P1 take 10,000 or
    more, with the network of 2015 (`features.Inception2015`). By that network alone it
    is the FID, and is labelled so.

    Both sets must be uint8, or both floats in [0, 1]: rounding to levels is a
    difference that the features see. Sets are read once, and the memory does not grow
    with them: kept are a mean and a covariance of each.

    Args:
        real: images in any form that `VAE.fit` takes, or their `Moments`. Labels and
            weights are ignored.
        generated: the same.
        features: one of `metrics.features`, or another Keras model or callable with a
            `name`, from float32 images in [0, 1], `(n, height, width, channels)`, to
            vectors, `(n, F)`. Images of one channel are shown to a network of three as
            three equal ones. Not needed for two `Moments`.
        batch_size: the most images that `features` is given at a time.

    Returns:
        A `Distance`: a number that carries the name of its features.

    Raises:
        TypeError: for images that are neither uint8 nor float, and for features
            without a name.
        ValueError: for floats outside [0, 1], sets of different shapes, ranges or
            features, features that are not finite vectors, and fewer than two images.

    Example:

    >>> import keras, numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((500, 4, 4, 1), dtype="float32")
    >>> layers = [keras.Input((4, 4, 1)), keras.layers.GlobalAveragePooling2D()]
    >>> features = keras.Sequential(layers, name="brightness")
    >>> distance = kvv.metrics.frechet_distance(x, x / 2, features)
    >>> print(distance.label)
    Frechet distance by brightness
    >>> bool(abs(float(distance) - 0.25**2) < 0.02)
    True
    """
    sets = {"real": real, "generated": generated}
    kinds = [x.kind for x in sets.values() if isinstance(x, Moments)]
    if len(kinds) < 2:
        reader = Reader(features, batch_size, *kinds)
        real, generated = (
            x if isinstance(x, Moments) else Moments._read(x, reader, name)
            for name, x in sets.items()
        )
    if real.kind != generated.kind or real.mean.shape != generated.mean.shape:
        raise ValueError(
            "Moments must be of the same features, shapes and ranges. "
            f"Received: real of {(*real.kind, real.mean.size)}, "
            f"generated of {(*generated.kind, generated.mean.size)}"
        )
    # With C = A A^T, the eigenvalues of C1 C2 are the squared singular values of
    # A1^T A2: no root is taken of what rounding has made of a zero.
    overlap = np.linalg.norm(_factor(real).T @ _factor(generated), ord="nuc")
    shift = real.mean - generated.mean
    spread = np.trace(real.covariance) + np.trace(generated.covariance)
    value = shift @ shift + spread - 2.0 * overlap
    counts = real.count, generated.count
    return Distance(max(float(value), 0.0), real.features, *counts)


def _factor(moments):
    """`A` with `A A^T` the covariance."""
    values, vectors = np.linalg.eigh(moments.covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))
