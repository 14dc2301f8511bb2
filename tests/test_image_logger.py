"""Pictures of a model while it trains: what they show, and that it trains the same."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from figures import assert_readable, drawn
from tiny import images

import keras_vae_variance as kvv
from keras_vae_variance.callbacks import ImageLogger

EAGER = {"run_eagerly": True}  # where nothing is there to be compiled


def fit(vae, *callbacks, x=None, **arguments):
    arguments = {"batch_size": 8, "epochs": 2, "verbose": 0, **arguments}
    x = images(20) if x is None else x
    return vae.fit(x, callbacks=list(callbacks), **arguments).history


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def figures(logger, vae):
    """What the logger draws of the model as it is."""
    logger.set_model(vae)
    return logger._figures("A title")


class Draws(kvv.samplers.Prior):
    """A sampler whose fit draws from Python's random state, as new layers do."""

    def fit(self, vae, x, seed=None):
        keras.layers.Dropout(0.5)
        return super().fit(vae, x, seed)


# --------------------------------------------------------------------------------------
# What is written, and when


def test_overview_and_latents_are_those_of_the_model(tmp_path):
    x, y = images(12, seed=1), np.arange(12) % 3
    sampler = kvv.samplers.GaussianMixture(2)
    logger = ImageLogger(
        x, tmp_path, num_images=5, labels=y, sampler=sampler, seed=np.int64(4)
    )
    vae = tiny.make(variance=kvv.variances.Predicted)
    found = figures(logger, vae)
    assert list(found) == ["overview", "latents"]
    overview = found["overview"]
    expected = {
        "original": {"mean": x[:5]},
        "reconstruction": vae.reconstruct(x[:5]),
        "prior": vae.generate(5, seed=4),
        "GaussianMixture": vae.generate(
            5, sampler=kvv.samplers.GaussianMixture(2).fit(vae, x, seed=4), seed=4
        ),
    }
    rows = [axes.get_ylabel() for axes in overview.axes[:-1]]
    assert rows == [
        "original",
        *["reconstruction", "stddev", "prior", "stddev", "GaussianMixture", "stddev"],
    ]
    for name, decoded in expected.items():
        row = rows.index(name)
        mean = keras.ops.convert_to_numpy(decoded["mean"])
        tiles = drawn(overview, row)
        for i in range(5):
            tile = tiles[:, 7 * i : 7 * i + 6]
            np.testing.assert_allclose(tile, mean[i, ..., 0], rtol=1e-6)
        if "variance" in decoded:
            stddev = np.sqrt(keras.ops.convert_to_numpy(decoded["variance"]))
            tile = drawn(overview, row + 1)[:, :6]
            np.testing.assert_allclose(tile, stddev[0, ..., 0], rtol=1e-6)
    # All of x is in the scatter.
    dots = found["latents"].axes[0].collections[0].get_offsets()
    codes = keras.ops.convert_to_numpy(vae.encode(x).mean)
    np.testing.assert_allclose(np.sort(dots, axis=0), np.sort(codes, axis=0), rtol=1e-6)
    assert {t.get_text() for t in found["latents"].axes[0].texts} <= {"0", "1", "2"}
    for figure in found.values():
        assert figure.get_suptitle() == "A title"
        assert_readable(figure)
    # Another seed, other samples.
    other = figures(ImageLogger(x[:5], tmp_path, seed=5), vae)["overview"]
    assert not np.allclose(drawn(other, 3), drawn(overview, 3), equal_nan=True)


def test_files_of_every_nth_epoch(tmp_path):
    folder = tmp_path / "a" / "b"
    logger = ImageLogger(images(3), str(folder), every=2, num_images=4)
    vae = tiny.compiled(compile=EAGER)
    fit(vae, logger, epochs=3)
    assert files(folder) == ["latents_0002.png", "overview_0002.png"]
    # A second fit goes on where Keras's epochs do.
    fit(vae, logger, initial_epoch=3, epochs=4)
    assert files(folder)[1] == "latents_0004.png"
    for path in folder.iterdir():
        assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 2000


def test_every_kind_of_image_model(tmp_path):
    """Other likelihoods, posteriors, channels, dtypes and latent dimensions."""
    shape = (6, 5, 3)
    x = np.random.default_rng(0).integers(0, 256, (9, *shape), dtype="uint8")
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
    networks = kvv.backbones.mlp(shape, 3, likelihood, hidden=(4,))
    vae = kvv.VAE(
        *networks, kvv.posteriors.Deterministic(3), likelihood, regularizers=[]
    )
    overview, latents = figures(ImageLogger(x, tmp_path), vae).values()
    assert latents.axes[0].get_xlabel().startswith("principal component 1 (")
    dots = latents.axes[0].collections[0].get_offsets()
    z = keras.ops.convert_to_numpy(vae.encode(x).mean)
    spread = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)[:2]
    np.testing.assert_allclose(np.linalg.norm(dots, axis=0), spread, rtol=1e-4)
    tile = drawn(overview, 0)[:, :5]
    np.testing.assert_allclose(tile, x[0] / 255.0, atol=1e-6)
    vae = tiny.make(
        likelihood=kvv.likelihoods.Bernoulli,
        posterior=kvv.posteriors.ConstantGaussian,
        prior=kvv.priors.Floating,
        regularizers=lambda: [kvv.regularizers.BILBO()],
    )
    for latent_dim, found in ((1, ["overview"]), (3, ["overview", "latents"])):
        networks = kvv.backbones.mlp(shape, latent_dim, likelihood, hidden=(4,))
        posterior = kvv.posteriors.DiagonalGaussian(latent_dim)
        other = kvv.VAE(*networks, posterior, likelihood)
        assert list(figures(ImageLogger(x[:1], tmp_path), other)) == found
    tensor = keras.ops.convert_to_tensor(images(4))
    assert list(figures(ImageLogger(tensor, tmp_path), vae)) == ["overview", "latents"]


# --------------------------------------------------------------------------------------
# Training stays the same


class Counted(kvv.VAE):
    """Counts how often its objective runs in Python: in graphs, the traces."""

    count = 0

    def objective(self, x, training=True):
        self.count += 1
        return super().objective(x, training)


def random_encoder():
    """An encoder with random state and with running averages of its own."""
    return tiny.dense_encoder(
        keras.layers.BatchNormalization(), keras.layers.Dropout(0.3, seed=1)
    )


def test_training_is_the_same_bit_for_bit(tmp_path):
    ends, counts, words = [], [], []
    for pictures in (False, True):
        vae = tiny.compiled(
            keras.optimizers.Adam(1e-2),
            cls=Counted,
            variance=kvv.variances.MaximumLikelihood,
            encoder=random_encoder,
        )
        callbacks = []
        if pictures:
            callbacks.append(
                ImageLogger(images(12), tmp_path, num_images=3, sampler=Draws())
            )
        random.seed(3)
        np.random.seed(3)
        history = fit(vae, *callbacks, validation_data=images(5))
        ends.append([*tiny.state(vae), ("history", np.array(list(history.values())))])
        counts.append(vae.count)
        words.append((random.random(), np.random.uniform()))
    tiny.assert_same(*ends)
    assert counts[0] == counts[1] and words[0] == words[1]
    assert len(files(tmp_path)) == 4


def test_two_stage_training_is_the_same_bit_for_bit(tmp_path):
    ends = []
    for callbacks in ([], [ImageLogger(images(9), tmp_path, num_images=2)]):
        vae = tiny.compiled(variance=kvv.variances.Predicted, compile=EAGER)
        kvv.fit_two_stage(
            vae,
            images(16),
            epochs=(1, 1),
            tolerance=None,
            batch_size=8,
            verbose=0,
            callbacks=callbacks,
        )
        ends.append(tiny.state(vae))
    tiny.assert_same(*ends)
    assert len(files(tmp_path)) == 4


# --------------------------------------------------------------------------------------
# TensorBoard


def test_tensorboard_gets_the_same_pictures(tmp_path):
    """In the form of `tf.summary.image`, which TensorBoard's image dashboard reads."""
    logs = tmp_path / "logs"
    logger = ImageLogger(images(4), tmp_path / "png", tensorboard=logs)
    # As another callback does that writes none of its own at the end of an epoch.
    with tf.summary.record_if(False):
        fit(tiny.compiled(compile=EAGER), logger)
    (file,) = logs.iterdir()
    found = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "images"
            found[f"{value.tag}_{event.step + 1:04d}.png"] = value.tensor.string_val
    assert sorted(found) == files(tmp_path / "png") and len(found) == 4
    for name, (width, height, png) in found.items():
        assert png == (tmp_path / "png" / name).read_bytes()
        shape = tf.io.decode_png(png).shape
        assert shape[:2] == (int(height), int(width))


# --------------------------------------------------------------------------------------
# Errors


def test_wrong_arguments(tmp_path):
    x = images(4)
    for arguments, words in (
        ({"every": 0}, "Received: every=0"),
        ({"every": 1.0}, "Received: every=1.0"),
        ({"num_images": 0}, "Received: num_images=0"),
        ({"labels": [0, 1]}, r"each of the 4 images. Received: labels of shape \(2,\)"),
        ({"seed": None}, "Received: seed=None"),
        ({"seed": 1.5}, "Received: seed=1.5"),
    ):
        with pytest.raises(ValueError, match=words):
            ImageLogger(x, tmp_path / "none", **arguments)
    for wrong in (x[:0], tf.data.Dataset.from_tensors(x), x.tolist(), np.float32(1.0)):
        with pytest.raises(ValueError, match="`x` must be an array.*Received: x="):
            ImageLogger(wrong, tmp_path / "none")
    assert not files(tmp_path)


def test_models_and_images_that_do_not_fit(tmp_path):
    """Told before any callback works or any step runs."""

    class Works(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise AssertionError("work began")

    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))
    networks = kvv.backbones.mlp((6,), 2, likelihood, hidden=(4,), mean_activation=None)
    points = kvv.VAE(*networks, kvv.posteriors.DiagonalGaussian(2), likelihood)
    points.compile("adam")
    bernoulli = tiny.compiled(likelihood=kvv.likelihoods.Bernoulli)
    x = images(8)
    for vae, data, shown, words in (
        (points, x[:, 0, :, 0], x, r"draws images.*Received: .* of shape \(6,\)"),
        (tiny.compiled(), x, x[..., 0], r"Received: x.shape=\(8, 6, 6\)"),
        (bernoulli, x, 2 * x, r"in \[0, 1\].*Received: values from"),
        (tiny.compiled(), x, x * np.nan, "Received: 288 values of x that are NaN"),
    ):
        before = tiny.state(vae)
        with pytest.raises(ValueError, match=words):
            fit(vae, Works(), ImageLogger(shown, tmp_path / "none"), x=data)
        tiny.assert_same(tiny.state(vae), before)
    assert not files(tmp_path)
