"""Rows of images and of the standard deviations of their pixels."""

import numpy as np

from .base import array
from .rows import check_row, draw_rows, lefts, stddev_of

__all__ = ["image_rows", "interpolations", "overview", "reconstructions", "samples"]


def image_rows(rows, title=None):
    """Labelled rows of images and of standard deviations, one below the other.

    Args:
        rows: sequence of `(label, images, kind)`: images of shape `(n, H, W, C)`, C 1
            or 3, the same n in every row; kind `"image"`, or `"stddev"` for a row of
            standard deviations. Of several channels, a `"stddev"` row shows the root
            of the mean variance.
        title: text above the figure, or None.

    Returns:
        A figure with one axes a row and, with a `"stddev"` row, one for the colour bar.

    Raises:
        ValueError: on no rows, another kind, rank or number of channels, on different
            numbers of images, and on negative or NaN standard deviations.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import plots
    >>> x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1))
    >>> figure = plots.image_rows([("data", x, "image"), ("stddev", x / 4, "stddev")])
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['data', 'stddev', 'stddev (units of x)']
    """
    rows = [
        (label, check_row(images, label, kind), kind) for label, images, kind in rows
    ]
    if not rows:
        raise ValueError("`rows` must have at least one row. Received: rows=[]")
    counts = [len(images) for _, images, _ in rows]
    if len(set(counts)) > 1:
        raise ValueError(
            f"All rows must have the same number of images. Received: {counts}"
        )
    return draw_rows(rows, counts[0], title)


def reconstructions(x, mean, variance=None, title=None):
    """Originals, their reconstructions and the stddev of each pixel, as three rows.

    Args:
        x: originals in [0, 1] or uint8, of shape `(n, H, W, C)`.
        mean: the decoder's mean, of the same shape.
        variance: the decoder's variance (sigma squared), of a shape that broadcasts to
            that of `mean`, or None for two rows. With the dict of `vae.reconstruct`:
            `reconstructions(x, **vae.reconstruct(x))`.
        title: text above the figure, or None.

    Returns:
        The figure.

    Raises:
        ValueError: on shapes that differ, and as in `image_rows`.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import plots
    >>> x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1))
    >>> figure = plots.reconstructions(x, mean=x * 0.9, variance=0.01 * np.ones_like(x))
    >>> figure.savefig("reconstructions.png")  # doctest: +SKIP
    """
    x, mean = array(x), array(mean)
    if x.shape != mean.shape:
        raise ValueError(
            "`x` and `mean` must have the same shape. "
            f"Received: x.shape={x.shape}, mean.shape={mean.shape}"
        )
    rows = [("original", x, "image"), ("reconstruction", mean, "image")]
    if variance is not None:
        rows.append(("stddev", stddev_of(variance, mean), "stddev"))
    return image_rows(rows, title)


def samples(mean, variance=None, columns=8, title=None):
    """A grid of samples, with the stddev of its pixels beneath each row.

    Args:
        mean: the decoder's means, of shape `(n, H, W, C)`.
        variance: the decoder's variance (sigma squared), of a shape that broadcasts to
            that of `mean`, or None. With the dict of `vae.generate`:
            `samples(**vae.generate(64))`.
        columns: images in a row.
        title: text above the figure, or None.

    Returns:
        The figure.

    Raises:
        ValueError: on `columns` below 1, and as in `image_rows`.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import plots
    >>> mean = np.random.default_rng(0).uniform(size=(10, 8, 8, 1))
    >>> figure = plots.samples(mean, variance=0.01, columns=5)
    >>> [axes.get_ylabel() for axes in figure.axes[:4]]
    ['mean', 'stddev', 'mean', 'stddev']
    """
    if columns < 1:
        raise ValueError(f"`columns` must be at least 1. Received: columns={columns}")
    mean = check_row(mean, "mean", "image")
    if variance is not None:
        stddev = check_row(stddev_of(variance, mean), "stddev", "stddev")
    columns = min(columns, len(mean))
    rows = []
    for start in range(0, len(mean), columns):
        part = slice(start, start + columns)
        # Without stddev rows every row is the same, and a label would say nothing.
        rows.append(("" if variance is None else "mean", mean[part], "image"))
        if variance is not None:
            rows.append(("stddev", stddev[part], "stddev"))
    return draw_rows(rows, columns, title)


def overview(x, reconstruction, generated, title=None):
    """One figure of a model: data, reconstructions, samples, each with its stddev.

    Args:
        x: originals in [0, 1] or uint8, of shape `(n, H, W, C)`.
        reconstruction: the dict of `vae.reconstruct(x)`.
        generated: `{label: dict of vae.generate(n)}`, in the order of the figure.
        title: text above the figure, or None.

    Returns:
        A figure with the rows "original", "reconstruction" and "stddev", and two rows
        for each entry of `generated`.

    Raises:
        ValueError: as in `image_rows`.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import plots
    >>> x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1))
    >>> decoded = {"mean": x, "variance": 0.01 * np.ones_like(x)}
    >>> figure = plots.overview(x, decoded, {"prior": decoded, "mixture": decoded})
    >>> len(figure.axes)  # seven rows and the colour bar
    8
    """
    rows = [("original", x, "image")]
    for label, decoded in {"reconstruction": reconstruction, **generated}.items():
        mean = array(decoded["mean"])
        rows.append((label, mean, "image"))
        rows.append(("stddev", stddev_of(decoded["variance"], mean), "stddev"))
    return image_rows(rows, title)


def interpolations(mean, variance=None, ends=None, ratios=None, title=None):
    """Images along paths through the latent space, a row for each pair of ends.

    Args:
        mean: the decoder's means, of shape `(pairs, steps, H, W, C)`, such as
            `np.stack([metrics.interpolate(vae, x1, x2, r) for r in ratios], axis=1)`.
        variance: the decoder's variance (sigma squared), of a shape that broadcasts to
            that of `mean`, for the stddev of the pixels beneath each row, or None.
        ends: the images that the paths lead from and to, in [0, 1] or uint8, of shape
            `(pairs, 2, H, W, C)`, drawn to the left and right, or None.
        ratios: how far along the path each step is, from 0 to 1, `steps` numbers, or
            None.
        title: text above the figure, or None.

    Returns:
        The figure.

    Raises:
        ValueError: on shapes that differ, and as in `image_rows`.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import plots
    >>> ends = np.random.default_rng(0).uniform(size=(3, 2, 8, 8, 1))
    >>> ratios = np.linspace(0, 1, 5)
    >>> weights = ratios[:, None, None, None]
    >>> mean = (1 - weights) * ends[:, :1] + weights * ends[:, 1:]
    >>> figure = plots.interpolations(mean, ends=ends, ratios=ratios)
    >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
    ['from', '0', '0.25', '0.5', '0.75', '1', 'to']
    """
    mean = array(mean)
    if mean.ndim != 5 or not len(mean):
        raise ValueError(
            "`mean` must be of shape (pairs, steps, height, width, channels). "
            f"Received: mean.shape={mean.shape}"
        )
    stddev = None if variance is None else stddev_of(variance, mean)
    steps = mean.shape[1]
    columns = [""] * steps if ratios is None else [f"{r:.2g}" for r in array(ratios)]
    if len(columns) != steps:
        raise ValueError(
            f"`ratios` must be one number for each of the {steps} steps. "
            f"Received: ratios={ratios}"
        )
    if ends is not None:
        ends = array(ends)
        if ends.shape != (len(mean), 2, *mean.shape[2:]):
            raise ValueError(
                "`ends` must be two images of the size of `mean` for each pair. "
                f"Received: ends.shape={ends.shape}, mean.shape={mean.shape}"
            )
        columns = ["from", *columns, "to"]
    rows = []
    for pair in range(len(mean)):
        images = check_row(mean[pair], "mean", "image")
        if ends is not None:
            first, last = check_row(ends[pair], "ends", "image")
            images = np.stack([first, *images, last])
        rows.append(("" if stddev is None else "mean", images, "image"))
        if stddev is not None:
            images = check_row(stddev[pair], "stddev", "stddev")
            if ends is not None:  # which are data, and have none
                images = np.pad(images, [(1, 1), *[(0, 0)] * 3], constant_values=np.nan)
            rows.append(("stddev", images, "stddev"))
    figure = draw_rows(rows, len(columns), title)
    if any(columns):
        width = mean.shape[3]
        axes = figure.axes[0]
        axes.set_xticks(lefts(width, len(columns)) + (width - 1) / 2, columns)
        axes.tick_params(top=False, labeltop=True, bottom=False, labelbottom=False)
    return figure
