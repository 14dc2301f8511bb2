"""A latent space of two dimensions: its densities, and what it decodes to."""

import statistics

import numpy as np

from .base import array, check_images, number

__all__ = ["latent_density", "manifold"]


def latent_density(log_probs, limits=(-4.0, 4.0), depth=12.0, resolution=128):
    """Log densities over a latent space of two dimensions, side by side.

    The pictures of P0's Table 1: the aggregate posterior, its Gaussian mixture and the
    prior. All share one colour scale.

    Args:
        log_probs: `{label: function}`; a function takes latents of shape `(m, 2)`,
            float32, and gives their log densities in nats, of shape `(m,)`, as the
            `log_prob` of a fitted sampler does.
        limits: lowest and highest latent, of both dimensions.
        depth: how many nats below the highest density the colour scale ends.
        resolution: points of the grid along each dimension.

    Returns:
        A figure with one axes a density and one for the colour bar.

    Raises:
        ValueError: on no densities, limits out of order, and on a function whose
            result is not of shape `(m,)`.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import plots
    >>> normal = lambda z: -0.5 * np.sum(z**2, axis=1) - np.log(2.0 * np.pi)
    >>> figure = plots.latent_density({"prior": normal}, limits=(-3, 3))
    >>> [axes.get_title() for axes in figure.axes]
    ['prior', '']
    """
    from matplotlib.figure import Figure

    low, high = limits
    if not log_probs or not low < high:
        raise ValueError(
            "`log_probs` must have at least one function and `limits` must increase. "
            f"Received: log_probs={log_probs}, limits={limits}"
        )
    line = np.linspace(low, high, resolution, dtype="float32")
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    # In parts: an aggregate posterior has a term for each point and each example.
    parts = np.array_split(grid, -(-len(grid) // 4096))
    densities = {}
    for label, log_prob in log_probs.items():
        values = [array(log_prob(part)) for part in parts]
        for value, part in zip(values, parts, strict=True):
            if value.shape != part.shape[:1]:
                raise ValueError(
                    f"A log density must be of shape {part.shape[:1]}. "
                    f"Received: shape {value.shape} from {label!r}"
                )
        densities[label] = np.concatenate(values).reshape(resolution, resolution)

    top = max(density.max() for density in densities.values())
    figure = Figure(figsize=(2.6 * len(densities) + 0.8, 2.8), layout="compressed")
    every_axes = figure.subplots(1, len(densities), squeeze=False, sharey=True)[0]
    for axes, (label, density) in zip(every_axes, densities.items(), strict=True):
        image = axes.imshow(
            density,
            origin="lower",
            extent=(low, high, low, high),
            cmap="viridis",
            vmin=top - depth,
            vmax=top,
        )
        axes.set_title(label)
        axes.set_xlabel("latent 1")
    every_axes[0].set_ylabel("latent 2")
    figure.colorbar(
        image, ax=list(every_axes), label="log density (nats)", extend="min"
    )
    return figure


def manifold(
    generate, size=20, prior_mean=(0.0, 0.0), prior_variance=(1.0, 1.0), title=None
):
    """What the decoder makes of a grid over a latent space of two dimensions.

    The pictures of P4's Figs. 12 to 15. The grid has equal shares of the prior between
    its lines: the image in column `i` of `size` is decoded from

        z_1 = prior mean + prior stddev * Phi^-1((i + 1/2) / size)

    and that in row `j` from the bottom from the like `z_2`, so that the picture shows
    what draws of the prior look like, in their proportions.

    Args:
        generate: a function of latents of shape `(m, 2)`, float32, that gives a dict
            with `mean`, of shape `(m, H, W, C)`, as `vae.generate` does.
        size: images along each dimension.
        prior_mean: mean of the prior, 2 numbers.
        prior_variance: variance of the prior (S2), 2 numbers.
        title: text above the figure, or None.

    Returns:
        A figure with one axes.

    Raises:
        ValueError: on a size below 1, on a prior of other than 2 dimensions and on
            images of another shape.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import plots
    >>> generate = lambda z: {"mean": np.tile(z[:, :1, None, None], (1, 8, 8, 1))}
    >>> figure = plots.manifold(generate, size=5)
    >>> figure.axes[0].get_xlabel()
    'latent 1'
    """
    from matplotlib.figure import Figure

    if size < 1:
        raise ValueError(f"`size` must be at least 1. Received: size={size}")
    prior_mean, prior_variance = array(prior_mean), array(prior_variance)
    if prior_mean.size != 2 or prior_variance.size != 2 or np.any(prior_variance <= 0):
        raise ValueError(
            "`prior_mean` and `prior_variance` must be 2 numbers each, the variances "
            f"positive. Received: prior_mean={prior_mean}, "
            f"prior_variance={prior_variance}"
        )
    normal = statistics.NormalDist()
    line = np.array([normal.inv_cdf((i + 0.5) / size) for i in range(size)])
    lines = [
        mean + np.sqrt(variance) * line
        for mean, variance in zip(prior_mean.flat, prior_variance.flat, strict=True)
    ]
    grid = np.stack(np.meshgrid(*lines), axis=-1).reshape(-1, 2).astype("float32")
    images = check_images(generate(grid)["mean"], "mean")
    if len(images) != len(grid):
        raise ValueError(
            f"`generate` must give an image for each of {len(grid)} latents. "
            f"Received: mean.shape={images.shape}"
        )
    _, height, width, channels = images.shape
    # Rows are the second latent, bottom up.
    canvas = images.reshape(size, size, height, width, channels)[::-1]
    canvas = canvas.transpose(0, 2, 1, 3, 4)
    canvas = canvas.reshape(size * height, size * width, channels)
    figure = Figure(figsize=(5.0, 5.0 * height / width), layout="compressed")
    axes = figure.subplots()
    axes.imshow(
        np.clip(canvas[..., 0] if channels == 1 else canvas, 0.0, 1.0),
        cmap="gray",
        vmin=0.0,
        vmax=1.0,
        extent=(0, size, 0, size),
        aspect=height / width,
    )
    for border in range(1, size):
        axes.axvline(border, color="white", linewidth=0.8)
        axes.axhline(border, color="white", linewidth=0.8)
    # The latents are unevenly spaced: ticks at five of the images say where these are.
    shown = np.unique(np.linspace(0, size - 1, 5).round().astype(int))
    for axis, values in ((axes.xaxis, lines[0]), (axes.yaxis, lines[1])):
        # Adding 0 makes a rounded -0 a 0.
        names = [number(round(values[i], 2) + 0.0, ".2f") for i in shown]
        axis.set_ticks(shown + 0.5, names)
    axes.set_xlabel("latent 1")
    axes.set_ylabel("latent 2")
    figure.suptitle(title)
    return figure
