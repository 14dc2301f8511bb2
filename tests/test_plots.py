"""Figures of images and curves: what they show, and that they can be read."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from figures import assert_readable, drawn, is_png

from keras_vae_variance import plots

STDDEV = "stddev (units of x)"  # the colour bar's label


def labels(figure):
    return [axes.get_ylabel() for axes in figure.axes]


def test_image_rows_have_an_axes_each_and_one_colour_bar(images, tmp_path):
    x = images[:5]
    rows = [("data", x, "image"), ("one", x / 4, "stddev"), ("two", x / 2, "stddev")]
    figure = plots.image_rows(rows, title="A title")
    assert labels(figure) == ["data", "one", "two", STDDEV]
    assert figure.get_suptitle() == "A title"
    # One scale for both rows, from the lowest of either to the highest.
    for row in (1, 2):
        assert figure.axes[row].images[0].get_clim() == ((x / 4).min(), (x / 2).max())
    assert_readable(figure)
    assert is_png(figure, tmp_path / "rows.png")


def test_image_rows_tile_the_images_in_their_order(images):
    figure = plots.image_rows([("data", images[:3], "image")])
    canvas = drawn(figure, 0)
    assert canvas.shape == (8, 3 * 8 + 2)
    for index in range(3):
        left = index * 9
        np.testing.assert_array_equal(canvas[:, left : left + 8], images[index, ..., 0])
    assert np.isnan(canvas[:, 8]).all()


def test_image_rows_without_stddev_have_no_colour_bar(images):
    assert len(plots.image_rows([("data", images, "image")]).axes) == 1


def test_equal_stddev_has_a_scale_from_zero(images):
    stddev = np.full_like(images, 0.3) + 1e-7 * images
    figure = plots.image_rows([("stddev", stddev, "stddev")])
    assert figure.axes[0].images[0].get_clim() == (0.0, stddev.max())


def test_colours_of_three_channels_and_clipping():
    x = np.full((2, 4, 4, 3), 0.5)
    x[..., 0], x[..., 1] = 1.5, -0.5
    stddev = np.full_like(x, 3.0)
    stddev[..., 0], stddev[..., 1] = 0.0, 4.0
    rows = [("rgb", x, "image"), ("stddev", stddev, "stddev")]
    figure = plots.image_rows(rows)
    np.testing.assert_array_equal(drawn(figure, 0)[0, 0], [1.0, 0.0, 0.5])
    # The root of the mean variance, not the mean of the stddev.
    np.testing.assert_allclose(drawn(figure, 1)[0, 0], np.sqrt(25.0 / 3.0))


def test_uint8_images_are_scaled(images):
    x = (images * 255).astype("uint8")
    figure = plots.reconstructions(x, mean=images)
    np.testing.assert_allclose(np.nanmax(drawn(figure, 0)), x.max() / 255.0)


def test_reconstructions_show_stddev_not_variance(images, tmp_path):
    x = images[:4]
    figure = plots.reconstructions(x, mean=x, variance=0.04 * np.ones_like(x))
    assert labels(figure)[:3] == ["original", "reconstruction", "stddev"]
    np.testing.assert_allclose(np.nanmax(drawn(figure, 2)), 0.2)
    assert labels(plots.reconstructions(x, x)) == ["original", "reconstruction"]
    assert is_png(figure, tmp_path / "reconstructions.png")


def test_plots_take_tensors(images):
    x = keras.ops.convert_to_tensor(images[:4])
    assert len(plots.reconstructions(x, x, x).axes) == 4


def test_samples_put_stddev_beneath_each_row(images, tmp_path):
    figure = plots.samples(images[:10], variance=images[:10], columns=4)
    assert labels(figure) == ["mean", "stddev"] * 3 + [STDDEV]
    # Two images are left for the last row, whose other places are blank.
    assert np.isnan(drawn(figure, 4)[:, 18:]).all()
    np.testing.assert_array_equal(drawn(figure, 4)[:, :8], images[8, ..., 0])
    assert is_png(figure, tmp_path / "samples.png")


def test_samples_without_variance_and_fewer_than_a_row(images):
    figure = plots.samples(images[:3])
    assert labels(figure) == [""] and drawn(figure, 0).shape == (8, 26)


def test_overview_rows(images, tmp_path):
    x = images[:5]
    decoded = {"mean": x, "variance": np.full((1, 1, 1, 1), 0.01)}
    figure = plots.overview(
        x, decoded, {"prior": decoded, "mixture": decoded}, "Digits"
    )
    pairs = ["reconstruction", "stddev", "prior", "stddev", "mixture", "stddev"]
    assert labels(figure) == ["original", *pairs, STDDEV]
    assert_readable(figure)
    assert is_png(figure, tmp_path / "overview.png")


def test_history_marks_stage_2_and_draws_validation(tmp_path):
    logs = {
        "loss": [5.0, 3.0, 2.0],
        "val_loss": [6.0, 4.0, 3.0],
        "kl": [1.0, 2.0, 2.5],
        "variance": [0.1, 0.01, 0.001],
        "mse": [3.0, 2.0, 1.0],
    }
    figure = plots.history(logs, stage1_epochs=2)
    assert labels(figure) == ["loss (nats)", "KL (nats)", "variance (squared units)"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_array_equal(lines["validation"].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(lines["validation"].get_ydata(), logs["val_loss"])
    assert set(lines["stage 2 begins"].get_xdata()) == {2.5}
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log"]
    assert is_png(figure, tmp_path / "history.png")


def test_history_takes_what_fit_returns():
    history = keras.callbacks.History()
    history.history = {"loss": [2.0, 1.0]}
    (axes,) = plots.history(history).axes
    assert [line.get_label() for line in axes.lines] == ["training"]


def test_history_draws_the_trade_off(tmp_path):
    logs = {
        "loss": [5.0, 3.0, 2.5],
        "reconstruction": [4.0, 1.0, 0.0],
        "kl": [1.0, 2.0, 2.5],
        "val_loss": [6.0, 5.0, 4.5],
        "val_reconstruction": [5.5, 3.0, 2.0],
        "val_kl": [0.5, 2.0, 2.5],
        "variance": [0.1, 0.01, 0.001],
    }
    figure = plots.history(logs, stage1_epochs=2, title="A title")
    axes = figure.axes[4]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "reconstruction (nats)",
        "KL (nats)",
    )
    paths = [line for line in axes.lines if len(line.get_xdata()) == 3]
    for line, prefix in zip(paths, ("", "val_"), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), logs[prefix + "reconstruction"])
        np.testing.assert_array_equal(line.get_ydata(), logs[prefix + "kl"])
    # The full point is the last epoch.
    ends = [line for line in axes.lines if len(np.atleast_1d(line.get_xdata())) == 1]
    assert [(float(e.get_xdata()[0]), e.get_markerfacecolor()) for e in ends[:2]] == [
        (4.0, "white"),
        (0.0, paths[0].get_color()),
    ]
    assert_readable(figure)
    # Without the one or the other there is none.
    assert len(plots.history({"loss": [1.0], "kl": [1.0]}).axes) == 2


def test_rate_distortion_draws_points_and_paths(tmp_path):
    models = {
        "learned variance": {
            "loss": [0.0] * 3,
            "reconstruction": [22.0, 0.0, -32.0],
            "kl": np.array([1.0, 2.0, 5.0]),
        },
        "a": {"reconstruction": -5, "kl": keras.ops.convert_to_tensor(1.5)},
    }
    figure = plots.rate_distortion(models, title="A title")
    axes = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "learned variance: ELBO 27",
        "a: ELBO 3.5",
        "equal ELBO",
    ]
    places = [(line.get_xdata(), line.get_ydata()) for line in axes.lines]
    np.testing.assert_array_equal(places[0], [[22.0, 0.0, -32.0], [1.0, 2.0, 5.0]])
    assert np.ravel(places[1]).tolist() == [22.0, 1.0]  # hollow: where it began
    assert np.ravel(places[2]).tolist() == [-32.0, 5.0]
    assert np.ravel(places[3]).tolist() == [-5.0, 1.5]
    # Along each grey line distortion and rate have one sum.
    (lines,) = axes.collections
    sums = [path.vertices.sum(axis=1) for path in lines.get_paths()]
    assert sum(len(s) > 1 for s in sums) > 3
    for line in sums:
        np.testing.assert_allclose(line, line[:1].repeat(len(line)), atol=1e-6)
    assert_readable(figure)
    assert is_png(figure, tmp_path / "rate_distortion.png")
    # No negative zero, and a minus sign as on the axes.
    figure = plots.rate_distortion({"b": {"reconstruction": 5.0, "kl": 1.5}})
    assert figure.legends[0].get_texts()[0].get_text() == "b: ELBO \N{MINUS SIGN}6.5"


def test_interpolations_lie_between_their_ends(images, tmp_path):
    mean = images[:12].reshape(2, 6, 8, 8, 1)
    ends = 1.0 - images[:4].reshape(2, 2, 8, 8, 1)
    figure = plots.interpolations(
        mean, mean / 4, ends, np.linspace(0, 1, 6), title="A title"
    )
    assert labels(figure) == ["mean", "stddev"] * 2 + [STDDEV]
    for pair, row in ((0, 0), (1, 2)):
        canvas, stddev = drawn(figure, row), drawn(figure, row + 1)
        assert canvas.shape == stddev.shape == (8, 8 * 9 - 1)
        for step in range(6):
            part = slice(9 * (step + 1), 9 * (step + 1) + 8)
            np.testing.assert_array_equal(canvas[:, part], mean[pair, step, ..., 0])
            np.testing.assert_allclose(
                stddev[:, part], np.sqrt(mean[pair, step, ..., 0]) / 2, rtol=1e-6
            )
        np.testing.assert_allclose(canvas[:, :8], ends[pair, 0, ..., 0])
        np.testing.assert_allclose(canvas[:, -8:], ends[pair, 1, ..., 0])
        assert np.isnan(stddev[:, :9]).all() and np.isnan(stddev[:, -9:]).all()
    limits = figure.axes[1].images[0].get_clim()
    np.testing.assert_allclose(limits, np.sqrt([mean.min(), mean.max()]) / 2, rtol=1e-6)
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names == ["from", "0", "0.2", "0.4", "0.6", "0.8", "1", "to"]
    np.testing.assert_array_equal(figure.axes[0].get_xticks(), 9 * np.arange(8) + 3.5)
    assert_readable(figure)
    assert is_png(figure, tmp_path / "interpolations.png")
    # Alone, and in colours.
    figure = plots.interpolations(np.repeat(mean, 3, axis=-1))
    assert labels(figure) == ["", ""] and not len(figure.axes[0].get_xticks())
    assert drawn(figure, 1).shape == (8, 6 * 9 - 1, 3)


@pytest.mark.parametrize(
    "rows, words",
    [
        ([], "Received: rows="),
        ([("a", np.zeros((2, 8, 8)), "image")], r"shape \(2, 8, 8\) for 'a'"),
        ([("a", np.zeros((2, 8, 8, 2)), "image")], "1 or 3 channels"),
        ([("a", np.zeros((0, 8, 8, 1)), "image")], r"shape \(0, 8, 8, 1\)"),
        ([("a", np.zeros((2, 8, 8, 1)), "sample")], "Received: kind=sample"),
        ([("a", -np.ones((2, 8, 8, 1)), "stddev")], "Received: minimum -1"),
        (
            [(str(n), np.zeros((n, 8, 8, 1)), "image") for n in (2, 3)],
            r"Received: \[2, 3\]",
        ),
    ],
)
def test_image_rows_reject(rows, words):
    with pytest.raises(ValueError, match=words):
        plots.image_rows(rows)


def test_other_wrong_input(images):
    for wrong in (-images, images * np.nan):
        with pytest.raises(ValueError, match="Received: variance with minimum"):
            plots.reconstructions(images, images, variance=wrong)
    with pytest.raises(ValueError, match=r"Received: variance.shape=\(2, 8, 8, 1\)"):
        plots.samples(images, variance=images[:2])
    with pytest.raises(ValueError, match="Received: x.shape="):
        plots.reconstructions(images, images[:3])
    with pytest.raises(ValueError, match="Received: columns=0"):
        plots.samples(images, columns=0)
    with pytest.raises(ValueError, match=r"Received: history with \['mse'\]"):
        plots.history({"mse": [1.0]})
    for models, words in (
        ({}, "Received: models={}"),
        ({"a": {"kl": 1.0}}, r"'a' with \['kl'\]"),
        ({"a": {"kl": [1.0, 2.0], "reconstruction": 1.0}}, r"shapes \(1,\) and \(2,\)"),
        ({"a": {"kl": [[1.0]], "reconstruction": [[1.0]]}}, r"shapes \(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=words):
            plots.rate_distortion(models)
    with pytest.raises(ValueError, match=r"Received: mean.shape=\(24, 8, 8, 1\)"):
        plots.interpolations(images)
    with pytest.raises(ValueError, match="Received: ends.shape="):
        plots.interpolations(images[None], ends=images[:2])
    with pytest.raises(ValueError, match=r"24 steps. Received: ratios=\[0.5\]"):
        plots.interpolations(images[None], ratios=[0.5])


@pytest.mark.slow
def test_pyplot_is_never_imported(tmp_path):
    """Figures of pyplot stay in memory until they are closed: ours do not.

    Keras imports pyplot where it is installed, so that it must be taken away first.
    """
    source = (
        "import sys, keras, numpy as np\n"
        "from keras_vae_variance import plots\n"
        "sys.modules['matplotlib.pyplot'] = None\n"
        "x = np.ones((2, 8, 8, 1))\n"
        "plots.reconstructions(x, x, x).savefig(sys.argv[1])\n"
        "plots.history({'loss': [1.0]}).savefig(sys.argv[1])\n"
        "plots.latent_density({'a': lambda z: z[:, 0]}).savefig(sys.argv[1])\n"
        "z = np.random.default_rng(0).normal(size=(40, 2))\n"
        "plots.latent_scatter(z, np.arange(40) % 2).savefig(sys.argv[1])\n"
        "plots.tsne(z, perplexity=5).savefig(sys.argv[1])\n"
        "decode = lambda z: {'mean': np.ones((len(z), 8, 8, 1))}\n"
        "plots.manifold(decode).savefig(sys.argv[1])\n"
        "point = {'reconstruction': 1.0, 'kl': 1.0}\n"
        "plots.rate_distortion({'a': point}).savefig(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", source, str(tmp_path / "figure.png")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # t-SNE's spin on busy cores
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
