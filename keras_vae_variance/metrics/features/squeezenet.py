"""SqueezeNet 1.1, a small network of ImageNet."""

import keras
import numpy as np

from .base import float32_layers

__all__ = ["squeezenet"]

# Channels of the squeezing and of each expanding convolution of fire2 to fire9.
_FIRES = {
    2: (16, 64),
    3: (16, 64),
    4: (32, 128),
    5: (32, 128),
    6: (48, 192),
    7: (48, 192),
    8: (64, 256),
    9: (64, 256),
}
_POOLED = (3, 5)  # followed by a pooling
# What Caffe subtracts, in its order blue, green, red.
_MEANS = (104.0, 117.0, 123.0)


def squeezenet(weights):
    """SqueezeNet 1.1 with its ImageNet weights, for colour images: 512 features.

    Iandola et al. (2016), "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters
    and <0.5MB model size"; 0.7 million parameters without the classifier. Images of any
    size are resized to 227 by 227 (bilinear, antialiased). The weights were converted
    from Caffe, so that the network takes the channels blue, green, red, from 0 to 255
    and less the means 104, 117, 123 of its training; all this is inside the model. The
    features are the average over the last map, `fire9`.

    Args:
        weights: the path of `squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5`,
            3 MB, from the releases of github.com/rcmalli/keras-squeezenet (MIT
            licence).

    Returns:
        A Keras model named `squeezenet_1_1`, from float32 images in [0, 1],
        `(n, height, width, 3)`, to `(n, 512)`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds other weights.

    Example:

    >>> import keras_vae_variance as kvv
    >>> features = kvv.metrics.features.squeezenet(path)    # doctest: +SKIP
    >>> kvv.metrics.frechet_distance(x, samples, features)  # doctest: +SKIP
    """
    with float32_layers():
        model = _network()
    _load(model, weights)
    return model


def _network():
    layers = keras.layers
    x = images = keras.Input((None, None, 3), name="images")
    x = layers.Resizing(227, 227, antialias=True)(x)
    # Red, green, blue: `_load` turns the first kernel round instead of the images.
    x = layers.Rescaling(255.0, [-mean for mean in reversed(_MEANS)])(x)
    x = layers.Conv2D(64, 3, 2, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    for index, (squeeze, expand) in _FIRES.items():
        x = _convolution(squeeze, 1, f"fire{index}_squeeze1x1")(x)
        one = _convolution(expand, 1, f"fire{index}_expand1x1")(x)
        three = _convolution(expand, 3, f"fire{index}_expand3x3")(x)
        x = layers.Concatenate()([one, three])
        if index in _POOLED:
            x = layers.MaxPooling2D(3, 2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, x, name="squeezenet_1_1")


def _convolution(channels, size, name):
    return keras.layers.Conv2D(
        channels, size, padding="same", activation="relu", name=name
    )


def _load(model, path):
    """Loads the file by hand: its names have slashes, which Keras 3 does not allow."""
    import h5py

    with open(path, "rb"):  # else h5py hides that there is no file
        pass
    for layer in model.layers:
        if not layer.weights:
            continue
        name = layer.name.replace("_", "/")
        try:
            with h5py.File(path) as file:
                group = file[name]
                values = [np.array(group[w]) for w in group.attrs["weight_names"]]
        except (OSError, KeyError) as error:
            raise ValueError(
                f"The file must be of Keras, with weights of the layer {name}. "
                f"Received: weights={str(path)!r}"
            ) from error
        shapes = [value.shape for value in values]
        if shapes != [tuple(weight.shape) for weight in layer.weights]:
            raise ValueError(
                f"The file must be of SqueezeNet 1.1. Received: weights={str(path)!r} "
                f"whose {name} has weights of shape {shapes}"
            )
        if name == "conv1":
            values[0] = values[0][:, :, ::-1]
        layer.set_weights(values)
