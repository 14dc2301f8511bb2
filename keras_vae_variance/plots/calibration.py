"""Nominal against observed coverage, and the z-scores against the standard normal."""

import numpy as np

from .base import CURVES

__all__ = ["calibration"]

_STYLES = ("-", "--", "-.", ":")


def calibration(records, title=None):
    """A reliability curve beside the z-scores' histogram.

    A curve above the diagonal, and a histogram narrower than the standard normal, mean
    that the predicted variance is too large, the other side that it is too small; a
    curve from above to below, that the errors have heavier tails than `p(x|z)`. A band
    about a curve is two standard errors wide on either side. The density is
    logarithmic, to show the tails, and grey are the diagonal and the standard normal.
    The legend has the calibration error and the standard deviation of the z-scores.

    Args:
        records: what `metrics.calibration` returned: a `Calibration`, or
            `{label: Calibration}`, of regions or of models.
        title: text above the figure, or None.

    Returns:
        A figure with two axes.

    Raises:
        ValueError: on an empty dict.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.05))
    >>> networks = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> vae = kvv.VAE(*networks, kvv.posteriors.DiagonalGaussian(2), likelihood)
    >>> figure = kvv.plots.calibration(kvv.metrics.calibration(vae, x))
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['nominal coverage', 'z-score']
    """
    from matplotlib.figure import Figure

    if not isinstance(records, dict):
        records = {"observed": records}
    if not records:
        raise ValueError(
            "`records` must have at least one record. Received: records={}"
        )
    figure = Figure(figsize=(6.6, 3.4 + 0.2 * len(records)), layout="constrained")
    reliability, histogram = figure.subplots(1, 2)
    for i, (label, record) in enumerate(records.items()):
        line = {
            "color": CURVES[i % len(CURVES)],
            "linestyle": _STYLES[i % len(_STYLES)],
        }
        levels = np.array(list(record.coverage))
        shares = np.array([float(share) for share in record.coverage.values()])
        error = np.array([share.standard_error for share in record.coverage.values()])
        summary = f"error {record.error.value:.3f}, stddev {record.stddev.value:.2f}"
        reliability.plot(levels, shares, label=f"{label}: {summary}", **line)
        reliability.fill_between(
            levels,
            shares - 2 * error,
            shares + 2 * error,
            color=line["color"],
            alpha=0.2,
            linewidth=0,
        )
        # An empty bin is a gap: its logarithm is none.
        density = np.where(record.density > 0, record.density, np.nan)
        histogram.stairs(density, record.edges, baseline=None, **line)
    edges = record.edges
    normal = np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi)
    histogram.plot(edges, normal, color="0.6", linewidth=1)
    reliability.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="calibrated")
    reliability.set(xlabel="nominal coverage", ylabel="observed coverage")
    reliability.set(xlim=(0, 1), ylim=(0, 1))
    histogram.set(xlabel="z-score", ylabel="density", yscale="log")
    histogram.set(xlim=(edges[0], edges[-1]), ylim=(1e-6, None))
    histogram.set_xticks([-4, -2, 0, 2, 4])
    for axes in (reliability, histogram):
        axes.set_box_aspect(1)
    figure.legend(loc="outside lower center", frameon=False, fontsize="small")
    figure.suptitle(title)
    return figure
