"""What every sampler of the latent space shares."""

import json
import random

import numpy as np
import tensorflow as tf
from keras import ops

from ..data import batches
from ..ops import host

__all__ = ["Sampler", "check_codes", "in_chunks", "posteriors", "stateless_seed"]


class Sampler:
    """A distribution of latent vectors that is fitted to a trained VAE.

    A user calls `fit`, then `sample`, `log_prob`, `distribution`, `save` and `load`.
    On every backend of Keras TensorFlow draws; there `sample` and `log_prob` take and
    give the backend's tensors, and `distribution` is one of TensorFlow's own.

    A subclass with a density overrides two methods, and `get_config` where its
    constructor takes arguments:

    - `_learn(vae, x, generator)` returns what it learns as a dict of NumPy arrays;
      `generator` is a `numpy.random.Generator` made from the seed.
    - `_build(**arrays)` makes a TFP distribution in float32 of these arrays alone, so
      that a reloaded sampler gives the same bits.

    One without a closed density overrides `sample`, `log_prob` and `distribution` too.

    Attributes:
        draws_density: whether `log_prob` is itself by draws, and takes a `seed`.
    """

    draws_density = False

    def __init__(self):
        self._arrays = None
        self._distribution = None

    def __repr__(self):
        config = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({config})"

    def get_config(self):
        """Returns the constructor's arguments, all of them plain values."""
        return {}

    def fit(self, vae, x, seed=None):
        """Fits the sampler to the codes of `x`, read once and in order.

        Args:
            vae: a trained `VAE`.
            x: images, in any form that `VAE.fit` takes; labels and weights are ignored.
            seed: int, or None for a fresh one from Python's `random`, which
                `keras.utils.set_random_seed` seeds.

        Returns:
            The sampler itself.

        Raises:
            ValueError: if `x` is empty or a code is not finite.
        """
        if seed is None:
            seed = random.randrange(2**63)
        self._restore(self._learn(vae, x, np.random.default_rng(seed)))
        return self

    def _restore(self, arrays):
        # Outside of any graph, so that a sampler may be used in several of them.
        with tf.init_scope():
            self._distribution = self._build(**arrays)
        self._arrays = arrays

    @property
    def distribution(self):
        """The fitted TFP distribution, in float32, with event shape `(latent_dim,)`."""
        self._check_fitted()
        return self._distribution

    def sample(self, n, seed=None):
        """Draws `n` independent latent vectors.

        Args:
            n: number of draws, an int or an int32 scalar tensor.
            seed: int or an int32 tensor of shape (2,): equal seeds give equal draws,
                in a `tf.function` too. None draws a seed from TensorFlow's global
                generator, which `keras.utils.set_random_seed` seeds.

        Returns:
            A float32 tensor of shape `(n, latent_dim)`.

        Raises:
            ValueError: if the sampler is not fitted, or the seed of another form.
        """
        z = self.distribution.sample(n, seed=stateless_seed(seed))
        return ops.convert_to_tensor(host(z))

    def log_prob(self, z):
        """Log density of latent vectors.

        Args:
            z: array or tensor of shape `(n, latent_dim)`.

        Returns:
            A float32 tensor of shape `(n,)`, in nats.

        Raises:
            ValueError: if the sampler is not fitted, or `z` is of another shape.
        """
        (latent_dim,) = self.distribution.event_shape
        log_prob = self.distribution.log_prob(check_codes(z, latent_dim))
        return ops.convert_to_tensor(host(log_prob))

    def save(self, path):
        """Writes the fitted sampler to one `.npz` file, without pickle.

        Args:
            path: name of the file; taken as it is, nothing is appended.

        Raises:
            ValueError: if the sampler is not fitted.
        """
        self._check_fitted()
        with open(path, "wb") as file:
            np.savez(
                file,
                sampler=type(self).__name__,
                config=json.dumps(self.get_config()),
                **self._arrays,
            )

    @classmethod
    def load(cls, path):
        """Reads a sampler that `save` of the same class has written.

        Args:
            path: name of the file.

        Returns:
            The fitted sampler, with the same draws and densities bit for bit.

        Raises:
            ValueError: if the file holds another class of sampler, or is broken.
        """
        with open(path, "rb") as file:
            try:
                with np.load(file, allow_pickle=False) as archive:
                    arrays = dict(archive)
                name = arrays.pop("sampler").item()
                config = json.loads(arrays.pop("config").item())
                if name == cls.__name__:
                    for key, array in arrays.items():
                        if not np.isfinite(array).all():
                            raise ValueError(
                                f"`{key}` must be finite. Received: {key}={array}"
                            )
                    sampler = cls(**config)
                    sampler._restore(arrays)
            except Exception as error:  # zip, zlib, json and TensorFlow have their own
                raise ValueError(
                    "The file is broken, or was not written by `save` of a sampler. "
                    f"Received: path={str(path)!r}"
                ) from error
        if name != cls.__name__:
            raise ValueError(
                f"The file holds a {name}, which `{name}.load` loads. "
                f"Received: path={str(path)!r}"
            )
        return sampler

    def _check_fitted(self):
        if self._arrays is None:
            raise ValueError(
                f"Call `fit(vae, x)` first. Received: sampler={self!r} without a fit"
            )

    def _learn(self, vae, x, generator):
        raise NotImplementedError

    def _build(self, **arrays):
        raise NotImplementedError


def posteriors(vae, x):
    """Yields mean and variance of `q(z|x)`, float32 `(batch, latent_dim)`, in order.

    A variance that the examples share is repeated. Raises a ValueError if there is no
    example, or a code is not finite.
    """
    count = 0
    for images, _ in batches(x):
        latent = vae.encode(images)
        if len(latent.mean.shape) != 2:
            raise ValueError(
                "A sampler needs one vector of latents an example; a model of "
                "sequences has one a frame, whose prior knows the frames before. "
                f"Received: latents of shape {tuple(latent.mean.shape)}"
            )
        mean = ops.convert_to_numpy(latent.mean).astype("float32")
        variance = ops.convert_to_numpy(latent.variance).astype("float32")
        finite = np.isfinite(mean + variance).all(axis=1)
        if not finite.all():
            raise ValueError(
                "The encoder's posterior must be finite for every example. "
                f"Received: x[{count + int(np.argmin(finite))}] with a code that is not"
            )
        count += len(mean)
        yield mean, np.broadcast_to(variance, mean.shape)
    if count == 0:
        raise ValueError("A sampler needs at least one example. Received: x without")


def stateless_seed(seed):
    """Makes a seed of any form an int32 tensor of shape (2,)."""
    if seed is None:
        return tf.random.uniform((2,), tf.int32.min, tf.int32.max, dtype=tf.int32)
    if isinstance(seed, (int, np.integer)):
        words = np.random.SeedSequence(int(seed)).generate_state(2)
        return tf.constant(words.view(np.int32))
    seed = tf.convert_to_tensor(host(seed))
    if seed.shape != (2,) or not seed.dtype.is_integer:
        raise ValueError(
            f"`seed` must be an int, or integers of shape (2,). Received: seed={seed}"
        )
    return tf.cast(seed, tf.int32)


def check_codes(z, latent_dim):
    """Makes latent vectors a float32 tensor; raises if they are of another shape."""
    z = tf.cast(host(z), tf.float32)
    # TFP would broadcast a single column without a word.
    if z.shape.rank != 2 or z.shape[1] != latent_dim:
        raise ValueError(
            f"`z` must be of shape (n, {latent_dim}). Received: z.shape={z.shape}"
        )
    return z


def in_chunks(function, rows, size):
    """Applies `function` to at most `size` rows at a time, eagerly and in graphs."""
    n = tf.shape(rows[0])[0]
    size = tf.clip_by_value(n, 1, tf.maximum(size, 1))
    count = tf.maximum(-(-n // size), 1)

    def split(t):
        padding = [[0, count * size - n], *[[0, 0]] * (t.shape.rank - 1)]
        # Static sizes where they are known: functions may need them.
        row = [tf.shape(t)[i] if s is None else s for i, s in enumerate(t.shape)][1:]
        return tf.reshape(tf.pad(t, padding), (count, size, *row))

    blocks = tf.map_fn(
        lambda blocks: function(*blocks),
        [split(t) for t in rows],
        fn_output_signature=tf.float32,
        parallel_iterations=1,  # else a graph holds ten chunks at a time
    )
    return tf.reshape(blocks, (count * size, *blocks.shape[2:]))[:n]
