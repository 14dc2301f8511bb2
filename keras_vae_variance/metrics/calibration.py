"""Whether the predicted variances are those of the errors: coverage and z-scores."""

import dataclasses
import numbers
import statistics
import warnings

import numpy as np

from ..types import Latent
from .base import Estimate, draws
from .regions import Regions, SharedMean

__all__ = ["Calibration", "calibration", "coverage"]

_LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))
# One bin is about 0, where pixels of a plain background are, and none ends there.
_EDGES = np.linspace(-5.05, 5.05, 102)


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """How often data lie where `p(x|z)` expects them: the result of `calibration`.

    Standard errors are those over other examples and draws of `z`.

    Args:
        coverage: `{level: Estimate}`, the share of the scalars inside of the central
            interval of each probability.
        error: mean over the levels of `|coverage - level|`. Its own error is that of a
            sum of given signs: coverages that are right differ from their levels by
            their standard errors, and so does this from 0.
        mean: of the z-scores; 0 is right.
        stddev: of the z-scores; 1 is right, at 2 the variance is 4 times too small.
        edges: borders of the bins of the z-scores, of width 0.1 about -5 to 5.
        density: share of the z-scores in each bin, by its width. What is beyond the
            last borders is in none.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1 / 12))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> vae = kvv.VAE(encoder, decoder, kvv.posteriors.DiagonalGaussian(2), likelihood)
    >>> found = kvv.metrics.calibration(vae, x, levels=[0.5, 0.9], seed=0)
    >>> list(found.coverage), found.error.value > 0, len(found.density)
    ([0.5, 0.9], True, 101)
    """

    coverage: dict
    error: Estimate
    mean: Estimate
    stddev: Estimate
    edges: np.ndarray
    density: np.ndarray


def calibration(vae, x, levels=_LEVELS, regions=None, seed=None, batch_size=256):
    """Compares the scalars of data with `p(x|z)` at one draw `z ~ q(z|x)` an example.

        coverage(c) = share of the scalars with |z-score| <= Phi^-1((1 + c)/2)
        error = mean over the levels c of |coverage(c) - c|
        z-score = (x - mean) / stddev,  or for another density Phi^-1(F(x))

    What P2, Section 3.1, calls calibrated: "the predicted probabilities should
    correspond to the frequencies". The error is that of Kuleshov, Fenner and Ermon,
    "Accurate Uncertainties for Deep Learning Using Calibrated Regression" (2018), with
    absolute values in place of their squares and central intervals in place of
    quantiles, as is usual.

    Of data from the model, with the exact posterior, each pair of `x` and its draw of
    `z` is one of the model's: every coverage is then its level. At the posterior mean
    errors would be smaller than that. The variance is the one that evaluation has.
    Where it depends on `x`, as in the two `-D` forms of `MaximumLikelihood`, it is made
    of the errors that it is compared with, and the coverage says little of other data.

    The pixels of an image depend on each other: standard errors are taken from image to
    image. The noise is a function of the seed and the place of the example. Memory is
    that of a batch and of 101 bins a region.

    Args:
        vae: a trained `VAE` with a continuous likelihood, `Gaussian` or `StudentT`.
        x: the images, in any form that `VAE.fit` takes, read once. Labels and weights
            are ignored.
        levels: increasing probabilities of the intervals, between 0 and 1.
        regions: None for all scalars together, or `{name: mask}` for some of them: a
            mask of bools broadcasts to the shape of an image, or with one more axis to
            that of the data.
        seed: int, or None for a fresh one from Python's `random`, which
            `keras.utils.set_random_seed` seeds.
        batch_size: the most examples that are decoded at a time.

    Returns:
        A `Calibration`; with `regions` one for each, `{name: Calibration}`.

    Raises:
        ValueError: if the likelihood is one of levels, `levels` are not as said, there
            are no examples, or a mask does not fit the data.

    Warns:
        UserWarning: if the variance depends on `x`.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))  # too large
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> found = kvv.metrics.calibration(vae, x, seed=0)
    >>> float(found.coverage[0.7]), round(float(found.stddev), 1)
    (1.0, 0.3)
    """
    return _compare(vae, x, levels, regions, seed, batch_size)


def coverage(vae, x, levels=(0.5, 0.9, 0.95), regions=None, seed=None, batch_size=256):
    """Share of the scalars of data inside of the central intervals of `p(x|z)`.

        share of |z-score| <= Phi^-1((1 + level)/2),   z ~ q(z|x), one draw an example

    The part of `calibration` that is asked for most, where all else stands.

    Args:
        vae: as in `calibration`, and so are all other arguments.
        x: the images.
        levels: increasing probabilities of the intervals, between 0 and 1.
        regions: None, or `{name: mask}`.
        seed: int, or None for a fresh one.
        batch_size: the most examples that are decoded at a time.

    Returns:
        `{level: Estimate}`; with `regions` one for each, `{name: {level: Estimate}}`.

    Raises:
        ValueError: as `calibration`.

    Warns:
        UserWarning: if the variance depends on `x`.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1 / 12))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> vae = kvv.VAE(encoder, decoder, kvv.posteriors.DiagonalGaussian(2), likelihood)
    >>> shares = kvv.metrics.coverage(vae, x, levels=[0.5, 0.95], seed=0)
    >>> {level: round(float(share), 1) for level, share in shares.items()}
    {0.5: 0.4, 0.95: 1.0}
    """
    found = _compare(vae, x, levels, regions, seed, batch_size)
    if regions is None:
        return found.coverage
    return {name: record.coverage for name, record in found.items()}


def _compare(vae, x, levels, regions, seed, batch_size):
    levels = _checked_levels(levels)
    likelihood = vae.likelihood
    if not (likelihood.normalized or likelihood.discrete):
        warnings.warn(
            "The variance depends on the errors that it is compared with: the coverage "
            f"says little of other data. Received: likelihood={likelihood}",
            UserWarning,
            stacklevel=3,
        )
    parts = Regions({"all": True} if regions is None else regions, vae.event_shape)
    tallies = {}
    for batch, latents in draws(vae, x, seed=seed, batch_size=batch_size):
        (layers,) = latents
        latent = Latent.side_by_side(layers)
        z = likelihood.zscore(batch, vae.decode(layers[0].sample), latent)
        z = z.reshape(len(z), -1)
        for name, mask in parts.next(len(z)).items():
            tallies.setdefault(name, _Tally(levels)).add(z, mask)
    parts.end()
    found = {name: tally.result() for name, tally in tallies.items()}
    return found["all"] if regions is None else found


class _Tally:
    """What is counted of the z-scores of a region."""

    def __init__(self, levels):
        self.levels = levels
        normal = statistics.NormalDist()
        self.bounds = [normal.inv_cdf((1.0 + level) / 2.0) for level in levels]
        # Of being inside of each interval, of z and of its square.
        self.means = SharedMean()
        self.bins = np.zeros(len(_EDGES) - 1)
        self.count = 0

    def add(self, z, mask):
        """Takes in the z-scores `(batch, D)` where the mask has them."""
        counts = mask.sum(axis=1)
        rows = np.repeat(np.arange(len(z)), counts)
        z = z[mask]
        # The narrowest interval that holds each, of which the wider ones do too.
        first = np.searchsorted(self.bounds, np.abs(z))
        width = len(self.bounds) + 1
        inside = np.bincount(rows * width + first, minlength=len(mask) * width)
        inside = inside.reshape(-1, width).cumsum(axis=1)[:, :-1]
        sums = (np.bincount(rows, power, len(mask)) for power in (z, z * z))
        self.means.add(np.column_stack([inside, *sums]), counts)
        self.bins += np.histogram(z, _EDGES)[0]
        self.count += len(z)

    def result(self):
        """The `Calibration`."""
        means, covariance = self.means.result()
        *shares, mean, _ = self.means.estimates()
        off = means[:-2] - self.levels
        stddev = np.sqrt(max(means[-1] - means[-2] ** 2, 0.0))
        size = len(self.levels)
        # Derivatives by the means: of the error, and of the standard deviation.
        by_share = np.concatenate([np.sign(off) / size, [0.0, 0.0]])
        by_moment = np.concatenate([np.zeros(size), [-mean.value, 0.5]])
        by_moment /= stddev or 1.0

        def estimate(value, slope):
            # Rounding may leave a variance of 0 below it.
            variance = np.maximum(slope @ covariance @ slope, 0.0)
            return Estimate(float(value), float(np.sqrt(variance)))

        return Calibration(
            coverage=dict(zip(self.levels, shares, strict=True)),
            error=estimate(np.abs(off).mean(), by_share),
            mean=mean,
            stddev=estimate(stddev, by_moment),
            edges=_EDGES.copy(),
            density=self.bins / (self.count * np.diff(_EDGES)),
        )


def _checked_levels(levels):
    given = levels
    levels = list(given) if hasattr(given, "__iter__") else []
    numeric = all(isinstance(level, numbers.Real) for level in levels)
    if not (numeric and levels and 0 < levels[0] and levels[-1] < 1) or any(
        not a < b for a, b in zip(levels, levels[1:], strict=False)
    ):
        raise ValueError(
            "`levels` must be increasing probabilities between 0 and 1. "
            f"Received: levels={given}"
        )
    return [float(level) for level in levels]
