"""The variance models: closed forms, running averages, learning, links and bounds."""

import json
import math

import keras
import numpy as np
import oracles
import pytest
import scipy.special
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.variances import Fixed, Learned, MaximumLikelihood, Predicted

EVENT = (4, 3, 2)
D = 24

FORMS = {  # per_pixel, per_example
    "Iso-I": (False, False),
    "Iso-D": (False, True),
    "Diag-I": (True, False),
    "Diag-D": (True, True),
}
each_form = pytest.mark.parametrize("form", FORMS)
each_shared_form = pytest.mark.parametrize("form", ["Iso-I", "Diag-I"])
each_epsilon = pytest.mark.parametrize("epsilon", [0.0, 1e-6, 1e-2])


def maximum_likelihood(form, **arguments):
    per_pixel, per_example = FORMS[form]
    return MaximumLikelihood(per_pixel, per_example, **arguments)


def closed_form(r2, form, epsilon=0.0):
    return oracles.maximum_likelihood_variance(r2, *FORMS[form], epsilon)


def squared_errors(n=7, seed=0, scale=1.0):
    """Of a different size at each pixel and example."""
    random = np.random.default_rng(seed)
    sizes = scale * random.uniform(0.1, 3.0, size=(n, *EVENT))
    return (sizes * random.normal(size=(n, *EVENT)) ** 2).astype("float32")


def built(variance, event=EVENT):
    kvv_ops.build_once(variance, (None, *event))
    return variance


def deterministic_vae(variance, event=EVENT):
    """A VAE whose reconstructions are linear in x, without any draw."""
    likelihood = kvv.likelihoods.Gaussian(variance)
    networks = kvv.backbones.mlp(event, 2, likelihood, hidden=(), mean_activation=None)
    posterior = kvv.posteriors.Deterministic(2)
    return kvv.VAE(*networks, posterior, likelihood, regularizers=[], seed=0)


def images(n, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, *EVENT)).astype("float32")


# --------------------------------------------------------------------------------------
# Fixed


@pytest.mark.parametrize("value", [1e-6, 0.5, 1e3])
def test_fixed(value):
    variance = built(Fixed(value))
    for v in (variance(squared_errors(), {}, training=True), variance.predict({})):
        assert v.shape == () and float(v) == pytest.approx(value, rel=1e-7)
    assert not variance.trainable_variables


def test_fixed_can_follow_a_schedule_in_a_graph():
    variance = built(Fixed(1.0))
    predict = tf.function(lambda: variance.predict({}))
    assert float(predict()) == 1.0
    variance.variance.assign(0.25)
    assert float(predict()) == 0.25


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "1", None, [1.0]])
def test_wrong_fixed_variance(value):
    with pytest.raises(ValueError, match="`value` must be a positive.*Received: value"):
        Fixed(value)


@pytest.mark.parametrize("value", [1, np.float32(0.5), np.float64(0.5), np.int64(2)])
def test_numbers_of_numpy_are_numbers(value):
    """As `Fixed(x.var())` has them."""
    for part in (
        Fixed(value),
        Learned(initial=value, rate=value),
        MaximumLikelihood(epsilon=value),
        Predicted(floor=value, bounds=(None, value)),
        kvv.posteriors.ConstantGaussian(np.int64(2), variance=value),
        kvv.regularizers.KL(weight=value),
    ):
        whole = keras.saving.serialize_keras_object(part)
        whole = json.loads(json.dumps(whole))
        config = keras.saving.deserialize_keras_object(whole).get_config()
        assert config == part.get_config()


# --------------------------------------------------------------------------------------
# Maximum likelihood


@each_form
@each_epsilon
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_maximum_likelihood_variance(form, epsilon, scale):
    r2 = squared_errors(scale=scale)
    variance = built(maximum_likelihood(form, epsilon=epsilon))
    v = np.broadcast_to(variance(r2, {}, training=True), r2.shape)
    expected = np.broadcast_to(closed_form(r2, form, epsilon), r2.shape)
    np.testing.assert_allclose(v, expected, rtol=1e-5)


@each_form
def test_no_smaller_or_greater_variance_of_its_form_is_likelier(form):
    r2 = squared_errors()
    v = built(maximum_likelihood(form, epsilon=0.0))(r2, {}, training=True).numpy()
    random = np.random.default_rng(1)
    best = oracles.gaussian_nll(np.sqrt(oracles.float64(r2)), 0.0, v).mean()
    for _ in range(10):
        other = v * np.exp(random.normal(scale=0.1, size=v.shape))
        assert oracles.gaussian_nll(np.sqrt(r2), 0.0, other).mean() > best


@each_form
@each_epsilon
def test_training_holds_the_variance_constant(form, epsilon):
    r2 = tf.Variable(squared_errors())
    with tf.GradientTape() as tape:
        v = built(maximum_likelihood(form, epsilon=epsilon))(r2, {}, training=True)
    assert tape.gradient(v, r2) is None


@each_form
def test_running_average(form):
    """Bias-corrected, with a first batch that counts fully, of batches of any size."""
    variance = built(maximum_likelihood(form, decay=0.9, epsilon=1e-3))
    assert np.all(variance.predict({}) == 1)
    batches = [squared_errors(n, seed=n, scale=n / 100) for n in (5, 2, 8, 3)]
    means = []
    for r2 in batches:
        v = closed_form(r2, form, 1e-3)
        means.append(v.mean(axis=0, keepdims=True))
        variance(r2, {}, training=True)
        expected = oracles.running_average(means, 0.9)
        assert variance.predict({}).shape == expected.shape
        np.testing.assert_allclose(variance.predict({}), expected, rtol=1e-5)
        variance(100 * r2, {}, training=False)  # changes nothing
        np.testing.assert_allclose(variance.predict({}), expected, rtol=1e-5)


@each_form
@pytest.mark.parametrize("n", [9, 12])
def test_exact_after_calibration(form, n):
    """With a last batch of one example, and with a whole one."""
    x, weights = images(n), np.arange(n, dtype="float32")
    vae = deterministic_vae(maximum_likelihood(form))
    vae.objective(x[:3], training=True)  # an average to replace
    r2 = (oracles.float64(x) - oracles.float64(vae.reconstruct(x)["mean"])) ** 2
    shape = vae.likelihood.variance_model.predict({}).shape

    def check(data, expected, **arguments):
        assert vae.calibrate(data, **arguments) is vae
        expected = expected.mean(axis=0, keepdims=True)
        actual = vae.reconstruct(x[:1])["variance"]
        assert vae.likelihood.variance_model.predict({}).shape == shape
        np.testing.assert_allclose(
            actual, np.broadcast_to(expected, (1, *EVENT)), rtol=1e-5
        )

    # A mean over all examples of each one's variance: the same for the -I forms.
    check(x, closed_form(r2, form, 1e-6), batch_size=4)
    check(tf.data.Dataset.from_tensor_slices(x).batch(1), closed_form(r2, form, 1e-6))
    repeated = np.repeat(r2, weights.astype(int), axis=0)
    check((x, None, weights), closed_form(repeated, form, 1e-6), batch_size=4)


@each_shared_form
@pytest.mark.parametrize("inside_a_vae", [False, True])
def test_evaluation_ignores_the_variance_of_its_batch(form, inside_a_vae):
    """The same examples give the same values beside any others, or alone."""
    if inside_a_vae:
        vae = deterministic_vae(maximum_likelihood(form))
        vae.objective(images(6), training=True)
        x = images(6, seed=1)

        def evaluate(x):
            return vae.objective(x, training=False)["reconstruction"].numpy()

    else:
        variance = built(maximum_likelihood(form))
        variance(squared_errors(), {}, training=True)
        x = squared_errors(6, seed=1)

        def evaluate(r2):
            v = variance(r2, {}, training=False)
            return oracles.gaussian_nll(np.sqrt(r2), 0.0, v)

    alone = evaluate(x[:2])
    with_others = evaluate(np.concatenate([x[:2], 0.1 * x[2:]]))
    np.testing.assert_allclose(with_others[:2], alone, rtol=1e-6)


@pytest.mark.parametrize("form", ["Iso-D", "Diag-D"])
def test_evaluation_takes_the_variance_of_each_example(form):
    """By definition: it has the variance of x, whatever training saw."""
    variance = built(maximum_likelihood(form))
    variance(squared_errors(scale=100.0), {}, training=True)
    r2 = squared_errors(seed=1)
    v = variance(r2, {}, training=False)
    np.testing.assert_allclose(v, closed_form(r2, form, 1e-6), rtol=1e-5)
    assert variance.depends_on_x and not variance.batch_statistic


@each_shared_form
def test_shared_forms_are_densities_and_take_a_batch(form):
    variance = maximum_likelihood(form)
    assert not variance.depends_on_x and variance.batch_statistic


def test_a_last_batch_of_one_in_diag_i_takes_the_running_average():
    variance = built(maximum_likelihood("Diag-I"))
    variance(squared_errors(), {}, training=True)
    before = variance.predict({}).numpy()
    lone = squared_errors(1, seed=1)
    np.testing.assert_array_equal(variance(lone, {}, training=True), before)
    np.testing.assert_array_equal(variance.predict({}), before)
    # One example with others of weight 0 is as alone.
    r2 = squared_errors(4, seed=1)
    with kvv_ops.batch(r2, [0.0, 3.0, 0.0, 0.0]):
        np.testing.assert_array_equal(variance(r2, {}, training=True), before)
    # The other forms have the pixels.
    for form in ("Iso-I", "Iso-D", "Diag-D"):
        v = built(maximum_likelihood(form))(lone, {}, training=True)
        np.testing.assert_allclose(v, closed_form(lone, form, 1e-6), rtol=1e-5)


@each_form
def test_weights_enter_the_batch_statistic(form):
    r2, counts = squared_errors(5), np.array([2, 1, 0, 3, 1])
    repeated = np.repeat(r2, counts, axis=0)
    variance = built(maximum_likelihood(form))
    with kvv_ops.batch(r2, counts.astype("float32")):
        v = np.broadcast_to(variance(r2, {}, training=True), r2.shape)
    expected = np.broadcast_to(closed_form(repeated, form, 1e-6), repeated.shape)
    np.testing.assert_allclose(np.repeat(v, counts, axis=0), expected, rtol=1e-5)
    mean = expected.mean(axis=0, keepdims=True)
    predicted = np.broadcast_to(variance.predict({}), mean.shape)
    np.testing.assert_allclose(predicted, mean, rtol=1e-5)


@each_form
def test_an_empty_share_of_a_batch(form):
    """What a replica without examples computes: no NaN, and no change."""
    variance = built(maximum_likelihood(form))
    variance(squared_errors(), {}, training=True)
    before = variance.predict({}).numpy()
    signature = [tf.TensorSpec((None, *EVENT))]
    call = tf.function(lambda r2: variance(r2, {}, training=True), signature)
    v = call(squared_errors(0)).numpy()
    assert np.all(np.isfinite(v)) and np.all(v > 0)
    np.testing.assert_array_equal(variance.predict({}), before)


@pytest.mark.parametrize("epsilon", [-1e-6, math.nan, math.inf, "0", None])
def test_wrong_epsilon(epsilon):
    with pytest.raises(ValueError, match="`epsilon` must be.*Received: epsilon="):
        MaximumLikelihood(epsilon=epsilon)


@pytest.mark.parametrize("decay", [0, 1, 1.5, math.nan])
def test_wrong_decay(decay):
    with pytest.raises(ValueError, match="`decay` must lie.*Received: decay="):
        MaximumLikelihood(decay=decay)


# --------------------------------------------------------------------------------------
# Learned


@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e2])
def test_learned_starts_from_the_first_batch(per_pixel, scale):
    variance = built(Learned(per_pixel=per_pixel))
    shape = (1, *EVENT) if per_pixel else ()
    np.testing.assert_array_equal(variance.predict({}), np.ones(shape))
    r2, later = squared_errors(scale=scale), squared_errors(seed=1, scale=10 * scale)
    variance(later, {}, training=False)  # is no training batch
    np.testing.assert_array_equal(variance.predict({}), np.ones(shape))
    mse = oracles.float64(r2).mean()
    for batch in (r2, later):
        v = variance(batch, {}, training=True)
        np.testing.assert_allclose(v, np.full(shape, mse), rtol=1e-5)
    assert v.shape == shape


def test_learned_from_a_first_batch_that_fits_exactly():
    v = built(Learned())(0.0 * squared_errors(), {}, training=True)
    assert 0 < float(v) < 1e-8


@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("initial, rate", [(1.0, 1.0), (1e-4, 10.0), (50.0, 0.5)])
def test_learned_from_a_given_variance(per_pixel, initial, rate):
    variance = built(Learned(per_pixel=per_pixel, initial=initial, rate=rate))
    v = variance(squared_errors(), {}, training=True)
    np.testing.assert_allclose(v, np.full(v.shape, initial), rtol=1e-5)
    variance.parameter.assign_add(tf.fill(variance.parameter.shape, 0.1))
    expected = np.full(v.shape, initial * np.exp(0.1 * rate))
    np.testing.assert_allclose(variance.predict({}), expected, rtol=1e-5)


def train(variance, scale, steps, learning_rate=5e-4):
    """Adam on the nll of noise of variance `scale`; the parameter after each step.

    Batches of 64 examples of 16 pixels.
    """
    likelihood = kvv.likelihoods.Gaussian(variance)
    kvv_ops.build_once(likelihood, (None, 16))
    zeros = tf.zeros((64, 16))
    variables = variance.trainable_variables
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(variables)

    def step(i):
        noise = tf.random.stateless_normal((64, 16), [0, i])
        with tf.GradientTape() as tape:
            nll = likelihood(scale**0.5 * noise, {"mean": zeros}, training=True)
            loss = tf.reduce_mean(nll)
        optimizer.apply(tape.gradient(loss, variables), variables)

    step(tf.constant(-1))  # a first batch

    @tf.function
    def run():
        way = tf.TensorArray(tf.float32, steps)
        for i in tf.range(steps):
            step(i)
            way = way.write(i, tf.reduce_mean(variance.parameter))
        return way.stack()

    return run().numpy()


P0_STEPS = 16 * 235  # 3,760, at Adam's 5e-4


@pytest.mark.parametrize("start", [None, 0.03, 100.0])
@pytest.mark.parametrize("scale", [1e-4, 0.0062, 1e2])
def test_learned_gets_where_it_has_to_go(scale, start):
    """From the data, and from a hundredfold or a thirtieth of the true variance."""
    initial = None if start is None else start * scale
    variance = Learned(initial=initial)
    train(variance, scale, P0_STEPS)
    assert float(variance.predict({})) == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize("scale", [1e-4, 1e2])
def test_learned_gets_there_at_each_pixel(scale):
    variance = Learned(per_pixel=True)
    scales = scale * np.geomspace(0.01, 1, 16)
    train(variance, tf.constant(scales, tf.float32), P0_STEPS)
    # Of 64 residuals a batch where the scalar has 1,024: so much noisier in the end.
    np.testing.assert_allclose(variance.predict({})[0], scales, rtol=0.15)


def test_the_plain_parameter_is_bound_by_adam():
    """The papers' own: no step moves it by more than the learning rate."""
    variance = Learned(initial=1.0, rate=1.0)
    way = train(variance, 1e-4, 400)
    steps = np.diff(way)
    assert np.all(np.abs(steps) < 5e-4 * 1.001)
    assert way[-1] == pytest.approx(-400 * 5e-4, rel=0.01)  # it went as fast as it may
    # Hence no variance below exp(-1.88) = 0.15 in P0's steps.
    assert float(variance.predict({})) == pytest.approx(math.exp(way[-1]), rel=1e-4)


def test_the_rate_is_that_of_the_log_variance():
    ways = [
        train(Learned(initial=1.0, rate=rate), 1e-4, 50) * rate for rate in (1.0, 10.0)
    ]
    np.testing.assert_allclose(10 * ways[0], ways[1], rtol=1e-3)


@pytest.mark.parametrize("name", ["initial", "rate"])
@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "1"])
def test_wrong_learned_arguments(name, value):
    with pytest.raises(
        ValueError, match=f"`{name}` must be a positive.*Received: {name}"
    ):
        Learned(**{name: value})


def test_learned_without_a_rate():
    with pytest.raises(ValueError, match="Received: rate=None"):
        Learned(rate=None)


# --------------------------------------------------------------------------------------
# Predicted

LINKS = {
    "sigmoid": lambda t: 1 / (1 + np.exp(-t)),
    "softplus": lambda t: np.logaddexp(0, t),
    "exp": np.exp,
}
each_link = pytest.mark.parametrize("link", LINKS)
RAW = np.float32([-80, -20, -3, -0.5, 0, 0.5, 3, 20, 80])


def predict(variance, raw=RAW):
    variable = tf.Variable(np.float32(raw)[None])
    with tf.GradientTape() as tape:
        v = built(variance, (len(raw),)).predict({"raw_variance": variable})
    return v.numpy()[0], tape.gradient(v, variable).numpy()[0]


@each_link
@pytest.mark.parametrize("floor", [0.0, 0.003])
def test_links_and_floor(link, floor):
    v, gradient = predict(Predicted(link=link, floor=floor))
    expected = LINKS[link](oracles.float64(RAW)) + floor
    np.testing.assert_allclose(v, expected, rtol=1e-5)
    assert np.all(v >= np.float32(floor)) and np.all(gradient >= 0)


@each_link
def test_the_offset_moves_the_start_of_the_head(link):
    variance = built(Predicted(link=link, floor=0.01), (3,))
    variance.offset.assign(-2.0)
    v, _ = predict(variance, [-1.0, 0.0, 2.0])
    expected = LINKS[link](np.array([-3.0, -2.0, 0.0])) + 0.01
    np.testing.assert_allclose(v, expected, rtol=1e-5)


P2 = (math.exp(-12.0), None)  # l_min = -6


@each_link
@pytest.mark.parametrize("bounds", [P2, (None, 4.0), (1e-4, 4.0)])
def test_bounds_are_p2_s_two_lines_in_the_log_stddev(link, bounds):
    v, _ = predict(Predicted(link=link, bounds=bounds, floor=0.001))
    log_stddev = 0.5 * np.log(LINKS[link](oracles.float64(RAW)))
    limits = (None if b is None else 0.5 * math.log(b) for b in bounds)
    expected = np.exp(2 * oracles.soft_clip(log_stddev, *limits)) + 0.001
    np.testing.assert_allclose(v, expected, rtol=2e-5)


@each_link
def test_bounds_hold_where_the_link_leaves_float32(link):
    """What they are for: no variance of 0, and no NaN in the gradient."""
    raw = np.array([-1e3, -104.0, -90.0, 89.0, 1e3])
    v, gradient = predict(Predicted(link=link, bounds=(1e-4, 4.0)), raw)
    log_stddev = {
        "sigmoid": scipy.special.log_expit(raw) / 2,
        "softplus": np.where(raw < 0, raw, np.log(np.abs(raw))) / 2,
        "exp": raw / 2,
    }[link]
    limits = 0.5 * math.log(1e-4), 0.5 * math.log(4.0)
    expected = np.exp(2 * oracles.soft_clip(log_stddev, *limits))
    np.testing.assert_allclose(v, expected, rtol=1e-5)
    assert np.all(np.isfinite(gradient)) and np.all(gradient >= 0)


def test_bias_of_the_bounds():
    """Upwards near the lower one, fourfold at it; downwards near the upper one."""
    raw = np.log(np.float32([1e-4, 2e-4, 1.0, 50.0, 100.0]))
    v, _ = predict(Predicted(link="exp", bounds=(1e-4, 100.0)), raw)
    ratio = v / np.exp(raw)
    assert ratio[0] == pytest.approx(4, rel=1e-2)  # exp(2 log 2)
    assert ratio[0] > ratio[1] > 1 > ratio[3] > ratio[4]
    assert ratio[4] == pytest.approx(1 / 4, rel=1e-2)


@pytest.mark.parametrize(
    "event, arguments, shape",
    [
        ((4, 3, 2), {}, (4, 3, 2)),
        ((4, 3, 2), {"per_channel": False}, (4, 3, 1)),
        ((4, 3, 2), {"per_pixel": False}, (1, 1, 2)),
        ((4, 3, 2), {"per_pixel": False, "per_channel": False}, (1, 1, 1)),
        ((4, 3), {"per_channel": False}, (4, 3)),
        ((4, 3), {"per_pixel": False}, (1, 1)),
        ((6,), {}, (6,)),
        ((6,), {"per_pixel": False}, (1,)),
    ],
)
def test_head(event, arguments, shape):
    variance = built(Predicted(floor=0.1, **arguments), event)
    assert variance.heads(event) == {
        "raw_variance": kvv.types.Head(shape, None, "variance")
    }
    raw = np.random.default_rng(0).normal(size=(5, *shape)).astype("float32")
    v = variance(np.ones((5, *event), "float32"), {"raw_variance": raw}, training=True)
    assert v.shape == raw.shape
    np.testing.assert_array_equal(v, variance.predict({"raw_variance": raw}))


def test_predicted_is_a_density_of_its_own():
    variance = built(Predicted())
    assert not variance.depends_on_x and not variance.batch_statistic
    assert variance.stage is None and not variance.trainable_variables


@pytest.mark.parametrize(
    "arguments",
    [
        {"link": "relu"},
        {"link": None},
        {"floor": -1e-3},
        {"floor": math.nan},
        {"floor": math.inf},
        {"bounds": (0.0, 1.0)},
        {"bounds": (-1.0, None)},
        {"bounds": (2.0, 1.0)},
        {"bounds": (1.0, 1.0)},
        {"bounds": (1.0,)},
        {"bounds": (math.nan, 1.0)},
        {"bounds": 0.5},
        {"stage1": "learned"},
        {"stage1": Learned},
        {"stage1": Predicted()},
    ],
    ids=str,
)
def test_wrong_predicted_arguments(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"(?s)`{name}` must.*Received: {name}="):
        Predicted(**arguments)


# --------------------------------------------------------------------------------------
# The base class


def test_a_variance_says_what_it_must_override():
    class Half(kvv.variances.Variance):
        pass

    assert Half().heads(EVENT) == {}
    with pytest.raises(NotImplementedError):
        Half()(squared_errors(), {})
    with pytest.raises(NotImplementedError):
        Half().predict({})
