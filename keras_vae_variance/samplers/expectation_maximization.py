"""Expectation maximisation for mixtures of Gaussians, over codes in chunks."""

import typing
import warnings

import numpy as np
import tensorflow as tf

from .mixtures import CHUNK, quadratic_coefficients, quadratic_features

__all__ = ["Fit", "expectation_maximization"]

SUBSET = 100_000  # codes that k-means takes, where there are more

# In place of a component's number: to be shared by density, and no code at all.
_SHARED, _PADDING = -1, -2


class Fit(typing.NamedTuple):
    """A fitted mixture, in float64.

    Attributes:
        weights: `(K,)`.
        means: `(K, latent_dim)`.
        covariances: `(K, latent_dim, latent_dim)`.
        lower_bounds: a list of the mean log density of the codes, in nats, before each
            iteration.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    lower_bounds: list


def expectation_maximization(
    codes, num_components, seed, tol=1e-3, reg_covar=1e-6, max_iter=100
):
    """Fits a mixture of Gaussians with full covariances.

        r_nk = w_k N(z_n; mu_k, S_k) / sum_j w_j N(z_n; mu_j, S_j),  N_k = sum_n r_nk
        w_k = N_k / N,    mu_k = sum_n r_nk z_n / N_k
        S_k = sum_n r_nk z_n z_n' / N_k - mu_k mu_k' + reg_covar I

    P0, Eq. 13. The result is that of `sklearn.mixture.GaussianMixture` with the same
    arguments and `random_state=seed`: its start by k-means, its iterations and its test
    of convergence. An iteration reads the codes once, in chunks, and keeps the sums,
    all in float64. Each chunk is split over the replicas of the `tf.distribute`
    strategy in whose scope the call is made; several workers must have the same codes.

    k-means takes a random 100,000 of more codes, and then all codes start in the
    component of the nearest centre.

    Args:
        codes: finite, of shape `(N, latent_dim)`: an array, or what has a `shape` and
            can be sliced as one.
        num_components: number `K` of components.
        seed: int of at least 0 and below `2**32`.
        tol: the mean log density, in nats, changes by less when the fit has converged.
        reg_covar: added to the diagonals of the covariances.
        max_iter: most iterations. Beyond them there is a `ConvergenceWarning` of
            scikit-learn.

    Returns:
        A `Fit`.

    Raises:
        ValueError: if a component is left without codes, or its covariance is singular.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance.samplers.expectation_maximization import (
    ...     expectation_maximization,
    ... )
    >>> z = np.random.default_rng(0).normal(size=(100, 2))
    >>> fit = expectation_maximization(z, num_components=1, seed=0)
    >>> bool(np.allclose(fit.means, z.mean(axis=0)))
    True
    """
    passes = _Passes(codes, num_components)
    count, latent_dim = codes.shape
    # The sums run about the mean of all codes: about 0, squares may lose many digits.
    centre = sum(np.sum(z, axis=0, dtype=np.float64) for _, z in passes) / count
    nearest = _nearest(passes, num_components, seed)
    *moments, _ = passes.total(nearest, centre)
    weights, means, covariances, trils = _mixture(*moments, latent_dim, reg_covar)
    lower_bounds = [-np.inf]
    for _ in range(max_iter):
        constant, linear = quadratic_coefficients(means, trils)
        *moments, log_prob = passes.total(
            _shared, centre, constant + np.log(weights), tf.transpose(linear)
        )
        weights, means, covariances, trils = _mixture(*moments, latent_dim, reg_covar)
        lower_bounds.append(log_prob / count)
        if abs(lower_bounds[-1] - lower_bounds[-2]) < tol:
            break
    else:
        from sklearn.exceptions import ConvergenceWarning

        warnings.warn(
            f"Expectation maximisation did not converge in {max_iter} iterations.",
            ConvergenceWarning,
            stacklevel=2,
        )
    return Fit(weights, means + centre, covariances, lower_bounds[1:])


class _Passes:
    """Codes in chunks of one size, and sums over all of them."""

    def __init__(self, codes, num_components):
        self.codes = codes
        self.num_components = num_components
        count, latent_dim = codes.shape
        self.features = latent_dim * (latent_dim + 3) // 2
        self.strategy = tf.distribute.get_strategy()
        replicas = self.strategy.num_replicas_in_sync
        share = CHUNK // (self.features + num_components)
        self.share = max(min(share, -(-count // replicas)), 1)
        self.size = self.share * replicas
        # One for each fit, since a graph is made for one strategy.
        self.step = tf.function(self._step, autograph=False)

    def __iter__(self):
        for start in range(0, self.codes.shape[0], self.size):
            yield start, self.codes[start : start + self.size]

    def total(self, label, centre, constant=None, linear=None):
        """Sums `r_nk`, `f(z_n - centre) r_nk` and `log p(z_n)` over the codes.

        `label(start, z)` gives each code of a chunk its component, or `_SHARED`; these
        need the coefficients of the log densities, `constant` and `linear`.
        """
        if constant is None:
            constant = np.zeros(self.num_components)
            linear = np.zeros((self.features, self.num_components))
        parameters = [tf.constant(array) for array in (centre, constant, linear)]
        totals = 0.0, 0.0, 0.0
        for start, z in self:
            sums = self.step(*self._split(z, label(start, z)), *parameters)
            totals = [total + part for total, part in zip(totals, sums, strict=True)]
        return [total.numpy() for total in totals]

    def _split(self, z, label):
        padding = 0, self.size - len(z)
        z = np.pad(z, (padding, (0, 0)))
        label = np.pad(label, padding, constant_values=_PADDING).astype(np.int32)

        def share(context):
            start = context.replica_id_in_sync_group * self.share
            rows = slice(start, start + self.share)
            return tf.constant(z[rows]), tf.constant(label[rows])

        return self.strategy.experimental_distribute_values_from_function(share)

    def _step(self, *arguments):
        sums = self.strategy.run(_sums, arguments)
        return [self.strategy.reduce("SUM", part, axis=None) for part in sums]


def _sums(z, label, centre, constant, linear):
    """A replica's part of `_Passes.total`."""
    features = quadratic_features(tf.cast(z, tf.float64) - centre)
    joint = constant + tf.matmul(features, linear, transpose_a=True)
    log_prob = tf.reduce_logsumexp(joint, axis=-1, keepdims=True)
    shared = (label == _SHARED)[:, None]
    given = tf.one_hot(label, constant.shape[0], dtype=tf.float64)
    responsibility = tf.where(shared, tf.exp(joint - log_prob), given)
    return (
        tf.reduce_sum(responsibility, axis=0),
        features @ responsibility,
        tf.reduce_sum(tf.where(shared, log_prob, 0.0)),
    )


def _shared(start, z):
    return np.full(len(z), _SHARED)


def _nearest(passes, num_components, seed):
    """Labels to start from, for `_Passes.total`, by k-means."""
    from sklearn.cluster import KMeans

    count = passes.codes.shape[0]
    chosen = np.arange(count)
    if count > SUBSET:
        random = np.random.default_rng(seed)
        chosen = np.sort(random.choice(count, SUBSET, replace=False))
    subset = []
    for start, z in passes:
        first, last = np.searchsorted(chosen, (start, start + len(z)))
        subset.append(z[chosen[first:last] - start])
    kmeans = KMeans(num_components, n_init=1, random_state=seed)
    kmeans.fit(np.concatenate(subset).astype(np.float64))
    if count > SUBSET:
        return lambda start, z: kmeans.predict(z.astype(np.float64))
    return lambda start, z: kmeans.labels_[start : start + len(z)]


def _mixture(counts, sums, latent_dim, reg_covar):
    """Weights, means, covariances and their Cholesky factors, of `_Passes.total`."""
    problem = "has no codes"
    # What scikit-learn adds to the counts, which puts an empty component at 0.
    if np.all(counts > 10 * np.finfo(np.float64).eps):
        moments = (sums / counts).T
        means = moments[:, :latent_dim]
        row, column = np.triu_indices(latent_dim)
        covariances = np.empty((len(counts), latent_dim, latent_dim))
        covariances[:, row, column] = moments[:, latent_dim:]
        covariances[:, column, row] = moments[:, latent_dim:]
        covariances -= means[:, :, None] * means[:, None]
        covariances += reg_covar * np.eye(latent_dim)
        try:
            trils = np.linalg.cholesky(covariances)
            return counts / counts.sum(), means, covariances, trils
        except np.linalg.LinAlgError:
            problem = "has a singular covariance"
    raise ValueError(
        f"A component of the mixture {problem}, as where codes are repeated or have "
        "collapsed: take fewer components, or scale the codes. Received: "
        f"num_components={len(counts)}"
    )
