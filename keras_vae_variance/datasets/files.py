"""Users' own images, from a folder."""

import concurrent.futures
import os
import pathlib

import numpy as np

from .images import check_crop, check_size, resized

__all__ = ["from_folder"]

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def from_folder(path, size=None, crop=None, channels=None, stream=False):
    """The images of a folder and of the folders in it, as uint8.

    In the order of their paths, as text: `10.png` comes before `9.png`. Read are the
    files that end in bmp, gif, jpeg, jpg, png, tif, tiff or webp, in capitals too,
    except hidden ones; of an animation, the first frame.

    All images must be of one size and number of channels, or be made so by `size` and
    `channels`. Where they do not fit into memory, `stream=True` reads them one by one:

        images = datasets.from_folder("faces", size=64, crop=140, stream=True)
        vae.fit(images.shuffle(10_000).batch(256))

    Args:
        path: the folder.
        size: height and width to resize to, an integer or a pair, as `resize` does;
            None for the images' own.
        crop: side of the centred square (or height and width) to cut out first; None
            for the whole image.
        channels: 1 for grey, 3 for colours, 4 for colours and opacity, into which all
            images are converted; None for those of the files.
        stream: whether to return a `tf.data.Dataset` of single images in place of an
            array, for the caller to shuffle and batch.

    Returns:
        The images, uint8 of shape `(n, height, width, channels)`, or a data set of
            tensors of shape `(height, width, channels)`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image, or one that cannot be read, has more than 8
            bits a channel, is smaller than the crop, or differs in shape from the
            first; the message names the file. A stream raises
            `tf.errors.InvalidArgumentError` of the same message once it comes to the
            file.

    Example:

    >>> import pathlib, tempfile
    >>> import keras, numpy as np
    >>> from keras_vae_variance import datasets
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a.png", "b.png"):
    ...         keras.utils.save_img(pathlib.Path(folder) / name, np.ones((9, 9, 3)))
    ...     x = datasets.from_folder(folder, size=8, channels=1)
    >>> x.shape, x.dtype
    ((2, 8, 8, 1), dtype('uint8'))
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`path` must be a folder of images. Received: path={path}"
        )
    if channels not in (None, *_MODES):
        raise ValueError(
            f"`channels` must be 1, 3, 4 or None. Received: channels={channels}"
        )
    size = check_size(size)
    check_size(crop, "crop")
    files = sorted(_files(folder))
    if not files:
        raise ValueError(
            f"`path` must hold images that end in {', '.join(_ENDINGS)}. "
            f"Received: path={path}"
        )
    shape = _read(files[0], size, crop, channels).shape

    def read(file):
        image = _read(file, size, crop, channels)
        if image.shape != shape:
            raise ValueError(
                f"All images must have the shape of the first, {shape}; give `size` "
                f"or `channels` to make them so. Received: {file} of shape "
                f"{image.shape}"
            )
        return image

    if stream:
        return _stream(files, read, shape)
    x = np.empty((len(files), *shape), "uint8")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for i, image in enumerate(pool.map(read, files)):
            x[i] = image
    return x


def _files(folder):
    """Paths of the images under a folder, as text."""
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if file.suffix.lower() in _ENDINGS and file.is_file() and not hidden:
            yield file.as_posix()


def _read(file, size, crop, channels):
    """One image as an array."""
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(file) as opened:
            image = PIL.ImageOps.exif_transpose(opened)  # as the camera was held
            if image.mode.startswith(("I", "F")):
                raise ValueError(
                    "An image must have at most 8 bits a channel. "
                    f"Received: mode={image.mode}"
                )
            if channels is not None:
                mode = _MODES[channels]
            elif image.has_transparency_data:
                mode = "RGBA"
            else:
                mode = "L" if image.mode in ("1", "L") else "RGB"
            pixels = np.array(image.convert(mode))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        return np.asarray(resized(pixels, size, check_crop(crop, pixels.shape)))
    # Of a broken file, Pillow raises any of these.
    except (
        OSError,
        SyntaxError,
        ValueError,
        PIL.Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"{error}. Received: {file}") from error


def _stream(files, read, shape):
    """A data set that reads the files as it goes."""
    import tensorflow as tf

    def image(file):
        pixels = tf.numpy_function(lambda f: read(f.decode()), [file], tf.uint8)
        return tf.ensure_shape(pixels, shape)

    dataset = tf.data.Dataset.from_tensor_slices(files)
    return dataset.map(image, num_parallel_calls=tf.data.AUTOTUNE)
