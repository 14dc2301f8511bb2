"""Points of a known density: P3's curve with noise in the plane, and the sphere."""

import math

import numpy as np

from ..checks import check_integer
from ..data import generator
from .base import check_positive

__all__ = ["Plane", "hypersphere", "plane"]


class Plane:
    """A curve in the plane with noise that changes along it, after P3, Sec. 4.1.

        u ~ U(-1, 1),   x = (5/2 u, cos 2 pi u) + stddev(u) e,   e ~ N(0, I)

    with `stddev(u)` constant in each of the regions into which `stddevs` cuts [-1, 1],
    of equal length, from left to right.

    P3 shows its data in Fig. 3 only, "located on a 1D manifold, structured in three
    regions with moderate, small and large noise". The definition here is our own, with
    numbers chosen after P3's Table 1: one stddev for all the points on the curve is
    best at 0.043, and then `E[log p(x)] + log 2 pi`, P3's unit, is 1.32 nats, with the
    true stddevs 1.68, which no model exceeds; P3 prints 1.26 and 1.62. The entropy is
    0.16 nats.

    Args:
        stddevs: standard deviation of the noise in each region, left to right.

    Example:

    >>> from keras_vae_variance import datasets
    >>> plane = datasets.Plane()
    >>> x, u = plane.sample(10_000, seed=0)
    >>> entropy = -plane.log_prob(x).mean()
    >>> print(f"{entropy:.1f}")
    0.2
    """

    def __init__(self, stddevs=(0.035, 0.012, 0.065)):
        if not np.iterable(stddevs) or not len(stddevs):
            raise ValueError(
                "`stddevs` must be one or more numbers, one for each region. "
                f"Received: stddevs={stddevs}"
            )
        for stddev in stddevs:
            check_positive("stddevs", stddev)
        self.stddevs = tuple(float(stddev) for stddev in stddevs)

    def curve(self, u):
        """The curve's points at the positions `u`, of shape `(*u.shape, 2)`."""
        u = np.asarray(u)
        return np.stack([2.5 * u, np.cos(2 * math.pi * u)], axis=-1)

    def region(self, u):
        """Index of the region of each position `u`, from 0 on."""
        index = np.floor((np.asarray(u) + 1) / 2 * len(self.stddevs)).astype("int64")
        # u = 1 belongs to the last region.
        return np.clip(index, 0, len(self.stddevs) - 1)

    def stddev(self, u):
        """Standard deviation of the noise at each position `u`."""
        return np.asarray(self.stddevs)[self.region(u)]

    def sample(self, num_samples, seed=None):
        """Draws points, and where on the curve each comes from.

        Args:
            num_samples: number of points.
            seed: int, `numpy.random.Generator`, or None for a fresh one from Python's
                `random`, which `keras.utils.set_random_seed` seeds.

        Returns:
            `x`, the points, float32 of shape `(num_samples, 2)`, and `u`, their
            positions, float32 of shape `(num_samples,)`.
        """
        check_integer("num_samples", num_samples, least=1)
        rng = generator(seed)
        # Rounded before use, so that the returned positions are the ones used.
        u = rng.uniform(-1, 1, num_samples).astype("float32")
        noise = self.stddev(u)[:, None] * rng.standard_normal((num_samples, 2))
        return (self.curve(u) + noise).astype("float32"), u

    def log_prob(self, x):
        """Log density of points, by quadrature over `u` in float64.

            log p(x) = log 1/2 int N(x; curve(u), stddev(u)^2 I) du

        The nodes lie so dense that the result is exact to about ten digits, off the
        curve and at its ends too (a test holds it against adaptive quadrature).

        Args:
            x: points, of shape `(n, 2)`.

        Returns:
            The log densities in nats, constants included, float64 of shape `(n,)`.
        """
        x = np.asarray(x, "float64")
        if x.ndim != 2 or x.shape[1] != 2 or not np.isfinite(x).all():
            raise ValueError(
                "`x` must be finite points of shape (n, 2). "
                f"Received: x of shape {x.shape}"
            )
        u, weights = self._nodes()
        points, variance = self.curve(u), np.square(self.stddev(u))
        log_weights = np.log(weights / 2) - np.log(2 * math.pi * variance)
        result = np.empty(len(x))
        for start in range(0, len(x), 256):
            part = slice(start, start + 256)
            distance = np.square(x[part, None, 0] - points[:, 0])
            distance += np.square(x[part, None, 1] - points[:, 1])
            terms = log_weights - distance / (2 * variance)
            largest = terms.max(axis=1, keepdims=True)
            sums = np.exp(terms - largest).sum(axis=1)
            result[part] = largest[:, 0] + np.log(sums)
        return result

    def _nodes(self):
        """Gauss-Legendre positions in panels no longer than 2 stddevs of the curve."""
        nodes, weights = np.polynomial.legendre.leggauss(16)
        speed = math.hypot(2.5, 2 * math.pi)  # at most
        edges = np.linspace(-1, 1, len(self.stddevs) + 1)
        u, du = [], []
        for stddev, low, high in zip(self.stddevs, edges, edges[1:], strict=False):
            panels = math.ceil(speed * (high - low) / (2 * stddev))
            half = (high - low) / panels / 2
            centres = low + half * (2 * np.arange(panels) + 1)
            u.append((centres[:, None] + half * nodes).ravel())
            du.append(np.tile(half * weights, panels))
        return np.concatenate(u), np.concatenate(du)


def plane(num_samples, seed=None):
    """Points of P3's artificial problem in the plane (Sec. 4.1), as `Plane` defines it.

    P3 trains on batches of 100 fresh points. A generator gives those, and `fit` takes
    it with a number of steps:

        rng = np.random.default_rng(0)
        batches = (datasets.plane(100, seed=rng) for _ in itertools.count())
        vae.fit(batches, steps_per_epoch=1000, epochs=20)

    Args:
        num_samples: number of points.
        seed: int, `numpy.random.Generator`, or None for a fresh one from Python's
            `random`, which `keras.utils.set_random_seed` seeds.

    Returns:
        The points, float32 of shape `(num_samples, 2)`.

    Raises:
        ValueError: for a number of points below 1 or an invalid seed.

    Example:

    >>> from keras_vae_variance import datasets
    >>> datasets.plane(1000, seed=0).shape
    (1000, 2)
    """
    return Plane().sample(num_samples, seed)[0]


def hypersphere(num_samples, dim, radius=1.0, seed=None):
    """Points uniform on the sphere of radius R in R^D, the data of P3's Theorem 1.

        x = R e / |e|,   e ~ N(0, I)

    Args:
        num_samples: number of points.
        dim: `D`, the dimension of the space, of at least 2; the sphere has `D - 1`.
        radius: `R`.
        seed: int, `numpy.random.Generator`, or None for a fresh one from Python's
            `random`, which `keras.utils.set_random_seed` seeds.

    Returns:
        The points, float32 of shape `(num_samples, dim)`.

    Raises:
        ValueError: for an invalid number, dimension, radius or seed.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance import datasets
    >>> x = datasets.hypersphere(100, dim=3, radius=2.0, seed=0)
    >>> bool(np.allclose(np.linalg.norm(x, axis=1), 2.0))
    True
    """
    check_integer("num_samples", num_samples, least=1)
    check_integer("dim", dim, least=2)
    check_positive("radius", radius)
    e = generator(seed).standard_normal((num_samples, dim))
    return (radius * e / np.linalg.norm(e, axis=1, keepdims=True)).astype("float32")
