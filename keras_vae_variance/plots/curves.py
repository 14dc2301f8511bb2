"""Curves over the epochs, and log densities over the latent space."""

import numpy as np
from keras import ops

__all__ = ["history", "latent_density"]

_BLUE, _VERMILION = "#0072B2", "#D55E00"


def history(history, stage1_epochs=None, title=None):
    """The path of the loss, its terms and the variance over the epochs.

    Args:
        history: what `fit` or `fit_two_stage` returned, or its dict
            `{name: [one number an epoch]}`. Drawn are `loss`, `reconstruction`, `kl`
            (nats) and `variance` (log scale), as far as they are there, each with its
            `val_` twin as a dashed line.
        stage1_epochs: number of epochs of stage 1: a line marks where stage 2 begins.
        title: text above the figure, or None.

    Returns:
        A figure with one axes a term.

    Raises:
        ValueError: if none of the terms is in `history`.

    Example:

    >>> from keras_vae_variance import plots
    >>> logs = {"loss": [9.0, 5.0, 4.0], "variance": [0.2, 0.1, 0.05]}
    >>> figure = plots.history(logs, stage1_epochs=2)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss (nats)', 'variance']
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    logs = getattr(history, "history", history)
    names = [n for n in ("loss", "reconstruction", "kl", "variance") if n in logs]
    if not names:
        raise ValueError(
            "`history` must have one of loss, reconstruction, kl and variance. "
            f"Received: history with {sorted(logs)}"
        )
    figure = Figure(figsize=(3.2 * len(names), 2.8), layout="constrained")
    for axes, name in zip(
        figure.subplots(1, len(names), squeeze=False)[0], names, strict=True
    ):
        for key, label, color, style in (
            (name, "training", _BLUE, "-"),
            ("val_" + name, "validation", _VERMILION, "--"),
        ):
            if key in logs:
                epochs = np.arange(1, len(logs[key]) + 1)
                axes.plot(epochs, logs[key], style, color=color, label=label)
        if stage1_epochs is not None:
            # The first epoch of stage 2 is stage1_epochs + 1.
            axes.axvline(
                stage1_epochs + 0.5, color="0.4", linestyle=":", label="stage 2 begins"
            )
        if name == "variance":
            axes.set_yscale("log")
        axes.set_ylabel("variance" if name == "variance" else f"{name} (nats)")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    figure.axes[0].legend(frameon=False, fontsize="small")
    figure.suptitle(title)
    return figure


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
        values = [ops.convert_to_numpy(log_prob(part)) for part in parts]
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
    figure.colorbar(image, ax=list(every_axes), label="log density", extend="min")
    return figure
