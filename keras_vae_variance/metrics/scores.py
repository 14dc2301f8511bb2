"""Log likelihoods that say what they are of, so that only like ones are ranked."""

import dataclasses
import functools
import math
import numbers

import keras
import numpy as np

from .. import data
from .. import ops as kvv_ops

__all__ = ["Score", "dequantize", "equivalent_beta", "equivalent_variance"]

_STEPS = 255  # the levels i/255 are 1/255 apart


@functools.total_ordering
@dataclasses.dataclass(frozen=True)
class Score:
    """The log likelihood of a model on a data set, and what kind of number it is.

        log P(x) >= E_u log p(x + u) - D log 255,   u uniform of width 1/255

    A probability of the levels `i/255` and a density of `x` do not compare as they
    stand: the density is larger by `log 255` for each of the `D` scalars, where it is
    smooth. A density of data to which uniform noise of a level's width was added
    (`dequantize`) gives the bound above, by Jensen's inequality, and `on_levels` makes
    that of its score. (`log 256` belongs to data scaled as `(i + u)/256`.)

    Scores of one kind and size sort by their log likelihood, the better one later. A
    bound, such as an ELBO, ranks as what it is a bound of.

    Args:
        log_likelihood: mean over the examples, in nats: an importance-weighted estimate
            or an ELBO.
        standard_error: of that mean, from example to example.
        size: number `D` of scalars of an example.
        discrete: whether it is of probabilities of levels, not of densities.
        normalized: whether `p(x|z)` was normalised.
        dequantized: whether the data were `dequantize(x)`.

    Raises:
        ValueError: if `size` is not a positive integer; by `<` and the like, and so by
            `sorted`, for scores of different kinds or sizes and those that are not
            normalised.

    Example:

    >>> import keras_vae_variance as kvv
    >>> density = kvv.metrics.Score(3349.0, 4.0, 28 * 28 * 3, False, dequantized=True)
    >>> probability = kvv.metrics.Score(-9085.0, 5.0, 28 * 28 * 3, True)
    >>> density.on_levels() < probability
    True
    >>> round(probability.bits_per_dimension, 2)
    5.57
    """

    log_likelihood: float
    standard_error: float = dataclasses.field(compare=False)
    size: int
    discrete: bool
    normalized: bool = True
    dequantized: bool = False

    def __post_init__(self):
        """Checks the numbers: NaN would be neither above nor below any other."""
        for name in ("log_likelihood", "standard_error"):
            value = getattr(self, name)
            if not (isinstance(value, numbers.Real) and math.isfinite(value)):
                raise ValueError(
                    f"`{name}` must be a finite number of nats. "
                    f"Received: {name}={value!r}"
                )
        if not isinstance(self.size, numbers.Integral) or self.size < 1:
            raise ValueError(
                "`size` must be a positive integer, the number of scalars of an "
                f"example. Received: size={self.size}"
            )

    @classmethod
    def of(cls, vae, values, dequantized=False):
        """The score of a model.

        Args:
            vae: the `VAE`; its likelihood says of what kind the score is.
            values: log likelihood of each example, as `metrics.log_likelihood` or the
                `"elbo"` of `VAE.elbo` gives it, of shape `(n,)`.
            dequantized: whether they are of `dequantize(x)`.

        Returns:
            A `Score`.

        Raises:
            ValueError: if `values` are not one number for each of two examples or more.
        """
        values = np.asarray(keras.ops.convert_to_numpy(values), "float64")
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(
                "`values` must hold one log likelihood for each of at least two "
                f"examples. Received: values.shape={values.shape}"
            )
        return cls(
            float(values.mean()),
            float(values.std(ddof=1) / math.sqrt(len(values))),
            math.prod(vae.target_shape),
            vae.likelihood.discrete,
            vae.likelihood.normalized,
            dequantized,
        )

    @property
    def bits_per_dimension(self):
        """`-log_likelihood / (D log 2)`, the fewer the better.

        Of a density it can be negative, and depends on the unit of `x`.
        """
        return -self.log_likelihood / (self.size * math.log(2.0))

    def on_levels(self):
        """The bound on the log probability of the levels, itself for a discrete score.

        Raises:
            ValueError: for a density of data that were not dequantised, for which it
                would be no bound.
        """
        if self.discrete:
            return self
        if not self.dequantized:
            raise ValueError(
                "A density bounds the probability of levels only where it was taken on "
                "`dequantize(x)`: pass such data, and `dequantized=True`. "
                f"Received: self={self}"
            )
        return dataclasses.replace(
            self,
            log_likelihood=self.log_likelihood - self.size * math.log(_STEPS),
            discrete=True,
            dequantized=False,
        )

    def __lt__(self, other):
        """Whether the other one's log likelihood is greater."""
        if not isinstance(other, Score):
            return NotImplemented
        for score in (self, other):
            if not score.normalized:
                raise ValueError(
                    "A likelihood that is not normalised has no log likelihood, and no "
                    f"rank. Received: {score}"
                )
        kinds = [(s.size, s.discrete, s.dequantized) for s in (self, other)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                "Scores must be of one size and kind to be ranked, all of densities of "
                "the same data or all of probabilities: see `on_levels`. "
                f"Received: {self} and {other}"
            )
        return self.log_likelihood < other.log_likelihood


def dequantize(x, seed=None):
    """Adds uniform noise of the width of a level, 1/255, to images of levels.

        x + u,   u uniform in [-1/510, 1/510)

    The noise is centred, so that `x` keeps its mean and each value stays in the bin of
    its level. Black and white leave [0, 1] by half a level.

    Args:
        x: images: uint8, which are divided by 255, or floats `i/255`.
        seed: integer, `numpy.random.Generator`, or None for a fresh one.

    Returns:
        A float32 array of the shape of `x`.

    Raises:
        ValueError: if `x` holds numbers more than 1/1000 of a step from any level.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.array([[0, 128, 255]], "uint8")
    >>> noisy = kvv.metrics.dequantize(x, seed=0)
    >>> np.round(255 * noisy).tolist()
    [[0.0, 128.0, 255.0]]
    """
    x = np.asarray(x)
    scaled = x.astype("float64") if x.dtype == "uint8" else np.float64(_STEPS) * x
    level = np.clip(np.round(scaled), 0, _STEPS)
    off = np.abs(scaled - level)
    if not np.all(off <= 1e-3):  # nor NaN
        raise ValueError(
            "`x` must hold the levels i/255 of images, between which the noise fills "
            f"the gaps. Received: x with a value of {x.ravel()[np.argmax(off)]}"
        )
    noise = data.generator(seed).uniform(-0.5, 0.5, x.shape)
    return ((level + noise) / _STEPS).astype("float32")


def equivalent_variance(vae):
    """The variance whose ELBO has the optimum of a VAE with a weighted KL.

        |x - m|^2 / (2 v) + beta kl = beta [ |x - m|^2 / (2 v beta) + kl ]

    P2, Section 3.1, for `v = 1`: unit variance beside weight `beta` trains the networks
    to what variance `beta` trains them to. A learned variance `v` at weight 1 thus
    stands in for the beta of a beta-VAE; see `equivalent_beta`.

    Args:
        vae: a VAE with a Gaussian likelihood whose variance is the same for all
            examples, and the KL alone as its regularizer.

    Returns:
        `v * beta`, a float; one for each scalar, of the shape of `x` (or of a frame),
        where the variance is one for each.

    Raises:
        ValueError: for another likelihood, a variance that depends on the example, or
            regularizers other than one KL.

    Example:

    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))
    >>> networks = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> kl = kvv.regularizers.KL(weight=4.0)
    >>> vae = kvv.VAE(*networks, posterior, likelihood, regularizers=[kl])
    >>> kvv.metrics.equivalent_variance(vae)
    4.0
    """
    variance = getattr(vae.likelihood, "variance_model", None)
    if variance is None or vae.likelihood.discrete:
        raise ValueError(
            "`vae` must have a Gaussian likelihood. "
            f"Received: vae.likelihood={vae.likelihood}"
        )
    if variance.depends_on_x or variance.heads(vae.event_shape):
        raise ValueError(
            "`vae` must have a variance that is the same for all examples. "
            f"Received: variance={variance}"
        )
    if [regularizer.term for regularizer in vae.regularizers] != ["kl"]:
        raise ValueError(
            "`vae` must have the KL as its only regularizer. "
            f"Received: vae.regularizers={vae.regularizers}"
        )
    v = keras.ops.convert_to_numpy(variance.predict({})).astype("float64")
    v = v * float(kvv_ops.concrete(vae.regularizers[0].weight))
    return float(v.reshape(())) if v.size == 1 else v.reshape(v.shape[1:])


def equivalent_beta(vae, variance=1.0):
    """The KL weight beside a fixed variance that has the optimum of a VAE.

        beta = equivalent_variance / variance

    What a learned variance saves from being swept: P2 compares it with the beta of a
    sweep (Section 3.1, Table 1).

    Args:
        vae: as in `equivalent_variance`, with one variance for all scalars.
        variance: the variance beside that weight. 1 is our `KL(weight=beta)` beside
            `variances.Fixed(1.0)`; 0.5 is the squared error without a half, as in P2's
            Table 1.

    Returns:
        The weight, a float.

    Raises:
        ValueError: as `equivalent_variance`; for one variance a scalar of `x`; and for
            a `variance` that is not positive.

    Example:

    >>> import keras_vae_variance as kvv
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.005))
    >>> networks = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> vae = kvv.VAE(*networks, kvv.posteriors.DiagonalGaussian(2), likelihood)
    >>> beta = kvv.metrics.equivalent_beta(vae, variance=0.5)
    >>> round(beta, 4)
    0.01
    """
    if not (isinstance(variance, numbers.Real) and 0 < variance < math.inf):
        raise ValueError(
            f"`variance` must be a positive number. Received: variance={variance}"
        )
    v = equivalent_variance(vae)
    if not isinstance(v, float):
        raise ValueError(
            "`vae` must have one variance for all scalars of an example. "
            f"Received: a variance of shape {v.shape}"
        )
    return v / variance
