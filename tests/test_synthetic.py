"""Points of known density and images of known noise, against SciPy and by hand."""

import itertools

import keras
import numpy as np
import pytest
from scipy import integrate, stats

import keras_vae_variance as kvv
from keras_vae_variance import datasets

# --------------------------------------------------------------------------------------
# The curve in the plane

GRID = (0.1, 0.055, 0.043, 0.033)


def density_by_quad(plane, x):
    """Adaptive quadrature, one region at a time, told where the integrand lies."""
    regions = np.linspace(-1, 1, len(plane.stddevs) + 1)
    u = np.linspace(-1, 1, 20001)
    total = 0.0
    for i, stddev in enumerate(plane.stddevs):
        inside = (regions[i] <= u) & (u <= regions[i + 1])
        distance = np.linalg.norm(plane.curve(u) - x, axis=-1)
        nearest = u[inside][np.argsort(distance[inside])[:3]]
        total += integrate.quad(
            lambda t, s=stddev: (
                0.5
                * stats.norm.pdf(x[0], 2.5 * t, s)
                * stats.norm.pdf(x[1], np.cos(2 * np.pi * t), s)
            ),
            regions[i],
            regions[i + 1],
            points=np.unique(nearest),
            limit=500,
            epsabs=0,
            epsrel=1e-10,
        )[0]
    return total


def test_plane_density_is_that_of_adaptive_quadrature():
    plane = datasets.Plane()
    on_the_curve = plane.curve(np.array([-1.0, -0.4, -1 / 3, 0.0, 0.2, 0.7, 1.0]))
    x = np.concatenate([on_the_curve, on_the_curve + [0.03, -0.02], [[2.7, 1.2]]])
    expected = np.log([density_by_quad(plane, point) for point in x])
    np.testing.assert_allclose(plane.log_prob(x), expected, rtol=1e-8)


def test_plane_density_integrates_to_one():
    """The trapezoidal rule is exact for a smooth density that ends inside the grid."""
    plane = datasets.Plane(stddevs=(0.2, 0.1, 0.3, 0.15))
    step = 0.06
    axes = np.arange(-4.5, 4.5, step), np.arange(-3, 3, step)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    assert np.exp(plane.log_prob(grid)).sum() * step**2 == pytest.approx(1, abs=1e-6)


def test_plane_density_far_away_is_finite():
    assert np.isfinite(datasets.Plane().log_prob(np.array([[1e3, -1e3]]))).all()


def test_plane_noise_is_normal_with_the_stddev_of_its_region():
    plane = datasets.Plane()
    x, u = plane.sample(30_000, seed=1)
    assert stats.kstest(u, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    noise = x - np.stack([2.5 * u, np.cos(2 * np.pi * u)], axis=1)
    for low, stddev in ((-1, 0.035), (-1 / 3, 0.012), (1 / 3, 0.065)):
        inside = (u >= low) & (u < low + 2 / 3)
        assert inside.mean() == pytest.approx(1 / 3, abs=0.02)
        for k in range(2):
            standard = noise[inside, k] / stddev
            assert stats.kstest(standard, stats.norm.cdf).pvalue > 1e-3
    # Independent between the coordinates and of the position.
    scaled = np.column_stack([noise / plane.stddev(u)[:, None], u])
    np.testing.assert_allclose(np.corrcoef(scaled.T), np.eye(3), atol=0.02)


def test_plane_has_the_regions_that_it_is_given():
    plane = datasets.Plane(stddevs=[0.1, 0.2])
    np.testing.assert_array_equal(plane.region([-1, -0.1, 0, 1]), [0, 0, 1, 1])
    np.testing.assert_array_equal(plane.stddev([-0.5, 0.5]), [0.1, 0.2])


def test_plane_agrees_with_p3_table_1():
    """One stddev is best at 0.043, a stddev of each region gains 0.36 nats (P3 0.36).

    The standard errors of the means of 4000 points are below 0.02.
    """
    x, _ = datasets.Plane().sample(4000, seed=2)
    constant = np.log(2 * np.pi)  # P3 leaves it out
    best = datasets.Plane().log_prob(x).mean() + constant
    scalar = {s: datasets.Plane([s]).log_prob(x).mean() + constant for s in GRID}
    assert max(scalar, key=scalar.get) == 0.043
    assert scalar[0.043] == pytest.approx(1.32, abs=0.05)
    assert best == pytest.approx(1.68, abs=0.05)
    # No model is better than the truth: what P3 prints lies below.
    assert 1.26 < scalar[0.043] and 1.62 < best


def test_plane_gives_a_stream_of_fresh_points_to_fit():
    rng = np.random.default_rng(0)
    seen = []

    def fresh():
        seen.append(datasets.plane(20, seed=rng))
        return seen[-1]

    likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))
    encoder, decoder = kvv.backbones.mlp(
        (2,), 1, likelihood, mean_activation=None, hidden=(4,)
    )
    posterior = kvv.posteriors.DiagonalGaussian(1)
    vae = kvv.VAE(encoder, decoder, posterior, likelihood, seed=0)
    vae.compile("adam")
    history = vae.fit(
        (fresh() for _ in itertools.count()), steps_per_epoch=3, epochs=2, verbose=0
    )
    assert np.isfinite(history.history["loss"]).all()
    assert len(seen) >= 6 and len(np.unique(np.concatenate(seen), axis=0)) == (
        20 * len(seen)
    )


# --------------------------------------------------------------------------------------
# The sphere


def test_hypersphere_is_uniform():
    x = datasets.hypersphere(20_000, dim=4, radius=3.0, seed=0)
    assert x.shape == (20_000, 4) and x.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 3.0, rtol=1e-6)
    # The square of a coordinate of the unit sphere in R^D is Beta(1/2, (D - 1)/2).
    for k in range(4):
        square = np.square(x[:, k] / 3.0)
        assert stats.kstest(square, stats.beta(0.5, 1.5).cdf).pvalue > 1e-3
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(x.T), 9 / 4 * np.eye(4), atol=0.1)


# --------------------------------------------------------------------------------------
# Noise on regions of images

UPPER = np.array([1, 1, 0, 0, 0], bool)  # five rows: the third is in the lower half
LABELS = np.array([0, 4, 5, 9])
SMALL = np.array([1, 1, 0, 0], bool)
MASKS = {
    "uniform": np.ones((4, 5), bool),
    "spatial": np.tile(UPPER, (4, 1)),
    "conditional": np.repeat(SMALL[:, None], 5, axis=1),
    "spatial-conditional": SMALL[:, None] & UPPER,
}


@pytest.mark.parametrize("pattern", MASKS)
def test_noisy_regions_are_the_papers(pattern):
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 60, 2), dtype="uint8")
    noisy, mask = datasets.noisy_regions(x, LABELS, pattern, 0.1, seed=0)
    assert noisy.shape == x.shape and noisy.dtype == np.float32
    assert mask.shape == (4, 5, 1, 1) and mask.dtype == bool
    np.testing.assert_array_equal(mask[:, :, 0, 0], MASKS[pattern])
    added = noisy - x.astype("float32") / np.float32(255)
    where = np.broadcast_to(mask, x.shape)
    assert not added[~where].any()
    assert stats.kstest(added[where], stats.norm(0, 0.1**0.5).cdf).pvalue > 1e-3
    # Clipping would show.
    assert noisy[where].min() < 0 and noisy[where].max() > 1


def test_noisy_regions_take_floats_other_labels_and_no_channels():
    x = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype="uint8")
    noisy, mask = datasets.noisy_regions(
        x, LABELS, "conditional", 0.01, labels=[9], seed=3
    )
    assert mask.shape == (4, 6, 1)
    np.testing.assert_array_equal(mask.all(axis=(1, 2)), LABELS == 9)
    of_floats, _ = datasets.noisy_regions(
        x / 255.0, LABELS, "conditional", 0.01, labels=[9], seed=3
    )
    assert of_floats.dtype == np.float32
    np.testing.assert_allclose(of_floats, noisy, atol=1e-6)


def test_noisy_regions_share_their_noise():
    """So that two patterns differ by their regions alone, and variances by scale."""
    x = np.zeros((4, 6, 6, 1), "float32")
    everywhere, _ = datasets.noisy_regions(x, None, "uniform", 0.01, seed=5)
    spatial, mask = datasets.noisy_regions(x, None, "spatial", 0.04, seed=5)
    np.testing.assert_allclose(spatial, 2 * everywhere * mask, rtol=1e-6)
    clean, _ = datasets.noisy_regions(x, None, "spatial", 0.0, seed=5)
    np.testing.assert_array_equal(clean, x)


def test_noisy_regions_leave_their_input():
    x = np.ones((4, 6, 6), "float32")
    datasets.noisy_regions(x, LABELS, "uniform", 1.0)
    assert (x == 1).all()


# --------------------------------------------------------------------------------------
# What all have in common

DRAWS = {
    "plane": lambda seed: datasets.plane(5, seed),
    "Plane": lambda seed: datasets.Plane().sample(5, seed)[1],
    "hypersphere": lambda seed: datasets.hypersphere(5, 3, seed=seed),
    "noisy_regions": lambda seed: datasets.noisy_regions(
        np.zeros((1, 4, 4)), None, "uniform", 1.0, seed=seed
    )[0],
}


@pytest.mark.parametrize("name", DRAWS)
def test_seeds(name):
    draw = DRAWS[name]
    assert draw(0).dtype == np.float32
    np.testing.assert_array_equal(draw(3), draw(3))
    np.testing.assert_array_equal(draw(np.int64(3)), draw(3))
    np.testing.assert_array_equal(draw(np.random.default_rng(3)), draw(3))
    assert (draw(3) != draw(4)).any()
    # A generator goes on; without a seed Keras's is the one that counts.
    rng = np.random.default_rng(3)
    assert (draw(rng) != draw(rng)).any()
    keras.utils.set_random_seed(1)
    first, second = draw(None), draw(None)
    assert (first != second).any()
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(draw(None), first)
    for seed in (-1, 0.5, "0"):
        with pytest.raises(ValueError, match=f"`seed`.*Received: seed={seed}"):
            draw(seed)


X = np.zeros((4, 6, 6, 1), "uint8")


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: datasets.plane(0), ValueError, "Received: num_samples=0"),
        (lambda: datasets.plane(2.5), ValueError, "Received: num_samples=2.5"),
        (lambda: datasets.Plane(()), ValueError, r"Received: stddevs=\(\)"),
        (lambda: datasets.Plane(0.1), ValueError, "Received: stddevs=0.1"),
        (lambda: datasets.Plane([0.1, 0]), ValueError, "Received: stddevs=0"),
        (lambda: datasets.Plane().log_prob([1, 2]), ValueError, r"shape \(2,\)"),
        (lambda: datasets.Plane().log_prob([[np.nan, 2]]), ValueError, "finite"),
        (lambda: datasets.hypersphere(0, 3), ValueError, "num_samples=0"),
        (lambda: datasets.hypersphere(3, 1), ValueError, "Received: dim=1"),
        (lambda: datasets.hypersphere(3, 2, -1.0), ValueError, "radius=-1.0"),
        (lambda: noisy(pattern="lower"), ValueError, "Received: pattern=lower"),
        (lambda: noisy(variance=-0.1), ValueError, "Received: variance=-0.1"),
        (lambda: noisy(variance=np.nan), ValueError, "Received: variance=nan"),
        (lambda: noisy(x=X[0, 0]), ValueError, r"Received: x of shape \(6, 1\)"),
        (lambda: noisy(x=X.astype(int)), TypeError, "Received: x of dtype int64"),
        (lambda: noisy(x=X + 2.0), ValueError, "values from 2.0 to 2.0"),
        (lambda: noisy(x=X + np.nan), ValueError, "values from nan"),
        (lambda: noisy(y=None), ValueError, "`y` must be 4 labels.*y=None"),
        (lambda: noisy(y=LABELS[:3]), ValueError, r"array of shape \(3,\)"),
        (lambda: noisy(y=LABELS / 2), TypeError, "Received: y of dtype float64"),
        (lambda: noisy(labels=["0"]), TypeError, "Received: labels of dtype"),
    ],
)
def test_rejects_what_cannot_be(call, error, message):
    with pytest.raises(error, match=message):
        call()


def noisy(**changes):
    arguments = {"x": X, "y": LABELS, "pattern": "conditional", "variance": 0.1}
    return datasets.noisy_regions(**arguments | changes)
