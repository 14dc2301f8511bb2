"""A second VAE, on the codes of the first."""

import numbers

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from .. import ops as kvv_ops
from ..backbones import second_stage
from ..checks import check_integer
from ..likelihoods import Gaussian
from ..posteriors import DiagonalGaussian
from ..vae import VAE
from ..variances import Learned
from .base import Sampler, check_codes, in_chunks, posteriors, stateless_seed

__all__ = ["SecondStage"]

_CHUNK = 2**14  # decoded at a time by `log_prob`: 64 MiB in a layer of 1024 units


class SecondStage(Sampler):
    """A VAE of the codes, with a learned scalar variance.

        p(z) = E_u p(z|u),    u ~ N(0, I),    p(z|u) = N(z; m(u), v)

    P1, Sec. 6 and App. I, after Dai and Wipf, "Diagnosing and Enhancing VAE Models"
    (2019): fully connected, with as many latent variables as the first stage. It is a
    `VAE` of this package, trained on draws `z ~ q(z|x)` that are fresh in every epoch,
    not on the posterior means, and the codes are taken as they are, unscaled.

    A draw is one of `p(z|u)`, noise included, as Dai and Wipf have it: the first-stage
    decoder learned on codes with that spread, and without it the draws would be
    narrower than the codes by `v`. (The noise of `p(x|z)`, which images do without, is
    another matter.)

    The learning rate falls to 0 along a cosine, since the noise of Adam's last steps
    would else stay in the variance.

    Args:
        hidden: units of the encoder's hidden layers; the decoder has them in reverse.
        epochs: passes over the codes; 100 in P1 for MNIST.
        batch_size: codes in a batch; 64 in P1.
        learning_rate: that Adam starts at; 1e-3 in P1 for MNIST.
        verbose: how `fit` shows its progress, as in `keras.Model.fit`.

    Raises:
        ValueError: if an argument is out of range; `fit` raises `NonFiniteLossError`
            where training fails.
        RuntimeError: on another backend of Keras than TensorFlow.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), dtype="float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.1))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> sampler = kvv.samplers.SecondStage(hidden=(32,), epochs=2, verbose=0)
    >>> z = sampler.fit(vae, x, seed=0).sample(5, seed=1)
    >>> sampler.log_prob(z, num_samples=10, seed=2).shape
    TensorShape([5])
    """

    draws_density = True

    def __init__(
        self,
        hidden=(1024, 1024, 1024),
        epochs=100,
        batch_size=64,
        learning_rate=1e-3,
        verbose="auto",
    ):
        super().__init__()
        kvv_ops.need_tensorflow("SecondStage")
        if not isinstance(hidden, (tuple, list)):
            raise ValueError(
                "`hidden` must be a tuple of the sizes of the layers. "
                f"Received: hidden={hidden!r}"
            )
        for i, size in enumerate(hidden):
            check_integer(f"hidden[{i}]", size)
        check_integer("epochs", epochs)
        check_integer("batch_size", batch_size)
        if not (isinstance(learning_rate, numbers.Real) and 0 < learning_rate < np.inf):
            raise ValueError(
                "`learning_rate` must be a positive finite number. "
                f"Received: learning_rate={learning_rate!r}"
            )
        if verbose not in ("auto", 0, 1, 2):
            raise ValueError(
                f'`verbose` must be "auto", 0, 1 or 2. Received: verbose={verbose!r}'
            )
        self.hidden = tuple(map(int, hidden))
        self.epochs = int(epochs)
        self.batch_size = int(batch_size)
        self.learning_rate = float(learning_rate)
        self.verbose = verbose

    def get_config(self):
        """Returns the constructor's arguments, all of them plain values."""
        return {
            "hidden": self.hidden,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "verbose": self.verbose,
        }

    @property
    def distribution(self):
        """Raises a `ValueError`: the density of a VAE has no closed form."""
        self._check_fitted()
        raise ValueError(
            "The density of a second-stage VAE has no closed form: `sample` draws from "
            f"it, and `log_prob` bounds it. Received: sampler={self!r}"
        )

    def sample(self, n, seed=None):
        """Draws `n` independent latent vectors, noise of `p(z|u)` included.

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
        self._check_fitted()
        return self._draw(tf.cast(n, tf.int32), stateless_seed(seed))

    def log_prob(self, z, num_samples=100, seed=0):
        """A lower bound of the log density of latent vectors.

            log 1/K sum_k exp( log p(z|u_k) + log p(u_k) - log q(u_k|z) ),  u_k ~ q(u|z)

        It is a bound in expectation, and tends to `log p(z)` as `K` grows.

        Args:
            z: array or tensor of shape `(n, latent_dim)`.
            num_samples: number `K` of draws a latent vector.
            seed: of the draws, as for `sample`. By default they are the same at every
                call; the metrics give one to each block of latents.

        Returns:
            A float32 tensor of shape `(n,)`, in nats.

        Raises:
            ValueError: if the sampler is not fitted, `z` is of another shape, or
                `num_samples` is not a positive int.
        """
        self._check_fitted()
        check_integer("num_samples", num_samples)
        z = check_codes(z, self._latent_dim)
        shape = (tf.shape(z)[0], num_samples, self._latent_dim)
        return self._bound(z, tf.random.stateless_normal(shape, stateless_seed(seed)))

    def _learn(self, vae, x, generator):
        means, variances = map(np.concatenate, zip(*posteriors(vae, x), strict=True))
        codes = _Codes(
            means, variances, self.batch_size, int(generator.integers(2**63))
        )
        second = self._make(means.shape[1], int(generator.integers(2**31)))
        for weight in second.trainable_weights:
            # Keras's own initial values, by the seed instead of its global generator.
            if len(weight.shape) == 2:
                glorot = keras.initializers.GlorotUniform(
                    int(generator.integers(2**31))
                )
                weight.assign(glorot(weight.shape))
        steps = self.epochs * len(codes)
        rate = keras.optimizers.schedules.CosineDecay(self.learning_rate, steps)
        second.compile(keras.optimizers.Adam(rate))
        second.fit(codes, epochs=self.epochs, verbose=self.verbose)
        return {f"weight_{i}": w for i, w in enumerate(second.get_weights())}

    def _build(self, **arrays):
        weights = [arrays[f"weight_{i}"] for i in range(len(arrays))]
        # The first is the kernel of the encoder's first layer.
        self._latent_dim = weights[0].shape[0]
        vae = self._make(self._latent_dim)
        vae.set_weights(weights)
        # Constants, as the parameters of the other samplers: a graph that draws, such
        # as a SavedModel's, then holds no variable that somebody would have to track.
        constants = [(w, tf.constant(w.numpy())) for w in vae.weights]

        def compiled(function, *signature):
            def frozen(*arguments):
                with keras.StatelessScope(state_mapping=constants):
                    return function(vae, *arguments)

            return tf.function(frozen, input_signature=signature, autograph=False)

        self._draw = compiled(
            _draw, tf.TensorSpec((), tf.int32), tf.TensorSpec((2,), tf.int32)
        )
        self._bound = compiled(
            _bound,
            tf.TensorSpec((None, self._latent_dim)),
            tf.TensorSpec((None, None, self._latent_dim)),
        )
        return vae

    def _make(self, latent_dim, seed=0):
        likelihood = Gaussian(Learned())
        networks = second_stage(
            (latent_dim,), latent_dim, likelihood, hidden=self.hidden
        )
        return VAE(*networks, DiagonalGaussian(latent_dim), likelihood, seed=seed)


class _Codes(keras.utils.PyDataset):
    """Batches of draws `z ~ q(z|x)`, fresh and in another order in every epoch."""

    def __init__(self, mean, variance, batch_size, seed):
        super().__init__()
        self.mean = mean
        self.stddev = np.sqrt(variance)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = -1
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.mean) // self.batch_size)

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size :][: self.batch_size]
        # By epoch and index, for Keras reads some batches more than once.
        # From 1 on: NumPy takes (seed, epoch, 0) for (seed, epoch), that of the order.
        generator = np.random.default_rng((self.seed, self.epoch, index + 1))
        noise = generator.standard_normal((len(rows), self.mean.shape[1]), np.float32)
        return self.mean[rows] + self.stddev[rows] * noise

    def on_epoch_end(self):
        self.epoch += 1
        generator = np.random.default_rng((self.seed, self.epoch))
        self.order = generator.permutation(len(self.mean))


def _draw(vae, n, seed):
    """Draws `z = m(u) + sqrt(v) e`, `(n, latent_dim)`, of standard normal `u, e`."""
    seeds = tf.random.experimental.stateless_split(seed, 2)
    shape = (n, vae.latent_dim)
    u, noise = (tf.random.stateless_normal(shape, seed) for seed in tf.unstack(seeds))

    def place(u, noise):
        parameters = vae.decode(u)
        variance = vae.likelihood.variance(parameters)
        return vae.likelihood.mean(parameters) + ops.sqrt(variance) * noise

    return in_chunks(place, [u, noise], _CHUNK)


def _bound(vae, z, noise):
    """The bound of `log p(z)`, `(n,)`, by noise of shape `(n, samples, latent_dim)`."""
    samples = tf.shape(noise)[1]

    def bound(z, noise):
        def rows(t):
            repeated = tf.broadcast_to(t[:, None], tf.shape(noise))
            return tf.reshape(repeated, (-1, vae.latent_dim))

        latent = vae.encode(z)
        mean, variance = rows(latent.mean), rows(latent.variance)
        u = mean + ops.sqrt(variance) * tf.reshape(noise, (-1, vae.latent_dim))
        parameters = vae.decode(u)
        # log p(z|u) + log p(u) - log q(u|z)
        log_weights = (
            kvv_ops.gaussian_log_prob(
                rows(z),
                vae.likelihood.mean(parameters),
                vae.likelihood.variance(parameters),
            )
            + kvv_ops.gaussian_log_prob(u, 0.0, 1.0)
            - kvv_ops.gaussian_log_prob(u, mean, variance)
        )
        log_weights = tf.reshape(log_weights, (-1, samples))
        mean_weight = ops.logsumexp(log_weights, axis=1)
        return mean_weight - tf.math.log(tf.cast(samples, tf.float32))

    return in_chunks(bound, [z, noise], _CHUNK // samples)
