"""Handwritten digits that need no download."""

import numpy as np

__all__ = ["digits"]


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
