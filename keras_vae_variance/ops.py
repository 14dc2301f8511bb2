"""The maths that every part shares, and the only switches between Keras backends.

Terms are sums over the event in nats; means run over the global batch, that is over
all replicas and, where there are any, by example weight (equations 0, "Global batch").
"""

import contextlib
import threading

import keras
import numpy as np
from keras import ops

__all__ = [
    "Batch",
    "LOG_2_PI",
    "all_gather",
    "all_reduce",
    "as_seed",
    "batch",
    "batch_mean",
    "batch_of",
    "build_once",
    "concrete",
    "fold_replica",
    "gaussian_kl",
    "gaussian_log_prob",
    "host",
    "need_tensorflow",
    "normal",
    "note_added_losses",
    "num_replicas",
    "soft_clip",
    "split_seed",
    "sum_event",
    "vjp",
]

LOG_2_PI = float(np.log(2.0 * np.pi))


def sum_event(t):
    """Sums `t` of shape `(batch, ...)` over all axes but the first."""
    return ops.sum(ops.reshape(t, (ops.shape(t)[0], -1)), axis=1)


def gaussian_kl(mean, variance, prior_mean, prior_variance):
    """KL divergence of diagonal Gaussians, summed over the latent dimensions.

        1/2 sum_j [ s2_j/S2_j + (mu_j - m_j)^2/S2_j - 1 - log(s2_j/S2_j) ]

    P1, under Eq. 3, for a standard normal prior; P4, Eq. 2, for any.

    Args:
        mean: `mu`, of shape `(batch, L)`.
        variance: `s2`, of shape `(batch, L)`, or `(1, L)` where shared.
        prior_mean: `m`, likewise.
        prior_variance: `S2`, likewise.

    Returns:
        The divergence in nats, of shape `(batch,)`.
    """
    ratio = variance / prior_variance
    distance = ops.square(mean - prior_mean) / prior_variance
    return 0.5 * ops.sum(ratio + distance - 1.0 - ops.log(ratio), axis=-1)


def gaussian_log_prob(x, mean, variance):
    """Log density of a diagonal Gaussian, summed over the event, of shape `(batch,)`.

    -1/2 sum_k [ (x_k - m_k)^2 / v_k + log v_k + log 2 pi ]   (P0, Eq. 8 and 11)
    """
    return -0.5 * sum_event(
        ops.square(x - mean) / variance + ops.log(variance) + LOG_2_PI
    )


def soft_clip(t, lower=None, upper=None):
    """Bounds `t` smoothly, as P2 bounds log standard deviations.

        t = upper - softplus(upper - t);  t = lower + softplus(t - lower)

    Near the lower bound the result lies above `t`, by up to `log 2`, and near the upper
    one below it. The lower bound always holds; far above both, the second line lifts
    the upper one by `log(1 + exp(lower - upper))`.
    """
    if upper is not None:
        t = upper - ops.softplus(upper - t)
    if lower is not None:
        t = lower + ops.softplus(t - lower)
    return t


# --------------------------------------------------------------------------------------
# The global batch


class Batch:
    """Weights of the examples at hand and their sums over all replicas.

    Attributes:
        weights: weight of each example of this replica, `(batch,)`.
        total: sum of the weights over all replicas.
        count: number of examples of non-zero weight on all replicas.
        added_losses: what networks passed to `add_loss` on this replica, by network.
    """

    def __init__(self, weights):
        self.weights = weights
        self.total = all_reduce(ops.sum(weights))
        self.count = all_reduce(ops.sum(ops.cast(weights > 0, "float32")))
        self.added_losses = {}

    def mean(self, values):
        """Weighted mean over the examples of all replicas; keeps a leading 1."""
        shape = (-1,) + (1,) * (len(values.shape) - 1)
        weighted = ops.reshape(self.weights, shape) * ops.cast(values, "float32")
        total = all_reduce(ops.sum(weighted, axis=0, keepdims=True))
        # An empty batch has mean 0, not NaN: a replica may get no example at all.
        return ops.where(self.total > 0, total / ops.maximum(self.total, 1e-30), 0.0)

    def added_loss(self):
        """Sum of the added losses; replicas' values average to the batch's."""
        losses = [loss for part in self.added_losses.values() for loss in part]
        total = sum(ops.cast(loss, "float32") for loss in losses)
        if not losses or num_replicas() == 1:
            return total
        # Most are means over examples, of which a replica may have few, or none.
        share = ops.sum(self.weights) / ops.maximum(self.total, 1e-30)
        return ops.where(share > 0, num_replicas() * share * total, 0.0)


_current = threading.local()  # replicas are traced by threads of their own


@contextlib.contextmanager
def batch(x, weights=None):
    """Makes `x` (and the weights of its examples) the batch that `batch_mean` means.

    A scope, so that variances, priors and regularizers need no weights among their
    arguments: integer weights then equal repeated examples in batch statistics too.
    """
    if weights is None:
        weights = ops.ones((ops.shape(x)[0],), dtype="float32")
    previous = getattr(_current, "batch", None)
    _current.batch = Batch(ops.cast(weights, "float32"))
    try:
        yield _current.batch
    finally:
        _current.batch = previous


def note_added_losses(layer):
    """Keeps for the current batch what `layer` and its parts passed to `add_loss`.

    To be called at once after the layer: its list is cleared and filled again by the
    thread of another replica. Of several calls with one batch the first one counts.
    """
    current = getattr(_current, "batch", None)
    if current is not None:
        losses = [x for part in layer._flatten_layers() for x in part._get_own_losses()]
        current.added_losses.setdefault(id(layer), losses)


def batch_of(values):
    """The global batch that `values` are of: its `mean`, `total` weight and `count`."""
    current = getattr(_current, "batch", None)
    if current is None:
        current = Batch(ops.ones((ops.shape(values)[0],), dtype="float32"))
    return current


def batch_mean(values):
    """Mean over the examples of the global batch, by weight; keeps a leading 1."""
    return batch_of(values).mean(values)


# --------------------------------------------------------------------------------------
# Backend switches


def _replica_context():
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context


def num_replicas():
    """Number of replicas of the `tf.distribute` strategy at work, else 1."""
    context = _replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def all_reduce(t):
    """Sum of `t` over the replicas, differentiable; `t` itself where there is one."""
    context = _replica_context()
    return t if context is None else context.all_reduce("SUM", t)


def all_gather(t):
    """`t` of all replicas, joined along the first axis; `t` itself where there is one.

    Shares may differ in size, and may be empty.
    """
    context = _replica_context()
    return t if context is None else context.all_gather(t, axis=0)


def vjp(function, x):
    """The value of `function` at `x`, and its pull-back.

    Returns:
        `y = function(x)`, and a function of one use from a cotangent `u` of the shape
        of `y` to `J^T u`, of the shape of `x`. It can be differentiated in turn.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, lambda u: tape.gradient(y, x, output_gradients=u)
    if backend == "jax":
        import jax

        y, pull_back = jax.vjp(function, x)
        return y, lambda u: pull_back(u)[0]
    import torch

    with torch.enable_grad():  # evaluation is without
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        y = function(x)
    return y, lambda u: torch.autograd.grad(y, x, u, create_graph=True)[0]


def concrete(variable):
    """The value of a Keras variable as NumPy, also while a graph is being traced."""
    if keras.backend.backend() == "jax":
        # Not the tracer of a scope. While a step runs, Keras's trainer has the value,
        # and there is the one that was asked for last.
        value = getattr(variable, "_value", variable)
        if value is not None:
            value = np.asarray(value)
            if isinstance(variable, keras.Variable):
                variable.last_concrete = value
            return value
        return variable.last_concrete
    if keras.backend.backend() == "torch":
        return np.asarray(ops.convert_to_numpy(variable))
    import tensorflow as tf

    with tf.init_scope():
        # With gradient accumulation an optimizer's `iterations` is a tensor.
        return np.asarray(getattr(variable, "value", variable).numpy())


def need_tensorflow(what):
    """Raises where Keras runs on another backend, on which there is no `what`."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"{what} needs Keras's TensorFlow backend: save the model, and load it in "
            "a process with KERAS_BACKEND=tensorflow. "
            f"Received: backend={keras.backend.backend()}"
        )


def host(t):
    """`t` itself on TensorFlow, graphs included; elsewhere a copy of it in NumPy.

    It brings tensors from the backend to TensorFlow's distributions, and back.
    """
    if keras.backend.backend() == "tensorflow":
        return t
    return np.asarray(ops.convert_to_numpy(t) if ops.is_tensor(t) else t)


# --------------------------------------------------------------------------------------
# Random numbers


class _GivenSeed(keras.random.SeedGenerator):
    """A seed that is a tensor already, in the one form that `keras.random` takes."""

    def __init__(self, state):  # no state of its own, so no call of super().__init__
        self.state = state

    def next(self, ordered=True):
        return self.state


def as_seed(seed):
    """Makes an int, a `SeedGenerator` or a tensor of shape (2,) a seed for Keras."""
    if seed is None or isinstance(seed, (int, keras.random.SeedGenerator)):
        return seed
    if isinstance(seed, np.integer):
        return int(seed)
    if tuple(getattr(seed, "shape", ())) != (2,) or "int" not in str(seed.dtype):
        raise ValueError(
            "`seed` must be an integer, a keras.random.SeedGenerator or an integer "
            f"tensor of shape (2,). Received: seed={seed}"
        )
    seed = ops.convert_to_tensor(seed)
    if keras.backend.backend() == "jax":
        seed = ops.cast(seed, "uint32")  # which its keys are
    return _GivenSeed(seed)


def split_seed(seed, num):
    """Makes `num` different seeds, tensors of shape (2,), of one in any form."""
    seed = as_seed(seed)
    if isinstance(seed, int) or isinstance(seed, _GivenSeed):
        # Drawn, not counted up: the seeds of callers are often neighbours.
        words = keras.random.randint((num, 2), 0, 2**31 - 1, dtype="int32", seed=seed)
        return [words[i] for i in range(num)]
    return [seed.next() for _ in range(num)]


def fold_replica(generator):
    """Draws a seed from `generator` that differs from replica to replica.

    One `SeedGenerator` gives every replica the same seed, hence the same noise.
    """
    state = generator.next()
    context = _replica_context()
    if context is not None:
        # Into the first word: the second counts draws, and neighbours would collide.
        replica = ops.cast(context.replica_id_in_sync_group, state.dtype)
        state = state + ops.stack([replica * 7919, ops.zeros_like(replica)])
    return _GivenSeed(state)


def normal(shape, seed):
    """Standard normal noise in float32; for the forms of `seed` see `as_seed`."""
    return keras.random.normal(shape, dtype="float32", seed=as_seed(seed))


# --------------------------------------------------------------------------------------
# Layers


def build_once(layer, shape):
    """Builds `layer` for `shape` unless loading it from a file has done so already."""
    if not layer.built:
        layer.build(tuple(shape))
