"""The smallest models that show what a test is about, and what to compare of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

import keras_vae_variance as kvv

SHAPE = (6, 6, 1)
L = 2
TERMS = ["loss", "reconstruction", "kl", "variance", "mse"]


def images(n, seed=0):
    """`n` images of a brightness of their own, in [0, 1], float32."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.2, 0.8, (n, 1, 1, 1)) + rng.uniform(-0.2, 0.2, (n, *SHAPE))
    return x.astype("float32")


@keras.saving.register_keras_serializable(package="kvv_tests")
class Noiseless(kvv.posteriors.ConstantGaussian):
    """A posterior with a variance, and so with a KL, whose draws are its mean."""

    def sample(self, mean, variance, seed=None):
        return mean


@keras.saving.register_keras_serializable(package="kvv_tests")
class NoiselessDiagonal(kvv.posteriors.DiagonalGaussian):
    """The same, with a variance for each example."""

    def sample(self, mean, variance, seed=None):
        return mean


@keras.saving.register_keras_serializable(package="kvv_tests")
class PlainDecoder(keras.Model):
    """A user's decoder: subclassed, without a `training` argument, of one tensor."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(36, activation="sigmoid")
        self.reshape = keras.layers.Reshape(SHAPE)

    def build(self, latents_shape):
        self.dense.build(latents_shape)

    def call(self, z):
        return self.reshape(self.dense(z))


@keras.saving.register_keras_serializable(package="kvv_tests")
class MeanPenalty(keras.layers.Layer):
    """Adds half the mean square of what passes through to the loss."""

    def call(self, x):
        self.add_loss(0.5 * ops.mean(ops.square(x)))
        return x


def fixed():
    return kvv.variances.Fixed(0.1)


def make(
    variance=fixed,
    posterior=kvv.posteriors.DiagonalGaussian,
    likelihood=None,
    encoder=None,
    decoder=None,
    cls=kvv.VAE,
    weights=0,
    seed=5,
    **arguments,
):
    """A VAE whose initial weights are a function of `weights`.

    Parts are given as callables, so that they are made after the seed is set.
    """
    keras.utils.set_random_seed(weights)
    likelihood = likelihood() if likelihood else kvv.likelihoods.Gaussian(variance())
    networks = kvv.backbones.mlp(SHAPE, L, likelihood, hidden=(8,))
    return cls(
        encoder() if encoder else networks[0],
        decoder() if decoder else networks[1],
        posterior(L),
        likelihood,
        seed=seed,
        **{name: part() for name, part in arguments.items()},
    )


def two_layers(encoder, decoder, posterior, likelihood, **arguments):
    """A model with a second layer of latents above those of these networks."""
    up, down = (
        keras.Sequential([keras.Input((L,)), keras.layers.Dense(8)]) for _ in range(2)
    )
    posteriors = [posterior, type(posterior)(L)]
    return kvv.HierarchicalVAE(
        [encoder, up], [decoder, down], posteriors, likelihood, **arguments
    )


def sequence(encoder, decoder, posterior, likelihood, **arguments):
    """A `SequenceVAE` where `make` makes a `VAE`: rows of an image are its frames."""
    encoder, decoder = kvv.backbones.mlp(SHAPE[1:], 3, likelihood, hidden=(4,))
    h, z = keras.Input((None, 4)), keras.Input((None, L))

    def recurrent(inputs, units):
        return keras.layers.SimpleRNN(units, return_sequences=True)(inputs)

    return kvv.SequenceVAE(
        encoder,
        decoder,
        keras.Model(h, recurrent(h, 5)),
        keras.Model([h, z], recurrent(keras.layers.Concatenate()([h, z]), 3)),
        keras.Model(h, recurrent(h, 5)),
        posterior,
        likelihood,
        n_past=2,
        n_future=SHAPE[0] - 2,
        **arguments,
    )


def compiled(optimizer=None, *, compile=None, **arguments):
    """A VAE compiled with plain gradient descent, or with what is given."""
    vae = make(**arguments)
    vae.compile(optimizer or keras.optimizers.SGD(1e-3), **(compile or {}))
    return vae


def dense_encoder(*layers):
    """An encoder of flattened images through `layers`."""
    return keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), *layers, keras.layers.Dense(8)]
    )


def state(vae, random=True):
    """Copies of all that a model and its optimizer remember, with names."""
    variables = [*vae.weights, *vae.optimizer.variables]
    if random:
        variables += [generator.state for generator in vae._generators()]
    # Copies: on torch the NumPy arrays share their memory with the variables.
    return [(v.path, np.array(ops.convert_to_numpy(v))) for v in variables]


def assert_same(actual, desired):
    """Asserts that two states are equal bit for bit."""
    assert len(actual) == len(desired) > 0
    for (_, a), (name, b) in zip(actual, desired, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=name)


def assert_close(actual, desired, atol=1e-6, rtol=1e-5):
    """Asserts that two states are equal up to rounding."""
    assert len(actual) == len(desired) > 0
    for (_, a), (name, b) in zip(actual, desired, strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=rtol, err_msg=name)


def changed(before, after):
    """Names of what differs between two states."""
    pairs = zip(before, after, strict=True)
    return {name for (name, a), (_, b) in pairs if not np.array_equal(a, b)}


def run_worker(task, *arguments, **environment):
    """Runs a function of `worker.py` in a process of its own; what it prints."""
    here = Path(__file__).parent
    paths = [str(Path(kvv.__file__).parents[1]), str(here)]
    done = subprocess.run(
        [sys.executable, str(here / "worker.py"), task, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=3600,  # against a hang: machines differ in speed by a factor of ten
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def read_json(path):
    """What a worker wrote."""
    return json.loads(Path(path).read_text())
