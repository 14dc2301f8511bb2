"""depth_to_space and mlp: the papers' layers, shapes, saving, dtypes, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import ClassHeads, Heads, arrays, layer_parameters

from keras_vae_variance.backbones import depth_to_space, layers, mlp

BACKBONES = [depth_to_space, mlp]
IMAGE_SHAPES = [
    (8, 8, 1),
    (9, 13, 3),
    (16, 8, 2),
    (28, 20, 1),
    (28, 28, 1),
    (32, 32, 3),
    (33, 64, 1),
    (64, 64, 3),
    (128, 128, 3),
]


def block_shuffle(x, block):
    """Depth-to-space as TensorFlow and Keras define it, by reshaping in NumPy."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, block, block, c // block**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h * block, w * block, -1)


def test_paper_parameters():
    """P0, App. B.1: kernel area x channels in x channels out + biases, by hand."""
    encoder, decoder = depth_to_space((28, 28, 1), 16, Heads(raw_variance=None))
    assert layer_parameters(encoder) == {
        "conv_1": 4 * 4 * 1 * 16 + 16,  # 32x32x1 to 16x16x16
        "conv_2": 4 * 4 * 16 * 64 + 64,  # to 8x8x64
        "conv_3": 4 * 4 * 64 * 256 + 256,  # to 4x4x256
        "features": 4 * 4 * 256 * 64 + 64,
    }
    assert layer_parameters(decoder) == {
        "start": 16 * 4096 + 4096,  # 1x1x4096, D2S(4) to 4x4x256
        "conv_3": 3 * 3 * 256 * 256 + 256,  # D2S(2) to 8x8x64
        "conv_2": 3 * 3 * 64 * 64 + 64,  # D2S(2) to 16x16x16
        "conv_1": 3 * 3 * 16 * 16 + 16,  # D2S(2) to 32x32x4
        "mean": 5 * 5 * 4 * 1 + 1,  # valid, to 28x28x1
        "raw_variance_conv_2": 3 * 3 * 64 * 128 + 128,  # 8x8x64, D2S(2) to 16x16x32
        "raw_variance_conv_1": 3 * 3 * 32 * 32 + 32,  # D2S(2) to 32x32x8
        "raw_variance": 5 * 5 * 8 * 1 + 1,  # valid, to 28x28x1
    }
    assert encoder.count_params() == 272 + 16_448 + 262_400 + 262_208
    assert decoder.count_params() == (
        69_632 + 590_080 + 36_928 + 2_320 + 101 + (73_856 + 9_248 + 201)
    )


def test_paper_layers():
    encoder, decoder = depth_to_space((28, 28, 1), 16, Heads(raw_variance=None))
    for level, shape in {1: (16, 16, 16), 2: (8, 8, 64), 3: (4, 4, 256)}.items():
        layer = encoder.get_layer(f"conv_{level}")
        assert layer.output.shape == (None, *shape)
        assert layer.activation is keras.activations.relu
    assert encoder.get_layer("features").activation is keras.activations.linear
    for name, shape in {
        "conv_3": (4, 4, 256),
        "conv_2": (8, 8, 64),
        "conv_1": (16, 16, 16),
        "mean": (16, 16, 16),  # 32x32x4 after depth-to-space
        "raw_variance_conv_2": (8, 8, 64),
        "raw_variance_conv_1": (16, 16, 32),
        "raw_variance": (16, 16, 32),
    }.items():
        layer = decoder.get_layer(name)
        assert layer.input.shape == (None, *shape)
        if "conv" in name:
            assert layer.padding == "same"
            assert layer.activation is keras.activations.relu
        else:
            assert layer.kernel.shape == (5, 5, shape[-1] // 4, 1)
    assert decoder.get_layer("start").activation is keras.activations.relu
    assert decoder.get_layer("mean").activation is keras.activations.sigmoid
    tap = decoder.get_layer("conv_2").input
    assert decoder.get_layer("raw_variance_conv_2").input is tap


@pytest.mark.parametrize("shape", [(2, 3, 5, 16), (1, 4, 4, 4), (2, 1, 1, 256)])
@pytest.mark.parametrize("block", [2, 4])
def test_depth_to_space_is_a_block_shuffle(shape, block):
    x = np.arange(np.prod(shape) * block**2, dtype="float32")
    x = x.reshape(*shape[:-1], shape[-1] * block**2)
    y = keras.ops.depth_to_space(x, block)
    np.testing.assert_array_equal(y, block_shuffle(x, block))
    if shape[1:3] == (1, 1):  # the first one of P0's decoder is a reshape
        np.testing.assert_array_equal(y, x.reshape(-1, block, block, shape[-1]))


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 13, 3)])
def test_encoder_mirrors_the_edges(shape):
    """The encoder is its own layers on the image padded by NumPy."""
    encoder, _ = depth_to_space(shape, 2, Heads())
    x, _ = arrays(shape, 2)
    sides = {28: (2, 2), 9: (3, 4), 13: (1, 2)}
    y = np.pad(x, [(0, 0), sides[shape[0]], sides[shape[1]], (0, 0)], "symmetric")
    for layer in encoder.layers[1:]:
        y = layer(y)
    np.testing.assert_allclose(encoder(x), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 32, 1), (25, 31, 3), (33, 64, 1)])
def test_last_convolution_is_the_centre_of_same_padding(shape):
    """Cropping or zero padding, then "valid", equals "same" on the map, then a crop."""
    _, decoder = depth_to_space(shape, 2, Heads(), mean_activation=None)
    _, z = arrays(shape, 2)
    last = keras.Model(decoder.input, decoder.get_layer("conv_1").output)
    y = keras.ops.depth_to_space(last(z), 2)
    mean = decoder.get_layer("mean")
    y = keras.ops.conv(y, mean.kernel, padding="same") + mean.bias
    (height, width), (rows, columns) = shape[:2], y.shape[1:3]
    top, left = (rows - height) // 2, (columns - width) // 2
    y = y[:, top : top + height, left : left + width]
    np.testing.assert_allclose(decoder(z)["mean"], y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", IMAGE_SHAPES, ids=str)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_shapes_and_gradients(backbone, shape):
    """Outputs have the heads' shapes, and every weight gets a gradient through them."""
    keras.utils.set_random_seed(0)
    scalar = (1, 1, 1)
    encoder, decoder = backbone(shape, 5, Heads(raw_variance=None, image=scalar))
    x, z = arrays(shape, 5)
    with tf.GradientTape() as tape:
        features, outputs = encoder(x), decoder(z)
        loss = keras.ops.mean(keras.ops.square(features))
        for output in outputs.values():
            loss += keras.ops.mean(keras.ops.square(output - 2.0))
    assert tuple(features.shape) == (2, *encoder.output_shape[1:])
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "mean": (2, *shape),
        "raw_variance": (2, *shape),
        "image": (2, *scalar),
    }
    weights = encoder.trainable_variables + decoder.trainable_variables
    assert len(weights) == len(encoder.variables + decoder.variables)
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    for weight, gradient in zip(weights, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.all(np.isfinite(gradient)) and np.any(gradient != 0), weight.path


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    "variance_shape",
    [(12, 10, 1), (12, 10, 3), (1, 1, 3), (1, 1, 1), (1,), (7,), (12, 1, 1)],
    ids=str,
)
def test_variance_shapes(backbone, variance_shape):
    _, decoder = backbone((12, 10, 3), 4, Heads(raw_variance=variance_shape))
    outputs = decoder.predict(arrays((12, 10, 3), 4)[1], verbose=0)
    assert outputs["mean"].shape == (2, 12, 10, 3)
    assert outputs["raw_variance"].shape == (2, *variance_shape)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("classes", [(1,), (3 * 256,), (3, 256)], ids=str)
def test_several_numbers_a_pixel(backbone, classes):
    """A head that is not the mean keeps its own activation, here a softplus."""
    _, decoder = backbone((12, 10, 3), 4, ClassHeads(*classes))
    logits = decoder.predict(arrays((12, 10, 3), 4)[1], verbose=0)["logits"]
    assert logits.shape == (2, 12, 10, *classes)
    assert decoder.get_layer("logits").activation is keras.activations.softplus
    assert logits.min() > 0


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("activation", ["sigmoid", None, "tanh"])
def test_mean_activation(backbone, activation):
    _, decoder = backbone(
        (8, 8, 1), 2, Heads(raw_variance=None), mean_activation=activation
    )
    mean, variance = decoder.get_layer("mean"), decoder.get_layer("raw_variance")
    assert mean.activation is keras.activations.get(activation)
    assert variance.activation is keras.activations.linear


def test_channels_of_other_sizes():
    """Width by halvings, 256 at most; the variance head as in the paper at 128x128."""
    encoder, decoder = depth_to_space((128, 128, 3), 8, Heads(raw_variance=None))
    names = [f"conv_{level}" for level in range(1, 6)]
    maps = [encoder.get_layer(name).output.shape[1:] for name in names]
    widths = {64: 16, 32: 64, 16: 256, 8: 256, 4: 256}
    assert maps == [(side, side, width) for side, width in widths.items()]
    assert [decoder.get_layer(name).input.shape[1:] for name in names] == maps
    assert decoder.get_layer("raw_variance_conv_2").kernel.shape == (3, 3, 64, 128)
    assert decoder.get_layer("raw_variance").kernel.shape == (5, 5, 8, 3)

    encoder, decoder = depth_to_space((8, 128, 1), 8, Heads(raw_variance=None))
    assert encoder.get_layer("conv_1").output.shape == (None, 4, 64, 16)
    assert decoder.get_layer("raw_variance_conv_1").input.shape == (None, 4, 64, 16)


def test_features_do_not_limit_the_posterior():
    for latent_dim, features in [(2, 64), (32, 64), (33, 66), (100, 200)]:
        encoder, _ = depth_to_space((8, 8, 1), latent_dim, Heads())
        assert encoder.output_shape == (None, features)


@pytest.mark.parametrize("shape", [(6,), (5, 4), (28, 28, 1), (2, 3, 4, 5)], ids=str)
def test_mlp_takes_any_rank(shape):
    encoder, decoder = mlp(shape, 3, Heads(raw_variance=(1,)), hidden=(20, 10))
    x, z = arrays(shape, 3)
    assert encoder(x).shape == (2, 10)
    assert decoder(z)["mean"].shape == (2, *shape)
    assert decoder(z)["raw_variance"].shape == (2, 1)
    assert [decoder.get_layer(f"hidden_{index}").units for index in (1, 2)] == [10, 20]


def test_mlp_parameters():
    """P4, Sec. 7: 784, 200, 200, 200 and 2, 200, 200, 200, 784."""
    encoder, decoder = mlp((28, 28, 1), 2, Heads())
    hidden = 2 * (200 * 200 + 200)
    assert encoder.count_params() == 784 * 200 + 200 + hidden
    assert decoder.count_params() == 2 * 200 + 200 + hidden + 200 * 784 + 784


def test_mlp_without_hidden_layers_is_linear():
    encoder, decoder = mlp((4, 2), 3, Heads(), mean_activation=None, hidden=())
    x, z = arrays((4, 2), 3)
    np.testing.assert_array_equal(encoder(x), x.reshape(2, 8))
    kernel = np.asarray(decoder.get_layer("mean").kernel)
    np.testing.assert_allclose(
        decoder(z)["mean"], (z @ kernel).reshape(2, 4, 2), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 33, 3)], ids=str)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_save_and_load(backbone, shape, tmp_path):
    """Plain Keras models: loaded without custom objects, bit for bit."""
    models = backbone(shape, 3, Heads(raw_variance=None, image=(1, 1, 1)))
    for model, values in zip(models, arrays(shape, 3), strict=True):
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        before = model.predict(values, verbose=0)
        after = loaded.predict(values, verbose=0)
        keras.tree.assert_same_structure(before, after)
        keras.tree.map_structure(np.testing.assert_array_equal, before, after)


@pytest.fixture(params=["float32", "mixed_bfloat16", "mixed_float16"])
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield keras.config.dtype_policy()
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_outputs_are_float32(backbone, policy):
    shape = (9, 12, 3)
    encoder, decoder = backbone(shape, 2, Heads(raw_variance=None, image=(1, 1, 1)))
    x, z = arrays(shape, 2)
    assert keras.backend.standardize_dtype(encoder(x).dtype) == policy.compute_dtype
    for output in decoder(z).values():
        assert keras.backend.standardize_dtype(output.dtype) == "float32"
    for weight in encoder.weights + decoder.weights:
        assert keras.backend.standardize_dtype(weight.dtype) == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_xla_as_eager(backbone):
    shape = (9, 12, 3)
    models = backbone(shape, 2, Heads())
    for model, values in zip(models, arrays(shape, 2), strict=True):
        compiled = tf.function(model, jit_compile=True)(tf.constant(values))
        for a, b in zip(
            *map(keras.tree.flatten, (model(values), compiled)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "shape", [(28, 28), (28,), (28, 28, 1, 1), (7, 28, 1), (28, 129, 3), (256, 256, 3)]
)
def test_depth_to_space_wants_images(shape):
    with pytest.raises(ValueError, match="another backbone") as error:
        depth_to_space(shape, 2, Heads())
    assert str(error.value).endswith(f"Received: input_shape={shape}")


BAD_ARGUMENTS = {
    "input_shape": [(), None, 28, (28, None, 1), (28, 28, 0), (28.0, 28.0, 1.0), "abc"],
    "latent_dim": [0, -1, 2.0, None, True, (2,)],
    "likelihood": [None, "gaussian", Heads],
}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments(backbone, name):
    good = {"input_shape": (28, 28, 1), "latent_dim": 2, "likelihood": Heads()}
    for value in BAD_ARGUMENTS[name]:
        with pytest.raises(ValueError, match=f"`{name}` must be") as error:
            backbone(**{**good, name: value})
        assert str(error.value).endswith(f"Received: {name}={value}")


@pytest.mark.parametrize("hidden", [200, (20.5,), (0,), "20", (20, None)])
def test_mlp_rejects_wrong_hidden_layers(hidden):
    with pytest.raises(ValueError, match="`hidden`.*Received: hidden="):
        mlp((8,), 2, Heads(), hidden=hidden)


@pytest.mark.parametrize("channels, filters", [(4, 1), (2, 3)])
def test_subpixel_convolution_is_that_after_depth_to_space(channels, filters):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 6, 5, 4 * channels)).astype("float32")
    layer = layers.SubpixelConvolution(filters, "sigmoid")
    plain = keras.layers.Conv2D(filters, 5, activation="sigmoid")
    y = layer(x)
    shuffled = keras.ops.depth_to_space(x, 2)
    plain.build(shuffled.shape)
    weights = [random.normal(size=w.shape) for w in layer.get_weights()]
    layer.set_weights(weights)
    plain.set_weights(weights)
    y = layer(x)
    assert y.shape == layer.compute_output_shape(x.shape) == (2, 8, 6, filters)
    np.testing.assert_allclose(y, plain(shuffled), rtol=1e-4, atol=1e-6)
