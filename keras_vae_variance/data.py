"""Data in the forms that people have it: checked, iterated, and put in order."""

import numbers
import random

import keras
import numpy as np

__all__ = [
    "as_tuples",
    "batches",
    "check_images",
    "check_not_empty",
    "generator",
    "is_array",
    "shuffled",
    "unpack",
]


def is_array(x):
    """Whether `x` is an array (or a tensor) of examples, not a stream of batches."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def unpack(data):
    """Splits `x`, `(x,)`, `(x, y)` or `(x, y, weights)` into `x` and `weights`."""
    if not isinstance(data, (tuple, list)):
        return data, None
    if not 1 <= len(data) <= 3:
        raise ValueError(
            "Data must be x, (x,), (x, y) or (x, y, sample_weight). "
            f"Received: a {type(data).__name__} of {len(data)} elements"
        )
    return data[0], data[2] if len(data) == 3 else None


def batches(x, batch_size=256):
    """Reads data once, in its order, whatever labels it has.

    Args:
        x: an array, a tuple of arrays as `fit` takes it, a batched `tf.data.Dataset`, a
            `keras.utils.PyDataset`, or any other iterable of batches.
        batch_size: examples in a batch, for arrays.

    Yields:
        Pairs of a batch of `x`, of its own dtype, and its weights or None.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance.data import batches
    >>> [len(x) for x, weights in batches(np.zeros((5, 2)), batch_size=3)]
    [3, 2]
    """
    if isinstance(x, (tuple, list)) or is_array(x):
        x, weights = unpack(x)
        for start in range(0, len(x), batch_size):
            part = slice(start, start + batch_size)
            yield x[part], None if weights is None else weights[part]
    elif isinstance(x, keras.utils.PyDataset):
        for index in range(len(x)):
            yield unpack(x[index])
    elif hasattr(x, "__iter__"):
        for batch in x:
            yield unpack(batch)
    else:
        raise TypeError(
            "Data must be an array, a tf.data.Dataset, a keras.utils.PyDataset or an "
            f"iterable of batches. Received: {type(x).__name__}"
        )


def check_images(
    x,
    input_shape,
    unit_interval=False,
    name="x",
    tensors=True,
    what="the encoder's input",
):
    """Raises where `x` is not a batch of examples of `input_shape`.

    Shape and dtype are checked of any tensor, values of those that have them now.

    Args:
        x: array or tensor, `(batch, *input_shape)`, of uint8 or float.
        input_shape: the shape of one example.
        unit_interval: whether values outside [0, 1] are wrong.
        name: how the message calls `x`.
        tensors: whether the values of tensors are checked too, not of arrays alone.
        what: what has `input_shape`.

    Raises:
        TypeError: on integers other than uint8, and on what is not numeric.
        ValueError: on another shape, on NaN or infinite values, and on values outside
            [0, 1] where they must lie inside.
    """
    sizes = list(map(str, input_shape))
    if getattr(x.shape, "rank", 0) is None:
        raise ValueError(
            f"`{name}` must have a known rank, as (batch, {', '.join(sizes)}): give "
            "its data set an `output_signature`, and batch it. "
            f"Received: {name}.shape={x.shape}"
        )
    shape = tuple(x.shape)
    if len(shape) != len(input_shape) + 1 or any(
        size is not None and size != expected
        for size, expected in zip(shape[1:], input_shape, strict=True)
    ):
        hint = ""
        if (*shape[1:], 1) == tuple(input_shape):
            hint = f" Add the channel with `{name}[..., None]`."
        elif shape == tuple(input_shape):
            hint = f" For a single example pass `{name}[None]`."
        raise ValueError(
            f"`{name}` must have the shape (batch, "
            f"{', '.join(sizes)}) of {what}.{hint} "
            f"Received: {name}.shape={shape}"
        )
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype != "uint8" and "float" not in dtype:
        raise TypeError(
            f"`{name}` must be uint8 (0 to 255, scaled to [0, 1] by the model) or "
            f"float. Received: {name}.dtype={dtype}"
        )
    if "float" not in dtype:
        return
    if tensors and _is_concrete(x):
        x = keras.ops.convert_to_numpy(x)
    if not isinstance(x, np.ndarray) or x.size == 0:
        return
    lowest, highest = float(x.min()), float(x.max())  # NaN goes through both
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        bad = int(x.size - np.count_nonzero(np.isfinite(x)))
        raise ValueError(
            f"`{name}` must be finite. "
            f"Received: {bad} values of {name} that are NaN or infinite"
        )
    if unit_interval and (lowest < 0 or highest > 1):
        raise ValueError(
            f"`{name}` must lie in [0, 1] for this likelihood; uint8 images are scaled "
            f"by the model. Received: values from {lowest:g} to {highest:g}"
        )


def check_not_empty(x, name="x"):
    """Raises where there is no example.

    In a graph there may be none: a replica's share of a short batch.
    """
    if x.shape[0] == 0 and (isinstance(x, np.ndarray) or _is_concrete(x)):
        raise ValueError(
            f"`{name}` must hold at least one example. "
            f"Received: {name}.shape={tuple(x.shape)}"
        )


def _is_concrete(x):
    """Whether a tensor has values now, and not only while a graph runs."""
    if isinstance(x, keras.KerasTensor):
        return False
    if keras.backend.backend() == "jax" and keras.ops.is_tensor(x):
        import jax

        return not isinstance(x, jax.core.Tracer)
    return hasattr(x, "numpy")  # TensorFlow's eager tensors, not its symbolic ones


def as_tuples(batches):
    """Makes batches of `x` alone the tuples that Keras asks a generator for."""
    for batch in batches:
        yield (batch,) if is_array(batch) else batch


def shuffled(arrays, batch_size, seed, epoch, steps_per_epoch=None):
    """A `tf.data.Dataset` of array batches, in an order of its own every epoch.

    The order is a function of `(seed, epoch)`: epochs differ, a rerun repeats them and
    a resumed run continues them. (A seeded `fit` of Keras repeats one order.) With
    `steps_per_epoch`, epochs are parts of an endless row of orders, and it holds too.

    Args:
        arrays: a tuple of arrays of equal length.
        batch_size: examples in a batch; the last may be shorter.
        seed: an int64 `tf.Variable` of at least 0, read whenever an epoch begins.
        epoch: an int64 `tf.Variable`, read then too.
        steps_per_epoch: batches in an epoch, or None for one pass over the data.
    """
    import tensorflow as tf

    size = len(arrays[0])
    steps = -(-size // batch_size)
    length = steps_per_epoch or steps
    # On the host: whole data sets do not belong into a device's memory.
    with tf.device("CPU"):
        arrays = tuple(tf.convert_to_tensor(array) for array in arrays)

    # Nothing here needs AutoGraph, which would read the source files again.
    plain = tf.autograph.experimental.do_not_convert

    @plain
    def batches_of_epoch(_):
        first = epoch.read_value() * length
        last = first + length - 1
        passes = tf.data.Dataset.range(first // steps, last // steps + 1)
        return passes.map(order).flat_map(parts).skip(first % steps).take(length)

    @plain
    def order(number):
        words = tf.stack([seed.read_value(), number])
        return tf.random.experimental.stateless_shuffle(tf.range(size), seed=words)

    @plain
    def parts(indices):
        @plain
        def part(step):
            return indices[step * batch_size : (step + 1) * batch_size]

        return tf.data.Dataset.range(steps).map(part)

    @plain
    def gather(indices):
        batch = tuple(tf.gather(array, indices) for array in arrays)
        return batch if len(batch) > 1 else batch[0]

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = tf.data.Dataset.range(1).flat_map(batches_of_epoch)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(length))
    dataset = dataset.map(gather, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def generator(seed):
    """A `numpy.random.Generator` of `seed`; a generator is itself, and goes on.

    None is a fresh seed from Python's `random`, which `keras.utils.set_random_seed`
    seeds.
    """
    if seed is None:
        seed = random.randrange(2**63)
    integer = isinstance(seed, numbers.Integral) and seed >= 0
    if not (integer or isinstance(seed, np.random.Generator)):
        raise ValueError(
            "`seed` must be an integer of at least 0, a numpy.random.Generator or None."
            f" Received: seed={seed}"
        )
    return np.random.default_rng(seed)
