"""Coverage, z-scores and the calibration error: exact cases, a slow twin, inputs."""

import contracts
import keras
import linear
import numpy as np
import oracles
import pytest
import scipy.stats
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance import likelihoods, posteriors, variances
from keras_vae_variance.metrics import base, calibration, coverage

EVENT, D, L = (4, 3, 2), 24, 2
LEVELS = [0.2, 0.5, 0.9]


def make(variance=None, likelihood=None):
    """A VAE of linear networks, with no bounds on the mean."""
    keras.utils.set_random_seed(0)
    likelihood = likelihood or likelihoods.Gaussian(variance or variances.Fixed(0.3))
    networks = kvv.backbones.mlp(EVENT, L, likelihood, mean_activation=None, hidden=())
    return kvv.VAE(*networks, posteriors.DiagonalGaussian(L), likelihood, seed=0)


def silent(variance):
    """A VAE whose decoder's mean is 0: the z-scores are `x / stddev`."""
    vae = make(variance)
    for weight in vae.decoder.weights:
        weight.assign(np.zeros(weight.shape))
    return vae


def normal(n, scale=1.0, seed=0):
    random = np.random.default_rng(seed)
    return (scale * random.normal(size=(n, *EVENT))).astype("float32")


def shares(found):
    return np.array([float(share) for share in found.values()])


def errors(found):
    return np.array([share.standard_error for share in found.values()])


# --------------------------------------------------------------------------------------
# The z-scores of the likelihoods


@pytest.mark.parametrize(
    "variance",
    [
        variances.Fixed(0.04),
        variances.Predicted(link="exp"),
        variances.Predicted(per_pixel=False, per_channel=False),
        variances.MaximumLikelihood(per_example=True),
    ],
    ids=["fixed", "pixel", "image", "iso_d"],
)
def test_gaussian(variance):
    use = contracts.Use(likelihoods.Gaussian, {"variance": lambda: variance})
    data = use.data(5)
    z = use.part.zscore(data["x"], data, use.latent(data))
    assert z.dtype == np.float64 and z.shape == data["x"].shape
    r2 = (data["x"] - data["mean"]) ** 2
    v = np.broadcast_to(variance(r2, data), r2.shape)
    by_quantiles = scipy.stats.norm.ppf(
        scipy.stats.norm.cdf(data["x"], data["mean"], np.sqrt(v, dtype="float64"))
    )
    np.testing.assert_allclose(z, by_quantiles, rtol=1e-4, atol=1e-5)


def test_student_t():
    """The normal quantile of its own distribution function, and of its own draws."""
    likelihood = likelihoods.StudentT()
    x = np.concatenate([-np.geomspace(1e3, 1e-3, 60), np.geomspace(1e-3, 1e3, 60)])
    excess = np.array([1e-3, 0.5, 3.0, 50.0])[:, None]  # degrees of freedom beyond 2
    raw = excess + np.log(-np.expm1(-excess))  # the inverse of softplus
    x, raw, mean = (np.broadcast_to(a, (4, 120)).astype("float32") for a in (x, raw, 1))
    parameters = {"mean": mean, "log_scale": 0 * mean - 0.7, "raw_degrees": raw}
    z = likelihood.zscore(x, parameters)
    t = (oracles.float64(x) - 1) / np.exp(np.float32(-0.7))
    expected = scipy.stats.norm.isf(scipy.stats.t(2 + excess).sf(np.abs(t)))
    np.testing.assert_allclose(z, np.sign(t) * expected, rtol=1e-4, atol=1e-6)
    # Far out where F rounds to 0, z stays finite.
    far = likelihood.zscore(1e6 * x, {**parameters, "raw_degrees": 0 * raw + 1e3})
    assert np.isfinite(far).all() and np.abs(far).max() == pytest.approx(37.5, abs=0.1)

    wide = {name: np.resize(a, (40_000, 1)) for name, a in parameters.items()}
    z = likelihood.zscore(likelihood.sample(wide, seed=0), wide)
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 0.01


def test_distributions_of_levels_have_none():
    continuous = (likelihoods.Gaussian, likelihoods.StudentT)
    for case in contracts.cases(likelihoods):
        cls, arguments = case.values
        if cls not in continuous:
            vae = make(likelihood=contracts.make(cls, arguments))
            with pytest.raises(ValueError, match="continuous.*Received: likelihood="):
                coverage(vae, np.zeros((2, *EVENT), "float32"))


# --------------------------------------------------------------------------------------
# Exact cases


def test_data_of_a_linear_model_are_covered_as_said():
    """At draws of the exact posterior; at its mean errors would be too small."""
    random = np.random.default_rng(0)
    d, v = 3, np.array([0.2, 0.5, 2.0])
    # Rows that are orthogonal in the metric of v: the exact posterior is diagonal.
    w = np.linalg.qr(random.normal(size=(d, L)))[0].T * [[2.0], [0.7]] * np.sqrt(v)
    b = np.array([1.0, 0.0, -1.0])
    a, c, covariance = linear.posterior(w, b, v)
    vae = linear.model(w, b, v, a, c, np.diag(covariance))
    n = 10_000
    x = random.normal(size=(n, L)) @ w + b + np.sqrt(v) * random.normal(size=(n, d))
    found = calibration(vae, x.astype("float32"), LEVELS, seed=1, batch_size=5000)
    assert np.all(np.abs(shares(found.coverage) - LEVELS) < 4 * errors(found.coverage))
    assert errors(found.coverage).max() < 0.004
    assert float(found.error) < 4 * errors(found.coverage).max()
    for estimate, right in ((found.mean, 0), (found.stddev, 1)):
        assert abs(float(estimate) - right) < 4 * estimate.standard_error < 0.04
    middles = (found.edges[1:] + found.edges[:-1]) / 2
    density = scipy.stats.norm.pdf(middles)
    # A bin's share is binomial, or nearly so.
    spread = np.sqrt(density / (n * d * 0.1))
    assert np.all(np.abs(found.density - density) < 5 * spread + 1e-3)


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_a_wrong_variance_in_closed_form(factor):
    """x of variance v, and a model of variance factor * v."""
    vae = silent(variances.Fixed(0.3 * factor))
    found = calibration(vae, normal(2000, 0.3**0.5), batch_size=1000)
    levels = np.array(list(found.coverage))
    expected = (
        2 * scipy.stats.norm.cdf(scipy.stats.norm.ppf((1 + levels) / 2) * factor**0.5)
        - 1
    )
    error = errors(found.coverage)
    assert np.all(np.abs(shares(found.coverage) - expected) < 4 * error)
    # The mean of the differences is off by no more than one of them.
    wrong = np.mean(np.abs(expected - levels))
    assert float(found.error) == pytest.approx(wrong, abs=4 * error.max())
    off = float(found.stddev) - factor**-0.5
    assert abs(off) < 4 * found.stddev.standard_error < 0.05


# --------------------------------------------------------------------------------------
# Against a slow twin


def zscores(vae, x, seed):
    """The z-scores of all data, by the formula, at the draws that belong to `seed`."""
    latent = vae.encode(x)
    sources = base.streams(base.key(seed), 0, len(x))
    z = latent.mean + np.sqrt(latent.variance) * base.noise(sources, (L,))
    parameters = vae.decode(z)
    v = vae.likelihood.variance_model.predict(parameters)
    return oracles.float64((x - parameters["mean"]) / np.sqrt(v))


def summary(z, mask):
    """Coverages, error, mean and stddev of the z-scores in a mask, by definition."""
    z = z[mask]
    bounds = scipy.stats.norm.ppf((1 + np.array(LEVELS)) / 2)
    inside = [np.mean(np.abs(z) <= bound) for bound in bounds]
    error = np.mean(np.abs(np.array(inside) - LEVELS))
    return np.array([*inside, error, z.mean(), z.std()])


def jackknife(z, mask):
    """Standard errors by leaving out one example after the other."""
    some = [i for i in range(len(z)) if mask[i].any()]
    left = [summary(np.delete(z, i, 0), np.delete(mask, i, 0)) for i in some]
    return np.sqrt((len(left) - 1) * np.var(left, axis=0))


@pytest.fixture(scope="module")
def twin():
    """A VAE, data whose pixels depend on each other, and their z-scores.

    Every other image is nearly black: coverages are too large at low levels and too
    small at high ones.
    """
    vae = make(variances.Predicted(floor=0.3))
    x = normal(150) + np.random.default_rng(1).normal(0.7, 1.0, size=(150, 1, 1, 1))
    x[::2] *= 0.1
    x = x.astype("float32")
    return vae, x, zscores(vae, x, seed=3)


def test_against_the_definition(twin):
    vae, x, z = twin
    random = np.random.default_rng(2)
    regions = {
        "all": True,
        "upper": np.arange(4)[:, None, None] < 2,
        "group": (np.arange(150) % 3 == 0)[:, None, None, None],
        "scattered": random.random((150, *EVENT)) < 0.2,  # of unequal numbers
        "pixel": np.arange(D).reshape(EVENT) == 5,
    }
    found = calibration(vae, x, LEVELS, regions, seed=3, batch_size=40)
    assert list(found) == list(regions)
    low, _, high = shares(found["all"].coverage) - LEVELS
    assert low > 0.02 and high < -0.02
    for name, mask in regions.items():
        mask = np.broadcast_to(mask, x.shape)
        record = found[name]
        estimates = [*record.coverage.values(), record.error, record.mean]
        estimates.append(record.stddev)
        values = [float(e) for e in estimates]
        np.testing.assert_allclose(values, summary(z, mask), atol=1e-5)
        # They differ by 1/n, for n = 50 in a group, and where an error's sign turns.
        np.testing.assert_allclose(
            [e.standard_error for e in estimates], jackknife(z, mask), rtol=0.05
        )
        density = np.histogram(z[mask], record.edges)[0] / mask.sum() / 0.1
        # Rounding may bring a z-score into the next bin.
        moved = np.abs(record.density - density).sum() * mask.sum() * 0.1
        assert moved < 4.5


def test_equal_pixels_count_once():
    """The error is the binomial one of as many trials as there are images."""
    v, n = 0.3, 400
    x = np.sqrt(v) * np.random.default_rng(0).normal(size=(n, 1, 1, 1)) * np.ones(EVENT)
    found = coverage(silent(variances.Fixed(v)), x.astype("float32"), LEVELS)
    share = shares(found)
    binomial = np.sqrt(share * (1 - share) / (n - 1))
    np.testing.assert_allclose(errors(found), binomial, rtol=1e-6)


def test_batches_streams_and_seeds(twin):
    vae, x, _ = twin
    regions = {"all": True, "half": np.arange(150)[:, None, None, None] < 70}
    expected = coverage(vae, x, LEVELS, regions, seed=3)
    assert list(expected["half"]) == LEVELS
    together = coverage(vae, x, LEVELS, seed=3)
    np.testing.assert_array_equal(shares(together), shares(expected["all"]))

    class Dataset(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            part = slice(50 * index, 50 * index + 50)
            return x[part], np.zeros(50)

    for given in (
        (x, np.zeros(150)),
        tf.data.Dataset.from_tensor_slices(x).batch(64),
        Dataset(),
        (x[i : i + 10] for i in range(0, 150, 10)),
    ):
        found = coverage(vae, given, LEVELS, regions, seed=3, batch_size=17)
        for name, record in found.items():
            # A z-score within rounding of a bound may fall on its other side.
            np.testing.assert_allclose(
                shares(record), shares(expected[name]), atol=4 / x.size
            )
    for seed in (4, None):
        assert np.any(shares(coverage(vae, x, LEVELS, seed=seed)) != shares(together))


def test_a_variance_that_depends_on_x_warns():
    """Diag-D: every z-score is 1 or -1, whatever the data."""
    vae = make(variances.MaximumLikelihood(per_pixel=True, per_example=True, epsilon=0))
    for function in (calibration, coverage):
        with pytest.warns(
            UserWarning, match="depends.*Received: likelihood="
        ) as caught:
            found = function(vae, normal(9), [0.6, 0.7])
        assert caught[0].filename == __file__
    assert shares(found).tolist() == [0.0, 1.0]


def test_wrong_arguments(twin):
    vae, x, _ = twin
    for levels in ([], [0.0, 0.5], [0.5, 1.0], [0.9, 0.5], [0.5, 0.5], ["a"], [np.nan]):
        with pytest.raises(ValueError, match=r"`levels`.*Received: levels=\["):
            calibration(vae, x, levels)
    with pytest.raises(ValueError, match="`levels` must be increasing.*levels=0.9"):
        coverage(vae, x, levels=0.9)
    for size in (-1, 0, 256.0):
        for metric in (calibration, kvv.metrics.anomaly_scores):
            with pytest.raises(ValueError, match=f"Received: batch_size={size}"):
                metric(vae, x, batch_size=size)
    with pytest.raises(ValueError, match="at least one example"):
        calibration(vae, x[:0])
    with pytest.raises(
        ValueError, match="`regions` must be a dict.*Received: regions="
    ):
        coverage(vae, x, regions=np.ones(EVENT, bool))


# --------------------------------------------------------------------------------------
# The figure


def test_figure(twin, tmp_path):
    vae, x, _ = twin
    upper = np.arange(4)[:, None, None] < 2
    records = calibration(vae, x, LEVELS, {"upper": upper, "lower": ~upper}, seed=3)
    figure = kvv.plots.calibration(records, title="two halves")
    reliability, histogram = figure.axes
    *curves, diagonal = reliability.lines
    assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == 2
    for line, record, stairs in zip(
        curves, records.values(), histogram.patches, strict=True
    ):
        np.testing.assert_array_equal(line.get_xdata(), LEVELS)
        np.testing.assert_array_equal(line.get_ydata(), shares(record.coverage))
        drawn = stairs.get_data()
        np.testing.assert_array_equal(drawn.edges, record.edges)
        np.testing.assert_array_equal(np.nan_to_num(drawn.values), record.density)
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    (normal,) = histogram.lines
    expected = scipy.stats.norm.pdf(normal.get_xdata())
    np.testing.assert_allclose(normal.get_ydata(), expected, rtol=1e-6)
    band = reliability.collections[0].get_paths()[0].vertices[:, 1]
    share = records["upper"].coverage[0.9]
    assert band.max() == pytest.approx(share.value + 2 * share.standard_error)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    error = records["lower"].error.value
    assert words[1].startswith(f"lower: error {error:.3f}, stddev ")

    alone = kvv.plots.calibration(records["upper"])
    path = tmp_path / "calibration.png"
    alone.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert alone.legends[0].get_texts()[0].get_text().startswith("observed: ")
    with pytest.raises(ValueError, match="Received: records="):
        kvv.plots.calibration({})
