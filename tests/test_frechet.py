"""The Frechet distance: closed forms, a public formula, laws, streams, bad input."""

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
from extractors import Features, pixels

from keras_vae_variance.metrics import Distance, Moments, frechet_distance


def sets(n=150, m=90, shape=(3, 2, 1), seed=0):
    """Two sets of images that differ in means and covariances of the pixels."""
    rng = np.random.default_rng(seed)
    size = np.prod(shape)
    mixing = rng.uniform(size=(2, size, size)) / size
    parts = rng.uniform(size=(n, size)), rng.uniform(size=(m, size))
    images = (x @ a for x, a in zip(parts, mixing, strict=True))
    return [x.reshape(-1, *shape).astype("float32") for x in images]


def gaussian(mean, covariance):
    mean, covariance = np.array(mean, float), np.array(covariance, float)
    return Moments(10, mean, covariance, "pixels", (2, 2, 1), "float")


def public(x, y):
    """The formula of TTUR and pytorch-fid, from features `(n, F)`."""
    c1, c2 = (np.cov(features, rowvar=False) for features in (x, y))
    root = scipy.linalg.sqrtm(c1.dot(c2))
    if np.iscomplexobj(root):
        assert np.abs(np.diagonal(root).imag).max() < 1e-3
        root = root.real
    shift = x.mean(0) - y.mean(0)
    return shift.dot(shift) + np.trace(c1) + np.trace(c2) - 2 * np.trace(root)


def rows(x):
    return x.reshape(len(x), -1).astype("float64")


# --------------------------------------------------------------------------------------
# The value


def test_closed_forms():
    # Of one feature: (m1 - m2)^2 + (s1 - s2)^2.
    distance = frechet_distance(gaussian([1], [[4]]), gaussian([3], [[25]]))
    np.testing.assert_allclose(float(distance), 2**2 + 3**2, rtol=1e-14)
    # Of covariances with common eigenvectors: the same along each.
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    s1, s2 = np.array([3, 1, 0.1, 1e-4, 0]), np.array([1, 2, 0.2, 1e-5, 0.3])
    one, two = ((q * s**2) @ q.T for s in (s1, s2))
    distance = frechet_distance(gaussian(q[0], one), gaussian(q[1], two))
    # The roots of rounded zeros are of size 1e-8.
    np.testing.assert_allclose(float(distance), 2 + np.sum((s1 - s2) ** 2), rtol=1e-7)
    # Of any two by two: tr M^(1/2) = sqrt(tr M + 2 sqrt(det M)).
    one, two = np.array([[2, 0.5], [0.5, 1]]), np.array([[1, -0.9], [-0.9, 3]])
    product = one @ two
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    distance = frechet_distance(gaussian([0, 0], one), gaussian([0, 0], two))
    expected = np.trace(one + two) - 2 * root
    np.testing.assert_allclose(float(distance), expected, rtol=1e-12)


def test_agrees_with_the_public_formula():
    x, y = sets()
    distance = frechet_distance(x, y, pixels)
    np.testing.assert_allclose(float(distance), public(rows(x), rows(y)), rtol=1e-8)
    assert distance.num_real == 150 and distance.num_generated == 90


def test_agrees_with_a_public_implementation():
    """POT's distance of Bures and Wasserstein, of the same features."""
    ot_gaussian = pytest.importorskip("ot.gaussian")
    for x, y in (sets(), sets(300, 200, (4, 4, 1), seed=1)):
        both = rows(x), rows(y)
        means = (features.mean(0) for features in both)
        covariances = (np.cov(features, rowvar=False) for features in both)
        expected = ot_gaussian.bures_wasserstein_distance(*means, *covariances) ** 2
        distance = frechet_distance(x, y, pixels)
        np.testing.assert_allclose(float(distance), expected, rtol=1e-7)


def test_itself_and_the_other_way_round():
    x, y = sets()
    scale = rows(x).var(0).sum()
    assert float(frechet_distance(x, x, pixels)) < 1e-12 * scale
    there, back = frechet_distance(x, y, pixels), frechet_distance(y, x, pixels)
    np.testing.assert_allclose(float(there), float(back), rtol=1e-10)
    # Another order, or every image twice, is the same set but for 1/(N - 1).
    again = frechet_distance(x[::-1], y, pixels)
    np.testing.assert_allclose(float(again), float(there), rtol=1e-10)


def test_fewer_images_than_features():
    """Singular covariances: distances do not depend on the space around them."""
    rng = np.random.default_rng(1)
    small = [rng.normal(size=(n, 4)) * [1, 2, 0.5, 3] for n in (30, 40)]
    frame = np.linalg.qr(rng.normal(size=(60, 8)))[0].T
    means = [x.mean(0) for x in small]
    within, across = (
        [
            gaussian(m @ f, f.T @ np.cov(x, rowvar=False) @ f)
            for x, m, f in zip(small, means, frames, strict=True)
        ]
        for frames in ((frame[:4], frame[:4]), (frame[:4], frame[4:]))
    )
    value = float(frechet_distance(*within))
    np.testing.assert_allclose(value, public(*small), rtol=1e-6)
    # In directions orthogonal to each other nothing overlaps.
    spread = sum(np.cov(x, rowvar=False).trace() for x in small)
    shift = sum(m @ m for m in means)
    np.testing.assert_allclose(
        float(frechet_distance(*across)), spread + shift, rtol=1e-6
    )
    assert float(frechet_distance(within[0], within[0])) < 1e-12 * spread


def test_a_large_offset_cancels_nothing():
    """Where E[f f^T] - E[f] E[f]^T has no correct digit left."""
    (x, _) = sets(n=400)
    offset = 1e8 * np.arange(1, 7)
    far = Features(lambda x: rows(x) + offset, "far")
    moments = Moments.of(x, far, batch_size=37)
    features = rows(x) + offset
    expected = np.cov(features - offset, rowvar=False)  # of what adding rounded
    # Means are rounded to 1e-7, of features whose deviation is 0.05.
    np.testing.assert_allclose(moments.covariance, expected, rtol=3e-6)
    naive = features.T @ features / 400 - np.outer(features.mean(0), features.mean(0))
    assert np.abs(naive / expected - 1).max() > 1
    assert float(frechet_distance(moments, x, far)) < 1e-12


def test_batches_and_forms_of_the_data():
    x, y = sets()
    expected = Moments.of(x, pixels)
    features = rows(x)
    np.testing.assert_allclose(expected.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        expected.covariance, np.cov(features, rowvar=False), rtol=1e-10
    )
    labels = np.zeros(len(x))

    class Dataset(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            part = slice(50 * index, 50 * index + 50)
            return x[part], labels[part]

    dataset = tf.data.Dataset.from_tensor_slices((x, labels))
    forms = {
        "tuple": (x, labels),
        "tf.data": dataset.batch(64),
        "tensor": tf.constant(x),
        "PyDataset": Dataset(),
        "generator": (x[i : i + 7] for i in range(0, 150, 7)),
    }
    for name, form in forms.items():
        moments = Moments.of(form, pixels, batch_size=19)
        assert moments.count == 150, name
        for field in ("mean", "covariance"):
            np.testing.assert_allclose(
                getattr(moments, field), getattr(expected, field), rtol=1e-10
            )


# --------------------------------------------------------------------------------------
# What is read, and how


def test_moments_stand_for_their_set(tmp_path):
    x, y = sets()
    expected = frechet_distance(x, y, pixels)
    Moments.of(x, pixels).save(tmp_path / "real")
    real = Moments.load(tmp_path / "real")
    assert real.kind == ("pixels", (3, 2, 1), "float") and type(real.count) is int
    generated = Moments.of(y, pixels)
    for pair in ((real, y, pixels), (x, generated, pixels), (real, generated)):
        assert frechet_distance(*pair) == expected
    seen = []
    features = Features(lambda x: seen.append(len(x)) or rows(x))
    frechet_distance(real, y, features, batch_size=40)
    assert seen == [40, 40, 10]


def test_a_file_that_is_not_of_moments(tmp_path):
    path = tmp_path / "other"
    with open(path, "wb") as file:
        np.savez(file, mu=np.zeros(3))
    with pytest.raises(ValueError, match="Moments.save.*Received: path="):
        Moments.load(path)
    with pytest.raises(FileNotFoundError):
        Moments.load(tmp_path / "absent")


def test_levels_are_divided_by_255():
    levels = np.random.default_rng(2).integers(0, 256, (2, 50, 3, 2, 1), dtype="uint8")
    floats = (levels / 255.0).astype("float32")
    value = float(frechet_distance(*floats, pixels))
    np.testing.assert_allclose(float(frechet_distance(*levels, pixels)), value, 1e-5)


def test_grey_images_are_shown_in_three_equal_channels():
    x, y = sets()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(4, 2)(inputs)
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(maps))
    colours = (np.repeat(images, 3, axis=-1) for images in (x, y))
    assert frechet_distance(x, y, network).value == pytest.approx(
        frechet_distance(*colours, network).value, rel=1e-6
    )


def test_a_network_is_compiled_once():
    traces = []

    class Traced(keras.layers.Layer):
        def call(self, x):
            traces.append(x.shape)
            return x

    inputs = keras.Input((3, 2, 1))
    features = keras.layers.Flatten()(Traced()(inputs))
    network = keras.Model(inputs, features, name="pixels")
    built = len(traces)
    x, y = sets()
    values = []
    for batch_size in (16, 10, 64):
        values.append(frechet_distance(x, y, network, batch_size=batch_size).value)
        assert len(traces) - built <= 3  # of 16 images, then of any number
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_evaluates_as_in_inference():
    inputs = keras.Input((3, 2, 1))
    features = keras.layers.Flatten()(keras.layers.Dropout(0.9)(inputs))
    x, y = sets()
    dropped = frechet_distance(x, y, keras.Model(inputs, features)).value
    assert dropped == pytest.approx(frechet_distance(x, y, pixels).value, rel=1e-6)


# --------------------------------------------------------------------------------------
# What it is called


def test_only_the_network_of_2015_makes_it_the_fid():
    distance = Distance(8.9, "inception_2015", 10000, 5000)
    assert str(distance) == "FID 8.9 (10000 real, 5000 generated images)"
    for name in ("inception_v3_imagenet", "squeezenet_1_1", "FID", "pixels"):
        label = Distance(8.9, name, 10, 10).label
        assert label == f"Frechet distance by {name}"
    assert float(distance) == np.array(distance) == 8.9
    assert np.array(distance, "float32").dtype == "float32"


def test_no_other_network_has_its_name():
    impostor = keras.Sequential([keras.Input((3, 2, 1)), keras.layers.Flatten()])
    impostor.name = "inception_2015"
    with pytest.raises(ValueError, match="`features` must have another name.*Received"):
        frechet_distance(*sets(), impostor)


# --------------------------------------------------------------------------------------
# Bad input

X = np.full((4, 3, 2, 1), 0.5, "float32")
LEVELS = np.full((4, 3, 2, 1), 9, "uint8")


def changed(value):
    x = X.copy()
    x[2, 1, 0, 0] = value
    return x


@pytest.mark.parametrize(
    "real, generated, message",
    [
        (X, LEVELS, r"one range.*Received: generated of shape \(3, 2, 1\) and uint8"),
        (LEVELS, X, "divide the latter by 255.*Received: generated.*and float"),
        (X, X[:, :2], r"one shape.*Received: generated of shape \(2, 2, 1\)"),
        (X, (X[:2], X[2:])[0][..., 0], r"generated\[..., None\].*Received: generated"),
        (X[0, 0], X, "`real` must be images.*Received: real.shape"),
        (X * 255, X, "`real` must lie in.*Received: values from 0 to 127"),
        (X, 2 * X - 1.5, "clipped.*Received: values from -0.5 to 1"),
        (X, changed(np.nan), r"lie in \[0, 1\].*Received: values from nan"),
        (changed(np.inf), X, r"lie in \[0, 1\].*Received: values from 0 to inf"),
        (X[:1], X, "at least two images. Received: real with 1"),
        (X, iter([]), "at least two images. Received: generated with 0"),
        (X, iter([X, LEVELS]), "one range.*Received: generated.*uint8"),
    ],
)
def test_images_that_cannot_be_compared(real, generated, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(real, generated, pixels)


def test_data_of_other_types():
    with pytest.raises(TypeError, match="`real` must be uint8.*Received: real.dtype"):
        frechet_distance(X.astype("int64"), X, pixels)
    with pytest.raises(TypeError, match="Received: int"):
        frechet_distance(3, X, pixels)


@pytest.mark.parametrize(
    "features, message",
    [
        (Features(lambda x: x), r"one vector.*Received: features of shape \(4, 3"),
        (Features(lambda x: rows(x)[:2]), r"4 images.*Received: features of shape"),
        (Features(lambda x: rows(x) * np.nan), "finite.*Received: real"),
        (
            keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten()]),
            r"`real` must have the shape \(None, 3, 3, 1\).*Received: real.shape",
        ),
    ],
)
def test_features_that_do_not_fit(features, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(X, X, features)


def test_features_without_a_name():
    for features in (rows, None, "pixels"):
        with pytest.raises(TypeError, match="`name`.*Received: features="):
            frechet_distance(X, X, features)
    with pytest.raises(ValueError, match="Received: batch_size=0"):
        frechet_distance(X, X, pixels, batch_size=0)


def test_moments_that_cannot_be_compared():
    moments = Moments.of(X, pixels)
    others = [
        Moments.of(LEVELS, pixels),
        Moments.of(X[:, :2], pixels),
        Moments.of(X, Features(rows, "others")),
        Moments(9, np.zeros(2), np.eye(2), *moments.kind),
    ]
    for other in others:
        with pytest.raises(ValueError, match="Received: real of .*, generated of "):
            frechet_distance(moments, other)
    with pytest.raises(ValueError, match="must be pixels.*Received: features=others"):
        frechet_distance(moments, X, Features(rows, "others"))
    with pytest.raises(ValueError, match="one range.*Received: generated"):
        frechet_distance(moments, LEVELS, pixels)
    with pytest.raises(ValueError, match="one range.*Received: real"):
        frechet_distance(LEVELS, moments, pixels)
    for count, mean, covariance in (
        (1, np.zeros(2), np.eye(2)),
        (5, np.zeros(3), np.eye(2)),
        (5, np.zeros((1, 2)), np.eye(2)),
    ):
        with pytest.raises(ValueError, match="Received: count="):
            Moments(count, mean, covariance, *moments.kind)
