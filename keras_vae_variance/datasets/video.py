"""Videos: digits that move in a box, and cuts of longer ones."""

import numpy as np

from ..checks import check_integer
from ..data import generator
from .handwritten import digits

__all__ = ["moving_digits", "windows"]


def moving_digits(
    n, length=20, size=64, num_digits=2, images=None, stochastic=True, seed=None
):
    """Videos of digits that move in a box and bounce at its sides.

    As the Moving MNIST of Srivastava et al. (2015), with the stochastic bounces of
    Denton and Fergus (2018): at a side, a digit's velocity is drawn anew, away from the
    side, so that only a distribution can tell what comes. Between bounces a digit
    moves by a whole number of pixels, at most a sixteenth of the box in each direction
    but at least 1, and never rests. Where digits overlap the brighter pixel is seen.

    Args:
        n: number of videos.
        length: frames of each.
        size: side of the box.
        num_digits: digits in each.
        images: the digits, `(m, height, width)` or `(m, height, width, 1)`, uint8 or
            floats in [0, 1], such as MNIST's; None for the training digits of
            `digits()`, 8x8.
        stochastic: whether bounces draw a velocity; else they mirror it.
        seed: an integer, a NumPy generator or None, for fresh videos.

    Returns:
        The videos, uint8 of shape `(n, length, size, size, 1)`.

    Raises:
        ValueError: for numbers below 1, and for digits that do not fit into the box.

    Example:

    >>> from keras_vae_variance import datasets
    >>> x = datasets.moving_digits(2, length=10, size=16, num_digits=1, seed=0)
    >>> x.shape, x.dtype
    ((2, 10, 16, 16, 1), dtype('uint8'))
    """
    arguments = {"n": n, "length": length, "size": size, "num_digits": num_digits}
    for name, value in arguments.items():
        check_integer(name, value, 1)
    images = _grey(digits()[0][0] if images is None else images)
    height, width = images.shape[1:]
    if max(height, width) >= size:
        raise ValueError(
            f"`size` must be above the sides of the digits, {height} and {width}. "
            f"Received: size={size}"
        )
    rng = generator(seed)
    limits = size - np.array([height, width])
    fastest = max(size // 16, 1)
    count = (n, num_digits)
    chosen = images[rng.integers(len(images), size=count)]
    place = rng.integers(0, limits + 1, size=(*count, 2))
    velocity = _velocities(rng, (*count, 2), fastest)
    videos = np.zeros((n, length, size, size, 1), "uint8")
    for t in range(length):
        for i, j in np.ndindex(*count):
            top, left = place[i, j]
            box = videos[i, t, top : top + height, left : left + width, 0]
            np.maximum(box, chosen[i, j], out=box)
        place = place + velocity
        low, high = place < 0, place > limits
        drawn = velocity
        if stochastic:
            fresh = _velocities(rng, velocity.shape, fastest)
            bounced = (low | high).any(axis=-1, keepdims=True)
            drawn = np.where(bounced, fresh, velocity)
        drawn = np.where(low, np.abs(drawn), np.where(high, -np.abs(drawn), drawn))
        velocity, place = drawn, np.clip(place, 0, limits)
    return videos


def windows(frames, length, stride=1):
    """Cuts a long video into sequences, such as `(1965, 28, 20, 1)` of Frey's face.

    Args:
        frames: the video, `(time, ...)`.
        length: frames of a sequence.
        stride: frames from the start of one sequence to that of the next; from
            `length` on they do not overlap.

    Returns:
        An array of the dtype of `frames`, `(n, length, ...)`. Frames after the last
        whole sequence are left out.

    Raises:
        ValueError: for numbers below 1, or a video shorter than one sequence.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import datasets
    >>> datasets.windows(np.arange(6), length=3, stride=2).tolist()
    [[0, 1, 2], [2, 3, 4]]
    """
    check_integer("length", length, 1)
    check_integer("stride", stride, 1)
    frames = np.asarray(frames)
    starts = np.arange(0, len(frames) - length + 1, stride)
    if not len(starts):
        raise ValueError(
            f"`frames` must hold at least {length} frames. "
            f"Received: {len(frames)} frames"
        )
    return frames[starts[:, None] + np.arange(length)]


def _grey(images):
    images = np.asarray(images)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 3 or not len(images):
        raise ValueError(
            "`images` must have the shape (m, height, width) or (m, height, width, 1). "
            f"Received: images.shape={images.shape}"
        )
    if images.dtype != np.uint8:
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                "`images` must be uint8, or floats in [0, 1]. "
                f"Received: values from {images.min()} to {images.max()}"
            )
        images = np.round(255.0 * images).astype("uint8")
    return images


def _velocities(rng, shape, fastest):
    """Whole numbers of pixels, none of them 0."""
    return rng.integers(1, fastest + 1, size=shape) * rng.choice([-1, 1], size=shape)
