"""ONNX, LiteRT and OpenVINO files: they compute what the SavedModel computes.

A format's tests are skipped where the packages that write and run it are missing.
"""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import keras_vae_variance as kvv

SHAPE = (8, 8, 1)
L = 3


def onnx(path):
    """Names of a file's arguments, and its function of them."""
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    results = [result.name for result in session.get_outputs()]
    arguments = [argument.name for argument in session.get_inputs()]
    return arguments, lambda x: dict(zip(results, session.run(None, x), strict=True))


def litert(path):
    """The same of LiteRT."""
    runtime = pytest.importorskip("ai_edge_litert.interpreter")
    runner = runtime.Interpreter(path).get_signature_runner()
    return list(runner.get_input_details()), lambda x: runner(**x)


def openvino(path):
    """The same of OpenVINO, in float32 on every processor."""
    core = pytest.importorskip("openvino").Core()
    model = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [argument.any_name for argument in model.inputs], model


# By format: the file's ending, what reads it, and the package that writes it.
FORMATS = {
    "onnx": (".onnx", onnx, "tf2onnx"),
    "litert": (".tflite", litert, "tensorflow"),
    "openvino": (".xml", openvino, "openvino"),
}


def make(backbone, likelihood, posterior=kvv.posteriors.DiagonalGaussian, **options):
    encoder, decoder = backbone(SHAPE, L, likelihood, **options)
    vae = kvv.VAE(encoder, decoder, posterior(L), likelihood, seed=0)
    # Other values than the initial ones, zeros and ones among them.
    rng = np.random.default_rng(0)
    vae.set_weights([w + rng.uniform(0, 0.1, w.shape) for w in vae.get_weights()])
    return vae


def gaussian(variance):
    return kvv.likelihoods.Gaussian(variance)


MODELS = {
    "mlp, fixed": lambda: make(
        kvv.backbones.mlp,
        gaussian(kvv.variances.Fixed(0.1)),
        # All examples share its variance.
        kvv.posteriors.ConstantGaussian,
        hidden=(16,),
    ),
    "depth_to_space, predicted": lambda: make(
        kvv.backbones.depth_to_space, gaussian(kvv.variances.Predicted())
    ),
    "infogan, optimal": lambda: make(
        kvv.backbones.infogan, gaussian(kvv.variances.MaximumLikelihood())
    ),
    "mlp, bernoulli": lambda: make(kvv.backbones.mlp, kvv.likelihoods.Bernoulli()),
    "mlp, logistic mixture": lambda: make(
        kvv.backbones.mlp, kvv.likelihoods.LogisticMixture(), hidden=(16,)
    ),
}


def check(vae, format, folder):
    """Compares the three files of a model with its SavedModel."""
    suffix, read, writer = FORMATS[format]
    pytest.importorskip(writer)
    vae.export(str(folder / "saved"), verbose=False)
    saved = tf.saved_model.load(str(folder / "saved"))
    rng = np.random.default_rng(1)
    for endpoint in ("reconstruct", "encode", "decode"):
        path = folder / f"{endpoint}{suffix}"
        vae.export(path, format=format, endpoint=endpoint, verbose=False)
        arguments, run = read(str(path))
        name, shape = ("z", (L,)) if endpoint == "decode" else ("x", vae.event_shape)
        assert arguments == [name]
        for n in (5, 1):  # a dynamic batch
            x = rng.random((n, *shape), "float32")
            results, expected = run({name: x}), getattr(saved, endpoint)(x)
            assert len(results) == len(expected)
            for key, value in expected.items():
                # Sums in another order: to 1e-5 of the largest value.
                atol = 1e-5 * np.abs(value).max()
                np.testing.assert_allclose(results[key], value, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_files_compute_what_the_savedmodel_does(format, tmp_path):
    check(MODELS["mlp, fixed"](), format, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("model", MODELS)
def test_files_of_all_models(model, format, tmp_path):
    if format == "openvino" and "mixture" in model:
        pytest.skip("OpenVINO does not run the loop over the levels")
    check(MODELS[model](), format, tmp_path)


def test_the_default_is_reconstruct_and_a_batch_size_may_be_fixed(tmp_path):
    pytest.importorskip("tf2onnx")
    path = tmp_path / "model.onnx"
    vae = MODELS["mlp, fixed"]()
    signature = [keras.InputSpec(shape=(2, *SHAPE), dtype="float32", name="images")]
    vae.export(
        path, format="onnx", verbose=False, input_signature=signature, opset_version=17
    )
    arguments, run = onnx(str(path))
    assert arguments == ["images"]
    x = np.random.default_rng(0).random((2, *SHAPE), "float32")
    for key, value in vae.reconstruct(x).items():
        np.testing.assert_allclose(run({"images": x})[key], value, rtol=1e-5)
    with pytest.raises(Exception, match="(?s)images.*Got: 3 Expected: 2"):
        run({"images": np.concatenate([x, x[:1]])})


def test_the_model_is_as_before(tmp_path):
    """An exported model trains on, and is saved with the same weights."""
    vae = tiny.compiled()
    before = tiny.state(vae), len(vae.layers), vae.get_config()
    vae.export(tmp_path / "model.tflite", format="litert", verbose=False)
    tiny.assert_same(tiny.state(vae), before[0])
    assert (len(vae.layers), vae.get_config()) == before[1:]
    vae.fit(tiny.images(4), verbose=0)
    assert tiny.changed(tiny.state(vae), before[0])


@pytest.mark.parametrize("format, package", [("onnx", "tf2onnx"), ("openvino",) * 2])
def test_a_missing_package_is_named(format, package, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=f"{format} needs `pip install {package}`"):
        tiny.make().export(tmp_path / "model.xml", format=format)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"format": "pickle"}, "must be one of tf_saved_model, onnx, litert, openvino"),
        ({"format": "onnx", "endpoint": "generate"}, "reconstruct, encode, decode"),
        ({"format": "onnx", "sampler": kvv.samplers.Prior()}, "SavedModel alone has"),
        (
            {"format": "onnx", "opset": 17},
            "options of onnx are opset_version.*opset=17",
        ),
        ({"format": "openvino", "opset": 17}, "options of openvino are none"),
        ({"format": "litert", "opset": 17}, "Unknown converter attribute 'opset'"),
        ({"endpoint": "encode"}, "has all endpoints.*endpoint='encode'"),
    ],
)
def test_bad_arguments(arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        tiny.make().export(tmp_path / "model.tflite", verbose=False, **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "format, suffix", [("litert", ".tflite"), ("openvino", ".xml")]
)
def test_the_end_of_the_name_is_checked(format, suffix, tmp_path):
    pytest.importorskip(FORMATS[format][2])
    with pytest.raises(ValueError, match=f"end with '{suffix}'"):
        tiny.make().export(tmp_path / "model", format=format)


@pytest.mark.slow
def test_what_litert_has_not_fails_at_export(tmp_path):
    likelihood = kvv.likelihoods.DiscretizedGaussian()
    vae = make(kvv.backbones.mlp, likelihood, hidden=(16,))
    with pytest.raises(Exception, match="Erf"):
        vae.export(tmp_path / "model.tflite", format="litert", verbose=False)
    assert not list(tmp_path.iterdir())


def test_a_model_in_low_precision_is_refused(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        vae = tiny.make()
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ValueError, match="need float32.*mixed_bfloat16"):
        vae.export(tmp_path / "model.onnx", format="onnx")
    full = tiny.make(weights=1)
    full.set_weights(vae.get_weights())  # as the message says
    x = tiny.images(3)
    mean = full.reconstruct(x)["mean"]
    np.testing.assert_allclose(mean, vae.reconstruct(x)["mean"], atol=0.02)
