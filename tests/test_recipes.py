"""Every recipe is the model that its docstring states, and can be trained and saved.

The losses are written out in NumPy, as the papers' tables mean them, and compared with
the objective of the recipe at `z` equal to the posterior mean.
"""

import inspect

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
import tiny

import keras_vae_variance as kvv
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance import recipes

SHAPE, D, L, N = (4, 3, 1), 12, 2, 6
LOG_2_PI = np.log(2 * np.pi)
REQUIRED = {"beta_vae": {"beta": 0.1}}

each_recipe = pytest.mark.parametrize("name", recipes.__all__)


def make(name, **options):
    arguments = {**REQUIRED.get(name, {}), "backbone": kvv.backbones.mlp, "seed": 0}
    return getattr(recipes, name)(SHAPE, L, **(arguments | options))


@pytest.fixture
def x():
    """Levels of uint8 images, which all likelihoods take."""
    levels = np.random.default_rng(0).integers(0, 256, (N, *SHAPE))
    return (levels / 255).astype("float32")


# --------------------------------------------------------------------------------------
# Equations


class Computed:
    """A model's numbers at z equal to the posterior mean, in float64."""

    def __init__(self, vae, x):
        latent = vae.encode(x)
        self.x = oracles.float64(x)
        self.mu = oracles.float64(latent.mean)
        self.s2 = oracles.float64(latent.variance)
        self.parameters = {
            name: oracles.float64(value) for name, value in vae.decode(self.mu).items()
        }
        self.vae = vae

    @property
    def r2(self):
        return (self.x - self.parameters["mean"]) ** 2

    def nll(self, v):
        return oracles.sum_event((self.r2 / v + np.log(v) + LOG_2_PI) / 2)

    @property
    def kl(self):
        return oracles.gaussian_kl(self.mu, self.s2, 0.0, 1.0)

    @property
    def floating_kl(self):
        prior_variance = np.mean(self.s2 + self.mu**2, axis=0, keepdims=True)
        return oracles.gaussian_kl(self.mu, self.s2, 0.0, prior_variance)


def fixed_elbo(v):
    return lambda c: c.nll(v) + c.kl


def unit_nll(c):
    return oracles.sum_event(c.r2) / 2 + D / 2 * LOG_2_PI


def learned(c):
    """What starts from the data: the first batch's mean squared error."""
    return c.nll(c.r2.mean()) + c.kl


def predicted(per_image=False, bounded=False):
    def loss(c):
        log_variance = c.parameters["raw_variance"]
        if bounded:
            log_variance = 2 * (-6 + np.log1p(np.exp(log_variance / 2 + 6)))
        assert log_variance.shape[1:] == ((1, 1, 1) if per_image else SHAPE)
        return c.nll(np.exp(log_variance)) + c.kl

    return loss


def bernoulli(c):
    return oracles.bernoulli_nll(c.x, c.parameters["logits"])


def likelihood_nll(c):
    """That of the likelihood, which `test_discrete_likelihoods` holds to an oracle."""
    parameters = {k: v.astype("float32") for k, v in c.parameters.items()}
    return np.asarray(c.vae.likelihood(c.x.astype("float32"), parameters))


def baggins(c):
    information = np.sum(1 + np.mean(c.mu**2, axis=0) / c.s2)
    squares = oracles.sum_event(c.r2)
    v = 0.2 * squares / information
    terms = information / 0.2 + np.mean(D * np.log(2 * np.pi * v))
    return (np.sum(np.log(1 + np.mean(c.mu**2, axis=0) / c.s2)) + terms) / 2


def dip(c):
    covariance = np.cov(c.mu.T, bias=True)
    off = covariance - np.diag(np.diag(covariance))
    diagonal = np.sum((np.diag(covariance) - 1) ** 2)
    return 10.0 * np.sum(off**2) + 100.0 * diagonal


def weight_decay(c):
    kernels = [w for w in c.vae.decoder.weights if w.path.endswith("kernel")]
    assert len(kernels) == 4
    return 1e-4 * sum(np.sum(oracles.float64(w) ** 2) for w in kernels)


def norm(c):
    return 0.5 * np.sum(c.mu**2, axis=1)


EQUATIONS = {
    "vae": fixed_elbo(0.5),
    "beta_vae": lambda c: unit_nll(c) + 0.1 * c.kl,
    "dip_vae": lambda c: c.nll(0.5) + c.kl + dip(c),
    "rae": lambda c: unit_nll(c) + 1e-2 * norm(c) + weight_decay(c),
    "ae": unit_nll,
    "learned_variance": learned,
    "two_stage": lambda c: (
        c.nll(1 / (1 + np.exp(-c.parameters["raw_variance"]))) + c.kl
    ),
    "iso_i": lambda c: oracles.iso_i(c.r2) + c.kl,
    "diag_i": lambda c: c.nll(np.mean(c.r2, axis=0) + 1e-6) + c.kl,
    "iso_d": lambda c: c.nll(np.mean(c.r2, (1, 2, 3), keepdims=True)) + c.kl,
    "diag_d": lambda c: c.nll(c.r2 + 1e-6) + c.kl,
    "trainable_iso_i": learned,
    "trainable_diag_i": learned,
    "trainable_iso_d": predicted(per_image=True),
    "trainable_diag_d": predicted(),
    "shared_sigma": learned,
    "optimal_sigma": lambda c: oracles.iso_i(c.r2) + c.kl,
    "per_image_sigma": lambda c: c.nll(np.mean(c.r2, (1, 2, 3), keepdims=True)) + c.kl,
    "per_pixel_sigma": predicted(bounded=True),
    "l_vae_scalar": fixed_elbo(1.0),  # where it starts
    "l_vae_vector": predicted(),
    "bernoulli_vae": lambda c: bernoulli(c) + c.kl,
    "constant_posterior": lambda c: bernoulli(c) + c.floating_kl,
    "bilbo": lambda c: bernoulli(c) + oracles.bilbo(c.mu, c.s2),
    "baggins": baggins,
    **dict.fromkeys(
        [
            "categorical_vae",
            "bitwise_categorical_vae",
            "logistic_mixture_vae",
            "discretized_gaussian_vae",
            "discretized_logistic_vae",
            "student_t_vae",
        ],
        lambda c: likelihood_nll(c) + c.kl,
    ),
}


@pytest.mark.parametrize("name", sorted(set(recipes.__all__) - {"wae_mmd"}))
def test_loss_is_the_equation(name, x, monkeypatch):
    monkeypatch.setattr(kvv_ops, "normal", lambda shape, seed: tf.zeros(shape))
    vae = make(name)
    for weight in vae.decoder.weights:  # no head at its start of zero bias
        weight.assign_add(0.1 * np.random.default_rng(1).normal(size=weight.shape))
    means = vae._forward(x, True)[1]
    expected = np.mean(EQUATIONS[name](Computed(vae, x)))
    assert float(means["loss"]) == pytest.approx(expected, rel=2e-5)


LIKELIHOODS = {
    "bernoulli_vae": kvv.likelihoods.Bernoulli,
    "categorical_vae": kvv.likelihoods.Categorical,
    "bitwise_categorical_vae": kvv.likelihoods.BitwiseCategorical,
    "logistic_mixture_vae": kvv.likelihoods.LogisticMixture,
    "discretized_gaussian_vae": kvv.likelihoods.DiscretizedGaussian,
    "discretized_logistic_vae": kvv.likelihoods.DiscretizedLogistic,
    "student_t_vae": kvv.likelihoods.StudentT,
    "constant_posterior": kvv.likelihoods.Bernoulli,
    "bilbo": kvv.likelihoods.Bernoulli,
}


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_likelihood(name):
    assert type(make(name).likelihood) is LIKELIHOODS[name]


def test_wae_mmd(x):
    vae = make("wae_mmd", weight=7.0)
    assert vae.posterior.deterministic
    means = vae._forward(x, True)[1]
    c = Computed(vae, x)
    expected = np.mean(unit_nll(c)) + 7.0 * float(means["mmd"])
    assert float(means["loss"]) == pytest.approx(expected, rel=2e-5)


def test_rae_with_a_gradient_penalty(x):
    vae = make("rae", kind="gp", weight=0.3, penalty=0.2)
    means = vae._forward(x, True)[1]
    c = Computed(vae, x)
    penalty = 0.2 * float(means["decoder_gradient_penalty"])
    assert penalty > 0
    expected = np.mean(unit_nll(c) + 0.3 * norm(c)) + penalty
    assert float(means["loss"]) == pytest.approx(expected, rel=2e-5)


def test_rae_with_spectral_norm(x, tmp_path):
    vae = make("rae", kind="sn")
    vae.compile(keras.optimizers.Adam(0.1))
    vae.fit(x, epochs=20, verbose=0)
    for layer in vae.decoder.layers:
        if isinstance(layer, keras.layers.SpectralNormalization):
            kernel = np.asarray(layer.normalized_weights()[0])
            assert np.linalg.norm(kernel, 2) == pytest.approx(1.0, abs=0.05)
    assert sum("spectral" in w.path or "vector_u" in w.path for w in vae.weights) >= 4
    assert list(vae.decode(np.zeros((1, L)))) == ["mean"]
    vae.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(
        loaded.reconstruct(x)["mean"], vae.reconstruct(x)["mean"]
    )


# --------------------------------------------------------------------------------------
# Use


def trained(name, x):
    vae = make(name)
    vae.compile(keras.optimizers.Adam(1e-3))
    if name == "two_stage":
        _, history = kvv.fit_two_stage(
            vae, x, epochs=(2, 1), batch_size=N, verbose=0, tolerance=None
        )
    else:
        history = vae.fit(x, epochs=3, batch_size=N, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    return vae


@pytest.mark.slow
@each_recipe
def test_trains_saves_loads_and_exports(name, x, tmp_path):
    vae = trained(name, x)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    vae.export(tmp_path / "model", verbose=False)
    model = tf.saved_model.load(str(tmp_path / "model"))
    served = model.serve(x=tf.constant(x))
    for key, value in vae.reconstruct(x).items():
        np.testing.assert_array_equal(loaded.reconstruct(x)[key], value)
        np.testing.assert_allclose(served[key], value, rtol=1e-5, atol=1e-6)


def test_names():
    functions = inspect.getmembers(recipes, inspect.isfunction)
    assert sorted(recipes.__all__) == sorted(name for name, _ in functions)
    assert all("P" in function.__doc__ for _, function in functions)


def test_default_backbone_is_convolutional_for_images_alone():
    vae = recipes.iso_i((8, 8, 1), L)
    assert any(isinstance(x, keras.layers.Conv2D) for x in vae.encoder.layers)
    for shape in ((5,), (4, 4, 1), (8, 200, 1)):
        vae = recipes.iso_i(shape, L)
        assert not any(isinstance(x, keras.layers.Conv2D) for x in vae.encoder.layers)


def test_options():
    posterior = kvv.posteriors.IsotropicGaussian(L)
    vae = make("vae", variance=0.3, posterior=posterior, mean_activation=None, seed=7)
    assert vae.posterior is posterior and vae.seed == 7
    assert float(vae.likelihood.variance_model.variance) == pytest.approx(0.3)
    assert vae.decoder.get_layer("mean").activation is keras.activations.linear
    vae = make("bilbo", likelihood=kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0)))
    assert vae.likelihood.variance_model.value == 1.0
    vae = make("constant_posterior", posterior_variance=0.01)
    assert vae.posterior.variance == 0.01
    with pytest.raises(TypeError, match="mispelled"):
        make("vae", mispelled=1)
    with pytest.raises(ValueError, match="kind=l1"):
        make("rae", kind="l1")


def test_the_mean_activation_is_the_backbones_own_unless_given():
    def mean_activation(**options):
        vae = recipes.vae((2,), 2, backbone=kvv.backbones.residual_mlp, **options)
        return vae.decoder.get_layer("mean").activation

    assert mean_activation() is keras.activations.linear
    assert mean_activation(mean_activation="sigmoid") is keras.activations.sigmoid


def test_a_posterior_of_none_is_the_recipes_own():
    assert make("ae", posterior=None).posterior.deterministic
    assert (
        make("bilbo", posterior=None, posterior_variance=0.5).posterior.variance == 0.5
    )
    given = kvv.posteriors.ConstantGaussian(L, 0.1)
    assert make("bilbo", posterior=given).posterior is given
    with pytest.raises(ValueError, match="Received: posterior_variance=0.5"):
        make("bilbo", posterior=given, posterior_variance=0.5)


def backbone_of(decoder):
    def backbone(input_shape, latent_dim, likelihood, mean_activation=None):
        encoder, _ = kvv.backbones.mlp(input_shape, latent_dim, likelihood)
        return encoder, decoder

    return backbone


def test_rae_changes_the_kernels_of_nested_decoders():
    z = keras.Input((L,))
    inner = keras.Sequential([keras.Input((L,)), keras.layers.Dense(D)])
    nested = keras.Model(z, keras.layers.Reshape(SHAPE)(inner(z)))
    vae = make("rae", backbone=backbone_of(nested), penalty=0.5)
    kernel = next(w for w in vae.decoder.weights if w.path.endswith("kernel"))
    expected = 0.5 * np.sum(np.square(kernel))
    assert float(vae._weight_loss()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["l2", "sn"])
def test_rae_refuses_a_decoder_whose_kernels_it_cannot_change(kind):
    z = keras.Input((L,))
    plain = keras.Model(z, keras.layers.Reshape(SHAPE)(keras.ops.tile(z, (1, 6))))
    for decoder in (plain, tiny.PlainDecoder()):
        with pytest.raises(ValueError, match="`backbone` must give"):
            make("rae", backbone=backbone_of(decoder), kind=kind)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"input_shape": (None, None, 3)}, "input_shape="),
        ({"input_shape": 784}, "input_shape=784"),
        ({"input_shape": (60000, 28, 28, 1)}, "without the batch"),
        ({"latent_dim": "4"}, "latent_dim='4'"),
        ({"backbone": "mlp"}, "backbone='mlp'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        recipes.vae(**{"input_shape": (8, 8, 1), "latent_dim": 4, **arguments})
