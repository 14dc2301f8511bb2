"""Cropping and resizing, as the papers prepare their images."""

import numpy as np

from ..checks import check_integer

__all__ = ["check_crop", "check_size", "resize", "resized"]


def resize(x, size=None, crop=None):
    """Cuts out the centre of images and resizes it, uint8 in and out.

    First the crop, then bilinear interpolation with antialiasing, which averages over
    all the pixels that become one, as image libraries do by default; rounded to the
    nearest level. What the papers do to their images:

        P0, CelebA                 size=128
        P1, CelebA (App. I.2)      crop=140, size=64
        P1, CelebA-HQ (App. I.3)   size=128
        P2, SVHN                   size=28
        P2, CelebA                 size=32

    Args:
        x: images, uint8 of shape `(n, height, width, channels)`.
        size: height and width of the results: one integer for both, a pair, or None for
            no resizing.
        crop: side of the centred square that is kept, or a pair of height and width, or
            None for the whole image.

    Returns:
        The images, uint8 of shape `(n, *size, channels)`.

    Raises:
        TypeError: for images that are not uint8.
        ValueError: for another rank, invalid sizes, or a crop that is larger than the
            images.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import datasets
    >>> faces = np.zeros((2, 218, 178, 3), "uint8")
    >>> datasets.resize(faces, 64, crop=140).shape
    (2, 64, 64, 3)
    """
    x = np.asarray(x)
    if x.ndim != 4:
        raise ValueError(
            "`x` must be images, (n, height, width, channels). "
            f"Received: x of shape {x.shape}"
        )
    if x.dtype != np.uint8:
        raise TypeError(f"`x` must be uint8. Received: x of dtype {x.dtype}")
    size, crop = check_size(size), check_crop(crop, x.shape[1:3])
    height, width = size or crop or x.shape[1:3]
    result = np.empty((len(x), height, width, x.shape[3]), "uint8")
    for start in range(0, len(x), 256):
        part = slice(start, start + 256)
        result[part] = resized(x[part], size, crop)
    return result


def resized(x, size, crop):
    """`resize` of one image or of a batch of equal ones, in a TensorFlow graph too.

    Args:
        x: uint8 array or tensor, `(height, width, channels)` or
            `(n, height, width, channels)`.
        size: a pair or None, from `check_size`.
        crop: a pair or None, from `check_crop`.
    """
    height, width = x.shape[-3:-1]
    if crop is not None:
        # Where the margins differ, the smaller one is above and on the left.
        top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
        x = x[..., top : top + crop[0], left : left + crop[1], :]
        height, width = crop
    if size is not None and size != (height, width):
        import tensorflow as tf

        # On the host: single images are no work for an accelerator.
        with tf.device("CPU"):
            levels = tf.round(tf.image.resize(x, size, antialias=True))
            # The sum of rounded weights can lie just above 1.
            x = tf.saturate_cast(levels, tf.uint8)
    return x


def check_size(size, name="size"):
    """The size as a pair of integers, or None."""
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise ValueError(
            f"`{name}` must be an integer or a pair of them. Received: {name}={size}"
        )
    for side in pair:
        check_integer(name, side, least=1)
    return int(pair[0]), int(pair[1])


def check_crop(crop, shape):
    """The crop as a pair of integers that fits into images of `shape`, or None."""
    pair = check_size(crop, "crop")
    if pair is not None and (pair[0] > shape[0] or pair[1] > shape[1]):
        raise ValueError(
            f"`crop` must fit into the images, which are {shape[0]} by {shape[1]}. "
            f"Received: crop={crop}"
        )
    return pair
