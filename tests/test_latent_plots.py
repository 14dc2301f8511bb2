"""Pictures of the latent space: what they show, and that they can be read."""

import keras
import numpy as np
import pytest
import sklearn.decomposition
from figures import assert_readable, drawn, is_png
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from keras_vae_variance import plots

NAMES = np.array(
    "Top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
)


def clusters(n=300, apart=4.0, seed=0):
    """Latents of 10 classes in a ring, and their classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 10
    angle = 2 * np.pi * y / 10
    centres = apart * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centres + rng.normal(size=(n, 2)), y


def tags(figure):
    """The tags of the classes: text, place and colour."""
    return {
        text.get_text(): (
            np.array(text.get_position()),
            text.get_bbox_patch().get_facecolor(),
        )
        for text in figure.axes[0].texts
    }


def legend(figure):
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


def points(figure, number=0):
    """Places and colours of the points that were drawn."""
    dots = figure.axes[0].collections[number]
    return np.asarray(dots.get_offsets()), dots.get_facecolor()


# --------------------------------------------------------------------------------------
# Densities


def test_latent_density_evaluates_the_grid(tmp_path):
    def log_prob(z):
        assert z.dtype == np.float32 and z.ndim == 2
        return keras.ops.convert_to_tensor(10.0 * z[:, 0] + z[:, 1])

    figure = plots.latent_density(
        {"a": log_prob, "b": lambda z: -np.sum(z**2, 1)}, limits=(-1, 2), resolution=80
    )
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", ""]
    line = np.linspace(-1, 2, 80)
    # Rows are the second latent, bottom up.
    np.testing.assert_allclose(
        drawn(figure), 10 * line[None, :] + line[:, None], rtol=1e-4, atol=1e-4
    )
    assert figure.axes[0].images[0].origin == "lower"
    np.testing.assert_allclose(figure.axes[1].images[0].get_clim(), (10.0, 22.0))
    assert figure.axes[2].get_ylabel() == "log density (nats)"
    assert_readable(figure)
    assert is_png(figure, tmp_path / "density.png")


# --------------------------------------------------------------------------------------
# Scatter


def test_latent_scatter_colours_and_tags_the_classes(tmp_path):
    z, y = clusters()
    figure = plots.latent_scatter(keras.ops.convert_to_tensor(z), y, title="A title")
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("latent 1", "latent 2")
    places, colours = points(figure)
    assert places.shape == z.shape
    # Every point is there once, in the colour of its class alone.
    colour_of = {}
    for place, colour in zip(places, colours, strict=True):
        (i,) = np.flatnonzero(np.isclose(z, place, atol=1e-6).all(axis=1))
        assert colour_of.setdefault(y[i], tuple(colour)) == tuple(colour)
    assert len(set(colour_of.values())) == 10
    # Drawn in no order of the classes, of which the last would cover the others.
    assert len({tuple(colour) for colour in colours[-30:]}) > 5
    found = tags(figure)
    assert list(found) == [str(i) for i in range(10)] and not figure.legends
    for i, (place, colour) in enumerate(found.values()):
        assert colour[:3] == colour_of[i][:3]
        # On a point of its class, within a cluster that has a stddev of 1.
        assert np.isclose(z[y == i], place).all(axis=1).any()
        assert np.linalg.norm(place - z[y == i].mean(axis=0)) < 1.5
    # All of it lies within, and the axes have one scale.
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert left < z[:, 0].min() and z[:, 0].max() < right
    assert low < z[:, 1].min() and z[:, 1].max() < high
    np.testing.assert_allclose(right - left, high - low)
    assert axes.get_aspect() == 1.0
    assert_readable(figure)
    assert is_png(figure, tmp_path / "scatter.png")


def test_long_names_are_numbers_with_a_legend():
    z, y = clusters()
    figure = plots.latent_scatter(z, NAMES[y], title="A title")
    classes = np.unique(NAMES)
    assert list(tags(figure)) == [str(i) for i in range(10)]
    assert legend(figure) == [f"{i} {name}" for i, name in enumerate(classes)]
    for i, handle in enumerate(figure.legends[0].legend_handles):
        assert handle.get_color() == plots.base.CLASSES[i]
        place, _ = tags(figure)[str(i)]
        assert np.isclose(z[NAMES[y] == classes[i]], place).all(axis=1).any()
    assert_readable(figure)


def test_tags_never_touch():
    """Where classes lie on each other, the legend names those without a place."""
    z, y = clusters(apart=0.0)
    figure = plots.latent_scatter(z, y, limits=(-40, 40))
    assert 0 < len(tags(figure)) < 10
    assert legend(figure) == [str(i) for i in range(10)]
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim() == (-40, 40)
    assert_readable(figure)
    # In the same place as ever, and on a part of very many points too.
    z, y = clusters(6000)
    assert_readable(plots.latent_scatter(z, y))
    first, second = (tags(plots.latent_scatter(z, y)) for _ in range(2))
    assert str(first) == str(second) and len(first) == 10


def test_scatter_of_few_points_and_of_none_inside():
    figure = plots.latent_scatter(np.zeros((1, 2)))
    assert not figure.axes[0].texts and not figure.legends
    assert_readable(figure)
    figure = plots.latent_scatter(np.zeros((3, 2)), [True, False, True])
    assert len(tags(figure)) == 1 and legend(figure) == ["0 False", "1 True"]
    figure = plots.latent_scatter(np.zeros((2, 2)), ["a", "b"], limits=(1, 2))
    assert not tags(figure)
    # More classes than colours.
    z, y = clusters(60)
    figure = plots.latent_scatter(8 * z, np.arange(60) % 12)
    assert len({tuple(c) for c in points(figure)[1]}) == 10


def test_principal_components_are_scikit_learns():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(90, 5)) @ rng.normal(size=(5, 5)) + 7.0
    y = np.arange(90) % 3
    figure = plots.principal_components(z, y, title="A title")
    pca = sklearn.decomposition.PCA(2).fit(z)
    places, _ = points(figure)
    expected = pca.transform(z)
    # In an order and with signs of its own.
    for found, column in zip(places.T, expected.T, strict=True):
        found, both = np.sort(found), (np.sort(column), np.sort(-column))
        assert any(np.allclose(found, other, atol=1e-5) for other in both)
    shares = 100 * pca.explained_variance_ratio_
    labels = figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
    for i, (label, share) in enumerate(zip(labels, shares, strict=True)):
        assert label == f"principal component {i + 1} ({share:.0f} %)"
    assert_readable(figure)
    again, _ = points(plots.principal_components(z, y))
    np.testing.assert_array_equal(again, places)
    assert_readable(plots.principal_components(np.ones((1, 4))))
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        plots.principal_components(z[:, :1])


def test_tsne_keeps_clusters_together():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 30)
    z = 20.0 * np.eye(5)[y] + rng.normal(size=(90, 5))
    samples = 20.0 * np.eye(5)[np.repeat(2, 10)] + rng.normal(size=(10, 5))
    with threadpool_limits(1):  # threads that spin where the cores are busy
        figure, again = (
            plots.tsne(z, y, samples, perplexity=10, title="A title") for _ in range(2)
        )
    places, colours = points(figure)
    crosses, _ = points(figure, 1)
    np.testing.assert_array_equal(points(again)[0], places)
    assert len(places) == 90 and len(crosses) == 10
    embedded = [
        places[(colours[:, :3] == tags(figure)[str(i)][1][:3]).all(axis=1)]
        for i in range(3)
    ]
    centres = np.array([part.mean(axis=0) for part in embedded])
    for i, part in enumerate([*embedded, crosses]):
        # Nearest to their own cluster, and the samples to that from which they are.
        nearest = np.linalg.norm(part[:, None] - centres, axis=-1).argmin(axis=1)
        assert (nearest == min(i, 2)).all()
    assert legend(figure) == ["samples"]
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("t-SNE 1", "t-SNE 2")
    assert not len(axes.get_xticks()) and not len(axes.get_yticks())
    assert_readable(figure)


# --------------------------------------------------------------------------------------
# The manifold


def test_manifold_decodes_quantiles_of_the_prior(tmp_path):
    seen = []

    def generate(z):
        assert z.dtype == np.float32
        seen.append(z)
        mean = np.zeros((len(z), 4, 5, 1))
        mean[:, 0], mean[:, 1] = z[:, :1, None], z[:, 1:, None]
        return {"mean": keras.ops.convert_to_tensor(mean), "variance": None}

    figure = plots.manifold(
        generate, 7, prior_mean=[0.5, 0.4], prior_variance=[[0.01, 0.04]], title="A"
    )
    first = norm(0.5, 0.1).ppf((np.arange(7) + 0.5) / 7)
    second = norm(0.4, 0.2).ppf((np.arange(7) + 0.5) / 7)
    (z,) = seen
    assert z.shape == (49, 2)
    tiles = drawn(figure).reshape(7, 4, 7, 5)
    # Columns are the first latent from left to right, rows the second from below.
    np.testing.assert_allclose(
        tiles[:, 0, :, 0], np.tile(first, (7, 1)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        tiles[:, 1, :, 4],
        np.tile(np.clip(second, 0, 1)[::-1, None], (1, 7)),
        rtol=1e-5,
        atol=1e-6,
    )
    axes = figure.axes[0]
    # Where the middle of each image is, and where that is on the canvas.
    shown = [0, 2, 3, 4, 6]
    for axis, values in ((axes.xaxis, first), (axes.yaxis, second)):
        np.testing.assert_array_equal(axis.get_ticklocs(), np.add(shown, 0.5))
        names = [text.get_text() for text in axis.get_ticklabels()]
        numbers = [float(name.replace("\N{MINUS SIGN}", "-")) for name in names]
        np.testing.assert_allclose(numbers, values[shown], atol=0.00501)
    assert axes.images[0].origin == "upper"
    assert axes.images[0].get_extent() == [0, 7, 0, 7]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("latent 1", "latent 2")
    assert_readable(figure)
    assert is_png(figure, tmp_path / "manifold.png")


def test_manifold_of_equal_shares_and_of_colours():
    """Each image stands for a share of 1 / size of the prior, along each dimension."""
    grids = []

    def generate(z):
        grids.append(z)
        return {"mean": np.zeros((len(z), 3, 3, 3), "uint8")}

    figure = plots.manifold(generate, size=4)
    shares = norm.cdf(np.unique(grids[0][:, 0].round(5)))
    np.testing.assert_allclose(shares, [0.125, 0.375, 0.625, 0.875], atol=1e-5)
    assert drawn(figure).shape == (12, 12, 3)
    assert len(plots.manifold(generate, size=1).axes) == 1


# --------------------------------------------------------------------------------------
# Wrong input


def test_wrong_input():
    z, y = clusters()
    infinite = np.concatenate([z, [[np.inf, 0.0], [0.0, np.nan]]])
    for wrong, words in (
        (z[:, :1], r"shape \(300, 1\)"),
        (z[:0], r"shape \(0, 2\)"),
        (z[0], r"shape \(2,\)"),
        (infinite, "2 values that are not"),
    ):
        with pytest.raises(ValueError, match=rf"\(n, 2\), all finite.*{words}"):
            plots.latent_scatter(wrong)
    for wrong in (y[:5], y[:, None], y / 2):
        with pytest.raises(ValueError, match="`labels` must .*Received: labels of"):
            plots.latent_scatter(z, wrong)
    with pytest.raises(ValueError, match=r"Received: limits=\(2, -2\)"):
        plots.latent_scatter(z, limits=(2, -2))
    with pytest.raises(ValueError, match="`samples` must be latents"):
        plots.tsne(z, samples=np.zeros((3, 4)))
    for perplexity in (0, 300, 301.5):
        with pytest.raises(ValueError, match=f"300 latents.*perplexity={perplexity}"):
            plots.tsne(z, perplexity=perplexity)
    with pytest.raises(ValueError, match="Received: size=0"):
        plots.manifold(lambda z: z, size=0)
    for prior in ({"prior_mean": [0.0] * 3}, {"prior_variance": [1.0, 0.0]}):
        with pytest.raises(ValueError, match="2 numbers each.*Received: prior_mean="):
            plots.manifold(lambda z: z, **prior)
    with pytest.raises(
        ValueError, match=r"each of 9 latents.*mean.shape=\(8, 2, 2, 1\)"
    ):
        plots.manifold(lambda z: {"mean": np.zeros((8, 2, 2, 1))}, size=3)
    with pytest.raises(ValueError, match=r"shape \(9, 4\) for 'mean'"):
        plots.manifold(lambda z: {"mean": np.zeros((9, 4))}, size=3)
    with pytest.raises(ValueError, match=r"limits=\(2, -2\)"):
        plots.latent_density({"a": lambda z: z[:, 0]}, limits=(2, -2))
    with pytest.raises(ValueError, match=r"Received: shape \(4096, 2\) from 'a'"):
        plots.latent_density({"a": lambda z: z})
