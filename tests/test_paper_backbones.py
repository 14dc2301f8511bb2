"""The other backbones: parameters by hand from the papers, shapes, saving, errors.

Parameters of a convolution are kernel area x channels in x channels out + biases. A
layer before batch normalisation has no biases; the normalisation has four numbers a
channel: scale, offset, and the moving mean and variance.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import DENSE, SMALL, ClassHeads, Heads, arrays, layer_parameters

from keras_vae_variance import backbones
from keras_vae_variance.backbones import (
    barron,
    infogan,
    infogan_faces,
    residual_mlp,
    resnet,
    second_stage,
    small_conv,
    transposed,
)

IMAGES = sorted(set(SMALL) - set(DENSE))
OTHERS = sorted(set(SMALL) - {"depth_to_space", "mlp"})


@pytest.fixture
def zeros(monkeypatch):
    """Networks of zeros, where only their size matters: random numbers take seconds."""

    def call(self, shape, dtype=None):
        return keras.ops.zeros(shape, dtype)

    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", call)


def bn(channels):
    return 4 * channels


def recreated(layer):
    return layer.__class__.from_config(layer.get_config())


def activations(model):
    """Activations of the layers with weights, by name; after a `BN` that layer's."""
    found = {}
    for layer in model.layers:
        if layer.weights and not isinstance(layer, keras.layers.BatchNormalization):
            found[layer.name] = layer.activation.__name__
        elif isinstance(layer, keras.layers.Activation):
            (norm,) = [node.operation for node in layer._inbound_nodes[0].parent_nodes]
            found[norm.name.removesuffix("_norm")] = layer.activation.__name__
    return found


def test_every_backbone_is_tested():
    # Those of several layers and of videos are in tests of their own.
    elsewhere = {"hierarchical", "svg"}
    assert sorted(SMALL) == sorted(set(backbones.__all__) - elsewhere)


def test_p0_celeba(zeros):
    """P0, App. B.2, and the tap."""
    heads = Heads(raw_variance=(128, 128, 1), image=(1,))
    encoder, decoder = transposed((128, 128, 3), 256, heads)
    assert layer_parameters(encoder) == {
        "conv_1": 4 * 4 * 3 * 32 + 32,  # to 64x64x32
        "conv_2": 4 * 4 * 32 * 64 + 64,
        "conv_3": 4 * 4 * 64 * 128 + 128,
        "conv_4": 4 * 4 * 128 * 256 + 256,
        "conv_5": 4 * 4 * 256 * 512 + 512,  # to 4x4x512
        "conv_valid": 4 * 4 * 512 * 1024 + 1024,  # to 1x1x1024
        "features": 1024 * 512 + 512,
    }
    assert layer_parameters(decoder) == {
        "start": 256 * 256 + 256,
        "conv_1x1": 256 * 4096 + 4096,
        "conv_1": 4 * 4 * 4096 * 1024,
        "conv_1_norm": bn(1024),
        "conv_4": 4 * 4 * 1024 * 512,  # to 4x4x512, the tap
        "conv_4_norm": bn(512),
        "conv_16": 4 * 4 * 512 * 256,
        "conv_16_norm": bn(256),
        "conv_64": 4 * 4 * 256 * 128,
        "conv_64_norm": bn(128),
        "mean": 4 * 4 * 128 * 3 + 3,
        "raw_variance_conv_16": 4 * 4 * 512 * 256 + 256,
        "raw_variance_conv_64": 4 * 4 * 256 * 128 + 128,
        "raw_variance": 4 * 4 * 128 * 1 + 1,
        "image": 4 * 4 * 512 * 1 + 1,
    }
    leaky = dict.fromkeys([f"conv_{level}" for level in range(1, 6)], "leaky_relu")
    assert activations(encoder) == {
        **leaky,
        "conv_valid": "leaky_relu",
        "features": "linear",
    }
    found = activations(decoder)
    assert {name for name, value in found.items() if value == "linear"} == {
        "conv_1x1",
        "raw_variance",
        "image",
    }
    assert found.pop("mean") == "sigmoid"
    assert set(found.values()) == {"linear", "leaky_relu"}
    tap = decoder.get_layer("conv_16").input
    assert tap.shape == (None, 4, 4, 512)
    assert decoder.get_layer("raw_variance_conv_16").input is tap
    assert decoder.output["mean"].shape == (None, 128, 128, 3)
    assert decoder.output["raw_variance"].shape == (None, 128, 128, 1)


@pytest.mark.parametrize(
    "side, strides",
    [(5, [4, 2]), (16, [4, 2, 2]), (28, [4, 4, 2]), (40, [4, 4, 2, 2])],
)
def test_transposed_steps(side, strides):
    encoder, decoder = transposed((side, 3, 1), 2, Heads(), channels=32)
    steps = [
        layer.strides[0]
        for layer in decoder.layers
        if isinstance(layer, keras.layers.Conv2DTranspose)
    ]
    assert steps == [1, *strides]
    assert encoder.get_layer("conv_valid").input.shape[1:3] == (4, 4)
    assert decoder.output["mean"].shape == (None, side, 3, 1)


@pytest.mark.parametrize("batch_norm, k, latent_dim", [(False, 4, 8), (True, 5, 16)])
def test_p1_mnist(zeros, batch_norm, k, latent_dim):
    """P1, App. D.1 and App. I.1."""
    encoder, decoder = infogan(
        (28, 28, 1), latent_dim, Heads(), batch_norm=batch_norm, kernel_size=k
    )
    convolutions = {
        "conv_1": k * k * 1 * 64 + 64,  # to 14x14x64
        "conv_2": k * k * 64 * 128 + 128,  # to 7x7x128
    }
    bias = 0 if batch_norm else 1
    dense = {"features": 7 * 7 * 128 * 1024 + bias * 1024}
    up = {
        "hidden": latent_dim * 1024 + bias * 1024,
        "start": 1024 * 6272 + bias * 6272,  # 7x7x128
        "conv_1": k * k * 128 * 64 + bias * 64,  # to 14x14x64
    }
    mean = {"mean": k * k * 64 * 1 + 1}
    if batch_norm:
        dense["features_norm"] = bn(1024)
        up |= {"hidden_norm": bn(1024), "start_norm": bn(6272), "conv_1_norm": bn(64)}
    assert layer_parameters(encoder) == {**convolutions, **dense}
    assert layer_parameters(decoder) == {**up, **mean}
    assert set(activations(encoder).values()) == {"relu"}
    found = activations(decoder)
    assert found.pop("mean") == "sigmoid" and set(found.values()) == {"relu"}
    strides = [layer.strides for layer in encoder.layers if hasattr(layer, "strides")]
    assert strides == [(2, 2), (2, 2)]
    assert decoder.get_layer("mean").input.shape == (None, 14, 14, 64)


def test_p1_celeba(zeros):
    """P1, App. I.2 with 64 latents."""
    encoder, decoder = infogan_faces((64, 64, 3), 64, Heads())
    assert layer_parameters(encoder) == {
        "conv_1": 5 * 5 * 3 * 128 + 128,
        "conv_2": 5 * 5 * 128 * 256,
        "conv_2_norm": bn(256),
        "conv_3": 5 * 5 * 256 * 512,
        "conv_3_norm": bn(512),
        "conv_4": 5 * 5 * 512 * 1024,
        "conv_4_norm": bn(1024),
    }
    assert encoder.output_shape == (None, 4 * 4 * 1024)
    assert layer_parameters(decoder) == {
        "start": 64 * 65536 + 65536,  # 8x8x1024
        "conv_3": 5 * 5 * 1024 * 512 + 512,  # to 16x16x512
        "conv_2": 5 * 5 * 512 * 256,
        "conv_2_norm": bn(256),
        "conv_1": 5 * 5 * 256 * 128,  # to 64x64x128
        "conv_1_norm": bn(128),
        "mean": 5 * 5 * 128 * 3 + 3,
    }
    assert set(activations(encoder).values()) == {"relu"}
    assert activations(decoder) == {
        "start": "linear",
        "conv_3": "relu",
        "conv_2": "relu",
        "conv_1": "relu",
        "mean": "sigmoid",
    }
    # App. I.3, at an eighth of the width.
    encoder, decoder = infogan_faces((128, 128, 3), 256, Heads(), channels=16)
    assert encoder.output_shape == (None, 8 * 8 * 1024 // 8)
    shapes = [
        decoder.get_layer(name).input.shape[1:]
        for name in ("conv_3", "conv_2", "conv_1", "mean")
    ]
    assert shapes == [
        (16, 16, 1024 // 8),
        (32, 32, 512 // 8),
        (64, 64, 256 // 8),
        (128, 128, 128 // 8),
    ]


def test_p2_svhn(zeros):
    """P2, App. B with 20 latents, after its public code."""
    encoder, decoder = small_conv((28, 28, 3), 20, Heads())
    assert layer_parameters(encoder) == {
        "conv_1": 3 * 3 * 3 * 32 + 32,
        "conv_2": 4 * 4 * 32 * 64 + 64,  # to 14x14x64
        "conv_3": 5 * 5 * 64 * 128 + 128,  # to 7x7x128
    }
    assert layer_parameters(decoder) == {
        "start": 20 * 6272 + 6272,  # 7x7x128
        "conv_2": 6 * 6 * 128 * 64 + 64,  # to 14x14x64
        "conv_1": 6 * 6 * 64 * 32 + 32,  # to 28x28x32
        "mean": 5 * 5 * 32 * 3 + 3,
    }
    assert encoder.output_shape == (None, 6272)
    assert set(activations(encoder).values()) == {"relu"}
    assert activations(decoder) == {
        "start": "linear",
        "conv_2": "relu",
        "conv_1": "relu",
        "mean": "sigmoid",
    }


def test_p3_plane(zeros):
    """P3, Sec. 4.1: 4 residual blocks of 200, without an activation of the mean."""
    encoder, decoder = residual_mlp((2,), 2, Heads(raw_variance=None))
    blocks = 4 * 2 * (200 * 200 + 200)
    assert encoder.count_params() == 2 * 200 + 200 + blocks
    assert decoder.count_params() == 2 * 200 + 200 + blocks + 2 * (200 * 2 + 2)
    assert activations(decoder)["mean"] == "linear"


def test_a_residual_block_adds_its_input():
    """With the second layer of each block at 0, blocks pass on what they get."""
    models = [
        *residual_mlp((6, 6, 1), 3, Heads(), units=8),
        *resnet((6, 6, 1), 3, Heads(), channels=2),
    ]
    for model, values in zip(models, 2 * arrays((6, 6, 1), 3), strict=True):
        names = [layer.name for layer in model.layers]
        seconds = [name for name in names if name.startswith("block_")][1::2]
        assert len(seconds) == 4 and all(name.endswith("_2") for name in seconds)
        first = model.get_layer("block_1_1").input
        last = model.layers[names.index(seconds[-1]) + 2].output
        both = keras.Model(model.input, [first, last])
        before, after = both(values)
        assert np.abs(after - before).max() > 1e-3 and np.min(after) >= 0
        for name in seconds:
            layer = model.get_layer(name)
            layer.set_weights([0 * weight for weight in layer.get_weights()])
        before, after = both(values)
        np.testing.assert_array_equal(after, before)


def test_p3_images(zeros):
    """P3, App. B.1 and B.2: as many layers as the paper says, and our widths."""
    encoder, decoder = resnet((28, 28, 1), 256, Heads())
    blocks = 4 * 2 * (3 * 3 * 128 * 128 + 128)
    assert (
        encoder.count_params()
        == ((4 * 4 * 1 * 32 + 32) + (4 * 4 * 32 * 64 + 64) + (4 * 4 * 64 * 128 + 128))
        + blocks
    )
    assert encoder.output_shape == (None, 4 * 4 * 128)
    assert decoder.count_params() == (
        (256 * 2048 + 2048)
        + blocks
        + (4 * 4 * 128 * 64 + 64)
        + (4 * 4 * 64 * 32 + 32)
        + (4 * 4 * 32 * 1 + 1)
    )
    encoder, decoder = resnet((64, 64, 3), 2048, Heads(), convolutions=4, blocks=5)
    assert encoder.output_shape == (None, 4 * 4 * 256)
    for model in (encoder, decoder):
        names = layer_parameters(model)
        assert sum(name.startswith("block") for name in names) == 2 * 5
        assert sum(name.startswith(("conv", "mean")) for name in names) == 4


def test_p4_celeba():
    """P4, Sec. 7 with 16 latents, after the public code of its reference."""
    encoder, decoder = barron((64, 64, 3), 16, Heads())
    assert layer_parameters(encoder) == {
        "conv_1": 5 * 5 * 3 * 32 + 32,  # to 32x32x32
        "conv_2": 5 * 5 * 32 * 32 + 32,
        "conv_3": 5 * 5 * 32 * 64 + 64,
        "conv_4": 5 * 5 * 64 * 64 + 64,
        "conv_5": 5 * 5 * 64 * 128 + 128,  # to 2x2x128
        "conv_6": 5 * 5 * 128 * 64 + 64,  # to 1x1 of 4 x 16
    }
    assert encoder.output_shape == (None, 64)
    assert layer_parameters(decoder) == {
        "conv_6": 5 * 5 * 16 * 128 + 128,  # to 2x2x128
        "conv_5": 5 * 5 * 128 * 128 + 128,
        "conv_4": 5 * 5 * 128 * 64 + 64,
        "conv_3": 5 * 5 * 64 * 64 + 64,
        "conv_2": 5 * 5 * 64 * 32 + 32,
        "conv_1": 5 * 5 * 32 * 32 + 32,  # to 64x64x32
        "mean": 5 * 5 * 32 * 3 + 3,
    }
    found = activations(decoder)
    assert found.pop("mean") == "sigmoid" and set(found.values()) == {"leaky_relu"}
    assert set(activations(encoder).values()) == {"leaky_relu"}
    # The encoder sees 2 x - 1.
    x, _ = arrays((64, 64, 3), 16, batch=1)
    y = 2 * x - 1
    for layer in encoder.layers[2:]:
        y = layer(y)
    np.testing.assert_allclose(encoder(x), y, rtol=1e-5, atol=1e-6)


def test_p1_second_stage():
    """P1, Sec. 6, after Dai and Wipf: the input is concatenated before the heads."""
    encoder, decoder = second_stage((16,), 8, Heads(raw_variance=(1,)))
    hidden = 2 * (1024 * 1024 + 1024)
    assert encoder.count_params() == 16 * 1024 + 1024 + hidden
    assert encoder.output_shape == (None, 16 + 1024)
    assert decoder.count_params() == (
        8 * 1024 + 1024 + hidden + (8 + 1024) * 16 + 16 + (8 + 1024) * 1 + 1
    )
    x, z = arrays((16,), 8)
    np.testing.assert_array_equal(encoder(x)[:, :16], x)
    mean = decoder.get_layer("mean")
    assert mean.activation is keras.activations.linear
    joined = keras.Model(decoder.input, mean.input)
    np.testing.assert_array_equal(joined(z)[:, :8], z)


@pytest.mark.parametrize("name", OTHERS)
def test_outputs_and_gradients(name, tmp_path):
    """Heads' shapes at odd sizes, a gradient for every weight, saving, cloning."""
    shape = (9, 13, 3)
    heads = Heads(raw_variance=None, channel=(1, 1, shape[-1]), image=(1,))
    encoder, decoder = SMALL[name](shape, 5, heads)
    x, z = arrays(shape, 5, batch=4)
    with tf.GradientTape() as tape:
        features = encoder(x, training=True)
        outputs = decoder(z, training=True)
        loss = keras.ops.mean(keras.ops.square(features))
        for output in outputs.values():
            loss += keras.ops.mean(keras.ops.square(output - 2.0))
    assert features.shape == (4, *encoder.output_shape[1:])
    assert {key: tuple(output.shape[1:]) for key, output in outputs.items()} == {
        "mean": shape,
        "raw_variance": shape,
        "channel": (1, 1, shape[-1]),
        "image": (1,),
    }
    weights = encoder.trainable_variables + decoder.trainable_variables
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    for weight, gradient in zip(weights, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.all(np.isfinite(gradient)) and np.any(gradient != 0), weight.path
    for model, values in ((encoder, x), (decoder, z)):
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        # As recipes clone a decoder, to regularize its layers.
        clone = keras.models.clone_model(model, clone_function=recreated)
        clone.set_weights(model.get_weights())
        before = model(values)
        for after in (loaded(values), clone(values)):
            keras.tree.assert_same_structure(before, after)
            keras.tree.map_structure(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("name", sorted(set(OTHERS) - set(DENSE)))
def test_odd_sizes_are_cut_from_even_ones(name):
    """At the bottom and at the right, from the decoder of the next larger size."""
    larger = (12, 16, 2) if name in ("infogan", "small_conv") else (16, 16, 2)
    _, odd = SMALL[name]((9, 13, 2), 3, Heads())
    _, even = SMALL[name](larger, 3, Heads())
    even.set_weights(odd.get_weights())
    _, z = arrays((9, 13, 2), 3)
    mean, whole = odd(z)["mean"], even(z)["mean"]
    if name != "barron":
        np.testing.assert_array_equal(mean, whole[:, :9, :13])
    else:  # cut before its last convolution, a 5x5 one, which then sees zeros
        np.testing.assert_allclose(mean[:, :7, :11], whole[:, :7, :11], atol=1e-6)
        assert np.abs(mean - whole[:, :9, :13]).max() > 1e-4


@pytest.mark.parametrize("name", OTHERS)
def test_heads_and_precision(name):
    """Several numbers a pixel, the mean's activation, float32 outputs in half."""
    shape = (6, 5, 3)
    x, z = arrays(shape, 2)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        encoder, decoder = SMALL[name](shape, 2, ClassHeads(3, 7))
        _, other = SMALL[name](
            shape, 2, Heads(raw_variance=None, image=(1,)), mean_activation="tanh"
        )
    finally:
        keras.config.set_dtype_policy(before)
    assert keras.backend.standardize_dtype(encoder(x).dtype) == "float16"
    logits = decoder(z)["logits"]
    assert logits.shape == (2, *shape[:-1], 3, 7) and np.min(logits) > 0
    assert other.get_layer("mean").activation is keras.activations.tanh
    assert other.get_layer("raw_variance").activation is keras.activations.linear
    for output in (logits, *other(z).values()):
        assert keras.backend.standardize_dtype(output.dtype) == "float32"
    for weight in encoder.weights + decoder.weights + other.weights:
        assert keras.backend.standardize_dtype(weight.dtype) == "float32"


def test_only_two_backbones_have_a_tap():
    """Elsewhere variance heads and means share their input."""
    for name in IMAGES:
        _, decoder = SMALL[name]((16, 16, 1), 2, Heads(raw_variance=None))
        mean, variance = map(decoder.get_layer, ("mean", "raw_variance"))
        tapped = mean.input is not variance.input
        assert tapped == (name in ("depth_to_space", "transposed")), name


def test_batch_normalisation():
    """It is over all replicas on TensorFlow, whose only means is this flag."""
    models = [
        *infogan((8, 8, 1), 2, Heads(), channels=2, units=4),
        *infogan_faces((8, 8, 1), 2, Heads(), channels=2),
        *transposed((8, 8, 1), 2, Heads(), channels=32),
    ]
    layers = [
        layer
        for model in models
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(layers) == 1 + 3 + 3 + 2 + 0 + 2
    assert all(layer.synchronized for layer in layers)
    x, _ = arrays((8, 8, 1), 2, batch=6)
    before = models[0](x)
    y = models[0](x, training=True)
    assert np.abs(y - before).max() > 1e-3
    assert np.abs(models[0](x) - before).max() > 1e-4, "the averages have not moved"


@pytest.mark.parametrize("name", OTHERS)
def test_bad_arguments(name):
    good = {"input_shape": (8, 8, 1), "latent_dim": 2, "likelihood": Heads()}
    bad = {"input_shape": (8, 8, 0), "latent_dim": 0, "likelihood": Heads}
    for argument, value in bad.items():
        with pytest.raises(ValueError, match=f"`{argument}` must be") as error:
            SMALL[name](**{**good, argument: value})
        assert str(error.value).endswith(f"Received: {argument}={value}")
    if name not in DENSE:
        for shape in [(28, 28), (2,), (4, 4, 4, 1)]:
            with pytest.raises(ValueError, match="another backbone") as error:
                SMALL[name](shape, 2, Heads())
            assert str(error.value).endswith(f"Received: input_shape={shape}")


@pytest.mark.parametrize(
    "backbone, argument, values",
    [
        (barron, "channels", [0, 1.5, None]),
        (infogan, "channels", [0]),
        (infogan, "units", [-1]),
        (infogan, "kernel_size", [(4, 4)]),
        (infogan_faces, "channels", [True]),
        (residual_mlp, "units", ["a"]),
        (residual_mlp, "blocks", [0]),
        (resnet, "convolutions", [0]),
        (resnet, "blocks", [2.0]),
        (resnet, "channels", [0]),
        (small_conv, "channels", [0]),
        (transposed, "channels", [0, 48]),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_bad_sizes(backbone, argument, values):
    for value in values:
        with pytest.raises(ValueError, match=f"`{argument}` must be") as error:
            backbone((8, 8, 1), 2, Heads(), **{argument: value})
        assert str(error.value).endswith(f"Received: {argument}={value!r}")
