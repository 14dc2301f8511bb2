"""Means over the global batch: over all replicas, by weight where there is one."""

import contextlib
import threading

from keras import ops

from .backend import all_reduce, num_replicas

__all__ = [
    "Batch",
    "batch",
    "batch_mean",
    "batch_of",
    "never_empty",
    "note_added_losses",
    "present",
]


class Batch:
    """Weights of the examples at hand and their sums over all replicas.

    Attributes:
        weights: weight of each example of this replica, `(batch,)`.
        total: sum of the weights over all replicas.
        count: number of examples of non-zero weight on all replicas.
        present: 0 where this replica's share was empty and was filled, else 1.
        added_losses: what networks passed to `add_loss` on this replica, by network.
    """

    def __init__(self, weights, present=1.0):
        self.weights = weights
        self.present = present
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
        return all_reduce(ops.where(share > 0, share * total, 0.0))


_current = threading.local()  # replicas are traced by threads of their own


def never_empty(x, weights=None):
    """Fills a replica's empty share of a batch with one example of weight 0.

    oneDNN's convolutions fail on an empty batch in TensorFlow's graphs. A layer that
    takes statistics of its input must ask `present`, as our BatchNormalization does.

    Returns:
        `x` and its weights, and 0 where the share was empty, else 1. With one replica
        nothing changes.
    """
    if num_replicas() == 1:
        return x, weights, 1.0
    size = ops.shape(x)[0]
    if weights is None:
        weights = ops.ones((size,), dtype="float32")
    empty = ops.cast(ops.equal(size, 0), "int32")
    rest = [[0, 0]] * (len(x.shape) - 1)
    x, weights = ops.pad(x, [[0, empty], *rest]), ops.pad(weights, [[0, empty]])
    return x, weights, 1.0 - ops.cast(empty, "float32")


@contextlib.contextmanager
def batch(x, weights=None, present=1.0):
    """Makes `x` (and the weights of its examples) the batch that `batch_mean` means.

    A scope, so that variances, priors and regularizers need no weights among their
    arguments: integer weights then equal repeated examples in batch statistics too.
    """
    if weights is None:
        weights = ops.ones((ops.shape(x)[0],), dtype="float32")
    previous = getattr(_current, "batch", None)
    _current.batch = Batch(ops.cast(weights, "float32"), present)
    try:
        yield _current.batch
    finally:
        _current.batch = previous


def present():
    """0 where all that this replica computes comes from a filled share, else 1."""
    return getattr(getattr(_current, "batch", None), "present", 1.0)


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
