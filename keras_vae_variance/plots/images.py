"""Rows of images and of the standard deviations of their pixels."""

import numpy as np
from keras import ops

__all__ = ["image_rows", "overview", "reconstructions", "samples"]


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
    ['data', 'stddev', 'standard deviation']
    """
    rows = [
        (label, _checked_images(images, label, kind), kind)
        for label, images, kind in rows
    ]
    if not rows:
        raise ValueError("`rows` must have at least one row. Received: rows=[]")
    counts = [len(images) for _, images, _ in rows]
    if len(set(counts)) > 1:
        raise ValueError(
            f"All rows must have the same number of images. Received: {counts}"
        )
    return _draw_rows(rows, counts[0], title)


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
    x, mean = _array(x), _array(mean)
    if x.shape != mean.shape:
        raise ValueError(
            "`x` and `mean` must have the same shape. "
            f"Received: x.shape={x.shape}, mean.shape={mean.shape}"
        )
    rows = [("original", x, "image"), ("reconstruction", mean, "image")]
    if variance is not None:
        rows.append(("stddev", _stddev(variance, mean), "stddev"))
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
    mean = _checked_images(mean, "mean", "image")
    if variance is not None:
        stddev = _checked_images(_stddev(variance, mean), "stddev", "stddev")
    columns = min(columns, len(mean))
    rows = []
    for start in range(0, len(mean), columns):
        part = slice(start, start + columns)
        # Without stddev rows every row is the same, and a label would say nothing.
        rows.append(("" if variance is None else "mean", mean[part], "image"))
        if variance is not None:
            rows.append(("stddev", stddev[part], "stddev"))
    return _draw_rows(rows, columns, title)


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
        mean = _array(decoded["mean"])
        rows.append((label, mean, "image"))
        rows.append(("stddev", _stddev(decoded["variance"], mean), "stddev"))
    return image_rows(rows, title)


def _array(t):
    """A tensor of any backend, or an array, as a NumPy array."""
    return np.asarray(ops.convert_to_numpy(t))


def _stddev(variance, mean):
    """Square root of a variance that broadcasts to the shape of `mean`."""
    variance = _array(variance)
    if not np.all(variance >= 0):  # NaN fails as well
        raise ValueError(
            "`variance` must be at least 0 everywhere. "
            f"Received: variance with minimum {variance.min()}"
        )
    try:
        return np.broadcast_to(np.sqrt(variance), mean.shape)
    except ValueError:
        raise ValueError(
            "`variance` must broadcast to the shape of `mean`. "
            f"Received: variance.shape={variance.shape}, mean.shape={mean.shape}"
        ) from None


def _checked_images(images, label, kind):
    """The images as floats of shape `(n, H, W, 3)`, or `(n, H, W)` for one channel."""
    images = _array(images)
    if kind not in ("image", "stddev"):
        raise ValueError(f"A row's kind is 'image' or 'stddev'. Received: kind={kind}")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            "Images must be of shape (n, height, width, channels) with 1 or 3 "
            f"channels. Received: shape {images.shape} for {label!r}"
        )
    if images.dtype == np.uint8:
        images = images / 255.0
    if kind == "image":
        return np.clip(images, 0.0, 1.0)
    if not np.all(images >= 0):
        raise ValueError(
            "Standard deviations must be at least 0 everywhere. "
            f"Received: minimum {images.min()} for {label!r}"
        )
    return np.sqrt(np.mean(np.square(images), axis=-1, keepdims=True))


def _draw_rows(rows, columns, title):
    """Draws checked rows, of at most `columns` images, as one axes a row."""
    from matplotlib.figure import Figure

    _, height, width, _ = rows[0][1].shape
    inch = 0.75 if columns > 6 else 1.0
    figure = Figure(
        figsize=(columns * inch + 2.0, len(rows) * inch * height / width + 0.5),
        layout="compressed",
    )
    every_axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    lowest, highest = _colour_limits([i for _, i, kind in rows if kind == "stddev"])
    image = None  # of the last row of standard deviations
    for axes, (label, images, kind) in zip(every_axes, rows, strict=True):
        canvas = _side_by_side(images, columns)
        if kind == "stddev":
            image = axes.imshow(canvas, cmap="viridis", vmin=lowest, vmax=highest)
        else:
            axes.imshow(canvas, cmap="gray", vmin=0.0, vmax=1.0)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    if image is not None:
        figure.colorbar(
            image, ax=list(every_axes), label="standard deviation", pad=0.01
        )
    figure.suptitle(title)
    return figure


def _colour_limits(arrays):
    """The colour scale that all standard deviations of a figure share."""
    if not arrays:
        return None, None
    lowest = min(array.min() for array in arrays)
    highest = max(array.max() for array in arrays)
    # From the lowest, since a floor under the variance can be most of it; from 0 where
    # they are all but equal, so that no rounding error is spread over the colours.
    return (lowest if lowest < 0.9 * highest else 0.0), highest


def _side_by_side(images, columns):
    """Images with gaps between them, and gaps for those that are missing.

    Grey gaps and gaps between standard deviations are NaN, which Matplotlib leaves
    blank; RGB gaps are white.
    """
    count, height, width, channels = images.shape
    gap = max(1, width // 14)
    fill = np.nan if channels == 1 else 1.0
    canvas = np.full((height, columns * (width + gap) - gap, channels), fill)
    for index in range(count):
        left = index * (width + gap)
        canvas[:, left : left + width] = images[index]
    return canvas[..., 0] if channels == 1 else canvas
