"""Known noise on labelled images, to test what a model learns of it."""

import numbers

import numpy as np

from ..data import generator

__all__ = ["noisy_regions"]

_PATTERNS = ("uniform", "spatial", "conditional", "spatial-conditional")


def noisy_regions(x, y, pattern, variance, labels=(0, 1, 2, 3, 4), seed=None):
    """Adds Gaussian noise to parts of labelled images, as P1, Sec. 5.3.

        uniform               everywhere
        spatial               the upper half of every image
        conditional           the images whose label is in `labels`
        spatial-conditional   the upper half of these

    P1's labels are the digits 0 to 4 and its variances 0.01 and 0.1. The noise is not
    clipped, so that its variance is the one asked for: values leave [0, 1], which the
    Gaussian likelihood takes. (P1 says nothing of clipping, but its Table 3, where 0.1
    comes back as 0.1, excludes it: clipping would about halve the noise on MNIST.)

    Equal seeds draw equal noise for every pattern and variance, up to its scale.

    Args:
        x: images, `(n, height, width)` or `(n, height, width, channels)`: uint8, which
            is divided by 255, or float.
        y: integer label of each image, `(n,)`; None where the pattern needs none.
        pattern: one of the names above.
        variance: variance of the noise, in units of the images in [0, 1].
        labels: the labels whose images are noisy under the conditional patterns.
        seed: int, `numpy.random.Generator`, or None for a fresh one from Python's
            `random`, which `keras.utils.set_random_seed` seeds.

    Returns:
        The noisy images, float32 of the shape of `x`, and where noise was added: a bool
            array that broadcasts to it, `(n, height, 1)` or `(n, height, 1, 1)`. The
            upper half is that of the first `height // 2` rows.

    Raises:
        TypeError: for images of another dtype or labels that are not integers.
        ValueError: for another shape, a pattern that does not exist, a variance below
            0, or labels that a conditional pattern lacks.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import datasets
    >>> x, y = np.zeros((3, 4, 4, 1), "uint8"), np.array([0, 7, 3])
    >>> noisy, mask = datasets.noisy_regions(x, y, "spatial-conditional", 0.01, seed=0)
    >>> mask[:, :, 0, 0].astype(int)
    array([[1, 1, 0, 0],
           [0, 0, 0, 0],
           [1, 1, 0, 0]])
    >>> bool(np.all((noisy != 0) == mask))
    True
    """
    if pattern not in _PATTERNS:
        raise ValueError(
            f"`pattern` must be one of {_PATTERNS}. Received: pattern={pattern}"
        )
    if not isinstance(variance, numbers.Real) or not 0 <= variance < np.inf:
        raise ValueError(
            "`variance` must be a finite number of at least 0. "
            f"Received: variance={variance}"
        )
    x = np.asarray(x)
    if x.ndim not in (3, 4):
        raise ValueError(
            "`x` must be images, (n, height, width) or (n, height, width, channels). "
            f"Received: x of shape {x.shape}"
        )
    if x.dtype == np.uint8:
        clean = x.astype("float32") / np.float32(255)
    elif np.issubdtype(x.dtype, np.floating):
        clean = x.astype("float32")
        if not np.all((clean >= 0) & (clean <= 1)):
            raise ValueError(
                "`x` must be finite and lie in [0, 1], or be uint8. Received: x with "
                f"values from {x.min()} to {x.max()}"
            )
    else:
        raise TypeError(f"`x` must be uint8 or float. Received: x of dtype {x.dtype}")
    mask = np.ones((len(x), x.shape[1]), bool)
    if pattern in ("spatial", "spatial-conditional"):
        mask[:, x.shape[1] // 2 :] = False
    if pattern in ("conditional", "spatial-conditional"):
        mask &= _has_label(y, labels, len(x))[:, None]
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - 2))
    noise = generator(seed).standard_normal(x.shape, dtype="float32")
    return clean + np.float32(variance**0.5) * noise * mask, mask


def _has_label(y, labels, size):
    """Which of the `size` images have one of the labels."""
    if y is None or np.shape(y) != (size,):
        received = "None" if y is None else f"an array of shape {np.shape(y)}"
        raise ValueError(
            f"`y` must be {size} labels, one for each image. Received: y={received}"
        )
    y, labels = np.asarray(y), np.asarray(labels)
    for name, values in (("y", y), ("labels", labels)):
        if not np.issubdtype(values.dtype, np.integer):
            raise TypeError(
                f"`{name}` must be integers. Received: {name} of dtype {values.dtype}"
            )
    return np.isin(y, labels)
