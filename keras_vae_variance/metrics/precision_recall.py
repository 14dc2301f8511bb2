"""Precision and recall of generated images, by their features."""

from typing import NamedTuple

import numpy as np

from .base import Estimate, check_integer
from .features.base import Reader

__all__ = ["PrecisionRecall", "precision_recall"]

_BLOCK = 2048  # rows and columns of the part of a distance matrix in memory


class PrecisionRecall(NamedTuple):
    """Precision and recall.

    Attributes:
        precision: share of the generated images that look real, an `Estimate`.
        recall: share of the real images that the model could generate, an `Estimate`.
    """

    precision: Estimate
    recall: Estimate


def precision_recall(real, generated, features, neighbours=3, batch_size=64):
    """Shares of the images of either set that lie within the other, by their features.

        f(a, B) = 1 where |a - b| <= |b - NN_k(b, B)| for any b in B, else 0
        precision = mean_g f(g, R),   recall = mean_r f(r, G)

    Kynkaanniemi et al. (2019), Eq. 1 and 2, `NN_k(b, B)` being the k-th nearest
    neighbour of `b` among the others of `B`. Low precision means bad images, low recall
    missing ones; the Frechet distance tells them not apart. Both depend on the numbers
    of images, which should be equal; they took 50,000 with `k = 3`.

    The standard errors are over other images whose membership is asked, with the set
    that they may lie in held fixed. Sets are read once; kept are the features of all
    images, in float32, and the distances of 2048 by 2048 images at a time. The time
    grows with the square of the number of images.

    Args:
        real: images in any form that `VAE.fit` takes. Labels and weights are ignored.
        generated: the same, of the same shape and range.
        features: as in `frechet_distance`.
        neighbours: number `k`.
        batch_size: the most images that `features` is given at a time.

    Returns:
        A `PrecisionRecall`.

    Raises:
        TypeError: as `frechet_distance`.
        ValueError: as `frechet_distance`, and if a set has no more than `neighbours`
            images.

    Example:

    >>> import keras, numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((100, 4, 4, 1), dtype="float32")
    >>> layers = [keras.Input((4, 4, 1)), keras.layers.Flatten()]
    >>> features = keras.Sequential(layers, name="pixels")
    >>> precision, recall = kvv.metrics.precision_recall(x, x[:50], features)
    >>> float(precision), float(recall) > 0.5
    (1.0, True)
    """
    check_integer("neighbours", neighbours)
    reader = Reader(features, batch_size)
    real = _vectors(reader(real, "real"), "real", neighbours)
    generated = _vectors(reader(generated, "generated"), "generated", neighbours)

    real_radii = _squared_radii(real, neighbours)
    generated_radii = _squared_radii(generated, neighbours)
    looks_real = np.zeros(len(generated), bool)
    is_covered = np.zeros(len(real), bool)
    for rows in _blocks(real):
        for columns in _blocks(generated):
            distances = _squared_distances(real[rows], generated[columns])
            within = distances <= real_radii[rows, None]
            looks_real[columns] |= within.any(axis=0)
            is_covered[rows] |= (distances <= generated_radii[columns]).any(axis=1)
    return PrecisionRecall(Estimate.of(looks_real), Estimate.of(is_covered))


def _vectors(batches, name, neighbours):
    """All feature vectors, float32 `(n, F)`."""
    rows = [batch.astype(np.float32) for batch in batches]
    count = sum(map(len, rows))
    if count <= neighbours:
        raise ValueError(
            f"`{name}` must hold more than {neighbours} images. "
            f"Received: {name} with {count}"
        )
    return np.concatenate(rows)


def _squared_radii(vectors, neighbours):
    """Squared distance of each vector to its k-th nearest neighbour."""
    nearest = np.full((len(vectors), neighbours), np.inf)
    for rows in _blocks(vectors):
        kept = nearest[rows]
        for columns in _blocks(vectors):
            distances = _squared_distances(vectors[rows], vectors[columns])
            if rows == columns:
                np.fill_diagonal(distances, np.inf)  # itself is none
            nearer = distances.min(axis=1) < kept.max(axis=1)  # ever fewer
            both = np.concatenate([kept[nearer], distances[nearer]], axis=1)
            kept[nearer] = np.partition(both, neighbours - 1)[:, :neighbours]
    return nearest.max(axis=1)


def _blocks(vectors):
    return [slice(i, i + _BLOCK) for i in range(0, len(vectors), _BLOCK)]


def _squared_distances(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    distances = (-2.0 * a) @ b.T
    distances += np.square(a).sum(axis=1)[:, None]
    distances += np.square(b).sum(axis=1)
    return distances
