"""The SavedModel: its endpoints, in a process that has TensorFlow alone."""

import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_vae_variance as kvv

SHAPE = (8, 8, 1)


def make(posterior=None, regularizers=None, prior=None):
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
    encoder, decoder = kvv.backbones.mlp(SHAPE, 3, likelihood, hidden=(16,))
    posterior = posterior or kvv.posteriors.DiagonalGaussian(3)
    return kvv.VAE(
        encoder,
        decoder,
        posterior,
        likelihood,
        prior=prior,
        regularizers=regularizers,
        seed=1,
    )


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((40, *SHAPE), "float32")


@pytest.mark.slow
def test_endpoints_in_a_process_with_tensorflow_alone(tmp_path, x):
    vae = make()
    sampler = kvv.samplers.GaussianMixture(3).fit(vae, x, seed=0)
    folder = str(tmp_path / "model")
    vae.export(folder, sampler=sampler, verbose=False)
    here = tf.saved_model.load(folder)
    seed = tf.constant([3, 4])
    expected = {
        "encode": here.encode(x),
        "decode": here.decode(here.encode(x)["mean"]),
        "reconstruct": here.reconstruct(x),
        "generate": here.generate(tf.constant(5), seed),
        "elbo": here.elbo(x, seed),
    }
    arrays = {
        f"{name}/{key}": value
        for name, results in expected.items()
        for key, value in results.items()
    }
    np.savez(tmp_path / "expected.npz", x=x, **arrays)
    code = f"""
        import sys
        import numpy as np
        import tensorflow as tf

        expected = np.load({str(tmp_path / "expected.npz")!r})
        model = tf.saved_model.load({folder!r})
        x, seed = expected["x"], tf.constant([3, 4])
        results = {{
            "encode": model.encode(x),
            "decode": model.decode(model.encode(x)["mean"]),
            "reconstruct": model.reconstruct(x),
            "generate": model.generate(tf.constant(5), seed),
            "elbo": model.elbo(x, seed),
        }}
        count = 0
        for name, result in results.items():
            for key, value in result.items():
                np.testing.assert_array_equal(value, expected[f"{{name}}/{{key}}"])
                count += 1
        assert count + 1 == len(expected.files), count
        # Batch sizes are dynamic, and arguments and results have names.
        assert model.reconstruct(x[:1])["mean"].shape == (1, 8, 8, 1)
        assert model.generate(tf.constant(17), seed)["mean"].shape == (17, 8, 8, 1)
        named = model.signatures["generate"](num_samples=tf.constant(2), seed=seed)
        assert set(named) == {{"mean", "variance"}}
        served = model.signatures["serving_default"](x=tf.constant(x))
        np.testing.assert_array_equal(served["mean"], expected["reconstruct/mean"])
        assert "keras_vae_variance" not in sys.modules
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_endpoints_are_the_model(tmp_path, x):
    vae = make()
    sampler = kvv.samplers.GaussianMixture(3).fit(vae, x, seed=0)
    vae.export(str(tmp_path / "model"), sampler=sampler, verbose=False)
    served = tf.saved_model.load(str(tmp_path / "model"))
    seed = tf.constant([5, 6])

    def same(results, expected):
        assert set(results) == set(expected)
        for key in results:
            np.testing.assert_allclose(results[key], expected[key], rtol=2e-5)

    latent = vae.encode(x)
    same(served.encode(x), {"mean": latent.mean, "variance": latent.variance})
    same(served.decode(latent.mean), vae.decode(latent.mean))
    same(served.reconstruct(x), vae.reconstruct(x))
    expected = vae.generate(6, sampler=sampler, seed=seed)
    same(served.generate(tf.constant(6), seed), expected)
    same(served.elbo(x, seed), vae.elbo(x, seed=seed))


def test_generate_is_a_function_of_the_seed(tmp_path, x):
    vae = make()
    vae.export(str(tmp_path / "model"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "model"))

    def draw(*seed):
        return served.generate(tf.constant(4), tf.constant(seed))["mean"].numpy()

    np.testing.assert_array_equal(draw(1, 2), draw(1, 2))
    assert np.abs(draw(1, 2) - draw(1, 3)).max() > 1e-4
    assert np.abs(draw(1, 2) - draw(2, 2)).max() > 1e-4


def test_generate_without_a_sampler_draws_from_the_running_prior(tmp_path, x):
    posterior = kvv.posteriors.ConstantGaussian(3, variance=4.0)
    vae = make(posterior, [kvv.regularizers.BILBO()], kvv.priors.Floating())
    vae.calibrate(x)
    variance = vae.prior.running.value.numpy()
    assert (variance > 3.9).all()
    vae.export(str(tmp_path / "model"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "model"))
    seed = tf.constant([0, 1])
    np.testing.assert_allclose(
        served.generate(tf.constant(9), seed)["mean"],
        vae.generate(9, seed=seed)["mean"],
        rtol=2e-5,
    )


def test_a_deterministic_model_has_no_elbo_endpoint(tmp_path, x):
    vae = make(kvv.posteriors.Deterministic(3), regularizers=[])
    vae.export(str(tmp_path / "model"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "model"))
    assert "elbo" not in served.signatures
    assert {"encode", "decode", "generate", "reconstruct"} < set(served.signatures)


def test_an_unfitted_sampler_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Call `fit"):
        make().export(str(tmp_path / "model"), sampler=kvv.samplers.GaussianMixture(3))


def test_arguments_that_the_savedmodel_does_not_take(tmp_path):
    with pytest.raises(ValueError, match="signatures of their own"):
        make().export(
            str(tmp_path / "m"), input_signature=[keras.InputSpec(shape=(None, 8))]
        )


def test_export_after_training_and_loading(tmp_path, x):
    vae = make()
    vae.compile("adam")
    kvv.fit_two_stage(vae, x, epochs=(1, 1), verbose=0)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    loaded.export(str(tmp_path / "model"), verbose=False)
    assert pathlib.Path(tmp_path / "model" / "saved_model.pb").is_file()
    served = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(
        served.reconstruct(x)["variance"], vae.reconstruct(x)["variance"], rtol=2e-5
    )
