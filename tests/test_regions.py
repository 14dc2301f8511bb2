"""The estimated variance by region: by hand, its error, and masks that do not fit."""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

import keras_vae_variance as kvv
from keras_vae_variance import likelihoods, posteriors, variances
from keras_vae_variance.metrics import base, region_variance

EVENT, L, N = (4, 3, 2), 2, 60


def make(likelihood):
    keras.utils.set_random_seed(0)
    networks = kvv.backbones.mlp(EVENT, L, likelihood, hidden=())
    return kvv.VAE(*networks, posteriors.DiagonalGaussian(L), likelihood, seed=0)


def images():
    return np.random.default_rng(0).uniform(size=(N, *EVENT)).astype("float32")


def decoded(vae, x, seed):
    """The decoder's outputs for all of x, at the draws that belong to `seed`."""
    latent = vae.encode(x)
    sources = base.streams(base.key(seed), 0, len(x))
    z = latent.mean + np.sqrt(latent.variance) * base.noise(sources, (L,))
    return vae.decode(z)


def test_by_hand():
    """Of all kinds of variance, over parts of the images and of the examples."""
    x = images()
    upper = np.arange(4)[:, None, None] < 2
    group = (np.arange(N) < 20)[:, None, None, None]
    scattered = np.random.default_rng(1).random(x.shape) < 0.1
    regions = {"all": True, "upper": upper, "group": group}
    regions |= {"rest": ~upper & ~group, "scattered": scattered}
    iso_d = variances.MaximumLikelihood(per_example=True, epsilon=0.0)
    diag_d = variances.MaximumLikelihood(True, True, epsilon=0.0)
    for likelihood, variance in (
        (likelihoods.Gaussian(variances.Fixed(0.3)), lambda v, r2: 0 * r2 + 0.3),
        (likelihoods.Gaussian(variances.Predicted()), lambda v, r2: v),
        (
            likelihoods.Gaussian(iso_d),
            lambda v, r2: 0 * r2 + r2.mean((1, 2, 3), keepdims=True),
        ),
        (likelihoods.Gaussian(diag_d), lambda v, r2: r2),
        (likelihoods.Categorical(), lambda v, r2: v),
    ):
        vae = make(likelihood)
        parameters = decoded(vae, x, seed=5)
        mean, v = (oracles.float64(a) for a in likelihood.moments(parameters))
        expected = variance(v, (x - mean) ** 2)
        found = region_variance(vae, x, regions, seed=5, batch_size=25)
        assert list(found) == list(regions)
        for name, mask in regions.items():
            mask = np.broadcast_to(mask, x.shape)
            value = found[name].value
            assert value == pytest.approx(expected[mask].mean(), rel=1e-5)
            # Leaving out one example after the other.
            left = [
                expected[np.arange(N) != i][mask[np.arange(N) != i]].mean()
                for i in range(N)
                if mask[i].any()
            ]
            spread = np.sqrt((len(left) - 1) * np.var(left))
            # They differ by 1/n, for n = 20 in the group.
            assert found[name].standard_error == pytest.approx(
                spread, rel=0.08, abs=1e-8
            )


def test_error_is_that_of_repetitions():
    """Of a region of unequal numbers, over other examples and masks."""
    vae = make(likelihoods.Gaussian(variances.MaximumLikelihood(True, True)))
    random = np.random.default_rng(0)
    found = []
    for seed in range(40):
        level = random.uniform(size=(N, 1, 1, 1))
        x = (level * np.ones(EVENT)).astype("float32")
        mask = random.random(x.shape) < random.uniform(size=(N, 1, 1, 1))
        found.append(region_variance(vae, x, {"a": mask}, seed=seed)["a"])
    deviation = np.std([e.value for e in found], ddof=1)
    # The deviation of 40 repetitions is off by 11 %.
    error = np.mean([e.standard_error for e in found])
    assert error == pytest.approx(deviation, rel=0.35)


def test_batches_streams_and_groups_that_begin_late():
    x = images()
    vae = make(likelihoods.Gaussian(variances.Predicted()))
    regions = {"late": (np.arange(N) >= 50)[:, None, None, None]}
    expected = region_variance(vae, x, regions, seed=1)["late"]
    for given in (
        tf.data.Dataset.from_tensor_slices((x, np.zeros(N))).batch(7),
        (x[i : i + 10] for i in range(0, N, 10)),
    ):
        found = region_variance(vae, given, regions, seed=1)["late"]
        assert found.value == pytest.approx(expected.value, rel=1e-6)
        assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-5)
    lone = region_variance(vae, x, {"one": (np.arange(N) == 3)[:, None, None, None]})
    assert np.isnan(lone["one"].standard_error)


@pytest.mark.parametrize(
    "mask, words",
    [
        (np.ones(EVENT), "of bools.*float64"),
        (np.ones((3, 3, 2), bool), r"broadcast.*\(1, 3, 3, 2\)"),
        (np.ones((N, 1, 1, 1, 1), bool), "broadcast"),
        (np.ones((N - 1, 1, 1, 1), bool), r"as many.*regions\['a'\] of 59, and data"),
        (np.ones((25, 1, 1, 1), bool), r"as many.*regions\['a'\] of 25, and data"),
        (np.ones((26, 1, 1, 1), bool), r"as many.*regions\['a'\] of 26, and data"),
        (np.ones((N + 1, 1, 1, 1), bool), r"of 61, and data of 60"),
        (np.zeros(EVENT, bool), r"some of the data.*Received: regions\['a'\]"),
    ],
)
def test_masks_that_do_not_fit(mask, words):
    vae = make(likelihoods.Gaussian(variances.Fixed(0.3)))
    with pytest.raises(ValueError, match=words) as error:
        region_variance(vae, images(), {"a": mask}, batch_size=25)
    assert "Received: regions['a']" in str(error.value)


@pytest.mark.parametrize("regions", [{}, None, [np.ones(EVENT, bool)]])
def test_regions_that_are_none(regions):
    vae = make(likelihoods.Gaussian(variances.Fixed(0.3)))
    with pytest.raises(ValueError, match="must be a dict.*Received: regions="):
        region_variance(vae, images(), regions)
