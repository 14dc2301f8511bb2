"""The path of training, and rate against distortion."""

import numpy as np

from .base import CURVES, array, number

__all__ = ["history", "rate_distortion"]

_LABELS = {
    "loss": "loss (nats)",
    "reconstruction": "reconstruction (nats)",
    "kl": "KL (nats)",
    "variance": "variance (squared units)",
}


def history(history, stage1_epochs=None, title=None):
    """The path of the loss, its terms and the variance over the epochs.

    With reconstruction and KL there is a last picture of the one against the other,
    from a hollow point at the first epoch to a full one at the last: what the KL buys.

    Args:
        history: what `fit` or `fit_two_stage` returned, or its dict
            `{name: [one number an epoch]}`. Drawn are `loss`, `reconstruction`, `kl`
            (nats) and `variance` (log scale), as far as they are there, each with its
            `val_` twin as a dashed line.
        stage1_epochs: number of epochs of stage 1: a line marks where stage 2 begins.
        title: text above the figure, or None.

    Returns:
        A figure with one axes a term, and one for the trade-off.

    Raises:
        ValueError: if none of the terms is in `history`.

    Example:

    >>> from keras_vae_variance import plots
    >>> logs = {"loss": [9.0, 5.0, 4.0], "variance": [0.2, 0.1, 0.05]}
    >>> figure = plots.history(logs, stage1_epochs=2)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss (nats)', 'variance (squared units)']
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
    trade_off = "reconstruction" in names and "kl" in names
    count = len(names) + trade_off
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.0 * columns, 2.6 * rows + 0.4), layout="constrained")
    every_axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    curves = (("", "training", "-", CURVES[0]), ("val_", "validation", "--", CURVES[1]))
    for axes, name in zip(every_axes, names, strict=False):
        for prefix, label, style, colour in curves:
            if prefix + name in logs:
                epochs = np.arange(1, len(logs[prefix + name]) + 1)
                axes.plot(epochs, logs[prefix + name], style, color=colour, label=label)
        if stage1_epochs is not None:
            # The first epoch of stage 2 is stage1_epochs + 1.
            axes.axvline(
                stage1_epochs + 0.5, color="0.4", linestyle=":", label="stage 2 begins"
            )
        if name == "variance":
            axes.set_yscale("log")
        axes.set_ylabel(_LABELS[name])
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if trade_off:
        axes = every_axes[-1]
        for prefix, _, style, colour in curves:
            terms = [prefix + name for name in ("reconstruction", "kl")]
            if all(term in logs for term in terms):
                _path(axes, *(logs[t] for t in terms), color=colour, linestyle=style)
        axes.set_xlabel(_LABELS["reconstruction"])
        axes.set_ylabel(_LABELS["kl"])
    handles, labels = every_axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False
    )
    figure.suptitle(title)
    return figure


def rate_distortion(models, title=None):
    """The rate of each model, or of each of its epochs, against its distortion.

        distortion = E_q(z|x)[-log p(x|z)]        rate = E KL(q(z|x) || p(z))

    Their sum is the negative ELBO, which is the same along a grey line and better at
    the lower left; along a line, models that say more with `z` are on its upper left.
    The legend has the ELBO of each model, at the last of its epochs.

    A. Alemi et al., Fixing a Broken ELBO, 2018.

    Args:
        models: `{label: logs}`; logs are a dict with `reconstruction` (the distortion)
            and `kl` (the rate), in nats: numbers, as of `vae.evaluate(x,
            return_dict=True)`, are a point; sequences, as of `fit(...).history`, are a
            path from a hollow point to a full one.
        title: text above the figure, or None.

    Returns:
        A figure with one axes.

    Raises:
        ValueError: if there are no models, or one has not both terms, in equal numbers.

    Example:

    >>> from keras_vae_variance import plots
    >>> models = {
    ...     "learned variance": {"reconstruction": [20.0, -65.0], "kl": [1.0, 12.0]},
    ...     "variance 0.1": {"reconstruction": -30.0, "kl": 2.5},
    ... }
    >>> figure = plots.rate_distortion(models)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['learned variance: ELBO 53', 'variance 0.1: ELBO 27.5', 'equal ELBO']
    """
    from matplotlib.figure import Figure

    if not models:
        raise ValueError(
            f"`models` must have at least one model. Received: models={models}"
        )
    longest = max(len(str(label)) for label in models)
    figure = Figure(figsize=(5.8 + 0.08 * longest, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, (label, logs) in enumerate(models.items()):
        missing = {"reconstruction", "kl"} - set(logs)
        if missing:
            raise ValueError(
                "Each model must have `reconstruction` and `kl`. "
                f"Received: {label!r} with {sorted(logs)}"
            )
        distortion, rate = (
            np.atleast_1d(array(logs[name])) for name in ("reconstruction", "kl")
        )
        if distortion.ndim != 1 or distortion.shape != rate.shape:
            raise ValueError(
                "A model's `reconstruction` and `kl` must be equally many numbers. "
                f"Received: shapes {distortion.shape} and {rate.shape} of {label!r}"
            )
        _path(
            axes,
            distortion,
            rate,
            color=CURVES[index % len(CURVES)],
            linestyle=("-", "--", ":", "-.")[index % 4],
            marker="osD^vP"[index % 6],
            label=f"{label}: ELBO {number(-(distortion[-1] + rate[-1]), '.4g')}",
        )
    axes.margins(0.1)
    _equal_elbo(axes)
    axes.set_xlabel(f"distortion: {_LABELS['reconstruction']}")
    axes.set_ylabel(f"rate: {_LABELS['kl']}")
    figure.legend(loc="outside right upper", frameon=False)
    figure.suptitle(title)
    return figure


def _path(axes, distortion, rate, color, linestyle, marker="o", label=None):
    """A line through the epochs, from a hollow marker to a full one."""
    style = {"color": color, "marker": marker, "markersize": 7}
    if len(rate) > 1:
        axes.plot(distortion, rate, linestyle, color=color)
        axes.plot(
            distortion[0], rate[0], linestyle="", markerfacecolor="white", **style
        )
    axes.plot(
        distortion[-1],
        rate[-1],
        linestyle=linestyle if len(rate) > 1 else "",
        label=label,
        **style,
    )


def _equal_elbo(axes):
    """Lines of equal ELBO, behind what is drawn."""
    x, y = axes.get_xlim(), axes.get_ylim()
    axes.contour(
        x,
        y,
        np.add.outer(y, x),
        levels=8,
        colors="0.8",
        linewidths=0.8,
        linestyles="solid",
        zorder=0,
    )
    axes.plot([], color="0.8", linewidth=0.8, label="equal ELBO")
