"""Means over regions of the images and groups of examples: the estimated variance."""

import numpy as np

from ..types import Latent
from .base import Estimate, draws, float64, variance

__all__ = ["Regions", "SharedMean", "region_variance"]


def region_variance(vae, x, regions, seed=None, batch_size=256):
    """Mean of the estimated variance over regions of the images.

        mean over the scalars of a region of v(x, z),   z ~ q(z|x), one draw an example

    P1, Table 3, where the noise of the regions is known. The variance is the one that
    evaluation has: of the two `-D` forms of `MaximumLikelihood` and of `Baggins` that
    of the example itself, else the one of `VAE.decode`. Call `VAE.calibrate` first
    where there are running averages, for their exact means.

    Standard errors are those over other examples: the pixels of an image depend on each
    other. The noise is a function of the seed and the place of the example. Memory is
    that of a batch.

    Args:
        vae: a trained `VAE`.
        x: the images, in any form that `VAE.fit` takes, read once. Labels and weights
            are ignored.
        regions: `{name: mask}`: a mask of bools broadcasts to the shape of an image, or
            with one more axis to that of the data, as a group of examples does.
        seed: int, or None for a fresh one from Python's `random`, which
            `keras.utils.set_random_seed` seeds.
        batch_size: the most examples that are decoded at a time.

    Returns:
        `{name: Estimate}`, in squared units of `x`.

    Raises:
        ValueError: if there are no examples, or a mask does not fit the data or has
            nothing of them.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), dtype="float32")
    >>> y = np.arange(64) % 10
    >>> variance = kvv.variances.MaximumLikelihood(per_pixel=True, per_example=True)
    >>> likelihood = kvv.likelihoods.Gaussian(variance)
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> vae = kvv.VAE(encoder, decoder, kvv.posteriors.DiagonalGaussian(2), likelihood)
    >>> upper = np.arange(8)[:, None, None] < 4
    >>> small = (y <= 4)[:, None, None, None]
    >>> regions = {"upper": upper, "upper, of small digits": upper & small}
    >>> found = kvv.metrics.region_variance(vae, x, regions, seed=0)
    >>> round(float(found["upper"]), 1)
    0.1
    """
    parts = Regions(regions, vae.event_shape)
    means = {name: SharedMean() for name in regions}
    for batch, latents in draws(vae, x, seed=seed, batch_size=batch_size):
        (layers,) = latents
        latent = Latent.side_by_side(layers)
        parameters = vae.decode(layers[0].sample)
        v = float64(variance(vae.likelihood, batch, parameters, latent))
        v = v.reshape(len(v), -1)
        for name, mask in parts.next(len(v)).items():
            sums = (v * mask).sum(axis=1, keepdims=True)
            means[name].add(sums, mask.sum(axis=1))
    parts.end()
    return {name: mean.estimates()[0] for name, mean in means.items()}


class Regions:
    """Parts of the scalars of a data set, by name, read beside its batches.

    Args:
        regions: `{name: mask}`. A mask is of bools and broadcasts to the shape of one
            example, or with one more axis, first, to that of the data.
        event_shape: the shape of one example.

    Raises:
        ValueError: if a mask is none; by `next` and `end`, if one is of more or fewer
            examples than the data, or has nothing of them.
    """

    def __init__(self, regions, event_shape):
        if not isinstance(regions, dict) or not regions:
            raise ValueError(
                "`regions` must be a dict of masks by name, with at least one. "
                f"Received: regions={regions!r}"
            )
        self._masks = {
            name: _checked_mask(name, mask, tuple(event_shape))
            for name, mask in regions.items()
        }
        self._sizes = dict.fromkeys(regions, 0)
        self._count = 0

    def next(self, count):
        """The masks of the next `count` examples, `{name: (count, D)}`."""
        part = slice(self._count, self._count + count)
        self._count += count
        found = {}
        for name, mask in self._masks.items():
            if len(mask) > 1:
                mask = mask[part]
                self._check_length(name, len(mask) == count, "more")
            mask = np.broadcast_to(mask, (count, *mask.shape[1:]))
            found[name] = mask.reshape(count, -1)
            self._sizes[name] += np.count_nonzero(found[name])
        return found

    def end(self):
        """Checks, after the last batch, that each mask has been used in full."""
        for name, mask in self._masks.items():
            self._check_length(name, len(mask) in (1, self._count), self._count)
            if not self._sizes[name]:
                raise ValueError(
                    "Each of `regions` must have some of the data. "
                    f"Received: regions[{name!r}], which has none"
                )

    def _check_length(self, name, right, count):
        if not right:
            raise ValueError(
                "A mask for each example must be of as many as the data are. Received: "
                f"regions[{name!r}] of {len(self._masks[name])}, and data of {count}"
            )


def _checked_mask(name, mask, event_shape):
    """The mask, of the shape of the data or with a leading 1."""
    mask = np.asarray(mask)
    if mask.ndim <= len(event_shape):
        mask = mask.reshape((1,) * (len(event_shape) + 1 - mask.ndim) + mask.shape)
    try:
        if mask.dtype != bool:
            raise ValueError
        return np.broadcast_to(mask, (len(mask), *event_shape))
    except ValueError:
        raise ValueError(
            "A mask of `regions` must be of bools and broadcast to the shape "
            f"{event_shape} of an example, or to that of the data. "
            f"Received: regions[{name!r}] of {mask.dtype}, shape {mask.shape}"
        ) from None


class SharedMean:
    """Means of scalars of which those of one example depend on each other.

        mean = sum_n s_n / sum_n m_n
        covariance = N/(N - 1) sum_n e_n e_n^T / (sum_n m_n)^2,   e_n = s_n - mean m_n

    for sums `s_n` over the `m_n` scalars of example n, of the N examples that have any:
    the ratio estimator of a sample of clusters (Cochran, Sampling Techniques, 1977,
    Sections 6.3 and 9A). Memory does not grow with the number of examples.
    """

    def __init__(self):
        self._examples = 0
        self._origin = None

    def add(self, sums, counts):
        """Takes in `s_n`, `(batch, K)`, and `m_n`, `(batch,)`."""
        if not counts.any():
            return
        if self._origin is None:
            # Of the sums themselves the squares would cancel.
            self._origin = sums.sum(axis=0) / counts.sum()
            size = sums.shape[1] + 1
            self._total, self._products = np.zeros(size), np.zeros((size, size))
        self._examples += np.count_nonzero(counts)
        rows = np.column_stack([sums - self._origin * counts[:, None], counts])
        self._total += rows.sum(axis=0)
        self._products += rows.T @ rows

    def result(self):
        """The means `(K,)` and their covariance `(K, K)`, NaN for fewer than two."""
        shift, count = self._total[:-1] / self._total[-1], self._total[-1]
        # e_n = (s_n - origin m_n) - shift m_n
        to_errors = np.column_stack([np.eye(len(shift)), -shift])
        covariance = to_errors @ self._products @ to_errors.T / count**2
        if self._examples == 1:
            return self._origin + shift, covariance * np.nan
        factor = self._examples / (self._examples - 1)
        return self._origin + shift, factor * covariance

    def estimates(self):
        """The means as `Estimate`s."""
        means, covariance = self.result()
        # Rounding may leave a variance of 0 below it.
        errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        return [
            Estimate(float(m), float(e)) for m, e in zip(means, errors, strict=True)
        ]
