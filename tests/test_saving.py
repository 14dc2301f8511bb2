"""Models come back from files as they were, random state included."""

import keras
import numpy as np
import pytest
import tiny
import worker
from tiny import images

import keras_vae_variance as kvv


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """What a process found that saved models, and one that loaded them."""
    folder = tmp_path_factory.mktemp("saved")
    tiny.run_worker("save", folder)
    tiny.run_worker("load", folder)
    return tiny.read_json(folder / "saved.json"), tiny.read_json(folder / "loaded.json")


@pytest.mark.slow
@pytest.mark.parametrize("name", worker.SAVED)
def test_training_goes_on_in_another_process_bit_for_bit(records, name):
    saved, loaded = (record[name] for record in records)
    assert saved["iterations"] > 0
    # Not a model that no longer changes.
    assert saved["state"] != saved["state afterwards"]
    assert loaded == saved


@pytest.mark.slow
def test_the_optimizer_of_mixed_float16_is_wrapped_again(records):
    optimizers = records[1]["mixed_float16"]["optimizers"]
    assert optimizers == ["LossScaleOptimizer", "Adam"]


def test_weights_alone(tmp_path):
    vae = tiny.compiled(
        keras.optimizers.Adam(1e-2),
        variance=kvv.variances.MaximumLikelihood,
        compile={"run_eagerly": True},
    )
    vae.fit(images(12), batch_size=4, verbose=0)
    vae.save_weights(tmp_path / "model.weights.h5")
    other = tiny.compiled(
        keras.optimizers.Adam(1e-2),
        variance=kvv.variances.MaximumLikelihood,
        weights=1,
        seed=9,
    )
    other.optimizer.build(other.trainable_variables)
    assert tiny.changed(tiny.state(vae), tiny.state(other))
    other.load_weights(tmp_path / "model.weights.h5")
    tiny.assert_same(tiny.state(other), tiny.state(vae))
    # An uncompiled model takes what is there for it.
    other = tiny.make(variance=kvv.variances.MaximumLikelihood, weights=1)
    other.load_weights(tmp_path / "model.weights.h5")
    for actual, desired in zip(other.get_weights(), vae.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, desired)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"variance": kvv.variances.Learned}, "Layer 'learned.*expected 2 variables"),
        ({"decoder": tiny.PlainDecoder}, "Layer 'dense.*expected 2 variables"),
        (
            {"encoder": lambda: tiny.dense_encoder(keras.layers.Dropout(0.5))},
            "must hold 2 random states.*with 1 of them",
        ),
    ],
    ids=["variance", "decoder", "encoder"],
)
def test_a_file_of_another_model(tmp_path, arguments, words):
    path = tmp_path / "model.weights.h5"
    tiny.make().save_weights(path)
    with pytest.raises(ValueError, match=f"(?s)could not be loaded.*{words}"):
        tiny.make(**arguments).load_weights(path)


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / "model.txt"
    path.write_text("weights")
    with pytest.raises(ValueError, match="File format not supported"):
        tiny.make().load_weights(path)
    with pytest.raises(ValueError, match="File not found"):
        keras.saving.load_model(tmp_path / "absent.keras")


def test_random_states_that_do_not_fit():
    vae = tiny.make()
    store = {}
    vae.save_own_variables(store)
    assert len(store) == 1
    vae.load_own_variables(store)
    with pytest.raises(ValueError, match="must hold 1 random states.*with 2 of them"):
        vae.load_own_variables({**store, "seed_generator_1": np.zeros(2)})


PARTS = {
    "variance": lambda: kvv.variances.Predicted(link="softplus", floor=0.1),
    "posterior": kvv.posteriors.IsotropicGaussian,
    "prior": lambda: kvv.priors.Floating(decay=0.5),
    "regularizers": lambda: [kvv.regularizers.KL(2.0), kvv.regularizers.BILBO(0.5)],
}


def test_a_clone_has_the_same_parts_and_its_own_weights():
    vae = tiny.make(seed=11, **PARTS)
    for clone in (
        kvv.VAE.from_config(vae.get_config()),
        keras.models.clone_model(vae),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(vae)),
    ):
        assert clone.get_config() == vae.get_config()
        assert clone.seed == 11
        assert clone.likelihood.variance_model.link == "softplus"
        assert clone.prior.decay == 0.5
        assert [float(r.weight) for r in clone.regularizers] == [2.0, 0.5]
        shapes = [weight.shape for weight in vae.weights]
        assert [weight.shape for weight in clone.weights] == shapes
        clone.set_weights(vae.get_weights())
        x = images(4)
        for name, value in vae.reconstruct(x).items():
            np.testing.assert_array_equal(clone.reconstruct(x)[name], value)
        # Training one leaves the other alone.
        before = vae.get_weights()
        clone.compile("sgd", run_eagerly=True)
        clone.fit(x, verbose=0)
        assert not np.array_equal(clone.get_weights()[0], before[0])
        for old, new in zip(before, vae.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_a_default_seed_is_saved():
    vae = tiny.make(seed=None)
    assert kvv.VAE.from_config(vae.get_config()).seed == vae.seed
