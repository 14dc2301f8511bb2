import gzip
import time

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


def test_load_without_download_fails_at_once(tmp_path):
    import tensorflow_datasets  # noqa: F401  (the import is not part of the time)

    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as info:
        datasets.load("mnist", data_dir=str(tmp_path), download=False)
    # TFDS retries a download for minutes: none was begun.
    assert time.monotonic() - start < 30
    message = str(info.value)
    assert "download=True" in message and f"data_dir={tmp_path}" in message
    assert message.endswith("download=False")
    assert not any(tmp_path.iterdir())


def test_load_says_what_to_do_without_a_network(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def unreachable(self):
        raise OSError("name resolution failed.")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", unreachable)
    with pytest.raises(ConnectionError, match="name resolution.*`data_dir`"):
        datasets.load("fashion_mnist", data_dir=str(tmp_path))


def test_load_rejects_another_name(tmp_path):
    with pytest.raises(ValueError, match="Received: name=cifar10"):
        datasets.load("cifar10", data_dir=str(tmp_path))


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
