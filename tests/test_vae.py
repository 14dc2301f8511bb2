"""The methods of `VAE`, and networks of users inside of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import layers, ops
from tiny import L, images

import keras_vae_variance as kvv

EAGER = {"run_eagerly": True}


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def floating(**arguments):
    return tiny.make(prior=kvv.priors.Floating, **arguments)


# --------------------------------------------------------------------------------------
# encode, decode, reconstruct


def test_encode_gives_mean_variance_and_prior():
    vae, x = tiny.make(), images(5)
    latent = vae.encode(x)
    features = vae.encoder(x)
    mean, variance = vae.posterior(features)
    np.testing.assert_allclose(latent.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(latent.variance, variance, rtol=1e-6)
    np.testing.assert_array_equal(latent.sample, latent.mean)
    np.testing.assert_array_equal(latent.prior_mean, np.zeros((1, L)))
    np.testing.assert_array_equal(latent.prior_variance, np.ones((1, L)))


SEEDS = {
    "int": lambda: 3,
    "generator": lambda: keras.random.SeedGenerator(3),
    "tensor": lambda: tf.constant([3, 4]),
}


@pytest.mark.parametrize("kind", SEEDS)
def test_a_seed_decides_the_draw(kind):
    vae, x = tiny.make(), images(5)
    z = array(vae.encode(x, sample=True, seed=SEEDS[kind]()).sample)
    again = array(vae.encode(x, sample=True, seed=SEEDS[kind]()).sample)
    np.testing.assert_array_equal(z, again)
    images_ = array(vae.generate(3, seed=SEEDS[kind](), noise=True)["sample"])
    again = array(vae.generate(3, seed=SEEDS[kind](), noise=True)["sample"])
    np.testing.assert_array_equal(images_, again)
    elbo = array(vae.elbo(x, seed=SEEDS[kind]())["elbo"])
    np.testing.assert_array_equal(elbo, array(vae.elbo(x, seed=SEEDS[kind]())["elbo"]))
    # Another one, and the model's own, draw something else.
    assert not np.allclose(z, array(vae.encode(x, sample=True, seed=5).sample))
    own = [array(vae.encode(x, sample=True).sample) for _ in range(2)]
    assert not np.allclose(own[0], own[1])


def test_draws_have_the_moments_of_the_posterior():
    vae = tiny.make()
    x = np.repeat(images(1), 20_000, axis=0)
    latent = vae.encode(x, sample=True, seed=0)
    z, mean, variance = array(latent.sample), array(latent.mean), array(latent.variance)
    error = np.sqrt(variance[0] / len(x))
    assert (np.abs(z.mean(0) - mean[0]) < 4 * error).all()
    np.testing.assert_allclose(z.var(0), variance[0], rtol=4 * np.sqrt(2 / len(x)))


@pytest.mark.parametrize(
    "posterior", [kvv.posteriors.DiagonalGaussian, kvv.posteriors.IsotropicGaussian]
)
def test_many_examples_go_through_in_parts(posterior):
    vae, x = floating(posterior=posterior), images(700)
    latent = vae.encode(x)
    whole = vae.posterior(vae.encoder(x))
    np.testing.assert_allclose(latent.mean, whole[0], atol=1e-6)
    np.testing.assert_allclose(latent.variance, whole[1], rtol=1e-5)
    assert latent.prior_variance.shape == (1, L)
    result = vae.reconstruct(x)
    np.testing.assert_allclose(
        result["mean"], vae.decoder(whole[0])["mean"], atol=1e-6, rtol=1e-5
    )
    assert result["variance"].shape == x.shape
    # Of a part as of the whole.
    np.testing.assert_allclose(
        vae.reconstruct(x[600:])["mean"], result["mean"][600:], atol=1e-6
    )
    assert vae.elbo(x, num_samples=2, seed=0)["elbo"].shape == (700,)


def test_reconstruct_is_deterministic_and_scales_uint8():
    levels = np.random.default_rng(0).integers(0, 256, (4, *tiny.SHAPE), "uint8")
    vae = tiny.make(variance=kvv.variances.Predicted)
    one, two = vae.reconstruct(levels), vae.reconstruct(levels / 255)
    assert set(one) == {"mean", "variance"}
    for name, value in one.items():
        assert value.shape == levels.shape
        np.testing.assert_allclose(value, two[name], rtol=1e-6)
        np.testing.assert_array_equal(value, vae.reconstruct(levels)[name])
        np.testing.assert_array_equal(value, vae(levels)[name])


def test_decode_names_the_parameters():
    vae = tiny.make(variance=kvv.variances.Predicted)
    parameters = vae.decode(np.zeros((3, L)))
    assert set(parameters) == {"mean", "raw_variance"}
    assert parameters["mean"].shape == (3, *tiny.SHAPE)


# --------------------------------------------------------------------------------------
# generate


def test_generate_decodes_draws_of_the_prior():
    vae = tiny.make(decoder=latents_as_images)
    z = array(vae.generate(20_000, seed=0)["mean"])[:, 0, :L, 0]
    np.testing.assert_allclose(z.mean(0), 0.0, atol=4 / np.sqrt(len(z)))
    np.testing.assert_allclose(np.cov(z.T), np.eye(L), atol=6 / np.sqrt(len(z)))


def latents_as_images():
    """Shows the latents in the first pixels."""
    z = keras.Input((L,))
    x = layers.Reshape(tiny.SHAPE)(ops.pad(z, ((0, 0), (0, 36 - L))))
    return keras.Model(z, x)


def test_generate_takes_the_running_prior():
    vae = floating(decoder=latents_as_images)
    vae.prior.running.value.assign([[4.0, 0.25]])
    z = array(vae.generate(20_000, seed=0)["mean"])[:, 0, :L, 0]
    np.testing.assert_allclose(z.var(0), [4.0, 0.25], rtol=0.05)


def test_generate_from_given_latents_and_from_a_sampler():
    vae = tiny.make(variance=kvv.variances.Predicted)
    z = np.random.default_rng(0).normal(size=(4, L)).astype("float32")

    class Sampler:
        def sample(self, n, seed=None):
            self.n, self.seed = n, seed
            return z[:n]

    sampler = Sampler()
    given, drawn = vae.generate(z), vae.generate(3, sampler=sampler, seed=1)
    assert sampler.n == 3 and sampler.seed is not None
    for name, value in drawn.items():
        np.testing.assert_allclose(value, given[name][:3], rtol=1e-6)
    np.testing.assert_allclose(given["mean"], vae.decode(z)["mean"], rtol=1e-6)


def test_noise_is_a_draw_of_the_likelihood():
    vae = tiny.make()
    z = np.zeros((5000, L), "float32")
    result = vae.generate(z, noise=True, seed=0)
    assert set(result) == {"mean", "variance", "sample"}
    noise = array(result["sample"] - result["mean"])
    np.testing.assert_allclose(noise.var(), 0.1, rtol=0.02)
    # Independent from pixel to pixel and from image to image.
    correlations = np.corrcoef(noise.reshape(5000, 36).T) - np.eye(36)
    assert np.abs(correlations).max() < 6 / np.sqrt(5000)


def test_noise_and_latents_are_drawn_apart():
    vae = tiny.make(decoder=latents_as_images)
    result = vae.generate(5000, noise=True, seed=0)
    z = array(result["mean"])[:, 0, :L, 0]
    noise = array(result["sample"] - result["mean"]).reshape(5000, 36)
    correlations = np.corrcoef(z.T, noise.T)[:L, L:]
    assert np.abs(correlations).max() < 5 / np.sqrt(5000)


# --------------------------------------------------------------------------------------
# objective and elbo


def test_the_objective_is_unweighted():
    x = images(4)
    terms = {}
    for weight in (1.0, 3.0):
        vae = tiny.make(
            posterior=tiny.NoiselessDiagonal,
            regularizers=lambda w=weight: [kvv.regularizers.KL(w)],
        )
        terms[weight] = vae.objective(x)
        vae.compile("sgd", run_eagerly=True)
        logs = vae.test_on_batch(x, return_dict=True)
        assert logs["loss"] == pytest.approx(
            logs["reconstruction"] + weight * logs["kl"], rel=1e-6
        )
    assert set(terms[1.0]) == {"reconstruction", "kl"}
    for name, value in terms[1.0].items():
        assert value.shape == (4,)
        np.testing.assert_array_equal(value, terms[3.0][name])


def test_a_weight_can_be_changed_between_steps():
    vae = tiny.compiled(posterior=tiny.NoiselessDiagonal)
    x = images(4)
    vae.test_on_batch(x)
    vae.regularizers[0].weight.assign(5.0)
    logs = vae.test_on_batch(x, return_dict=True)
    assert logs["loss"] == pytest.approx(
        logs["reconstruction"] + 5.0 * logs["kl"], rel=1e-6
    )


def test_the_objective_draws_anew_each_time():
    vae, x = tiny.make(), images(4)
    one, two = vae.objective(x), vae.objective(x)
    assert not np.allclose(one["reconstruction"], two["reconstruction"])
    np.testing.assert_array_equal(one["kl"], two["kl"])


def test_only_training_updates_running_averages():
    vae = floating(variance=kvv.variances.MaximumLikelihood)
    before = vae.get_weights()
    vae.objective(images(4))
    vae.elbo(images(4))
    vae.reconstruct(images(4))
    vae.compile("sgd", run_eagerly=True)
    vae.evaluate(images(4), verbose=0)
    for old, new in zip(before, vae.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    vae.objective(images(4), training=True)
    assert float(vae.likelihood.variance_model.running.weight) > 0
    assert float(vae.prior.running.weight) > 0


def test_elbo_is_the_objective_at_weight_one_whatever_was_trained():
    x = images(4)
    vae = tiny.make(
        posterior=tiny.Noiseless,
        prior=kvv.priors.Floating,
        regularizers=lambda: [kvv.regularizers.BILBO(7.0)],
    )
    vae.prior.running.value.assign([[2.0, 3.0]])
    # `elbo` draws by itself: with a variance of nearly 0 it gets the mean.
    vae.posterior.variance = 1e-12
    result = {name: array(value) for name, value in vae.elbo(x).items()}
    terms = vae.objective(x)
    np.testing.assert_allclose(
        result["reconstruction"], terms["reconstruction"], rtol=1e-5
    )
    np.testing.assert_allclose(result["kl"], terms["bilbo"], rtol=1e-5)
    np.testing.assert_allclose(
        result["elbo"], -(result["reconstruction"] + result["kl"]), rtol=1e-6
    )


def test_elbo_averages_its_draws():
    vae, x = tiny.make(), images(3)
    many = array(vae.elbo(x, num_samples=100, seed=0)["reconstruction"])
    singles = np.stack(
        [array(vae.elbo(x, seed=s)["reconstruction"]) for s in range(1, 51)]
    )
    error = singles.std(0) * np.sqrt(1 / 100 + 1 / 50)
    assert (error > 0).all()
    assert (np.abs(many - singles.mean(0)) < 4 * error).all()


# --------------------------------------------------------------------------------------
# calibrate


@pytest.mark.parametrize("batch_size", [3, 100])
def test_calibrate_makes_averages_exact(batch_size):
    x = images(10)
    vae = tiny.make(
        variance=kvv.variances.MaximumLikelihood,
        posterior=tiny.Noiseless,
        prior=kvv.priors.Floating,
    )
    for part in (x[:4], x[4:]):
        vae.objective(part, training=True)
    trainable = [weight.numpy() for weight in vae.trainable_weights]
    state = vae.seed_generator.state.numpy()
    assert vae.calibrate(x, batch_size=batch_size) is vae
    mean = array(vae.encode(x).mean)
    squares = (x - array(vae.reconstruct(x)["mean"])) ** 2
    variance = vae.likelihood.variance_model.running
    np.testing.assert_allclose(array(variance.value).ravel(), squares.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        vae.prior.running.value, [(mean**2).mean(0) + 1.0], rtol=1e-5
    )
    # Nothing else has changed.
    for weight, old in zip(vae.trainable_weights, trainable, strict=True):
        np.testing.assert_array_equal(weight, old)
    np.testing.assert_array_equal(vae.seed_generator.state, state)
    # The next batch counts as one of very many.
    x = np.clip(x + 0.3, 0, 1)
    new = ((x - array(vae.reconstruct(x)["mean"])) ** 2).mean()
    vae.objective(x, training=True)
    np.testing.assert_allclose(
        array(variance.value).ravel(), 0.99 * squares.mean() + 0.01 * new, rtol=1e-5
    )


def test_calibrate_takes_weights_and_streams():
    x, weights = images(6), np.array([0, 1, 2, 0, 1, 3])
    values = []
    for data in (
        (x, None, weights),
        tf.data.Dataset.from_tensor_slices((x, weights, weights)).batch(4),
        np.repeat(x, weights, axis=0),
    ):
        vae = tiny.make(
            variance=kvv.variances.MaximumLikelihood, posterior=tiny.Noiseless
        )
        vae.calibrate(data, batch_size=4)
        values.append(array(vae.likelihood.variance_model.running.value).ravel())
    np.testing.assert_allclose(values[0], values[2], rtol=1e-5)
    np.testing.assert_allclose(values[1], values[2], rtol=1e-5)


def test_a_calibration_that_fails_changes_nothing():
    vae = floating(variance=kvv.variances.MaximumLikelihood)
    vae.objective(images(4), training=True)
    before = vae.get_weights()
    bad = images(6)
    bad[5] = np.nan
    for data, words in [
        ([images(4), bad], "finite"),
        (bad, "finite"),
        (images(4)[:0], "at least one example"),
        (iter([]), "at least one example"),
    ]:
        with pytest.raises(ValueError, match=words):
            vae.calibrate(iter(data) if isinstance(data, list) else data, batch_size=4)
        for old, new in zip(before, vae.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    # And the next batch counts as it would have.
    vae.objective(images(4), training=True)
    assert not vae.prior.running.exact


# --------------------------------------------------------------------------------------
# Networks of users


def test_a_plain_tensor_stands_for_the_only_head():
    vae = tiny.compiled(decoder=tiny.PlainDecoder, compile=EAGER)
    assert set(vae.decode(np.zeros((2, L)))) == {"mean"}
    before = vae.decoder.get_weights()[0]
    vae.fit(images(6), verbose=0)
    assert not np.array_equal(before, vae.decoder.get_weights()[0])
    vae = tiny.make(decoder=tiny.PlainDecoder, likelihood=kvv.likelihoods.Bernoulli)
    assert set(vae.decode(np.zeros((2, L)))) == {"logits"}


class OwnEncoder(keras.Model):
    """Subclassed, with layers that train and evaluate differently, as users write."""

    input_shape = (None, *tiny.SHAPE)

    def __init__(self):
        super().__init__()
        self.flatten = layers.Flatten()
        self.dropout = layers.Dropout(0.5, seed=0)
        self.normalize = layers.BatchNormalization(momentum=0.5)

    def call(self, x):
        return self.normalize(self.dropout(self.flatten(x)))


class OwnEncoderWithTraining(OwnEncoder):
    def call(self, x, training=False):
        x = self.dropout(self.flatten(x), training=training)
        return self.normalize(x, training=training)


def functional_encoder():
    return tiny.dense_encoder(
        layers.Dropout(0.5, seed=0), layers.BatchNormalization(momentum=0.5)
    )


@pytest.mark.parametrize(
    "encoder", [OwnEncoder, OwnEncoderWithTraining, functional_encoder]
)
@pytest.mark.parametrize("eager", [False, True])
def test_layers_know_whether_they_train(encoder, eager):
    x = images(8)
    vae = tiny.compiled(
        keras.optimizers.SGD(0.0),
        encoder=encoder,
        posterior=tiny.NoiselessDiagonal,
        compile={"run_eagerly": eager},
    )
    layer = [
        part
        for part in vae.encoder._flatten_layers()
        if isinstance(part, layers.BatchNormalization)
    ][0]
    # Evaluation: no dropout, moments stay.
    before = layer.moving_mean.numpy()
    losses = [vae.evaluate(x, verbose=0)[0] for _ in range(2)]
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(layer.moving_mean, before)
    np.testing.assert_array_equal(vae.encode(x).mean, vae.encode(x).mean)
    # Training: moments follow the batch, and dropout gives each step another loss.
    losses = [vae.train_on_batch(x)[0] for _ in range(2)]
    assert losses[0] != losses[1]
    assert not np.allclose(layer.moving_mean, before)


def test_moments_are_those_of_the_batches():
    vae = tiny.compiled(encoder=OwnEncoderNormalized, compile=EAGER)
    x = images(8)
    vae.fit(x, batch_size=4, shuffle=False, verbose=0)
    flat = x.reshape(8, 36)
    expected = 0.5 * (0.5 * flat[:4].mean(0)) + 0.5 * flat[4:].mean(0)
    np.testing.assert_allclose(
        vae.encoder.normalize.moving_mean, expected, rtol=1e-5, atol=1e-6
    )


class OwnEncoderNormalized(OwnEncoder):
    def call(self, x):
        return self.normalize(self.flatten(x))


def test_vectors_and_videos_are_events_too():
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
    for shape in [(7,), (2, 3, 4, 1)]:
        networks = kvv.backbones.mlp(shape, L, likelihood, hidden=())
        likelihood = kvv.likelihoods.Gaussian(kvv.variances.Predicted())
        vae = kvv.VAE(*networks, kvv.posteriors.DiagonalGaussian(L), likelihood)
        vae.compile("sgd", run_eagerly=True)
        x = np.random.default_rng(0).random((4, *shape), "float32")
        vae.fit(x, verbose=0)
        assert vae.reconstruct(x)["variance"].shape == x.shape
