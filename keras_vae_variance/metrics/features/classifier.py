"""A small classifier, whose features suit the data that it was trained on."""

import keras

from .base import float32_layers

__all__ = ["classifier", "penultimate"]


def classifier(input_shape, num_classes=10, units=128, name="classifier"):
    """A small convolutional classifier for sets such as MNIST and Fashion-MNIST.

        C(3, 32) C(3, 64), stride 2, C(3, 64), relu; dropout 0.4; dense units, relu;
        dropout 0.4; dense num_classes

    with 460,000 parameters at `(28, 28, 1)`. The networks of ImageNet see little in
    images of 28 by 28 grey pixels; `examples/train_classifier.py` trains this one in a
    few minutes, and `penultimate` makes features of it.

    Args:
        input_shape: `(height, width, channels)`, of images in [0, 1].
        num_classes: number of classes.
        units: width of the dense layer before the last, the number of features.
        name: name of the model, which its features carry. Name the data and, where
            several are trained, the seed: a distance compares with those by the same
            weights alone.

    Returns:
        An uncompiled Keras model, from `(n, height, width, channels)` to logits,
        `(n, num_classes)`.

    Example:

    >>> import keras, numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), dtype="float32")
    >>> model = kvv.metrics.features.classifier((8, 8, 1), name="noise_classifier")
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile("adam", loss)
    >>> _ = model.fit(x, np.arange(64) % 10, verbose=0)
    >>> features = kvv.metrics.features.penultimate(model)
    >>> features.name, features.output_shape
    ('noise_classifier', (None, 128))
    """
    layers = keras.layers
    with float32_layers():
        x = images = keras.Input(input_shape, name="images")
        for channels, stride in ((32, 2), (64, 2), (64, 1)):
            x = layers.Conv2D(channels, 3, stride, "same", activation="relu")(x)
        x = layers.Dropout(0.4)(layers.Flatten()(x))
        x = layers.Dense(units, activation="relu", name="features")(x)
        x = layers.Dropout(0.4)(x)
        logits = layers.Dense(num_classes, name="logits")(x)
        return keras.Model(images, logits, name=name)


def penultimate(model):
    """The features of a trained classifier: what its last layer is given.

    Args:
        model: a functional or sequential Keras model of images in [0, 1], such as
            `classifier`, whose last layer is given vectors.

    Returns:
        A Keras model of the same weights and name.

    Raises:
        ValueError: if the last layer is not given vectors.

    Example:

    >>> import keras_vae_variance as kvv
    >>> model = kvv.metrics.features.classifier((28, 28, 1), units=64, name="mnist")
    >>> kvv.metrics.features.penultimate(model).output_shape
    (None, 64)
    """
    vectors = model.layers[-1].input
    if isinstance(vectors, (list, tuple)) or len(vectors.shape) != 2:
        raise ValueError(
            "The last layer of `model` must be given one vector an image. "
            f"Received: model={model.name} whose last layer is {model.layers[-1]}"
        )
    return keras.Model(model.inputs[0], vectors, name=model.name)
