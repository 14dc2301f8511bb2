import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_vae_variance import plots


def labels(figure):
    return [axes.get_ylabel() for axes in figure.axes]


def drawn(figure, row):
    """The numbers behind the picture of a row; gaps are NaN."""
    return np.ma.filled(figure.axes[row].images[0].get_array(), np.nan)


def is_png(figure, path):
    figure.savefig(path)
    return path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 2000


def test_image_rows_have_an_axes_each_and_one_colour_bar(images, tmp_path):
    x = images[:5]
    rows = [("data", x, "image"), ("one", x / 4, "stddev"), ("two", x / 2, "stddev")]
    figure = plots.image_rows(rows, title="A title")
    assert labels(figure) == ["data", "one", "two", "standard deviation"]
    assert figure.get_suptitle() == "A title"
    # One scale for both rows, from the lowest of either to the highest.
    for row in (1, 2):
        assert figure.axes[row].images[0].get_clim() == ((x / 4).min(), (x / 2).max())
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
    assert labels(figure) == ["mean", "stddev"] * 3 + ["standard deviation"]
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
    assert labels(figure) == ["original", *pairs, "standard deviation"]
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
    assert labels(figure) == ["loss (nats)", "kl (nats)", "variance"]
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
        drawn(figure, 0), 10 * line[None, :] + line[:, None], rtol=1e-4, atol=1e-4
    )
    assert figure.axes[0].images[0].origin == "lower"
    np.testing.assert_allclose(figure.axes[1].images[0].get_clim(), (10.0, 22.0))
    assert is_png(figure, tmp_path / "density.png")


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
    with pytest.raises(ValueError, match=r"limits=\(2, -2\)"):
        plots.latent_density({"a": lambda z: z[:, 0]}, limits=(2, -2))
    with pytest.raises(ValueError, match=r"Received: shape \(4096, 2\) from 'a'"):
        plots.latent_density({"a": lambda z: z})


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
    )
    command = [sys.executable, "-c", source, str(tmp_path / "figure.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
