"""How near predicted frames come to the true ones, and how sure the model is."""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from ..data import batches, check_images, check_not_empty, is_array, unpack
from .base import check_integer, float64, key

__all__ = ["BestOfSamples", "best_of_samples", "horizon_coverage", "psnr", "ssim"]

_WINDOW = 7
# Futures that are drawn at once: at most so many, of at most so many numbers.
_FUTURES, _NUMBERS = 256, 2**24


class BestOfSamples(NamedTuple):
    """What `best_of_samples` finds, by sequence and predicted frame.

    Attributes:
        ssim: of the future of the highest mean SSIM, `(n, n_future)`.
        psnr: of the future of the highest mean PSNR, `(n, n_future)`, in dB.
    """

    ssim: np.ndarray
    psnr: np.ndarray


def psnr(x, y):
    """Peak signal-to-noise ratio of images in [0, 1], in dB.

        -10 log10( mean of (x - y)^2 )

    Args:
        x: images, `(..., height, width, channels)`, floats or uint8, divided by 255.
        y: images of the same shape.

    Returns:
        A float64 array of the leading shape; at most 100, that of an error of 1e-5.

    Raises:
        TypeError: for integers other than uint8.
        ValueError: for images of different shapes, or floats outside [0, 1].

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import metrics
    >>> x = np.zeros((1, 8, 8, 1))
    >>> metrics.psnr(x, x + 0.1).round(6).tolist()
    [20.0]
    """
    x, y = _pair(x, y)
    error = np.mean(np.square(x - y), axis=(-3, -2, -1))
    return -10.0 * np.log10(np.maximum(error, 1e-10))


def ssim(x, y):
    """Structural similarity of images in [0, 1] (Wang et al., 2004).

        (2 m_x m_y + c1)(2 s_xy + c2) / ((m_x^2 + m_y^2 + c1)(s_xx + s_yy + c2))

    averaged over all windows of 7x7 pixels and over channels, with the means `m` of a
    window, its sample covariances `s`, `c1 = 0.01^2` and `c2 = 0.03^2`: as SVG has it
    of scikit-image.

    Args:
        x: images, `(..., height, width, channels)`, of sides of at least 7, floats or
            uint8, divided by 255.
        y: images of the same shape.

    Returns:
        A float64 array of the leading shape; 1 where the images are equal.

    Raises:
        TypeError: for integers other than uint8.
        ValueError: for images that are smaller, of different shapes, or floats outside
            [0, 1].

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import metrics
    >>> x = np.random.default_rng(0).random((2, 8, 8, 1))
    >>> metrics.ssim(x, x).round(6).tolist()
    [1.0, 1.0]
    """
    x, y = _pair(x, y)
    _check_sides("x", x.shape)
    mean_x, mean_y = _window_means(x), _window_means(y)
    size = _WINDOW**2
    sample = size / (size - 1.0)
    xx = sample * (_window_means(x * x) - mean_x**2)
    yy = sample * (_window_means(y * y) - mean_y**2)
    xy = sample * (_window_means(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2.0 * mean_x * mean_y + c1) * (2.0 * xy + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (xx + yy + c2)
    return similarity.mean(axis=(-3, -2, -1))


def best_of_samples(model, x, num_samples=100, seed=None, batch_size=16):
    """SSIM and PSNR of the best of many futures, as SVG and its field report them.

    Of each sequence, `num_samples` futures are drawn; the one of the highest mean over
    its frames counts, for SSIM and PSNR separately. Frames are the predicted means. The
    number grows with `num_samples`: it says how near the model can come, not how well
    its distribution fits, of which the bound on the likelihood is the measure.

    Args:
        model: a `SequenceVAE`.
        x: sequences, `(n, n_past + time, ...)`, of `time` frames to predict; uint8, or
            floats in [0, 1]; in any form that `fit` takes.
        num_samples: futures of each sequence.
        seed: of the futures, an integer or None. They are a function of it and of how
            the sequences are cut into batches.
        batch_size: sequences at a time, of an array.

    Returns:
        A `BestOfSamples`.

    Raises:
        TypeError: for another model.
        ValueError: if no frame is left to predict, for values that the model does not
            take, or frames that are no images with sides of at least 7.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> networks = kvv.backbones.svg(
    ...     (8, 8, 1), 2, likelihood, features=4, units=4, channels=2
    ... )
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.SequenceVAE(*networks, posterior, likelihood, n_past=1, n_future=2)
    >>> x = np.random.default_rng(0).random((3, 3, 8, 8, 1), "float32")
    >>> best = kvv.metrics.best_of_samples(vae, x, num_samples=2, seed=0)
    >>> best.ssim.shape, best.psnr.shape
    ((3, 2), (3, 2))
    """
    check_integer("num_samples", num_samples)
    _check_model(model)
    _check_sides("model", model.frame_shape)
    best = []
    # Only images in [0, 1] have these scores.
    for truth, futures in _futures(
        model, x, num_samples, seed, batch_size, unit_interval=True
    ):
        chosen = [np.full(truth.shape[:2], -np.inf) for _ in range(2)]
        for mean, _ in futures:
            scores = (score(np.clip(mean, 0.0, 1.0), truth) for score in (ssim, psnr))
            chosen = [_better(*pair) for pair in zip(chosen, scores, strict=True)]
        best.append(chosen)
    return BestOfSamples(*map(np.concatenate, zip(*best, strict=True)))


def horizon_coverage(model, x, level=0.9, num_samples=10, seed=None, batch_size=16):
    """Share of the pixels in the interval that the prediction has for them, by frame.

        |x_t - mean| <= Phi^-1((1 + level)/2) stddev

    with the mean and variance of the predictive distribution of a pixel, by K futures
    of the model: the mean of the futures' means, and of their variances, to which
    `(1 + 1/K)` times the sample variance of the means is added, theirs and that of
    their mean. A calibrated model of Gaussian errors has about `level` at every frame,
    and somewhat less with few futures: at worst, where they differ in their means
    alone, 0.87 for 0.9 with 10, by Student's t. One whose later frames go wrong without
    knowing it falls below. Futures go on from draws of predicted frames (`noise`).

    Args:
        model: a `SequenceVAE`.
        x: sequences, as of `best_of_samples`, but of any floats that the model takes.
        level: probability of the interval, between 0 and 1.
        num_samples: futures of each sequence; 1 leaves the variance of the means out.
        seed: as of `best_of_samples`.
        batch_size: sequences at a time, of an array.

    Returns:
        A float64 array `(time,)`.

    Raises:
        TypeError: for another model.
        ValueError: if no frame is left to predict, for values that the model does not
            take, or a level that is none.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> networks = kvv.backbones.svg(
    ...     (8, 8, 1), 2, likelihood, features=4, units=4, channels=2
    ... )
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.SequenceVAE(*networks, posterior, likelihood, n_past=1, n_future=2)
    >>> x = np.random.default_rng(0).random((3, 3, 8, 8, 1), "float32")
    >>> kvv.metrics.horizon_coverage(vae, x, num_samples=2, seed=0).shape
    (2,)
    """
    check_integer("num_samples", num_samples)
    if not 0.0 < level < 1.0:
        raise ValueError(f"`level` must lie between 0 and 1. Received: level={level}")
    quantile = NormalDist().inv_cdf(0.5 * (1.0 + level))
    _check_model(model)
    inside, count = 0.0, 0
    for truth, futures in _futures(model, x, num_samples, seed, batch_size, noise=True):
        mean = variance = squares = 0.0
        for i, (of_mean, of_variance) in enumerate(futures):
            # Welford's updates: means so far, and squares about the mean.
            step = of_mean - mean
            mean = mean + step / (i + 1)
            squares = squares + step * (of_mean - mean)
            variance = variance + of_variance / num_samples
        if num_samples > 1:
            # The spread of futures, and the error of the mean of so few of them.
            variance += (1.0 + 1.0 / num_samples) * squares / (num_samples - 1)
        within = np.abs(truth - mean) <= quantile * np.sqrt(variance)
        inside = inside + within.reshape(*truth.shape[:2], -1).mean(axis=2).sum(axis=0)
        count += len(truth)
    return inside / count


def _check_model(model):
    if not hasattr(model, "predict_frames"):
        raise TypeError(
            f"`model` must be a SequenceVAE. Received: {type(model).__name__}"
        )
    if not model.n_past:
        raise ValueError(
            "`model` must have conditioning frames, to predict those that follow. "
            "Received: model with n_past=0"
        )


def _check_sequences(model, x, unit_interval):
    shape, frame = x.shape, model.frame_shape
    time = shape[1] if len(shape) == len(frame) + 2 else model.event_shape[0]
    what = f"n_past={model.n_past} frames and of some to predict"
    unit_interval = unit_interval or model.likelihood.unit_interval
    check_images(x, (time, *frame), unit_interval, what=what)
    check_not_empty(x)
    if time <= model.n_past:
        raise ValueError(
            f"`x` must be sequences of more than {model.n_past} frames, those that the "
            f"model starts from. Received: x.shape={shape}"
        )


def _futures(model, x, num_samples, seed, batch_size, unit_interval=False, noise=False):
    """Pairs of true frames and of their futures, one after another: mean, variance."""
    check_integer("batch_size", batch_size)
    rng = np.random.default_rng(int(key(seed)[0]))
    past = model.n_past

    def drawn(part):
        time = part.shape[1] - past
        size = time * int(np.prod(model.frame_shape))
        at_once = min(_FUTURES, _NUMBERS // size) // len(part)
        at_once = max(at_once, 1)
        for first in range(0, num_samples, at_once):
            futures = model.predict_frames(
                part[:, :past],
                n_future=time,
                num_samples=min(at_once, num_samples - first),
                noise=noise,
                seed=int(rng.integers(2**31)),
            )
            for moments in zip(futures["mean"], futures["variance"], strict=True):
                mean, variance = map(float64, moments)
                if not np.isfinite(mean + variance).all():
                    raise ValueError(
                        "`model` must predict finite means and variances. Received: "
                        f"{np.count_nonzero(~np.isfinite(mean))} means, "
                        f"{np.count_nonzero(~np.isfinite(variance))} variances that "
                        "are NaN or infinite"
                    )
                yield mean, variance

    if isinstance(x, (tuple, list)):
        x, _ = unpack(x)
    if is_array(x):  # whole, before any work is done
        x = np.asarray(x)
        _check_sequences(model, x, unit_interval)
    empty = True
    for part, _ in batches(x, batch_size):
        part = np.asarray(part)
        _check_sequences(model, part, unit_interval)
        scale = 255.0 if part.dtype == np.uint8 else 1.0
        yield part[:, past:].astype(np.float64) / scale, drawn(part)
        empty = False
    if empty:
        raise ValueError(f"`x` must hold at least one sequence. Received: x={x}")


def _better(best, score):
    """Of each sequence, the frames' scores of the future with the higher mean."""
    higher = score.mean(axis=1) > best.mean(axis=1)
    return np.where(higher[:, None], score, best)


def _check_sides(name, shape):
    if len(shape) < 3 or min(shape[-3:-1]) < _WINDOW:
        raise ValueError(
            f"`{name}` must be of images with sides of at least {_WINDOW}. "
            f"Received: images of shape {tuple(shape)}"
        )


def _pair(x, y):
    x, y = _scaled("x", x), _scaled("y", y)
    if x.shape != y.shape or x.ndim < 3:
        raise ValueError(
            "`x` and `y` must be images of one shape (..., height, width, channels). "
            f"Received: x.shape={x.shape}, y.shape={y.shape}"
        )
    return x, y


def _scaled(name, t):
    t = np.asarray(t)
    if t.dtype == np.uint8:
        return t / 255.0
    if not np.issubdtype(t.dtype, np.floating):
        raise TypeError(
            f"`{name}` must be uint8 or float. Received: {name}.dtype={t.dtype}"
        )
    t = t.astype(np.float64)
    if not np.all((t >= 0.0) & (t <= 1.0)):  # nor NaN
        raise ValueError(
            f"`{name}` must lie in [0, 1]: clip what was predicted. "
            f"Received: values from {t.min():g} to {t.max():g}"
        )
    return t


def _window_means(t):
    """Means over all windows, by sums over one axis after the other."""
    for axis in (-3, -2):
        size = t.shape[axis] - _WINDOW + 1
        cuts = (np.arange(size) + k for k in range(_WINDOW))
        t = sum(t.take(cut, axis) for cut in cuts) / _WINDOW
    return t
