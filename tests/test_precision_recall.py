"""Precision and recall: a slow twin, laws, bad input."""

import importlib

import numpy as np
import pytest
import tensorflow as tf
from extractors import pixels
from sklearn.neighbors import NearestNeighbors

from keras_vae_variance.metrics import precision_recall


def images(n, seed=0, low=0.0, high=1.0):
    x = np.random.default_rng(seed).uniform(low, high, size=(n, 2, 2, 1))
    return x.astype("float32")


def covered(x, manifold, neighbours):
    """Kynkaanniemi et al., Eq. 1, point by point."""
    x, manifold = (a.reshape(len(a), -1).astype("float64") for a in (x, manifold))
    search = NearestNeighbors(n_neighbors=neighbours + 1).fit(manifold)
    radii = search.kneighbors(manifold)[0][:, -1]  # the first is the point itself
    return np.array(
        [np.any(np.linalg.norm(manifold - point, axis=1) <= radii) for point in x]
    )


@pytest.mark.parametrize("neighbours", [1, 3, 12])
@pytest.mark.parametrize("block", [7, 2048])
def test_against_a_slow_twin(neighbours, block, monkeypatch):
    # The attribute of that name is the function.
    module = importlib.import_module("keras_vae_variance.metrics.precision_recall")
    monkeypatch.setattr(module, "_BLOCK", block)
    x, y = images(60), images(45, seed=1, low=0.3, high=0.9)
    precision, recall = precision_recall(x, y, pixels, neighbours)
    inside = covered(y, x, neighbours), covered(x, y, neighbours)
    assert 0 < recall.value < precision.value
    for result, expected in zip((precision, recall), inside, strict=True):
        assert result.value == expected.mean()
        error = np.sqrt(expected.var() / (len(expected) - 1))
        np.testing.assert_allclose(result.standard_error, error, rtol=1e-12)


def test_laws():
    x, y = images(200), images(150, seed=1, low=0.4)
    assert [float(v) for v in precision_recall(x, x, pixels)] == [1, 1]
    there, back = precision_recall(x, y, pixels), precision_recall(y, x, pixels)
    assert there.precision == back.recall and there.recall == back.precision
    # A model of one image over and over is precise and recalls nothing.
    result = precision_recall(x, np.repeat(x[:1], 50, axis=0), pixels)
    assert result.precision.value == 1 and result.recall.value <= 1 / 200
    # Sets apart have nothing of each other.
    result = precision_recall(images(50, high=0.3), images(50, low=0.7), pixels)
    assert result.precision.value == result.recall.value == 0
    # More neighbours cover more.
    values = [precision_recall(x, y, pixels, k).recall.value for k in (1, 3, 10, 50)]
    assert sorted(values) == values and values[0] < values[-1]


def test_levels_and_batches():
    levels = np.random.default_rng(0).integers(0, 256, (2, 60, 2, 2, 1), dtype="uint8")
    expected = precision_recall(*levels, pixels)
    stream = tf.data.Dataset.from_tensor_slices((levels[0], np.zeros(60))).batch(13)
    assert precision_recall(stream, levels[1], pixels, batch_size=7) == expected
    floats = (levels / 255.0).astype("float32")
    assert precision_recall(*floats, pixels) == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"neighbours": 0}, "Received: neighbours=0"),
        ({"neighbours": 20}, "more than 20 images. Received: generated with 20"),
        ({"real": iter([])}, "Received: real with 0"),
        ({"generated": images(20) - 1}, "Received: values from"),
        ({"generated": images(20)[:, :1]}, "Received: generated of shape"),
    ],
)
def test_bad_input(arguments, message):
    defaults = {"real": images(30), "generated": images(20), "features": pixels}
    with pytest.raises(ValueError, match=message):
        precision_recall(**{**defaults, **arguments})
