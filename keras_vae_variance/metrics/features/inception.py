"""The Inception networks: that of Keras, and that of 2015, which defines the FID."""

import pathlib

import keras

from .base import FID_FEATURES, float32_layers

__all__ = ["Inception2015", "inception_v3"]


def inception_v3(weights="imagenet"):
    """Inception v3 with Keras's own ImageNet weights: 2048 features.

    Images of any size are resized to 299 by 299 (bilinear, antialiased) and scaled to
    [-1, 1]; the features are the average over the last map. These weights are not those
    of `Inception2015`: a Frechet distance by them is no FID, and does not compare with
    the papers'.

    Args:
        weights: `"imagenet"`, which Keras downloads once and keeps (88 MB), or the path
            of that file, `inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5`.

    Returns:
        A Keras model named `inception_v3_imagenet`, from float32 images in [0, 1],
        `(n, height, width, 3)`, to `(n, 2048)`.

    Raises:
        FileNotFoundError: if there is no such file.
        ConnectionError: if the weights can neither be found nor downloaded.

    Example:

    >>> import keras_vae_variance as kvv
    >>> features = kvv.metrics.features.inception_v3()      # doctest: +SKIP
    >>> kvv.metrics.frechet_distance(x, samples, features)  # doctest: +SKIP
    """
    if weights != "imagenet" and not pathlib.Path(weights).is_file():
        raise FileNotFoundError(f"No such file. Received: weights={str(weights)!r}")
    with float32_layers():
        try:
            network = keras.applications.InceptionV3(
                include_top=False,
                weights=weights if weights == "imagenet" else str(weights),
                input_shape=(299, 299, 3),
                pooling="avg",
            )
        except Exception as error:  # what Keras raises has no class of its own
            if weights != "imagenet":
                raise
            raise ConnectionError(
                "Keras could not download the ImageNet weights of Inception v3. Pass "
                "the path of a copy as `weights`, or take other features. "
                f"Received: {error}"
            ) from error
        x = images = keras.Input((None, None, 3), name="images")
        x = keras.layers.Resizing(299, 299, antialias=True)(x)
        x = keras.layers.Rescaling(2.0, -1.0)(x)
        return keras.Model(images, network(x), name="inception_v3_imagenet")


class Inception2015:
    """The Inception network of 2015, whose Frechet distance is the FID: 2048 features.

    Heusel et al. (2017) defined the FID by the layer `pool_3` of the frozen TensorFlow
    graph `classify_image_graph_def.pb`, dated 2015-12-05, and the papers report it by
    this network or by conversions of its weights. The graph itself resizes images to
    299 by 299 and scales them; it is given levels from 0 to 255, as in the public code
    of TTUR and of ADM. Conversions resize a little differently, which moves the
    distance in the last digits printed.

    The package has no copy of that file and was not tried with it, only with a small
    graph of the same tensors, version and kind of operations. Compare a first result
    with a published one.

    Args:
        path: the file `classify_image_graph_def.pb`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a frozen graph with the tensors `ExpandDims:0` and
            `pool_3:0`, the latter of 2048 channels.

    Example:

    >>> import keras_vae_variance as kvv
    >>> path = "classify_image_graph_def.pb"
    >>> features = kvv.metrics.features.Inception2015(path)           # doctest: +SKIP
    >>> print(kvv.metrics.frechet_distance(x, samples, features))     # doctest: +SKIP
    FID 8.9 (10000 real, 10000 generated images)
    """

    name = FID_FEATURES
    input_shape = (None, None, None, 3)

    def __init__(self, path):
        import tensorflow as tf
        from google.protobuf.message import DecodeError

        v1 = tf.compat.v1
        graph_def = v1.GraphDef()
        with open(path, "rb") as file:
            try:
                graph_def.ParseFromString(file.read())
            except DecodeError as error:
                raise ValueError(
                    f"The file must be a frozen graph. Received: path={str(path)!r}"
                ) from error
        missing = {"ExpandDims", "pool_3"} - {node.name for node in graph_def.node}
        if missing:
            raise ValueError(
                "The graph must have the nodes `ExpandDims` and `pool_3`. "
                f"Received: path={str(path)!r} without {sorted(missing)}"
            )
        with v1.Graph().as_default() as graph:
            self._images = v1.placeholder(tf.float32, self.input_shape)
            (self._pool,) = tf.import_graph_def(
                graph_def,
                input_map={"ExpandDims:0": self._images},
                return_elements=["pool_3:0"],
                name="",
            )
        if self._pool.shape[-1] != 2048:
            raise ValueError(
                "The layer `pool_3` must have 2048 channels. "
                f"Received: path={str(path)!r} with {self._pool.shape[-1]}"
            )
        # A tf.function would not run it: operations of such old graphs are gone since.
        self._session = v1.Session(graph=graph)

    def __call__(self, images):
        """Features of images in [0, 1], `(n, height, width, 3)`, as `(n, 2048)`."""
        pooled = self._session.run(self._pool, {self._images: 255.0 * images})
        return pooled[:, 0, 0]
