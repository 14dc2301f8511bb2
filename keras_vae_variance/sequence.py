"""Sequences of frames: a VAE whose prior and decoder know the frames before."""

import contextlib
import math

import keras
import numpy as np
from keras import ops

from . import ops as kvv_ops
from .checks import check_causal, check_input, check_integer
from .futures import Futures
from .posteriors import DiagonalGaussian
from .priors import StandardNormal
from .regularizers import KL
from .types import Latent
from .vae import VAE, check_parts

__all__ = ["SequenceVAE"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class SequenceVAE(Futures, VAE):
    """A VAE of sequences with a learned prior (SVG-LP, Denton and Fergus, 2018).

        h_t = encoder(x_t)
        q(z_t|x_1..t)    = posterior of  posterior_network(h_1, ..., h_t)
        p(z_t|x_1..t-1)  = Gaussian of   prior_network(h_1, ..., h_t-1)
        p(x_t|x_1..t-1, z_1..t) = likelihood of
            decoder(predictor([h_1, z_2], ..., [h_t-1, z_t]), skips)

        loss = mean of sum over t of -log p(x_t|...) + KL(q(z_t|...) || p(z_t|...))

    P2, Section 5, has its decoders on it. Sums run over the predicted frames: from the
    second on, the rest of the `n_past` conditioning frames included, as in SVG. With
    `n_past=0` the first is predicted too, from features of 0: a sequence of one frame
    is then a `VAE`. In training the frames before are the data's. Skips are the further
    outputs of the encoder, of the frame before while that is one of the `n_past`, then
    of the last of them. (SVG's code freezes them a frame earlier, and its posterior
    starts at the second frame; here `h_1` is seen, as in its equations.)

    A likelihood takes the frames of all sequences as one batch. So a variance shared
    over time, one a pixel or one an image is what it is in `VAE`, and a statistic of
    the batch is one of batch and time. The terms, and `mse`, are sums over frames.

    Recurrent networks come as Keras models of `(batch, time, features)`, whose step `t`
    must depend on no later one, which is checked of prior and predictor; they may hold
    anything of which that is true.

    Args:
        encoder: Keras model from a frame to a tensor of features, or to a list of it
            and of the tensors that skip to the decoder.
        decoder: Keras model from the predictor's output, or a list of it and of the
            skips, to the likelihood's parameters.
        posterior_network: Keras model `(batch, time, features)` to the same, of `h`.
        predictor: Keras model of a list of `h` and `z`, each `(batch, time, ...)`.
        prior_network: Keras model of `h`, on whose output are dense heads of mean and
            log variance. None is a `prior` that knows no frame.
        posterior: one of `posteriors`, on `posterior_network`'s output.
        likelihood: one of `likelihoods`, of a frame.
        n_past: number of conditioning frames.
        n_future: number of predicted frames. `fit` takes sequences of both.
        prior: one of `priors`, beside `prior_network=None`.
        regularizers: a list with at most `KL`; the default is `[KL()]`.
        seed: as of `VAE`.
        name: name of the model.

    Raises:
        ValueError: where the parts do not fit together; `fit` raises it as `VAE` does.

    Example:

    >>> import keras, numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = kvv.datasets.moving_digits(8, length=5, size=16, num_digits=1, seed=0)
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
    >>> networks = kvv.backbones.svg(
    ...     (16, 16, 1), 4, likelihood, features=8, units=8, channels=4
    ... )
    >>> posterior = kvv.posteriors.DiagonalGaussian(4)
    >>> vae = kvv.SequenceVAE(*networks, posterior, likelihood, n_past=2, n_future=3)
    >>> vae.compile(keras.optimizers.Adam(1e-3))
    >>> history = vae.fit(x, batch_size=4, epochs=1, verbose=0)
    >>> vae.predict_frames(x[:, :2], num_samples=3, seed=0)["mean"].shape
    TensorShape([3, 8, 3, 16, 16, 1])
    """

    _PARTS = (
        "encoder",
        "decoder",
        "posterior_network",
        "predictor",
        "prior_network",
        "posterior",
        "likelihood",
        "prior",
        "regularizers",
    )

    def __init__(
        self,
        encoder,
        decoder,
        posterior_network,
        predictor,
        prior_network,
        posterior,
        likelihood,
        n_past,
        n_future,
        prior=None,
        regularizers=None,
        seed=None,
        name=None,
    ):
        # Not VAE's: its decoder takes latents alone.
        keras.Model.__init__(self, name=name, autocast=False)
        check_parts(posterior, likelihood, prior, regularizers, seed)
        check_integer("n_past", n_past, least=0)
        check_integer("n_future", n_future)
        if prior_network is not None and not isinstance(
            prior, (StandardNormal, type(None))
        ):
            raise ValueError(
                "`prior` must be None beside a `prior_network`, which is the prior. "
                f"Received: prior={prior}"
            )
        self.encoder, self.decoder = encoder, decoder
        self.posterior_network = posterior_network
        self.predictor = predictor
        self.prior_network = prior_network
        self.posterior = posterior
        self.n_past, self.n_future = int(n_past), int(n_future)
        self.prior_head = None
        if prior_network is not None:
            self.prior_head = DiagonalGaussian(self.latent_dim, name="prior_head")
        self._complete(likelihood, prior, regularizers, seed)

    # ----------------------------------------------------------------------------------
    # Building

    @property
    def frame_shape(self):
        """Shape of one frame."""
        return self.event_shape[1:]

    @property
    def _shape_of(self):
        return f"n_past={self.n_past} and n_future={self.n_future} frames"

    @property
    def _first(self):
        """Index of the first frame that is predicted."""
        return min(self.n_past, 1)

    @property
    def _steps(self):
        """Number of frames that are predicted in training."""
        return self.event_shape[0] - self._first

    def _build_parts(self):
        shape = getattr(self.encoder, "input_shape", None)
        if not isinstance(shape, tuple) or None in shape[1:]:
            raise ValueError(
                "`encoder` must be a Keras model with one input, a frame of a known "
                f"shape. Received: encoder.input_shape={shape}"
            )
        self.event_shape = (self.n_past + self.n_future, *shape[1:])
        outputs = self._run(self.encoder, keras.KerasTensor((None, *shape[1:])), False)
        h, *skips = _listed(outputs)
        shapes = [getattr(t, "shape", None) for t in (h, *skips)]
        if any(shape is None or None in shape[1:] for shape in shapes):
            raise ValueError(
                "`encoder` must give a tensor of features, or a list of it and of the "
                f"skips, of known shapes. Received: {outputs}"
            )
        if skips and not self.n_past:
            raise ValueError(
                "`encoder` must give no skips beside n_past=0: there is no frame to "
                f"take them of. Received: encoder with {len(skips)} skips"
            )
        self._features = math.prod(h.shape[1:])
        h = keras.KerasTensor((None, self._steps, self._features))
        z = keras.KerasTensor((None, self._steps, self.latent_dim))
        steps = h.shape[1:], z.shape[1:]
        what = "the steps' features"
        check_input("posterior_network", self.posterior_network, steps[:1], what)
        if self.prior_network is not None:
            check_input("prior_network", self.prior_network, steps[:1], what)
        check_input("predictor", self.predictor, steps, f"{what} and latents")
        q = self._symbolic_steps("posterior_network", self.posterior_network, h)
        kvv_ops.build_once(self.posterior, (None, math.prod(q.shape[2:])))
        if self.prior_network is not None:
            p = self._symbolic_steps("prior_network", self.prior_network, h)
            kvv_ops.build_once(self.prior_head, (None, math.prod(p.shape[2:])))
        kvv_ops.build_once(self.prior, (None, self.latent_dim))
        kvv_ops.build_once(self.likelihood, (None, *self.frame_shape))
        g = self._symbolic_steps("predictor", self.predictor, [h, z])
        g = keras.KerasTensor((None, *g.shape[2:]))
        inputs = [t.shape[1:] for t in (g, *skips)]
        check_input("decoder", self.decoder, inputs, "the predictor's output and skips")
        self._check_parameters(self._run(self.decoder, _one([g, *skips]), False))
        for part in (self.likelihood, *self.regularizers):
            part.check(self.posterior, self.prior)
        for regularizer in self.regularizers:
            if not isinstance(regularizer, KL) or len(self.regularizers) > 1:
                raise ValueError(
                    "`regularizers` must be [] or a list of KL alone: no other takes a "
                    "prior that knows the frames before. "
                    f"Received: regularizers={self.regularizers}"
                )
            kvv_ops.build_once(regularizer, (None, *self.event_shape))
        self._check_causal(steps)
        terms = [regularizer.term for regularizer in self.regularizers]
        self._term_names = ("reconstruction", *terms)
        self._convolves = any(hasattr(p, "kernel_size") for p in self._flatten_layers())

    def _symbolic_steps(self, name, network, inputs):
        outputs = self._run(network, inputs, False)
        shape = getattr(outputs, "shape", None)
        if shape is None or len(shape) < 3 or shape[1] not in (None, self._steps):
            raise ValueError(
                f"`{name}` must give one tensor (batch, time, ...), with a step "
                f"for each of its input. Received: output of shape {shape}"
            )
        return outputs

    def _check_causal(self, steps):
        """A prior or predictor that looks ahead would make the bound one of nothing."""
        if self.prior_network is not None:
            check_causal(
                "prior_network",
                lambda x: self._run(self.prior_network, x[0], False),
                steps[:1],
            )
        check_causal("predictor", lambda x: self._run(self.predictor, x, False), steps)

    def _heads(self):
        return self.likelihood.heads(self.frame_shape)

    def get_config(self):
        """The parts, serialised."""
        return {
            **super().get_config(),
            "n_past": self.n_past,
            "n_future": self.n_future,
        }

    # ----------------------------------------------------------------------------------
    # The objective

    @property
    def target_shape(self):
        """Shape of the predicted frames of an example, which the likelihood scores."""
        return (self._steps, *self.frame_shape)

    def targets(self, x):
        """The frames of `x` that the model predicts, as `prepare` gives them."""
        return self.prepare(x)[:, self._first :]

    def _pass(self, x, training, seed):
        return self._pass_by(x, training, training, seed)

    def _pass_by(self, x, network_training, statistics, seed):
        h, skips = self._encode_frames(x, network_training)
        with self._frames_as_batch(x):
            # (batch * time, ...) from here on
            latent = self._infer_steps(h, network_training, statistics, seed)
        z = ops.reshape(latent.sample, (-1, self._steps, self.latent_dim))
        parameters = self._decode_steps(h, skips, z, network_training)
        with self._frames_as_batch(x):
            targets = _folded(x[:, self._first :])
            nll = self.likelihood(targets, parameters, latent, training=statistics)
        return self._flat(latent), parameters, self._sum_steps(nll)

    def _take_in(self, x, seed):
        self._pass_by(x, False, True, seed)

    @contextlib.contextmanager
    def _frames_as_batch(self, x):
        """Makes the predicted frames the batch of batch statistics."""
        outer = kvv_ops.batch_of(x)
        weights = ops.repeat(outer.weights, self._steps)
        with kvv_ops.batch(weights, weights, outer.present) as inner:
            inner.added_losses = outer.added_losses  # which the objective sums
            yield

    def _encode_frames(self, x, training=False):
        """Features `(batch, time, features)`, and skips `(batch, time, ...)`."""
        time = x.shape[1]
        outputs = _listed(self._run(self.encoder, _folded(x), training))
        h, *skips = outputs
        h = ops.reshape(h, (-1, time, self._features))
        return h, [ops.reshape(s, (-1, time, *s.shape[1:])) for s in skips]

    def _before(self, h):
        """What a prediction starts from: the features of the frame before."""
        if self._first:
            return h[:, :-1]
        return ops.pad(h[:, :-1], [[0, 0], [1, 0], [0, 0]])

    def _infer_steps(self, h, network_training, statistics, seed):
        """The `Latent` of all steps, each an example; `seed` None takes the mean."""
        q = self._run(self.posterior_network, h, network_training)
        mean, variance = self.posterior(_folded(q[:, self._first :]))
        prior = self._prior_steps(
            self._before(h), mean, variance, network_training, statistics
        )
        sample = mean
        if seed is not None:
            sample = self.posterior.sample(mean, variance, seed=seed)
        return Latent(sample, mean, variance, *prior)

    def _prior_steps(self, before, mean, variance, training=False, statistics=False):
        if self.prior_network is None:
            return self.prior(mean, variance, training=statistics)
        prior = self.prior_head(
            _folded(self._run(self.prior_network, before, training))
        )
        kvv_ops.note_added_losses(self.prior_head)
        return prior

    def _decode_steps(self, h, skips, z, training=False):
        """The likelihood's parameters of all frames, each an example."""
        g = self._run(self.predictor, [self._before(h), z], training)
        # No prediction may see a later frame: of the frame before, then of the last.
        frames = np.minimum(np.arange(self._steps), max(self.n_past - 1, 0))
        skips = [_folded(ops.take(skip, frames, axis=1)) for skip in skips]
        return self._decode(_one([_folded(g), *skips]), training)

    def _sum_steps(self, values):
        return ops.sum(ops.reshape(values, (-1, self._steps)), axis=1)

    def _flat(self, latent):
        """The latents of all steps as those of one, over which KL sums."""
        size = self._steps * self.latent_dim

        def flat(t):
            # What all share has a leading 1, and a step is no example then.
            if t.shape[0] == 1:
                return ops.tile(t, (1, self._steps))
            return ops.reshape(t, (-1, size))

        return Latent(*map(flat, latent))

    def _diagnostics(self, x, latent, parameters, batch):
        parameters = {k: ops.stop_gradient(v) for k, v in parameters.items()}
        mean, variance = self.likelihood.diagnostics(parameters)
        error = _folded(x[:, self._first :]) - mean
        mse = self._sum_steps(kvv_ops.sum_event(ops.square(error)))
        variance = ops.mean(variance, axis=tuple(range(1, len(variance.shape))))
        means = {"variance": self._sum_steps(variance) / self._steps, "mse": mse}
        return {k: ops.reshape(batch.mean(v), ()) for k, v in means.items()}


def _folded(t):
    """Makes each step of `(batch, time, ...)` an example."""
    return ops.reshape(t, (-1, *t.shape[2:]))


def _listed(outputs):
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _one(inputs):
    """A network with one input takes no list."""
    return inputs if len(inputs) > 1 else inputs[0]
