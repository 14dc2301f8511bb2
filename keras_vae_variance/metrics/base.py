"""What the metrics share: estimates with their error, counts, and draws by example."""

import dataclasses
import random

import numpy as np
from keras import ops

from ..checks import check_integer
from ..data import batches
from ..types import Latent

__all__ = [
    "Estimate",
    "check_integer",
    "check_density",
    "check_one_vector",
    "chunks",
    "draws",
    "encoding_chunks",
    "encodings",
    "float64",
    "key",
    "log_density",
    "noise",
    "streams",
    "variance",
]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its Monte Carlo error.

    `float(estimate)` and NumPy take the value alone.

    Args:
        value: the estimate.
        standard_error: the standard deviation that `value` would have over repetitions
            with other seeds, or other examples; the metric says which.

    Example:

    >>> import numpy as np
    >>> from keras_vae_variance.metrics import Estimate
    >>> estimate = Estimate.of(np.array([1.0, 2.0, 3.0]))
    >>> print(estimate)
    2 +- 0.577
    >>> float(estimate) + 1
    3.0
    """

    value: float
    standard_error: float

    @classmethod
    def of(cls, values):
        """The mean of independent values `(n,)`, with its standard error."""
        values = np.asarray(values, np.float64)
        deviation = values.std(ddof=1) if len(values) > 1 else np.nan
        return cls(float(values.mean()), float(deviation / np.sqrt(len(values))))

    def __float__(self):
        return float(self.value)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype)

    def __str__(self):
        return f"{self.value:.6g} +- {self.standard_error:.3g}"


def check_one_vector(vae):
    """Raises where there is a vector of latents for each frame of an example."""
    if hasattr(vae, "predict_frames"):
        raise ValueError(
            "This needs one vector of latents an example; a model of sequences has one "
            f"a frame, whose prior knows the frames before. Received: {vae.name}"
        )


def check_density(vae, consequence):
    """Raises where the posterior is deterministic, with what follows from it."""
    if vae.posterior.deterministic:
        raise ValueError(
            f"A deterministic posterior has no density, hence {consequence}. "
            f"Received: posterior={vae.posterior}"
        )


def log_density(sampler, z, words):
    """`sampler.log_prob(z)`; one that is by draws itself makes them from `words`."""
    if getattr(sampler, "draws_density", False):
        return sampler.log_prob(z, seed=np.asarray(words).astype("int32"))
    return sampler.log_prob(z)


def float64(t):
    """A tensor of any backend as a float64 NumPy array."""
    return ops.convert_to_numpy(t).astype(np.float64)


def encodings(vae, x, batch_size=1000):
    """Reads data once, in its order, and encodes it.

    Yields:
        Pairs of a batch of `x`, as it came, and its `Latent` of float64 arrays, all of
        shape `(batch, latent_dim)`, at the posterior mean.

    Raises:
        ValueError: if there are no examples.
    """
    check_one_vector(vae)
    empty = True
    for batch, _ in batches(x, batch_size):
        latent = vae.encode(batch)
        shape = (len(batch), vae.latent_dim)
        yield batch, Latent(*(np.broadcast_to(float64(t), shape) for t in latent))
        empty = False
    if empty:
        raise ValueError(f"`x` must hold at least one example. Received: x={x}")


def chunks(x, size):
    """Reads data once, in their order, at most `size` examples at a time."""
    for batch, _ in batches(x, size):
        for start in range(0, len(batch), size):
            yield batch[start : start + size]


def encoding_chunks(vae, x, size):
    """As `encodings`, with at most `size` examples at a time."""
    for batch, latent in encodings(vae, x):
        for start in range(0, len(batch), size):
            part = slice(start, start + size)
            yield batch[part], Latent(*(t[part] for t in latent))


def key(seed):
    """The key of `streams` for a seed; None is a fresh one from Python's `random`."""
    if seed is None:
        seed = random.randrange(2**63)
    check_integer("seed", seed, least=0)
    return np.random.SeedSequence(seed).generate_state(2, np.uint64)


def streams(key, start, count):
    """A source of noise for each of `count` examples, from number `start` on.

    What it gives is a function of the key and the number of the example, so that
    results do not depend on how the data are cut into batches.
    """
    # Streams of different counters never overlap.
    return [
        np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, start + i]))
        for i in range(count)
    ]


def noise(streams, shape):
    """The next standard normal draws of each example, float32 `(count, *shape)`."""
    return np.stack([stream.standard_normal(shape, np.float32) for stream in streams])


def draws(vae, x, num_samples=1, seed=None, batch_size=256):
    """Reads data once, in its order, and draws `z ~ q(z|x)` for each example.

    Yields:
        Pairs of at most `batch_size` examples of `x`, prepared, and an iterator over
        `num_samples` draws of all their latents, each a tuple of the layers' `Latent`s
        as of `VAE.draw_layers`. All are float32 tensors.
    """
    check_integer("batch_size", batch_size)
    check_one_vector(vae)
    noise_key, count = key(seed), 0
    parts = ((batch, None) for batch in chunks(x, batch_size))
    if len(vae.latent_dims) == 1:
        parts = encoding_chunks(vae, x, batch_size)
    for batch, latent in parts:
        if latent is not None:
            latent = Latent(*(ops.convert_to_tensor(t, "float32") for t in latent))
        sources = streams(noise_key, count, len(batch))
        count += len(batch)
        batch = vae.prepare(batch)
        yield batch, _draw(vae, batch, latent, sources, num_samples)
    if not count:
        raise ValueError(f"`x` must hold at least one example. Received: x={x}")


def _draw(vae, x, latent, sources, num_samples):
    for _ in range(num_samples):
        of_draw = ops.convert_to_tensor(noise(sources, (sum(vae.latent_dims),)))
        yield vae.draw_layers(x, of_draw, latent)


def variance(likelihood, x, parameters, latent):
    """The variance of each scalar of `x` under `p(x|z)`, as evaluation has it."""
    mean, v = likelihood.moments(parameters)
    model = getattr(likelihood, "variance_model", None)
    if model is not None and model.depends_on_x:
        v = model(ops.square(x - mean), parameters, latent, training=False)
    return ops.broadcast_to(v, ops.shape(mean))
