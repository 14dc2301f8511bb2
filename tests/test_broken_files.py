"""Files that are damaged, edited or hostile: a plain error, and nothing executed.

Damage is drawn from a seed. What it hits may not matter, such as a date; then the file
is read as it was. A hostile file would write `canary`, where it was obeyed.
"""

import copy
import io
import json
import os
import pickle
import random
import zipfile

import contracts
import keras
import numpy as np
import PIL.Image
import pytest
import tiny
from contracts import cases

import keras_vae_variance as kvv
from keras_vae_variance import samplers

# What Keras, h5py and Python's zipfile raise.
ORDINARY = (
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, members):
    """An archive without a wrong checksum."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def damaged(content, seed, n):
    """`n` copies: every third cut short, in the others one to nine bytes altered."""
    rng = random.Random(seed)
    for i in range(n):
        copied = bytearray(content)
        if i % 3 == 0:
            del copied[rng.randrange(len(copied)) :]
        else:
            for _ in range(rng.randrange(1, 10)):
                copied[rng.randrange(len(copied))] ^= rng.randrange(1, 256)
        yield bytes(copied)


def read_or_refuse(read):
    """What is read, or None where that fails with an ordinary error and its words."""
    try:
        return read()
    except ORDINARY as error:
        assert str(error)
    return None


# --------------------------------------------------------------------------------------
# Models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model, and the members of its file."""
    keras.utils.set_random_seed(0)
    vae = tiny.compiled(variance=kvv.variances.Predicted)
    path = tmp_path_factory.mktemp("saved") / "vae.keras"
    vae.save(path)
    return vae, path, members(path)


def load(path):
    return keras.saving.load_model(path)


def test_damaged_models(saved, tmp_path):
    vae, path, _ = saved
    refused = 0
    for content in damaged(path.read_bytes(), seed=0, n=30):
        (tmp_path / "vae.keras").write_bytes(content)
        loaded = read_or_refuse(lambda: load(tmp_path / "vae.keras"))
        refused += loaded is None
        if loaded is not None:
            pairs = zip(loaded.get_weights(), vae.get_weights(), strict=True)
            for actual, expected in pairs:
                np.testing.assert_array_equal(actual, expected)
    assert refused > 20


def test_damaged_weights_with_a_right_checksum(saved, tmp_path):
    """HDF5 itself has no checksums: some numbers may differ, but no shape does."""
    vae, _, parts = saved
    refused = 0
    for content in damaged(parts["model.weights.h5"], seed=1, n=30):
        path = write(tmp_path / "vae.keras", parts | {"model.weights.h5": content})
        loaded = read_or_refuse(lambda path=path: load(path))
        refused += loaded is None
        if loaded is not None:
            shapes = [weight.shape for weight in vae.weights]
            assert [weight.shape for weight in loaded.weights] == shapes
    assert refused >= 10  # those that are cut short


def test_damaged_states_of_a_run(tmp_path):
    """What `Resume` reads: no shape but the model's, and words of its own or HDF5's."""

    def fit(vae):
        resume = kvv.callbacks.Resume(tmp_path)
        vae.fit(tiny.images(8), epochs=1, callbacks=[resume], verbose=0)
        return vae

    # The optimizer's numbers too; nothing is left to train, so that none is changed.
    fit(tiny.compiled(keras.optimizers.Adam(1e-3)))
    (path,) = tmp_path.glob("*.h5")
    vae = tiny.compiled(keras.optimizers.Adam(1e-3))
    shapes = [weight.shape for weight in vae.weights]
    refused = 0
    for content in damaged(path.read_bytes(), seed=2, n=30):
        path.write_bytes(content)
        refused += read_or_refuse(lambda: fit(vae)) is None
        assert [weight.shape for weight in vae.weights] == shapes
    assert refused >= 10  # those that are cut short


@pytest.mark.parametrize("form", ["png", "jpg", "bmp", "gif"])
def test_damaged_images(form, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6), dtype="uint8")
    path = tmp_path / f"image.{form}"
    PIL.Image.fromarray(pixels).save(path)
    refused = 0
    for content in damaged(path.read_bytes(), seed=3, n=60):
        path.write_bytes(content)
        x = read_or_refuse(lambda: kvv.datasets.from_folder(tmp_path, size=4))
        refused += x is None
        assert x is None or (x.shape[1:3] == (4, 4) and x.dtype == "uint8")
    assert refused >= 10


def places(node, path=()):
    """The paths to all values of a tree of dicts and lists, but the root's."""
    if path:
        yield path
    if isinstance(node, list):
        node = dict(enumerate(node))
    for key, child in node.items() if isinstance(node, dict) else ():
        yield from places(child, (*path, key))


def edited(config, path, value):
    """A copy of a tree with another value in a place."""
    config = copy.deepcopy(config)
    node = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return config


def test_edited_configurations(saved, tmp_path):
    _, _, parts = saved
    config = json.loads(parts["config.json"])
    rng = random.Random(2)
    refused = 0
    everywhere = list(places(config["config"], ("config",)))
    for path in rng.sample(everywhere, 60):
        value = rng.choice([None, "rubbish", -7, 0.5, [1], {"a": 1}])
        content = json.dumps(edited(config, path, value))
        file = write(tmp_path / "vae.keras", parts | {"config.json": content})
        loaded = read_or_refuse(lambda file=file: load(file))
        refused += loaded is None
        assert loaded is None or isinstance(loaded, kvv.VAE)
    assert refused > 20


def test_a_configuration_without_a_part():
    config = tiny.make().get_config()
    for part in ("encoder", "likelihood", "regularizers"):
        rest = {name: value for name, value in config.items() if name != part}
        with pytest.raises(ValueError, match=f"Received: config without {part}"):
            kvv.VAE.from_config(rest)
        with pytest.raises(ValueError, match=f"`{part}` must be"):
            kvv.VAE.from_config({**config, part: "rubbish"})
    with pytest.raises(TypeError, match="unexpected keyword argument 'foreign'"):
        kvv.VAE.from_config({**config, "foreign": 1})


# --------------------------------------------------------------------------------------
# Hostile files


class Hostile:
    """An object that writes a file where it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (self.canary, "w")


def function(module, name):
    return {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": name,
    }


def instance(module, name, config, registered_name=None):
    return {
        "module": module,
        "class_name": name,
        "config": config,
        "registered_name": registered_name,
    }


def test_a_lambda_layer(tmp_path):
    canary, path = str(tmp_path / "canary"), tmp_path / "vae.keras"
    encoder = keras.Sequential(
        [
            keras.Input(tiny.SHAPE),
            keras.layers.Lambda(lambda x: (open(canary, "w"), x)[1]),
            keras.layers.Flatten(),
        ]
    )
    tiny.make(encoder=lambda: encoder).save(path)
    os.remove(canary)
    with pytest.raises(ValueError, match="arbitrary code execution"):
        load(path)
    config = json.loads(members(path)["config.json"])["config"]
    with pytest.raises(ValueError, match="arbitrary code execution"):
        kvv.VAE.from_config(config)
    assert not os.path.exists(canary)
    keras.saving.load_model(path, safe_mode=False)
    assert os.path.exists(canary)


def test_foreign_objects(saved, tmp_path):
    """In the place of each part, of the optimizer and of what a layer calls."""
    _, _, parts = saved
    config = json.loads(parts["config.json"])
    canary = tmp_path / "canary"
    touch = f"touch {canary}"
    hostile = [
        instance("os", "system", {"command": touch}),
        instance("os", "system", {"command": touch}, "keras_vae_variance>system"),
        instance("subprocess", "Popen", {"args": ["touch", str(canary)]}),
        instance("builtins", "exec", {"source": f"open({str(canary)!r}, 'w')"}),
        instance("pathlib", "Path", {"self": str(canary)}),
        instance("keras.src.utils.python_utils", "func_load", {"code": "eA=="}),
        function("os", "system"),
        function("builtins", "exec"),
        function("keras.utils", "get_file"),
        function("keras.src.saving.saving_lib", "load_model"),
        instance(None, "__lambda__", {"value": ["eA==", None, None]}),
    ]
    encoder = ("config", "encoder")
    dense = (*encoder, "config", "layers", 2)
    assert config["config"]["encoder"]["config"]["layers"][2]["class_name"] == "Dense"
    everywhere = [
        *(("config", part) for part in ("encoder", "posterior", "likelihood", "prior")),
        ("config", "regularizers", 0),
        ("config", "likelihood", "config", "variance"),
        (*dense, "config", "activation"),
        (*dense, "config", "kernel_initializer"),
        ("compile_config", "optimizer"),
    ]
    count = 0
    for payload in hostile:
        for path in everywhere:
            content = json.dumps(edited(config, path, payload))
            file = write(tmp_path / "vae.keras", parts | {"config.json": content})
            with pytest.raises((ValueError, TypeError)):
                load(file)
            assert not canary.exists(), (payload, path)
            count += 1
    assert count == len(hostile) * len(everywhere)


def test_pickled_weights(saved, tmp_path):
    canary = tmp_path / "canary"
    buffer = io.BytesIO()
    np.savez(buffer, vars=np.array(Hostile(str(canary)), dtype=object))
    parts = dict(saved[2])
    del parts["model.weights.h5"]
    parts["model.weights.npz"] = buffer.getvalue()
    with pytest.raises(ValueError, match="allow_pickle=False|could not be loaded"):
        load(write(tmp_path / "vae.keras", parts))
    assert not canary.exists()
    np.load(io.BytesIO(buffer.getvalue()), allow_pickle=True)["vars"]
    assert canary.exists()


# --------------------------------------------------------------------------------------
# Samplers


@pytest.fixture(scope="module")
def mixture():
    keras.utils.set_random_seed(0)
    x = tiny.images(20)
    return samplers.GaussianMixture(2).fit(tiny.make(), x, seed=0)


def test_damaged_samplers(mixture, tmp_path):
    path = tmp_path / "sampler.npz"
    mixture.save(path)
    refused = 0
    for content in damaged(path.read_bytes(), seed=3, n=60):
        path.write_bytes(content)
        try:
            loaded = samplers.GaussianMixture.load(path)
        except ValueError as error:
            assert "Received: path=" in str(error)
            refused += 1
        else:
            draws = (sampler.sample(5, seed=0) for sampler in (loaded, mixture))
            np.testing.assert_array_equal(*draws)
    assert refused > 40


def test_edited_samplers(mixture, tmp_path):
    path = tmp_path / "sampler.npz"
    mixture.save(path)
    contents = dict(np.load(path))
    for wrong in (
        {"config": '["num_components"]'},
        {"config": '{"num_components": "2"}'},
        {"config": '{"method": "os.system"}'},
        {"mean": np.full((2, 2), np.nan, "float32")},
        {"weights": np.array([np.inf, 1.0], "float32")},
        {"mean": np.array(["a", "b"])},
        {"scale_tril": np.zeros((2, 3, 3), "float32")},
        {"scale_tril": np.zeros((0,), "float32")},
    ):
        np.savez(path, **(contents | wrong))
        with pytest.raises(ValueError, match="broken.*Received: path="):
            samplers.GaussianMixture.load(path)


@pytest.mark.parametrize("entry", ["sampler", "config", "mean"])
def test_pickled_samplers(entry, mixture, tmp_path):
    path, canary = tmp_path / "sampler.npz", tmp_path / "canary"
    mixture.save(path)
    hostile = np.array(Hostile(str(canary)), dtype=object)
    np.savez(path, **(dict(np.load(path)) | {entry: hostile}))
    with pytest.raises(ValueError, match="broken.*Received: path="):
        samplers.GaussianMixture.load(path)
    path.write_bytes(pickle.dumps(Hostile(str(canary))))
    with pytest.raises(ValueError, match="broken.*Received: path="):
        samplers.GaussianMixture.load(path)
    assert not canary.exists()
    pickle.loads(path.read_bytes())
    assert canary.exists()


# --------------------------------------------------------------------------------------
# Configurations of parts


@pytest.mark.parametrize("cls, arguments", cases())
def test_configurations_of_parts(cls, arguments):
    config = contracts.make(cls, arguments).get_config()
    with pytest.raises((TypeError, ValueError), match="foreign"):
        cls.from_config({**config, "foreign": 1})
    hostile = instance("os", "system", {"command": "true"})
    for name, value in config.items():
        # Python takes any value for a flag.
        for wrong in () if isinstance(value, bool) else ([1], {"a": 1}, hostile):
            with pytest.raises((TypeError, ValueError)) as error:
                cls.from_config({**config, name: wrong})
            assert str(error.value)
