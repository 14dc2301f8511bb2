"""Feature extractors: their weights, what they do to images, what they are called."""

import h5py
import keras
import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance.metrics import features

FILE = "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"


def colours(n=3, side=32, seed=0):
    x = np.random.default_rng(seed).uniform(size=(n, side, side, 3))
    return x.astype("float32")


# --------------------------------------------------------------------------------------
# SqueezeNet


@pytest.fixture(scope="module")
def squeezenet_file(tmp_path_factory):
    """Random weights in a file like the public one, names and all."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("squeezenet") / FILE
    fires = [16, 16, 32, 32, 48, 48, 64, 64]
    shapes, channels = {"conv1": (3, 3, 3, 64)}, 64
    for i, width in enumerate(fires, start=2):
        shapes[f"fire{i}/squeeze1x1"] = (1, 1, channels, width)
        shapes[f"fire{i}/expand1x1"] = (1, 1, width, 4 * width)
        shapes[f"fire{i}/expand3x3"] = (3, 3, width, 4 * width)
        channels = 8 * width
    with h5py.File(path, "w") as file:
        for number, (name, shape) in enumerate(shapes.items()):
            group = file.create_group(name)
            names = [f"uniform{number}", f"{name}_b"]
            group.attrs["weight_names"] = [n.encode() for n in names]
            scale = np.sqrt(2 / np.prod(shape[:3]))
            group[names[0]] = (scale * rng.normal(size=shape)).astype("float32")
            group[names[1]] = rng.normal(size=shape[-1:]).astype("float32")
    return path


def correlate(maps, kernel, bias, stride=1, same=True):
    """A convolution with relu of maps `(height, width, channels)`, by SciPy."""
    edge = kernel.shape[0] // 2 if same else 0
    maps = np.pad(maps, ((edge, edge), (edge, edge), (0, 0)))
    result = [
        sum(
            scipy.signal.correlate(maps[..., i], kernel[..., i, o], "valid")
            for i in range(maps.shape[-1])
        )
        for o in range(kernel.shape[-1])
    ]
    result = np.stack(result, axis=-1)[::stride, ::stride] + bias
    return np.maximum(result, 0)


def pool(maps):
    windows = np.lib.stride_tricks.sliding_window_view(maps, (3, 3), axis=(0, 1))
    return windows[::2, ::2].max(axis=(-2, -1))


def test_squeezenet_is_what_caffe_computes(squeezenet_file):
    """Blue, green, red from 0 to 255, less the means; then the layers by SciPy."""
    (image,) = colours(1, side=227)
    with h5py.File(squeezenet_file) as file:

        def weights(name):
            return [np.float64(file[name][w]) for w in file[name].attrs["weight_names"]]

        x = 255.0 * image[..., ::-1] - [104.0, 117.0, 123.0]
        x = pool(correlate(x, *weights("conv1"), stride=2, same=False))
        for i in (2, 3):
            x = correlate(x, *weights(f"fire{i}/squeeze1x1"))
            x = np.concatenate(
                [correlate(x, *weights(f"fire{i}/expand{s}x{s}")) for s in (1, 3)], -1
            )
    assert x.shape == (56, 56, 128)
    model = features.squeezenet(squeezenet_file)
    joined = [layer for layer in model.layers if "concatenate" in layer.name]
    assert len(joined) == 8
    actual = keras.Model(model.input, joined[1].output)(image[None])
    np.testing.assert_allclose(actual[0], x, rtol=1e-3, atol=1e-4 * np.abs(x).max())


def test_squeezenet_of_images_of_any_size(squeezenet_file):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = features.squeezenet(squeezenet_file)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.name == "squeezenet_1_1" and model.count_params() == 722496
    one = model.predict_on_batch(colours(2, side=32))
    assert one.shape == (2, 512) and one.dtype == np.float32
    # Nearest neighbours of a constant image are itself at any size.
    sizes = [model.predict_on_batch(np.full((1, s, s, 3), 0.3)) for s in (8, 300)]
    np.testing.assert_allclose(*sizes, rtol=1e-4)
    assert np.ptp(one) > 0


def test_squeezenet_files_that_do_not_fit(squeezenet_file, tmp_path):
    with pytest.raises(FileNotFoundError):
        features.squeezenet(tmp_path / "absent.h5")
    text = tmp_path / "text.h5"
    text.write_text("no weights")
    with pytest.raises(ValueError, match="layer conv1. Received: weights="):
        features.squeezenet(text)
    other = tmp_path / "other.h5"
    other.write_bytes(squeezenet_file.read_bytes())
    with h5py.File(other, "r+") as file:
        del file["fire3/squeeze1x1"]["uniform4"]
        file["fire3/squeeze1x1"]["uniform4"] = np.zeros((1, 1, 96, 16), "float32")
    with pytest.raises(ValueError, match="Received: .*whose fire3/squeeze1x1"):
        features.squeezenet(other)


@pytest.fixture(scope="module")
def squeezenet(shared):
    return features.squeezenet(shared / "squeezenet" / FILE)


def svhn(shared, n):
    with np.load(shared / "svhn" / "svhn_test_first10000.npz") as archive:
        return archive["X"][:n], archive["y"][:n].ravel()


def test_squeezenet_sees_images(squeezenet, shared):
    """Of the public weights: features are alive, and noise is far from images."""
    x, _ = svhn(shared, 60)
    rng = np.random.default_rng(0)
    real, other = x[:30], x[30:]
    grainy = (other + rng.normal(0, 20, other.shape)).clip(0, 255).astype("uint8")
    noise = rng.integers(0, 256, other.shape, dtype="uint8")
    vectors = squeezenet.predict_on_batch(real / np.float32(255))
    assert 0.4 < (vectors > 0).mean() < 0.8
    assert (vectors.max(axis=0) > 0).mean() > 0.95
    moments = kvv.metrics.Moments.of(real, squeezenet)
    distances = [
        kvv.metrics.frechet_distance(moments, images, squeezenet).value
        for images in (other, grainy, noise)
    ]
    assert 3 * distances[0] < distances[1] and 1.5 * distances[1] < distances[2]


@pytest.mark.slow
def test_squeezenet_tells_digits_apart(squeezenet, shared):
    """A linear model of its features knows SVHN's digits; of pixels it does not."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = svhn(shared, 900)
    x = x / np.float32(255)
    vectors = squeezenet.predict(x, batch_size=100, verbose=0)
    scores = []
    for data in (vectors, x.reshape(len(x), -1)):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, max_iter=500)
        )
        scores.append(model.fit(data[:600], y[:600]).score(data[600:], y[600:]))
    assert scores[0] > 0.45 > 0.3 > scores[1]


# --------------------------------------------------------------------------------------
# Inception of Keras


def test_inception_is_given_what_keras_prepares(monkeypatch, tmp_path):
    asked = []

    def small(**arguments):
        asked.append(arguments)
        inputs = keras.Input(arguments["input_shape"])
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))

    monkeypatch.setattr(keras.applications, "InceptionV3", small)
    model = features.inception_v3()
    assert asked[0]["weights"] == "imagenet" and asked[0]["pooling"] == "avg"
    assert model.name == "inception_v3_imagenet"
    x = colours(2, side=299)
    prepared = keras.applications.inception_v3.preprocess_input(255.0 * x)
    expected = prepared.mean(axis=(1, 2))
    np.testing.assert_allclose(model.predict_on_batch(x), expected, atol=1e-5)
    assert model.predict_on_batch(colours(2, side=20)).shape == (2, 3)
    path = tmp_path / "weights.h5"
    path.touch()
    features.inception_v3(path)
    assert asked[1]["weights"] == str(path)
    with pytest.raises(FileNotFoundError, match="Received: weights="):
        features.inception_v3(tmp_path / "absent.h5")


def test_inception_without_a_network(monkeypatch):
    def unreachable(**arguments):
        raise Exception("URL fetch failure on https://storage: None -- no route")

    monkeypatch.setattr(keras.applications, "InceptionV3", unreachable)
    with pytest.raises(ConnectionError, match="path of a copy.*Received: URL fetch"):
        features.inception_v3()


@pytest.mark.slow
def test_inception_itself(tmp_path):
    network = keras.applications.InceptionV3(include_top=False, weights=None)
    network.save_weights(tmp_path / "notop.weights.h5")
    model = features.inception_v3(tmp_path / "notop.weights.h5")
    x = colours(2, side=299)
    expected = network.predict_on_batch(2 * x - 1).mean(axis=(1, 2))
    actual = model.predict_on_batch(x)
    assert actual.shape == (2, 2048)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)


# --------------------------------------------------------------------------------------
# Inception of 2015


def frozen_graph(channels=2048, pool="pool_3"):
    """A small graph with the tensors, the operations and the version of the real one.

    Its input is one image, as there, and it has an operation that later versions of
    TensorFlow have dropped. It averages the image and maps its colours to channels.
    """
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(1, 1, 3, channels)).astype("float32")
    graph = tf.compat.v1.GraphDef()
    graph.versions.producer = 8
    value = tf.compat.v1.AttrValue
    sides = {size: value() for size in (1, 13, 23)}
    for size, attribute in sides.items():
        attribute.list.i.extend([1, size, size, 1])
    valid = value(s=b"VALID")

    def node(name, operation, *inputs, **attributes):
        new = graph.node.add(name=name, op=operation, input=inputs)
        new.attr["T"].type = tf.float32.as_datatype_enum
        for key, attribute in attributes.items():
            new.attr[key].CopyFrom(attribute)

    def constant(name, array):
        tensor = tf.make_tensor_proto(array)
        new = graph.node.add(name=name, op="Const")
        new.attr["dtype"].type = tensor.dtype
        new.attr["value"].tensor.CopyFrom(tensor)

    constant("image", np.zeros((20, 20, 3), "float32"))
    constant("ExpandDims/dim", np.int32(0))
    node("ExpandDims", "ExpandDims", "image", "ExpandDims/dim")
    constant("ResizeBilinear/size", np.int32([299, 299]))
    node("ResizeBilinear", "ResizeBilinear", "ExpandDims", "ResizeBilinear/size")
    for name, operation, number in (("Sub", "Sub", 128), ("Mul", "Mul", 1 / 128)):
        constant(f"{name}/y", np.float32(number))
        node(
            name, operation, {"Sub": "ResizeBilinear", "Mul": "Sub"}[name], f"{name}/y"
        )
    # Of 299 by 299 pixels, in two steps: float32 would lose digits in one.
    for name, source, size in (("part", "Mul", 13), ("average", "part", 23)):
        average = {"ksize": sides[size], "strides": sides[size], "padding": valid}
        node(name, "AvgPool", source, **average)
    constant("weights", weights)
    node("conv", "Conv2D", "average", "weights", strides=sides[1], padding=valid)
    for name in ("mean", "variance", "beta", "gamma"):
        constant(name, np.full(channels, name in ("variance", "gamma"), "float32"))
    node(
        "conv/batchnorm",
        "BatchNormWithGlobalNormalization",
        *("conv", "mean", "variance", "beta", "gamma"),
        variance_epsilon=value(f=0.0),
        scale_after_normalization=value(b=False),
    )
    last = {"ksize": sides[1], "strides": sides[1], "padding": valid}
    node(pool, "AvgPool", "conv/batchnorm", **last)
    constant("shape", np.int32([1, channels]))
    node(f"{pool}/_reshape", "Reshape", pool, "shape")
    return graph, weights[0, 0]


def test_the_network_of_2015(tmp_path):
    graph, weights = frozen_graph()
    path = tmp_path / "classify_image_graph_def.pb"
    path.write_bytes(graph.SerializeToString())
    network = features.Inception2015(path)
    # A colour is a colour at any size.
    image = colours(5, side=1) * np.ones((1, 40, 30, 1), "float32")
    expected = (255.0 * image[:, 0, 0] - 128) / 128 @ weights
    np.testing.assert_allclose(network(image), expected, rtol=1e-4, atol=1e-4)

    # Grey images, and levels.
    grey = (255 * colours(6, side=8)[..., :1]).round().astype("uint8")
    moments = kvv.metrics.Moments.of(grey, network, batch_size=4)
    assert moments.features == "inception_2015"  # which makes it the FID
    expected = network(np.repeat(grey, 3, axis=-1) / np.float32(255)).mean(0)
    np.testing.assert_allclose(moments.mean, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "graph, message",
    [
        (frozen_graph(channels=64)[0], "2048 channels. Received: path=.* with 64"),
        (frozen_graph(pool="last")[0], r"Received: path=.* without \['pool_3'\]"),
        (None, "frozen graph. Received: path="),
    ],
)
def test_graphs_that_are_others(graph, message, tmp_path):
    path = tmp_path / "graph.pb"
    path.write_bytes(
        b"\xff\xffno graph" if graph is None else graph.SerializeToString()
    )
    with pytest.raises(ValueError, match=message):
        features.Inception2015(path)
    with pytest.raises(FileNotFoundError):
        features.Inception2015(tmp_path / "absent.pb")


# --------------------------------------------------------------------------------------
# Classifiers


def test_classifier_learns_and_its_features_are_its_own(tmp_path):
    (x, y), (x_test, y_test) = kvv.datasets.digits()
    model = features.classifier(x.shape[1:], name="digits_classifier")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=12, verbose=0)
    assert model.evaluate(x_test, y_test, verbose=0)[1] > 0.9

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    network = features.penultimate(loaded)
    assert network.name == "digits_classifier"
    vectors = network.predict_on_batch(x_test)
    assert vectors.shape == (len(x_test), 128)
    logits = model.layers[-1](vectors)
    expected = model.predict_on_batch(x_test)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    # Test digits are digits; half of them upside down are not.
    turned = np.concatenate([x_test[::2], x_test[1::2, ::-1]])
    good, bad = (
        kvv.metrics.frechet_distance(x, other, network).value
        for other in (x_test, turned)
    )
    assert bad > 2 * good


def test_classifier_is_small_and_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = features.classifier((28, 28, 1), 10)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.output.dtype == "float32" and model.output.shape == (None, 10)
    assert model.layers[1].compute_dtype == "float32"
    assert 400_000 < model.count_params() < 500_000


def test_penultimate_of_other_models():
    vectors = [keras.layers.Flatten(), keras.layers.Dense(5)]
    model = keras.Sequential([keras.Input((4, 4, 1)), *vectors], name="flat")
    network = features.penultimate(model)
    x = colours(2, side=4)[..., :1]
    np.testing.assert_array_equal(network.predict_on_batch(x), x.reshape(2, 16))
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="one vector an image. Received: model="):
        features.penultimate(model)
