"""WinogradConvolution: `Conv2D`'s weights, results and gradients in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_vae_variance.backbones import depth_to_space, resnet, small_conv, winograd
from keras_vae_variance.likelihoods import Gaussian
from keras_vae_variance.variances import Learned

SIZES = [(3, 1), (2, 1), (4, 2), (6, 2), (9, 3)]  # kernel, stride
# Of relative errors: results have 3e-6, 6e-3 and 7e-4 (`benchmarks/small_maps.py`).
TOLERANCES = {"float32": 5e-6, "mixed_bfloat16": 1e-2, "mixed_float16": 2e-3}


@pytest.mark.parametrize("tile", [4, 2])
@pytest.mark.parametrize("taps", [2, 3])
def test_transforms_filter_exactly(tile, taps):
    """Against NumPy's correlation of a map in float64."""
    random = np.random.default_rng(0)
    to_pixels, of_taps, of_pixels = winograd._transforms(tile, taps, 2)
    x, w = random.normal(size=(3 + taps,) * 2), random.normal(size=(taps, taps))
    products = (of_pixels @ x.ravel()).reshape(len(of_taps), -1)
    y = to_pixels @ (products * (of_taps @ w.ravel())[:, None]).ravel()
    windows = np.lib.stride_tricks.sliding_window_view(x, (taps, taps))
    expected = np.einsum("ijkl,kl->ij", windows, w)
    np.testing.assert_allclose(y.reshape(4, 4), expected, atol=1e-13)
    # The products a tile of the docstring: 36 and 64 for three taps.
    assert products.size == ((tile + taps - 1) * 4 // tile) ** 2


@pytest.mark.parametrize("policy", TOLERANCES)
@pytest.mark.parametrize("kernel_size, strides", SIZES)
def test_training_equals_a_convolution(kernel_size, strides, policy):
    """Results and gradients, by TensorFlow's convolution in float64."""
    random = np.random.default_rng(0)
    x = random.normal(size=(5, 4 * strides, 4 * strides, 24))
    layer = winograd.WinogradConvolution(
        40, kernel_size, strides, padding="same", dtype=policy
    )
    layer.build(x.shape)
    bias = random.normal(size=40)
    # Both sides see the numbers that the dtype can have.
    dtype = layer.compute_dtype
    kernel = random.normal(size=layer.kernel.shape) / kernel_size / 5
    x, kernel = (tf.cast(tf.cast(v, dtype), "float64") for v in (x, kernel))
    layer.set_weights([kernel, bias])
    weights = random.normal(size=(5, 4, 4, 40))

    def gradients(convolve, x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = convolve(x)
            loss = tf.reduce_sum(tf.cast(y, "float64") * weights)
        return [y, *tape.gradient(loss, [x, kernel])]

    got = gradients(
        lambda x: layer(x, training=True),
        tf.cast(x, dtype),
        layer.kernel.value,
    )
    expected = gradients(
        lambda x: tf.nn.conv2d(x, kernel, strides, "SAME") + bias, x, kernel
    )
    for ours, true in zip(got, expected, strict=True):
        error = np.linalg.norm(np.float64(ours) - true) / np.linalg.norm(true)
        assert error < TOLERANCES[policy]
        assert ours.shape == true.shape


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"use_bias": False}])
def test_it_is_a_convolution_otherwise(options):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 4, 4, 3)).astype("float32")
    layer = winograd.WinogradConvolution(5, 3, padding="same", **options)
    plain = keras.layers.Conv2D(5, 3, padding="same", **options)
    layer.build(x.shape)
    plain.build(x.shape)
    # Results of the order of one, for the tolerance.
    weights = [random.normal(size=w.shape) / 6 for w in layer.get_weights()]
    layer.set_weights(weights)
    plain.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(x), plain(x))
    np.testing.assert_allclose(layer(x, training=True), plain(x), atol=1e-5)
    assert layer.compute_output_shape(x.shape) == plain(x).shape
    again = winograd.WinogradConvolution.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 5},
        {"kernel_size": 3, "strides": 2},
        {"kernel_size": (3, 2)},
        {"kernel_size": 3, "padding": "valid"},
        {"kernel_size": 3, "dilation_rate": 2},
        {"kernel_size": 3, "groups": 2},
        {"kernel_size": 3, "data_format": "channels_first"},
    ],
)
def test_other_kernels_are_refused(options):
    layer = winograd.WinogradConvolution(2, **{"padding": "same", **options})
    with pytest.raises(ValueError, match="`kernel_size` must be.*Received: kernel"):
        layer.build((None, 4, 4, 4))


@pytest.mark.parametrize("shape", [(None, 8, 8, 1), (None, 4, 8, 1), (None, 3, 4, 1)])
def test_other_maps_are_refused(shape):
    layer = winograd.WinogradConvolution(1, 3, padding="same")
    with pytest.raises(ValueError, match="must have sides of.*Received: input_shape"):
        layer.build(shape)


BLOCKS = [f"block_{block}_{layer}" for block in range(1, 5) for layer in (1, 2)]


@pytest.mark.parametrize(
    "backbone, shape, expected",
    [
        (depth_to_space, (28, 28, 1), ["conv_3", "conv_3"]),
        (depth_to_space, (64, 64, 3), ["conv_4", "conv_4"]),
        (depth_to_space, (8, 8, 1), []),  # few channels
        (depth_to_space, (32, 64, 1), []),  # maps of 4x8
        (resnet, (28, 28, 1), BLOCKS + BLOCKS),
        (small_conv, (16, 16, 1), []),  # a kernel of 5 and a stride of 2
    ],
)
def test_the_networks_that_have_it(backbone, shape, expected):
    networks = backbone(shape, 2, Gaussian(Learned()))
    layers = [layer for network in networks for layer in network.layers]
    found = [v.name for v in layers if isinstance(v, winograd.WinogradConvolution)]
    assert found == expected


def test_other_paddings_are_convolutions():
    x = keras.Input((4, 4, 64))
    assert winograd.layer_for(x, 64, 3, 1) is winograd.WinogradConvolution
    assert winograd.layer_for(x, 64, 3, 1, "valid") is keras.layers.Conv2D
