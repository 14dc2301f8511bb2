"""Data sets as NumPy arrays, in the form `(x_train, y_train), (x_test, y_test)`."""

import numpy as np

__all__ = ["digits", "load"]

_TFDS_NAMES = ("mnist", "fashion_mnist")


def digits():
    """The 8x8 handwritten digits that come with scikit-learn: nothing to download.

    1797 grey images with the 17 levels `0, 1/16, ..., 1`, from the test set of
    "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998).

    The split is fixed and stratified: of each digit, the last sixth of its images in
    the file's order is the test set (296 images), the rest the training set (1501).
    Neighbours in the file are mostly by the same writer, so that most test digits are
    in a hand that the training set does not have; a shuffled split would put each hand
    on both sides. No two of the images are equal.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images float32 in [0, 1] of shape
        `(n, 8, 8, 1)`, labels int64 of shape `(n,)`, both in the file's order.

    Example:

    >>> from keras_vae_variance import datasets
    >>> (x_train, y_train), (x_test, y_test) = datasets.digits()
    >>> x_train.shape, x_test.shape
    ((1501, 8, 8, 1), (296, 8, 8, 1))
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = (pixels / 16.0).astype("float32").reshape(-1, 8, 8, 1)
    y = labels.astype("int64")
    is_test = np.zeros(len(y), dtype=bool)
    for digit in range(10):
        (indices,) = np.nonzero(y == digit)
        is_test[indices[-(len(indices) // 6) :]] = True
    return (x[~is_test], y[~is_test]), (x[is_test], y[is_test])


def load(name, data_dir=None, download=True):
    """MNIST or Fashion-MNIST through TensorFlow Datasets, with their official split.

    The images stay uint8: `VAE` divides them by 255 on the device, which is all the
    preprocessing that there is (P0, App. A.1).

    Args:
        name: `"mnist"` or `"fashion_mnist"`.
        data_dir: folder of the prepared data sets; None for the default of TensorFlow
            Datasets (`~/tensorflow_datasets`, or the environment's `TFDS_DATA_DIR`).
        download: whether a set that is not in `data_dir` is downloaded and prepared
            there. A set that is there is read without a network either way.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images uint8 of shape
        `(60000, 28, 28, 1)` and `(10000, 28, 28, 1)`, labels int64 of shapes
        `(60000,)` and `(10000,)`. The order is that of the prepared files: shuffled
        once by TensorFlow Datasets and the same on every machine.

    Raises:
        ValueError: for another name.
        FileNotFoundError: at once, if the set is absent and `download=False`.
        ConnectionError: if the set is absent and cannot be downloaded. TensorFlow
            Datasets retries for some minutes first.

    Example:

    >>> from keras_vae_variance import datasets
    >>> datasets.load("mnist", data_dir="no/such/folder", download=False)
    Traceback (most recent call last):
        ...
    FileNotFoundError: ...
    """
    if name not in _TFDS_NAMES:
        raise ValueError(f"`name` must be one of {_TFDS_NAMES}. Received: name={name}")
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    if not builder.is_prepared():
        received = f"Received: name={name}, data_dir={data_dir}, download={download}"
        if not download:
            raise FileNotFoundError(
                f"There is no prepared data set in {builder.data_path}. Call `load` "
                "with `download=True` once where there is a network, or give the "
                f"`data_dir` that holds the prepared set. {received}"
            )
        try:
            builder.download_and_prepare()
        except OSError as error:
            raise ConnectionError(
                f"The data set could not be downloaded to {builder.data_path}: {error} "
                "Prepare it where there is a network and give that folder as "
                f"`data_dir`. {received}"
            ) from error
    # One batch of everything: the sets are small, and arrays are what `fit` reads
    # fastest.
    train, test = tfds.as_numpy(
        builder.as_dataset(split=["train", "test"], batch_size=-1, as_supervised=True)
    )
    return train, test
