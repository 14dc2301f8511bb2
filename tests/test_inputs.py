"""Bad input is named for what it is, before anything of the model changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from keras import layers
from tiny import SHAPE, L, images

import keras_vae_variance as kvv

x = images(6)


def with_value(value):
    data = x.copy()
    data[1, 2, 3, 0] = value
    return data


@pytest.fixture(scope="module")
def models():
    """Compiled models by name, with the states that they must keep."""
    models = {
        "gaussian": tiny.compiled(),
        "bernoulli": tiny.compiled(likelihood=kvv.likelihoods.Bernoulli),
        "iso_i": tiny.compiled(variance=kvv.variances.MaximumLikelihood),
        "bilbo": tiny.compiled(
            posterior=kvv.posteriors.ConstantGaussian,
            prior=kvv.priors.Floating,
            regularizers=lambda: [kvv.regularizers.BILBO()],
        ),
    }
    for model in models.values():
        model.optimizer.build(model.trainable_variables)
    return {name: (model, tiny.state(model)) for name, model in models.items()}


SHAPE_WORDS = r"`x` must have the shape \(batch, 6, 6, 1\)"
ARRAYS = {
    "NaN": (with_value(np.nan), ValueError, "`x` must be finite. Received: 1 val"),
    "infinity": (with_value(-np.inf), ValueError, "`x` must be finite"),
    "flat": (x.reshape(6, 36), ValueError, SHAPE_WORDS + r".*\(6, 36\)"),
    "no channel": (x[..., 0], ValueError, SHAPE_WORDS + r".*with `x\[..., None\]`"),
    "one example": (x[0], ValueError, SHAPE_WORDS + r".*pass `x\[None\]`"),
    "other size": (images(6)[:, :5], ValueError, SHAPE_WORDS + r".*\(6, 5, 6, 1\)"),
    "colour": (np.repeat(x, 3, axis=-1), ValueError, SHAPE_WORDS),
    "empty": (x[:0], ValueError, "`x` must hold at least one example"),
    "int32": (np.int32(x * 255), TypeError, "`x` must be uint8 .* or float"),
    "int64": (np.int64(x * 255), TypeError, "x.dtype=int64"),
    "int8": (np.int8(x * 100), TypeError, "x.dtype=int8"),
    "bool": (x > 0.5, TypeError, "x.dtype=bool"),
}


@pytest.mark.parametrize("case", ARRAYS)
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_bad_arrays(models, method, case):
    model, before = models["gaussian"]
    data, error, words = ARRAYS[case]
    with pytest.raises(error, match=words):
        getattr(model, method)(data, verbose=0)
    tiny.assert_same(tiny.state(model), before)


@pytest.mark.parametrize("case", [c for c in ARRAYS if c != "empty"])
@pytest.mark.parametrize("method", ["encode", "reconstruct", "elbo", "objective"])
def test_bad_arrays_in_other_methods(models, method, case):
    data, error, words = ARRAYS[case]
    with pytest.raises(error, match=words):
        getattr(models["gaussian"][0], method)(data)


@pytest.mark.parametrize("case", ["no channel", "int32"])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_bad_streams(models, method, case):
    model, before = models["gaussian"]
    data, error, words = ARRAYS[case]
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(3)
    with pytest.raises(error, match=words):
        getattr(model, method)(dataset, verbose=0)
    tiny.assert_same(tiny.state(model), before)


def test_a_stream_of_unknown_rank(models):
    model, before = models["gaussian"]
    dataset = tf.data.Dataset.from_generator(lambda: iter(x), tf.float32).batch(3)
    with pytest.raises(ValueError, match="known rank.*output_signature"):
        model.fit(dataset, verbose=0)
    tiny.assert_same(tiny.state(model), before)


@pytest.mark.parametrize("case", ARRAYS)
def test_bad_validation_data(models, case):
    model, before = models["gaussian"]
    data, error, words = ARRAYS[case]
    words = words.replace("`x", "`validation_data").replace("x.d", "validation_data.d")
    for validation_data in (data, (data, np.zeros(len(data)))):
        with pytest.raises(error, match=words):
            model.fit(x, validation_data=validation_data, verbose=0)
    tiny.assert_same(tiny.state(model), before)


@pytest.mark.parametrize("value", [1.01, -0.01, 200.0])
def test_the_unit_interval(models, value):
    data = with_value(value)
    model, before = models["bernoulli"]
    for method in (model.fit, model.evaluate, model.predict, model.encode):
        with pytest.raises(ValueError, match=r"`x` must lie in \[0, 1\].*uint8"):
            method(data)
    tiny.assert_same(tiny.state(model), before)
    # A Gaussian takes any number.
    models["gaussian"][0].reconstruct(data)


def test_a_constant_data_set(models):
    model, before = models["gaussian"]
    for data in (np.full_like(x, 0.3), np.full(x.shape, 7, "uint8")):
        with pytest.raises(ValueError, match="`x` must vary.*of the one value"):
            model.fit(data)
    tiny.assert_same(tiny.state(model), before)


@pytest.mark.parametrize("name, part", [("iso_i", "Gaussian"), ("bilbo", "BILBO")])
def test_a_chosen_batch_of_one_with_a_batch_statistic(models, name, part):
    model, before = models[name]
    with pytest.raises(ValueError, match=f"at least 2: .*{part} takes.*batch_size=1"):
        model.fit(x, batch_size=1, verbose=0)
    tiny.assert_same(tiny.state(model), before)


def test_a_batch_of_one_without_a_batch_statistic():
    model = tiny.compiled(compile={"run_eagerly": True})
    model.fit(x, batch_size=1, verbose=0)
    assert int(model.optimizer.iterations) == 6


WEIGHTS = {
    "too few": np.ones(5),
    "negative": [1, 1, 1, 1, 1, -1],
    "NaN": [1, 1, 1, 1, 1, np.nan],
    "infinite": [1, 1, 1, 1, 1, np.inf],
    "a column": np.ones((6, 1)),
    "a number": 1.0,
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_bad_weights(models, case):
    model, before = models["gaussian"]
    weights = WEIGHTS[case]
    words = "`sample_weight` must be 6 finite numbers of at least 0"
    for call in (
        lambda: model.fit(x, sample_weight=weights, verbose=0),
        lambda: model.fit((x, None, weights), verbose=0),
        lambda: model.fit(x, validation_data=(x, None, weights), verbose=0),
        lambda: model.evaluate(x, sample_weight=weights, verbose=0),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    tiny.assert_same(tiny.state(model), before)


def test_other_arguments_of_fit(models):
    model, before = models["gaussian"]
    with pytest.raises(ValueError, match="`class_weight` has no meaning.*{0: 2.0}"):
        model.fit(x, np.zeros(6), class_weight={0: 2.0})
    with pytest.raises(ValueError, match=r"x, \(x,\), \(x, y\) or .* 4 elements"):
        model.fit((x, x, x, x))
    for share in (0.99, -0.5):
        with pytest.raises(ValueError, match="`validation_split` must leave examples"):
            model.fit(x, validation_split=share)
    tiny.assert_same(tiny.state(model), before)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "all"])
def test_bad_batch_sizes(models, batch_size):
    model, before = models["gaussian"]
    for method in (model.fit, model.evaluate, model.predict):
        with pytest.raises(ValueError, match=f"`batch_size` must be.*={batch_size!r}"):
            method(x, batch_size=batch_size)
    tiny.assert_same(tiny.state(model), before)


def test_validation_split_of_a_stream(models):
    model, before = models["gaussian"]
    stream = tf.data.Dataset.from_tensor_slices(x).batch(3)
    with pytest.raises(ValueError, match="`validation_split` needs arrays"):
        model.fit(stream, validation_split=0.5)
    tiny.assert_same(tiny.state(model), before)


@pytest.mark.parametrize("count", [0, -3, 2.5])
def test_bad_numbers_of_samples(models, count):
    model, before = models["gaussian"]
    for call in (model.generate, lambda n: model.elbo(x, num_samples=n)):
        with pytest.raises(ValueError, match=f"`num_samples` must .*={count}"):
            call(count)


@pytest.mark.parametrize("seed", ["one", [1, 2, 3], np.array([0.5, 1.0])])
def test_bad_seeds(models, seed):
    model, _ = models["gaussian"]
    for call in (model.generate, lambda n, seed: model.encode(x, True, seed)):
        with pytest.raises(ValueError, match="`seed` must be an integer.*Received: se"):
            call(2, seed=seed)


@pytest.mark.parametrize("arguments", [{"loss": "mse"}, {"metrics": ["mae"]}])
def test_compile_with_a_loss(arguments):
    model = tiny.make()
    before = model.get_weights()
    model.compile("sgd", **arguments)
    calls = (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch)
    for call in calls:
        with pytest.raises(ValueError, match="compiled with an optimizer alone"):
            call(x)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_fit_before_compile():
    model = tiny.make()
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="call `compile"):
            method(x)


@pytest.mark.parametrize("shape", [(3,), (3, L + 1), (3, L, 1), (L,)])
def test_latents_of_another_shape(models, shape):
    model, _ = models["gaussian"]
    for method in (model.decode, model.generate):
        with pytest.raises(
            ValueError, match=r"`z` must have the shape \(n, 2\).*shape="
        ):
            method(np.zeros(shape, "float32"))


# --------------------------------------------------------------------------------------
# Parts that do not fit together


def build(encoder=None, decoder=None, variance=None, likelihood=None, **arguments):
    likelihood = likelihood or kvv.likelihoods.Gaussian(
        variance or kvv.variances.Fixed(1.0)
    )
    networks = kvv.backbones.mlp(SHAPE, L, likelihood, hidden=())
    arguments.setdefault("posterior", kvv.posteriors.DiagonalGaussian(L))
    return kvv.VAE(
        encoder or networks[0],
        decoder or networks[1],
        likelihood=likelihood,
        **arguments,
    )


def decoder(*shapes, names=None, latents=L):
    z = keras.Input((latents,))
    outputs = [
        layers.Reshape(shape)(layers.Dense(int(np.prod(shape)))(z)) for shape in shapes
    ]
    if names:
        outputs = dict(zip(names, outputs, strict=True))
    return keras.Model(z, outputs if names or len(shapes) > 1 else outputs[0])


PREDICTED = kvv.variances.Predicted
DECODERS = {
    "a missing head": (
        lambda: decoder(SHAPE, names=["mean"]),
        PREDICTED,
        "parameters mean, raw_variance. Received: mean, without raw_variance",
    ),
    "other names": (
        lambda: decoder(SHAPE, SHAPE, names=["mean", "variance"]),
        PREDICTED,
        "Received: .*, without raw_variance",
    ),
    "one tensor for two heads": (
        lambda: decoder(SHAPE),
        PREDICTED,
        "must give a dict of the likelihood's parameters mean, raw_variance",
    ),
    "a list": (
        lambda: decoder(SHAPE, SHAPE),
        tiny.fixed,
        "must give a dict .* parameters mean. Received: list",
    ),
    "another shape": (
        lambda: decoder((5, 6, 1)),
        tiny.fixed,
        r"`mean` of shape \(None, 6, 6, 1\).*Received: mean.shape=\(None, 5, 6, 1\)",
    ),
    "a flat mean": (
        lambda: decoder((36,)),
        tiny.fixed,
        r"`mean` of shape \(None, 6, 6, 1\).*\(None, 36\)",
    ),
    "another shape of the variance": (
        lambda: decoder(SHAPE, (6, 6), names=["mean", "raw_variance"]),
        PREDICTED,
        r"`raw_variance` of shape \(None, 6, 6, 1\)",
    ),
    "other latents": (
        lambda: decoder(SHAPE, latents=L + 1),
        tiny.fixed,
        r"must take latents of shape \(None, 2\).*input_shape=\(None, 3\)",
    ),
}


@pytest.mark.parametrize("case", DECODERS)
def test_decoders_that_do_not_fit(case):
    make, variance, words = DECODERS[case]
    with pytest.raises(ValueError, match=f"`decoder` .*{words}"):
        build(decoder=make(), variance=variance())


def two_inputs():
    inputs = [keras.Input(SHAPE), keras.Input(SHAPE)]
    return keras.Model(inputs, layers.Flatten()(layers.Add()(inputs)))


def two_outputs():
    inputs = keras.Input(SHAPE)
    features = layers.Flatten()(inputs)
    return keras.Model(inputs, [features, features])


@pytest.mark.parametrize(
    "make, words",
    [
        (two_inputs, "one input of a known shape"),
        (two_outputs, "one tensor of features.*Received: list"),
        (lambda: keras.Sequential([layers.Flatten()]), "one input of a known shape"),
        (
            lambda: keras.Sequential([keras.Input((None, 6, 1)), layers.Flatten()]),
            r"known shape.*input_shape=\(None, None, 6, 1\)",
        ),
        (lambda: tiny.PlainDecoder(), "one input of a known shape"),
    ],
    ids=["two inputs", "two outputs", "unbuilt", "an open side", "subclassed"],
)
def test_encoders_that_do_not_fit(make, words):
    with pytest.raises(ValueError, match=f"`encoder` must .*{words}"):
        build(encoder=make())


def test_regularizers_that_do_not_fit():
    deterministic = kvv.posteriors.Deterministic(L)
    with pytest.raises(ValueError, match="KL .*deterministic posterior is infinite"):
        build(posterior=deterministic)
    with pytest.raises(ValueError, match=r"pass `prior=priors.Floating\(\)`"):
        build(
            posterior=kvv.posteriors.ConstantGaussian(L),
            regularizers=[kvv.regularizers.BILBO()],
        )
    for posterior in (kvv.posteriors.DiagonalGaussian(L), deterministic):
        with pytest.raises(ValueError, match="BILBO needs a posterior variance that"):
            build(
                posterior=posterior,
                prior=kvv.priors.Floating(),
                regularizers=[kvv.regularizers.BILBO()],
            )
    with pytest.raises(ValueError, match="different kinds. Received: terms kl, kl"):
        build(regularizers=[kvv.regularizers.KL(), kvv.regularizers.KL(2.0)])


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"posterior": kvv.priors.StandardNormal()}, "`posterior` must be of"),
        ({"likelihood": kvv.variances.Fixed(1.0)}, "`likelihood` must be of"),
        ({"prior": kvv.posteriors.Deterministic(L)}, "`prior` must be of"),
        ({"regularizers": kvv.regularizers.KL()}, "`regularizers` must be a list"),
        ({"regularizers": ["kl"]}, "`regularizers` must be of .*=kl"),
        ({"seed": 0.5}, "`seed` must be an integer or None.*=0.5"),
    ],
)
def test_parts_of_another_kind(arguments, words):
    plain = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))
    encoder, decoder = kvv.backbones.mlp(SHAPE, L, plain, hidden=())
    parts = {"posterior": kvv.posteriors.DiagonalGaussian(L), "likelihood": plain}
    with pytest.raises(ValueError, match=words):
        kvv.VAE(encoder, decoder, **{**parts, **arguments})


def test_the_elbo_of_a_deterministic_posterior():
    vae = build(posterior=kvv.posteriors.Deterministic(L), regularizers=[])
    with pytest.raises(ValueError, match="deterministic posterior has no ELBO"):
        vae.elbo(x)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 255.0])
def test_values_of_tensors_and_streams_outside_of_training(models, value):
    model, before = models["bernoulli"]
    data = tf.constant(with_value(value))
    stream = tf.data.Dataset.from_tensors(data)
    match = "finite" if not np.isfinite(value) else r"must lie in \[0, 1\]"
    for call in (
        lambda: model.elbo(data, seed=0),
        lambda: model.reconstruct(data),
        lambda: kvv.metrics.log_likelihood(model, stream, 2, seed=0),
        lambda: kvv.metrics.anomaly_scores(model, stream, num_samples=2, seed=0),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    tiny.assert_same(tiny.state(model), before)


@pytest.mark.parametrize("method", ["prepare", "encode", "reconstruct", "elbo"])
def test_no_example_is_an_error(models, method):
    model, _ = models["gaussian"]
    with pytest.raises(ValueError, match="`x` must hold at least one example"):
        getattr(model, method)(x[:0])


def test_a_share_of_a_batch_may_be_empty(models):
    """As a replica's of a short batch, in a graph."""
    model, _ = models["gaussian"]
    prepare = tf.function(model.prepare, autograph=False)
    assert prepare(tf.constant(x[:0])).shape == x[:0].shape
