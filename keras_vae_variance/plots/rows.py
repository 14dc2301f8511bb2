"""Rows of images, one axes each: how they are checked and drawn."""

import numpy as np

from .base import array, check_images

__all__ = ["check_row", "draw_rows", "lefts", "stddev_of"]


def stddev_of(variance, mean):
    """Square root of a variance that broadcasts to the shape of `mean`."""
    variance = array(variance)
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


def check_row(images, label, kind):
    """The images as a row shows them: clipped, or one stddev a pixel."""
    if kind not in ("image", "stddev"):
        raise ValueError(f"A row's kind is 'image' or 'stddev'. Received: kind={kind}")
    images = check_images(images, label)
    if kind == "image":
        return np.clip(images, 0.0, 1.0)
    if not np.all(images >= 0):
        raise ValueError(
            "Standard deviations must be at least 0 everywhere. "
            f"Received: minimum {images.min()} for {label!r}"
        )
    return np.sqrt(np.mean(np.square(images), axis=-1, keepdims=True))


def draw_rows(rows, columns, title):
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
            image, ax=list(every_axes), label="stddev (units of x)", pad=0.01
        )
    figure.suptitle(title)
    return figure


def _colour_limits(arrays):
    """The colour scale that all standard deviations of a figure share."""
    if not arrays:
        return None, None
    lowest = min(np.nanmin(stddev) for stddev in arrays)
    highest = max(np.nanmax(stddev) for stddev in arrays)
    # From the lowest, since a floor under the variance can be most of it; from 0 where
    # they are all but equal, so that no rounding error is spread over the colours.
    return (lowest if lowest < 0.9 * highest else 0.0), highest


def _side_by_side(images, columns):
    """Images with gaps between them, and gaps for those that are missing.

    Grey gaps and gaps between standard deviations are NaN, which Matplotlib leaves
    blank; RGB gaps are white.
    """
    _, height, width, channels = images.shape
    start = lefts(width, columns)
    fill = np.nan if channels == 1 else 1.0
    canvas = np.full((height, start[-1] + width, channels), fill)
    for left, image in zip(start, images, strict=False):
        canvas[:, left : left + width] = image
    return canvas[..., 0] if channels == 1 else canvas


def lefts(width, columns):
    """Where each of the images in a row begins, in pixels."""
    return np.arange(columns) * (width + max(1, width // 14))
