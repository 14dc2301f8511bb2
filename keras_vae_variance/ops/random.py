"""Seeds in the forms that people have them, and noise."""

import keras
import numpy as np
from keras import ops

from .backend import replica_context

__all__ = ["as_seed", "fold_replica", "normal", "split_seed"]


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
    """Makes `num` different seeds, tensors of shape (2,), of one in any form.

    None stays None, Keras's global generator, which goes on from draw to draw.
    """
    seed = as_seed(seed)
    if seed is None:
        return [None] * num
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
    context = replica_context()
    if context is not None:
        # Into the first word: the second counts draws, and neighbours would collide.
        replica = ops.cast(context.replica_id_in_sync_group, state.dtype)
        state = state + ops.stack([replica * 7919, ops.zeros_like(replica)])
    return _GivenSeed(state)


def normal(shape, seed):
    """Standard normal noise in float32; for the forms of `seed` see `as_seed`."""
    return keras.random.normal(shape, dtype="float32", seed=as_seed(seed))
