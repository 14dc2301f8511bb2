"""The decoder's distributions against SciPy, and the laws that every one keeps."""

import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from contracts import EVENT, Use, cases, make

import keras_vae_variance as kvv
from keras_vae_variance import ops as kvv_ops
from keras_vae_variance.likelihoods import Bernoulli, Gaussian, LogisticMixture
from keras_vae_variance.variances import Fixed, MaximumLikelihood, Predicted

D = 24
each_likelihood = pytest.mark.parametrize("cls, arguments", cases(kvv.likelihoods))
# Every variance model under the Gaussian, new ones included.
each_variance = pytest.mark.parametrize("cls, arguments", cases(kvv.variances))


def gaussian(variance, event=EVENT):
    likelihood = Gaussian(variance)
    kvv_ops.build_once(likelihood, (None, *event))
    return likelihood


def images(n, seed=0, event=EVENT):
    return np.random.default_rng(seed).uniform(size=(n, *event)).astype("float32")


def edges(n, seed=0):
    """Images of values between 0 and 1, and many of exactly these."""
    random = np.random.default_rng(seed)
    x = np.clip(random.uniform(-1, 2, size=(n, *EVENT)), 0, 1)
    return x.astype("float32")


# --------------------------------------------------------------------------------------
# Gaussian


@pytest.mark.parametrize("variance", [1e-6, 1e-3, 0.5, 1.0, 1e3])
def test_gaussian_against_scipy(variance):
    x, mean = edges(6), edges(6, seed=1)
    likelihood = gaussian(Fixed(variance))
    for m in (mean, x, 0 * mean, 1 - 1e-3 * mean):
        m = np.float32(m)
        expected = oracles.gaussian_nll(x, m, np.float32(variance))
        np.testing.assert_allclose(likelihood(x, {"mean": m}), expected, rtol=1e-5)


def test_gaussian_with_a_variance_for_each_scalar_against_scipy():
    random = np.random.default_rng(0)
    x, mean = edges(6), edges(6, seed=1)
    log_variance = random.uniform(np.log(1e-6), np.log(1e3), size=x.shape)
    raw = log_variance.astype("float32")
    likelihood = gaussian(Predicted(link="exp"))
    expected = oracles.gaussian_nll(x, mean, np.exp(oracles.float64(raw)))
    actual = likelihood(x, {"mean": mean, "raw_variance": raw})
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("per_pixel, shape", [(True, (4, 3, 1)), (False, (1, 1, 2))])
def test_gaussian_with_a_shared_variance_counts_every_scalar(per_pixel, shape):
    """log v is summed over the event, however few numbers v has."""
    variance = Predicted(per_pixel, per_channel=not per_pixel, link="exp")
    raw = np.random.default_rng(0).normal(size=(6, *shape)).astype("float32")
    x, mean = edges(6), edges(6, seed=1)
    expected = oracles.gaussian_nll(x, mean, np.exp(oracles.float64(raw)))
    actual = gaussian(variance)(x, {"mean": mean, "raw_variance": raw})
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@each_variance
def test_gaussian_reports_the_nll_at_the_variance(cls, arguments):
    """For any variance model, in training and evaluation, epsilon or not."""
    use = Use(cls, arguments)
    likelihood, data = gaussian(use.part), use.data(5)
    latent, other = use.latent(data), use.data(5, seed=1)
    likelihood(data["x"], other, latent, training=True)
    twin = Use(cls, arguments)
    gaussian(twin.part)(data["x"], other, latent, training=True)
    for training in (False, True):
        v = twin(data, training=training)["variance"]
        expected = oracles.gaussian_nll(data["x"], data["mean"], v)
        actual = likelihood(data["x"], data, latent, training=training)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("event", [EVENT, (6,)], ids=str)
def test_gaussian_mean_and_variance(event):
    """Of the shape of x; the variance is that of the model, not its root."""
    x = images(5, event=event)
    likelihood = gaussian(Fixed(0.25), event)
    np.testing.assert_array_equal(likelihood.mean({"mean": x}), x)
    variance = likelihood.variance({"mean": x})
    np.testing.assert_array_equal(variance, np.full(x.shape, 0.25))


@pytest.mark.parametrize("variance", [1e-4, 0.25, 9.0])
def test_gaussian_draws(variance):
    mean = np.broadcast_to(images(1), (400, *EVENT))
    likelihood = gaussian(Fixed(variance))
    draws = likelihood.sample({"mean": mean}, seed=3).numpy()
    standard = (draws - mean) / np.sqrt(variance)
    assert scipy.stats.kstest(standard.ravel(), "norm").pvalue > 1e-3
    # Independent between pixels and examples.
    correlation = np.corrcoef(standard.reshape(400, -1).T) - np.eye(D)
    assert np.abs(correlation).max() < 5 / np.sqrt(400)
    np.testing.assert_array_equal(draws, likelihood.sample({"mean": mean}, seed=3))
    assert np.all(draws != likelihood.sample({"mean": mean}, seed=4))


def test_gaussian_draws_have_the_predicted_variance_of_each_pixel():
    raw = np.broadcast_to(images(1) * 8 - 4, (4000, *EVENT))
    parameters = {"mean": 0 * raw, "raw_variance": raw}
    likelihood = gaussian(Predicted(link="exp"))
    draws = likelihood.sample(parameters, seed=0).numpy()
    ratio = draws.var(axis=0) / likelihood.variance(parameters).numpy()[0]
    assert np.all(np.abs(ratio - 1) < 5 * np.sqrt(2 / 4000))


@each_variance
def test_gaussian_says_whether_it_is_a_density(cls, arguments):
    variance = make(cls, arguments)
    likelihood = gaussian(variance)
    assert likelihood.normalized is not variance.depends_on_x
    assert likelihood.batch_statistic is variance.batch_statistic
    assert likelihood.variance_model is variance
    assert not likelihood.unit_interval


@pytest.mark.parametrize("variance", [0.5, None, Fixed, "learned", np.float32(1)])
def test_wrong_variance(variance):
    with pytest.raises(
        TypeError, match=r"(?s)`variance` must be one of.*Received: var"
    ):
        Gaussian(variance)


# --------------------------------------------------------------------------------------
# Bernoulli

LOGITS = np.float32([-80, -20, -10, -1, -1e-3, 0, 1e-3, 1, 10, 20, 80])


@pytest.mark.parametrize("x", [0.0, 1e-3, 0.5, 1.0])
def test_bernoulli_of_one_pixel_against_scipy(x):
    """Relative to the result, where the model is right and sure too."""
    logits = LOGITS[:, None]
    x = np.full_like(logits, x)
    expected = oracles.bernoulli_nll(x, logits)
    actual = Bernoulli()(x, {"logits": logits})
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_bernoulli_against_scipy():
    logits = np.random.default_rng(0).choice(LOGITS, size=(6, *EVENT))
    for x in (edges(6), np.round(edges(6))):
        expected = oracles.bernoulli_nll(x, logits)
        np.testing.assert_allclose(Bernoulli()(x, {"logits": logits}), expected, 1e-5)


def test_bernoulli_gradient():
    """sigmoid(l) - x, at a logit of exactly 0 too."""
    logits = tf.Variable(LOGITS[:, None])
    for x in (0.0, 0.3, 1.0):
        with tf.GradientTape() as tape:
            nll = Bernoulli()(np.full(logits.shape, x, "float32"), {"logits": logits})
        expected = scipy.special.expit(oracles.float64(LOGITS)) - np.float32(x)
        actual = tape.gradient(nll, logits)[:, 0]
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_bernoulli_mean_variance_and_draws():
    logits = np.broadcast_to(images(1) * 8 - 4, (4000, *EVENT))
    p = scipy.special.expit(oracles.float64(logits))
    likelihood = Bernoulli()
    parameters = {"logits": logits}
    np.testing.assert_allclose(likelihood.mean(parameters), p, rtol=1e-5)
    np.testing.assert_allclose(likelihood.variance(parameters), p * (1 - p), rtol=1e-5)
    draws = likelihood.sample(parameters, seed=3).numpy()
    assert set(np.unique(draws)) == {0.0, 1.0}
    error = np.abs(draws.mean(axis=0) - p[0])
    assert np.all(error < 5 * np.sqrt(p[0] * (1 - p[0]) / 4000))
    np.testing.assert_array_equal(draws, likelihood.sample(parameters, seed=3))
    assert np.any(draws != likelihood.sample(parameters, seed=4))


def test_bernoulli_variance_keeps_its_precision():
    logits = np.float32([[20.0, -20.0, 80.0]])
    expected = np.exp(-np.abs(oracles.float64(logits)))
    np.testing.assert_allclose(Bernoulli().variance({"logits": logits}), expected, 1e-5)


def test_bernoulli_says_whether_it_is_a_probability():
    assert not Bernoulli().normalized and Bernoulli(binary=True).normalized
    assert Bernoulli.unit_interval and not Bernoulli.batch_statistic


# --------------------------------------------------------------------------------------
# Laws


def flat(event, likelihood, parameters):
    """exp(-nll) as a function of `x`, many at once, at one z."""

    def density(x):
        x = np.asarray(x, "float32").reshape(-1, *event)
        many = {k: np.repeat(v, len(x), axis=0) for k, v in parameters.items()}
        return np.exp(-oracles.float64(likelihood(x, many, training=False)))

    return density


densities = [
    case
    for case in cases(kvv.likelihoods)
    if case.values[1] is None or make(*case.values).normalized
]


@pytest.mark.parametrize("cls, arguments", densities)
def test_probabilities_add_up_to_one(cls, arguments):
    """Over the data that it is for, where it says that it is normalised."""
    event = (1,) if cls.discrete and cls is not Bernoulli else (2,)
    use = Use(cls, arguments, event)
    use(use.data(4, seed=1), training=True)  # a running variance
    use(use.data(4, seed=2), training=True)
    density = flat(event, use.part, use.data(1))
    if cls is Bernoulli:
        total = density([[0, 0], [0, 1], [1, 0], [1, 1]]).sum()
    elif cls.discrete:
        total = density(np.arange(256) / 255).sum()
    else:
        # Points that grow apart, up to 8e4: the Student-t's variance just exists.
        t = np.linspace(-12, 12, 601)
        grid = np.stack(np.meshgrid(np.sinh(t), np.sinh(t)), axis=-1)
        areas = np.outer(np.cosh(t), np.cosh(t)).ravel() * (t[1] - t[0]) ** 2
        total = np.sum(density(grid) * areas)
    assert total == pytest.approx(1, abs=1e-4)


def test_a_variance_that_depends_on_x_gives_no_density():
    """As `normalized` says: of Iso-D it is D/2 log(2 pi e v), infinite at v = 0."""
    likelihood = gaussian(MaximumLikelihood(per_example=True), (1,))
    points = np.linspace(-12, 12, 601)
    total = flat((1,), likelihood, {"mean": np.zeros((1, 1), "float32")})(points).sum()
    assert not likelihood.normalized and total * 0.04 > 2


def scaled(x, mean, variance, c):
    likelihood = gaussian(Fixed(c**2 * variance))
    return likelihood(np.float32(c * x), {"mean": np.float32(c * mean)})


@pytest.mark.parametrize("c", [1e-3, 255.0])
def test_units_of_x(c):
    """x, mean and stddev in another unit: the nll moves by D log c."""
    x, mean = images(5), images(5, seed=1)
    moved = scaled(x, mean, 0.3, c) - scaled(x, mean, 0.3, 1.0)
    np.testing.assert_allclose(moved, D * np.log(c) * np.ones(5), rtol=1e-5)


@pytest.mark.parametrize("c", [1e-2, 10.0])
@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("per_example", [False, True])
def test_units_of_x_with_the_variance_of_the_batch(per_pixel, per_example, c):
    x, mean = images(5), images(5, seed=1)
    nll = [
        gaussian(MaximumLikelihood(per_pixel, per_example, epsilon=0.0))(
            np.float32(unit * x), {"mean": np.float32(unit * mean)}, training=True
        )
        for unit in (1.0, c)
    ]
    np.testing.assert_allclose(nll[1] - nll[0], D * np.log(c) * np.ones(5), rtol=1e-5)


# Not of Baggins, whose variance is itself a sum over the pixels (P4, Eq. 29).
additive = [c for c in cases(kvv.variances) if c.values[0] is not kvv.variances.Baggins]


@pytest.mark.parametrize("axis", [1, 2, 3], ids=["height", "width", "channels"])
@pytest.mark.parametrize("cls, arguments", additive)
def test_doubling_a_side_doubles_the_gaussian_s_term(cls, arguments, axis):
    check_doubling(lambda: Gaussian(make(cls, arguments)), axis)


@pytest.mark.parametrize("axis", [1, 2, 3], ids=["height", "width", "channels"])
@each_likelihood
def test_doubling_a_side_doubles_the_term(cls, arguments, axis):
    if cls is LogisticMixture and axis == 3:
        # A pixel's channels share its component; of one component they are apart.
        arguments = {"num_components": 1}
    check_doubling(lambda: make(cls, arguments), axis)


def check_doubling(make_likelihood, axis):
    """Of an image beside its copy. A mean over pixels would leave it as it is."""
    terms = []
    for times in (1, 2):
        likelihood = make_likelihood()
        x = images(5)
        event = list(EVENT)
        event[axis - 1] *= times
        kvv_ops.build_once(likelihood, (None, *event))
        random = np.random.default_rng(1)
        parameters = {"mean": images(5, seed=2)}
        for name, head in likelihood.heads(EVENT).items():
            if name not in parameters:
                parameters[name] = random.normal(size=(5, *head.shape)).astype(
                    "float32"
                )
        shapes = likelihood.heads(tuple(event))
        for name, head in shapes.items():
            given = parameters[name]
            if given.shape[1:] != tuple(head.shape):
                parameters[name] = np.concatenate([given] * times, axis=axis)
        x = np.concatenate([x] * times, axis=axis)
        terms.append(likelihood(x, parameters, training=True).numpy())
    # P1's epsilon in Iso-D, 1e-6 on a sum of squares of about 4, is no part of it.
    np.testing.assert_allclose(terms[1], 2 * terms[0], rtol=2e-6)


@pytest.mark.parametrize("axis", [1, 2, 3], ids=["height", "width", "channels"])
def test_doubling_a_side_leaves_the_kl_alone(axis):
    """In a whole VAE whose networks see each copy alike."""
    results = []
    for times in (1, 2):
        event = list(EVENT)
        event[axis - 1] *= times
        likelihood = Gaussian(MaximumLikelihood())
        networks = kvv.backbones.mlp(tuple(event), 2, likelihood, hidden=())
        posterior = kvv.posteriors.DiagonalGaussian(2)
        vae = kvv.VAE(*networks, posterior, likelihood, seed=0)
        random = np.random.default_rng(0)
        for variable in vae.trainable_variables:
            if variable.path.startswith("mean"):  # the decoder's: (..., pixels)
                value = random.normal(size=(*variable.shape[:-1], *EVENT))
                value = np.concatenate([value] * times, axis=value.ndim - 4 + axis)
            elif len(variable.shape) == 2:  # the posterior's kernels: (pixels, 2)
                value = random.normal(size=(*EVENT, 2)) / times
                value = np.concatenate([value] * times, axis=axis - 1)
            else:
                value = random.normal(size=variable.shape)
            variable.assign(value.reshape(variable.shape))
        x = np.concatenate([images(5)] * times, axis=axis)
        results.append(vae.objective(x, training=True))
    assert np.all(results[0]["kl"] > 0.01)
    np.testing.assert_allclose(results[1]["kl"], results[0]["kl"], rtol=1e-5)
    expected = 2 * results[0]["reconstruction"]
    np.testing.assert_allclose(results[1]["reconstruction"], expected, rtol=1e-5)


def test_a_likelihood_says_what_it_must_override():
    class Half(kvv.likelihoods.Likelihood):
        pass

    for use in (
        lambda: Half().heads(EVENT),
        lambda: Half()(images(1), {}),
        lambda: Half().mean({}),
        lambda: Half().variance({}),
        lambda: Half().sample({}),
    ):
        with pytest.raises(NotImplementedError):
            use()


def test_half_precision_parameters_leave_x_its_precision():
    x, mean = images(4), images(4, seed=1)
    half = tf.cast(mean, "float16")
    likelihood = gaussian(Fixed(1e-4))
    expected = oracles.gaussian_nll(x, half.numpy(), np.float32(1e-4))
    np.testing.assert_allclose(likelihood(x, {"mean": half}), expected, rtol=1e-5)
