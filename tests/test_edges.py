"""Cases at the edge: empty batches, underflow, seeds that are neighbours."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_vae_variance as kvv

SHAPE = (6, 6, 1)


def make(variance, prior=None, regularizers=None, posterior=None):
    likelihood = kvv.likelihoods.Gaussian(variance)
    encoder, decoder = kvv.backbones.mlp(SHAPE, 2, likelihood, hidden=(8,))
    posterior = posterior or kvv.posteriors.DiagonalGaussian(2)
    return kvv.VAE(encoder, decoder, posterior, likelihood, prior, regularizers, seed=0)


@pytest.fixture
def x():
    return np.random.default_rng(0).random((16, *SHAPE), "float32")


@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("per_example", [False, True])
def test_a_batch_of_zero_weights_changes_nothing(x, per_pixel, per_example):
    vae = make(kvv.variances.MaximumLikelihood(per_pixel, per_example))
    vae.compile(keras.optimizers.SGD(1e-3))
    before = vae.get_weights()
    vae.fit(x[:4], sample_weight=np.zeros(4), batch_size=4, verbose=0)
    for old, new in zip(before, vae.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    weights = np.repeat([0.0, 1.0], [4, 12])
    history = vae.fit(
        x, sample_weight=weights, batch_size=4, shuffle=False, verbose=0
    ).history
    assert np.isfinite(history["loss"]).all() and history["mse"][0] > 0


@pytest.mark.parametrize("link", ["sigmoid", "softplus", "exp"])
def test_soft_bounds_have_a_gradient_where_the_link_underflows(link):
    variance = kvv.variances.Predicted(link=link, bounds=(np.exp(-12.0), None))
    variance.build((None, 4))
    raw = tf.Variable([[-500.0, -120.0, -30.0, 1.0]])
    with tf.GradientTape() as tape:
        v = variance.predict({"raw_variance": raw})
    gradient = tape.gradient(v, raw).numpy()
    # P2's bound on the log standard deviation is approached from above.
    assert (v.numpy() >= np.exp(-12.0) * (1 - 1e-5)).all()
    assert np.isfinite(gradient).all() and (gradient >= 0).all()
    assert (gradient[0, 2:] > 0).all()


def test_log_links_are_the_logarithms_of_the_links():
    raw = np.linspace(-80, 30, 221, dtype="float32")[None]
    for link in ("sigmoid", "softplus", "exp"):
        plain = kvv.variances.Predicted(link=link)
        # Bounds so wide that they bind nowhere.
        bounded = kvv.variances.Predicted(link=link, bounds=(1e-300, 1e300))
        for variance in (plain, bounded):
            variance.build((None, 221))
        # Clipping adds and takes away the bound's log stddev, 345: 345 * 2**-23 * 2.
        np.testing.assert_allclose(
            bounded.predict({"raw_variance": raw}),
            plain.predict({"raw_variance": raw}),
            rtol=1e-4,
        )


def test_heads_of_grey_images_without_a_channel_axis():
    def shape(**arguments):
        heads = kvv.variances.Predicted(**arguments).heads((6, 5))
        return heads["raw_variance"].shape

    assert shape() == (6, 5)
    assert shape(per_channel=False) == (6, 5)
    assert shape(per_pixel=False) == (1, 1)


def test_calibrate_touches_running_averages_alone(x):
    vae = make(
        kvv.variances.Learned(),
        prior=kvv.priors.Floating(),
        regularizers=[kvv.regularizers.BILBO()],
        posterior=kvv.posteriors.ConstantGaussian(2),
    )
    before = [v.numpy() for v in vae.weights]
    vae.calibrate(x)
    changed = {
        id(v)
        for v, old in zip(vae.weights, before, strict=True)
        if not np.array_equal(old, v.numpy())
    }
    assert changed == {id(v) for v in vae.prior.running.weights}


def test_neighbouring_seeds_share_no_noise():
    draws = []
    for seed in ([3, 4], [3, 5], [4, 4]):
        seed = np.array(seed, "int32")
        for part in kvv.ops.split_seed(seed, 2):
            draws.append(tuple(np.array(kvv.ops.normal((4,), part))))
    draws += [
        tuple(np.array(kvv.ops.normal((4,), part))) for part in kvv.ops.split_seed(3, 2)
    ]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("batch_size", [0, -3, 2.5, "many"])
def test_batch_sizes(x, batch_size):
    vae = make(kvv.variances.Fixed(1.0), prior=kvv.priors.Floating())
    vae.compile("sgd")
    for call in (vae.fit, vae.evaluate, vae.predict, vae.calibrate):
        with pytest.raises(ValueError, match="`batch_size` must be"):
            call(x, batch_size=batch_size)


def test_validation_split_of_a_stream(x):
    vae = make(kvv.variances.Fixed(1.0))
    vae.compile("sgd")
    stream = tf.data.Dataset.from_tensor_slices(x).batch(4)
    with pytest.raises(ValueError, match="needs arrays"):
        vae.fit(stream, validation_split=0.5)


@pytest.mark.parametrize("count", [0, -1, 2.5, np.int64(0)])
def test_counts(x, count):
    vae = make(kvv.variances.Fixed(1.0))
    with pytest.raises(ValueError, match="`num_samples` must be"):
        vae.elbo(x, num_samples=count)
    with pytest.raises(ValueError, match="`num_samples` must be"):
        vae.generate(count)


@pytest.mark.parametrize("seed", [1.5, "one", [1, 2, 3], np.zeros(2)])
def test_seeds(x, seed):
    vae = make(kvv.variances.Fixed(1.0))
    with pytest.raises(ValueError, match="`seed` must be"):
        vae.encode(x, sample=True, seed=seed)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"posterior": "diagonal"}, "`posterior` must be of"),
        ({"prior": "standard"}, "`prior` must be of"),
        ({"regularizers": kvv.regularizers.KL()}, "must be a list"),
        ({"regularizers": ["kl"]}, "`regularizers` must be of"),
    ],
)
def test_parts_of_other_kinds(arguments, words):
    with pytest.raises(ValueError, match=words):
        make(kvv.variances.Fixed(1.0), **arguments)


def test_the_seed_of_a_model():
    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))
    networks = kvv.backbones.mlp(SHAPE, 2, likelihood, hidden=(8,))
    posterior = kvv.posteriors.DiagonalGaussian(2)
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        kvv.VAE(*networks, posterior, likelihood, seed="a")
    assert isinstance(kvv.VAE(*networks, posterior, likelihood).seed, int)
