import gzip
import socket

import numpy as np
import pytest

from keras_vae_variance import datasets


def test_digits_are_scaled_images_with_labels():
    (x_train, y_train), (x_test, y_test) = datasets.digits()
    assert x_train.shape == (1501, 8, 8, 1) and y_train.shape == (1501,)
    assert x_test.shape == (296, 8, 8, 1) and y_test.shape == (296,)
    for x, y in ((x_train, y_train), (x_test, y_test)):
        assert x.dtype == np.float32 and y.dtype == np.int64
        assert x.min() == 0.0 and x.max() == 1.0
        assert set(np.unique(x * 16)) <= set(range(17))


def test_digits_split_is_a_stratified_partition():
    from sklearn.datasets import load_digits

    (x_train, y_train), (x_test, y_test) = datasets.digits()
    pixels, labels = load_digits(return_X_y=True)

    def rows(x, y):
        return [(*pixel, label) for pixel, label in zip(x, y, strict=True)]

    train = set(rows(x_train.reshape(-1, 64) * 16, y_train))
    test = set(rows(x_test.reshape(-1, 64) * 16, y_test))
    # No leak, nothing lost: all 1797 images are different, and each is in one half.
    assert not {row[:-1] for row in train} & {row[:-1] for row in test}
    assert train | test == set(rows(pixels, labels)) and len(train | test) == 1797
    share = np.bincount(y_test) / (np.bincount(y_train) + np.bincount(y_test))
    np.testing.assert_allclose(share, 1 / 6, atol=0.01)


def test_digits_test_set_is_the_end_of_the_file():
    """Neighbours in the file share a writer, so they must not be dealt out."""
    from sklearn.datasets import load_digits

    _, (x_test, y_test) = datasets.digits()
    pixels, labels = load_digits(return_X_y=True)
    for digit in range(10):
        expected = pixels[labels == digit][-np.sum(y_test == digit) :]
        np.testing.assert_array_equal(
            x_test[y_test == digit].reshape(-1, 64) * 16, expected
        )


def test_load_without_download_begins_none(tmp_path, monkeypatch):
    hosts = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: hosts.append(host))
    with pytest.raises(FileNotFoundError) as info:
        datasets.load("mnist", data_dir=str(tmp_path), download=False)
    assert not hosts
    message = str(info.value)
    assert "download=True" in message and f"data_dir={tmp_path}" in message
    assert message.endswith("download=False")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["no network", "another file"])
def test_load_says_what_to_do_without_a_download(kind, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import download_manager

    def fails(self):
        if kind == "no network":
            raise OSError("name resolution failed.")
        # What the host of CelebA sends once its quota is used up.
        raise download_manager.NonMatchingChecksumError("wrong checksum.", "path")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fails)
    with pytest.raises(ConnectionError, match="`data_dir`.*`from_folder`.*celeb_a"):
        datasets.load("celeb_a", data_dir=str(tmp_path))


def test_load_rejects_another_name(tmp_path):
    with pytest.raises(ValueError, match="Received: name=cifar100"):
        datasets.load("cifar100", data_dir=str(tmp_path))


@pytest.fixture
def fake_tfds(monkeypatch):
    """TFDS's own stand-in for its data sets: random images, the real features."""
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.DatasetBuilder, "is_prepared", lambda self: True)
    with tfds.testing.mock_data(num_examples=5):
        yield tfds


@pytest.mark.parametrize(
    "name, preparation, shape",
    [
        ("cifar10", {}, (32, 32, 3)),
        ("svhn_cropped", {"size": 28}, (28, 28, 3)),
        ("celeb_a", {"size": 64, "crop": 140}, (64, 64, 3)),
        ("celeb_a", {"size": 128}, (128, 128, 3)),
    ],
)
def test_load_prepares_the_images(name, preparation, shape, fake_tfds):
    train, test = datasets.load(name, **preparation)
    streams = datasets.load(name, **preparation, stream=True)
    examples = list(fake_tfds.load(name, split="train").as_numpy_iterator())
    raw = np.stack([example["image"] for example in examples])
    if name == "celeb_a":
        # TFDS lists them in this order.
        names = fake_tfds.builder(name).info.features["attributes"]
        labels = [[e["attributes"][key] for key in names] for e in examples]
    else:
        labels = [example["label"] for example in examples]
    for (x, y), stream in zip((train, test), streams, strict=True):
        assert x.dtype == np.uint8 and x.shape == (5, *shape)
        np.testing.assert_array_equal(x, datasets.resize(raw, **preparation))
        np.testing.assert_array_equal(y, labels)
        assert y.dtype == (bool if name == "celeb_a" else np.int64)
        assert stream.element_spec[0].shape == shape
        pairs = list(stream.as_numpy_iterator())
        np.testing.assert_array_equal(x, [image for image, _ in pairs])
        np.testing.assert_array_equal(y, [label for _, label in pairs])


def test_load_rejects_a_crop_that_does_not_fit(fake_tfds):
    with pytest.raises(ValueError, match="218 by 178. Received: crop=200"):
        datasets.load("celeb_a", size=64, crop=200)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_load_gives_the_official_images(name, shared, tfds_dir):
    train, test = datasets.load(name, data_dir=str(tfds_dir), download=False)
    for (x, y), prefix, count in ((train, "train", 60000), (test, "t10k", 10000)):
        assert x.shape == (count, 28, 28, 1) and x.dtype == np.uint8
        assert y.shape == (count,) and y.dtype == np.int64
        with gzip.open(shared / name / f"{prefix}-images-idx3-ubyte.gz") as file:
            pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(count, -1)
        with gzip.open(shared / name / f"{prefix}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
        # TFDS shuffles once: the same pairs, in another order.
        ours = np.column_stack([x.reshape(count, -1), y.astype(np.uint8)])
        theirs = np.column_stack([pixels, labels])
        assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


@pytest.mark.slow
def test_load_repeats_its_order(tfds_dir):
    first, _ = datasets.load("mnist", data_dir=str(tfds_dir))
    again, _ = datasets.load("mnist", data_dir=str(tfds_dir))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_load_gives_videos_of_one_camera(fake_tfds):
    (x, actions), _ = datasets.load("bair_robot_pushing_small")
    assert x.dtype == np.uint8 and x.shape == (5, 30, 64, 64, 3)
    assert actions.dtype == np.float32 and actions.shape == (5, 30, 4)
    raw = fake_tfds.load("bair_robot_pushing_small", split="train")
    for video, action, example in zip(x, actions, raw.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(video, example["image_main"])
        np.testing.assert_array_equal(action, example["action"])
    (small, _), _ = datasets.load("bair_robot_pushing_small", size=16)
    assert small.shape == (5, 30, 16, 16, 3)
    np.testing.assert_array_equal(small[0], datasets.resize(x[0], size=16))


def test_windows_cut_a_video():
    x = np.arange(14).reshape(7, 2)
    cut = datasets.windows(x, 3, stride=2)
    np.testing.assert_array_equal(cut, [x[0:3], x[2:5], x[4:7]])
    with pytest.raises(ValueError, match="Received: 7 frames"):
        datasets.windows(x, 8)
