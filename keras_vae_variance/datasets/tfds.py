"""Data sets of TensorFlow Datasets, as the papers use them."""

import numpy as np

from .images import check_crop, check_size, resized

__all__ = ["load"]

_NAMES = ("mnist", "fashion_mnist", "svhn_cropped", "cifar10", "celeb_a")
_NAMES += ("bair_robot_pushing_small",)


def load(name, size=None, crop=None, stream=False, data_dir=None, download=True):
    """The papers' image sets through TensorFlow Datasets, with their official splits.

    The images stay uint8: `VAE` divides them by 255 on the device. Beside that, the
    papers cut and resize some of them, which `resize` describes:

        MNIST, Fashion-MNIST   P0 to P4   load("mnist"), load("fashion_mnist")
        SVHN 28x28             P2         load("svhn_cropped", size=28)
        CIFAR-10 32x32         P2         load("cifar10")
        CelebA 128x128         P0         load("celeb_a", size=128)
        CelebA 64x64           P1         load("celeb_a", size=64, crop=140)
        CelebA 32x32           P2         load("celeb_a", size=32)
        BAIR robot pushing     P2         load("bair_robot_pushing_small")

    BAIR's examples are videos of 30 frames 64x64 from the main camera, 43,264 to train
    and 256 to test; in place of labels they have the robot's actions.

    As arrays, CelebA takes 2.3 GB of memory at 64x64 and 9 GB at 128x128, BAIR 16 GB.
    With
    `stream=True` no more than a few images are in memory:

        train, test = datasets.load("celeb_a", size=128, stream=True)
        vae.fit(train.shuffle(10_000).batch(256), validation_data=test.batch(256))

    Args:
        name: `"mnist"`, `"fashion_mnist"`, `"svhn_cropped"`, `"cifar10"`, `"celeb_a"`
            or `"bair_robot_pushing_small"`.
        size: height and width to resize to, an integer or a pair; None for the images'
            own.
        crop: side of the centred square (or height and width) to cut out first; None
            for the whole image.
        stream: whether to return a `tf.data.Dataset` of single examples in place of
            arrays, for the caller to shuffle and batch.
        data_dir: folder of the prepared data sets; None for the default of TensorFlow
            Datasets (`~/tensorflow_datasets`, or the environment's `TFDS_DATA_DIR`).
        download: whether a set that is not in `data_dir` is downloaded and prepared
            there. A set that is there is read without a network either way.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images uint8 of shape
        `(n, height, width, channels)`, labels int64 of shape `(n,)`; those of CelebA
        are its 40 attributes, bool of shape `(n, 40)`, in the alphabetical order of
        their names. Videos are `(n, time, height, width, channels)`, their actions
        float32 `(n, time, 4)`. As a stream, `train, test`, whose elements are pairs of
        such an image and label. The order is that of the prepared files: shuffled once
        by TensorFlow Datasets and the same on every machine. The extra images of SVHN
        and the validation images of CelebA are in neither half.

    Raises:
        ValueError: for another name, or a size or crop that cannot be.
        FileNotFoundError: at once, if the set is absent and `download=False`.
        ConnectionError: if the set is absent and cannot be downloaded. TensorFlow
            Datasets retries for some minutes first. Where it is the host of CelebA that
            refuses, which is common, download the images by hand and use `from_folder`.

    Example:

    >>> from keras_vae_variance import datasets
    >>> datasets.load("mnist", data_dir="no/such/folder", download=False)
    Traceback (most recent call last):
        ...
    FileNotFoundError: ...
    """
    if name not in _NAMES:
        raise ValueError(f"`name` must be one of {_NAMES}. Received: name={name}")
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    size = check_size(size)
    features = builder.info.features
    if name == "bair_robot_pushing_small":
        shape = features["image_main"].shape[-3:]
    else:
        shape = features["image"].shape
    crop = check_crop(crop, shape)
    if not builder.is_prepared():
        _prepare(
            builder,
            download,
            f"Received: name={name}, data_dir={data_dir}, download={download}",
        )
    halves = builder.as_dataset(split=["train", "test"])
    halves = [_examples(half, size, crop) for half in halves]
    return tuple(halves if stream else map(_arrays, halves))


def _prepare(builder, download, received):
    """Downloads a set, or says what else to do."""
    from tensorflow_datasets.core.download import download_manager, util

    if not download:
        raise FileNotFoundError(
            f"There is no prepared data set in {builder.data_path}. Call `load` with "
            "`download=True` once where there is a network, or give the `data_dir` "
            f"that holds the prepared set. {received}"
        )
    try:
        builder.download_and_prepare()
    except (
        OSError,
        util.DownloadError,
        download_manager.NonMatchingChecksumError,
    ) as error:
        raise ConnectionError(
            f"The data set could not be downloaded to {builder.data_path}: {error} "
            "Prepare it where there is a network and give that folder as `data_dir`, "
            "or download its images by hand and use `from_folder`. "
            f"{received}"
        ) from error


def _examples(dataset, size, crop):
    """Pairs of a prepared image and its label."""
    import tensorflow as tf

    def example(features):
        if "image_main" in features:
            return resized(features["image_main"], size, crop), features["action"]
        if "label" in features:
            label = features["label"]
        else:
            attributes = features["attributes"]
            label = tf.stack([attributes[key] for key in sorted(attributes)])
        return resized(features["image"], size, crop), label

    return dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE)


def _arrays(dataset):
    """All examples in two arrays, filled in place: the sets can be large."""
    count = int(dataset.cardinality())
    x, y = (
        np.empty((count, *spec.shape), spec.dtype.as_numpy_dtype)
        for spec in dataset.element_spec
    )
    start = 0
    for images, labels in dataset.batch(256).as_numpy_iterator():
        stop = start + len(images)
        x[start:stop], y[start:stop] = images, labels
        start = stop
    return x, y
