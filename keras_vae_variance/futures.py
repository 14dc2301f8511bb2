"""What a model of sequences is used for: codes, reconstructions, bounds, futures."""

import keras
import numpy as np
from keras import ops

from . import data
from . import ops as kvv_ops
from .checks import check_integer
from .inference import CHUNK, join
from .types import Latent

__all__ = ["Futures"]


class Futures:
    """A mixin of `SequenceVAE`: its methods outside of training.

    What they return is of the predicted frames alone: all but the first, or all where
    `n_past` is 0. `targets(x)` are the frames to compare them with.
    """

    def call(self, x, training=False):
        """The reconstruction of `x`: see `reconstruct`."""
        return self._reconstruct(self.prepare(x), training)

    def reconstruct(self, x):
        """Mean and variance of each predicted frame, given the true ones before it.

        Args:
            x: sequences, `(n, n_past + n_future, ...)`.

        Returns:
            A dict of `mean` and `variance`, at the posterior means, of the shape of
            `targets(x)`.
        """
        return self._in_parts(self._reconstruct, self.prepare(x))

    def _reconstruct(self, x, training=False):
        h, skips = self._encode_frames(x, training)
        latent = self._infer_steps(h, training, False, None)
        z = ops.reshape(latent.mean, (-1, self._steps, self.latent_dim))
        parameters = self._decode_steps(h, skips, z, training)
        moments = self._distribution(parameters)
        return {k: self._unfolded(v, self._steps) for k, v in moments.items()}

    def _unfolded(self, t, steps):
        return ops.reshape(t, (-1, steps, *t.shape[1:]))

    def _infer(self, x, network_training, statistics, seed):
        h, _ = self._encode_frames(x, network_training)
        with self._frames_as_batch(x):
            latent = self._infer_steps(h, network_training, statistics, seed)

        def unfolded(t):
            shared = t.shape[0] == 1 != latent.mean.shape[0]
            return t if shared else self._unfolded(t, self._steps)

        return Latent(*map(unfolded, latent))

    def encode(self, x, sample=False, seed=None):
        """The posteriors of the predicted frames, and their priors beside them.

        Args:
            x: sequences, `(n, n_past + n_future, ...)`.
            sample: whether `.sample` is a draw; else it is the mean.
            seed: of the draw, as of `VAE.encode`.

        Returns:
            A `types.Latent`, of arrays of shape `(n, time, L)`; `(1, L)` where all
            examples and frames share.
        """
        latent = self._in_parts(
            lambda part: self._infer(part, False, False, None), self.prepare(x)
        )
        if sample:
            z = self.posterior.sample(
                latent.mean, latent.variance, seed=self._seed(seed)
            )
            latent = latent._replace(sample=z)
        return latent

    def decode(self, z):
        """Raises: no latents alone have a frame."""
        raise ValueError(
            "A sequence model has no p(x|z) without the frames before: use "
            "`reconstruct`, `predict_frames` or `elbo`. Samplers and most metrics, "
            f"which decode, do not apply. Received: z of type {type(z).__name__}"
        )

    def elbo(self, x, num_samples=1, seed=None):
        """The evidence lower bound of each sequence, summed over predicted frames.

            elbo = sum over t of E_q log p(x_t|x_1..t-1, z_1..t) - KL(q(z_t) || p(z_t))

        with the KL at weight 1 and in closed form, and the expectation by draws.

        Args:
            x: sequences, `(n, n_past + n_future, ...)`.
            num_samples: draws of the latents for each sequence.
            seed: as of `VAE.elbo`.

        Returns:
            A dict of `elbo`, `reconstruction` and `kl`, each `(n,)`, in nats.

        Raises:
            ValueError: with a deterministic posterior, which has no ELBO.
        """
        if self.posterior.deterministic:
            raise ValueError(
                "A model with a deterministic posterior has no ELBO: its KL divergence "
                f"is infinite. Received: posterior={self.posterior}"
            )
        check_integer("num_samples", num_samples)
        x = self.prepare(x)
        shape = (ops.shape(x)[0], num_samples, self._steps, self.latent_dim)
        noise = kvv_ops.normal(shape, self._seed(seed))
        return self._in_parts(self._bound, (x, noise))

    def _bound(self, part):
        x, noise = part
        h, skips = self._encode_frames(x)
        latent = self._infer_steps(h, False, False, None)
        targets = ops.reshape(x[:, self._first :], (-1, *self.frame_shape))
        total, draws = 0.0, noise.shape[1]
        for i in range(draws):
            flat = ops.reshape(noise[:, i], (-1, self.latent_dim))
            drawn = latent.mean + ops.sqrt(latent.variance) * flat
            z = ops.reshape(drawn, (-1, self._steps, self.latent_dim))
            parameters = self._decode_steps(h, skips, z)
            total += self.likelihood(
                targets, parameters, latent._replace(sample=drawn), training=False
            )
        nll = self._sum_steps(total / draws)
        kl = self._sum_steps(kvv_ops.gaussian_kl(*latent[1:]))
        return {"elbo": -(nll + kl), "reconstruction": nll, "kl": kl}

    # ----------------------------------------------------------------------------------
    # Futures

    def generate(self, num_samples, sampler=None, noise=False, seed=None):
        """Sequences from nothing, where `n_past` is 0; see `predict_frames`.

        Args:
            num_samples: how many.
            sampler: None, for no sampler knows the frames before.
            noise: as of `predict_frames`.
            seed: as of `predict_frames`.

        Returns:
            A dict of `mean`, `variance` and, with `noise`, `sample`, each
            `(n, n_future, ...)`.
        """
        if self.n_past or sampler is not None:
            raise ValueError(
                "A sequence model continues frames: use `predict_frames(x)`; only with "
                "n_past=0 does it generate from nothing, and by its own prior. "
                f"Received: n_past={self.n_past}, sampler={sampler}"
            )
        if not ops.is_tensor(num_samples):  # a tensor in a SavedModel
            check_integer("num_samples", num_samples)
        start = self._begin(ops.zeros((num_samples, 0, *self.frame_shape)))
        return self._roll_all(start, 1, self.n_future, noise, seed)

    def predict_frames(self, x, n_future=None, num_samples=1, noise=False, seed=None):
        """Draws futures of the conditioning frames.

        Latents of the conditioning frames are drawn from the posterior, those of the
        future from the prior. What the model predicted is what it goes on from: the
        means, as in SVG, or with `noise` draws of `p(x_t|...)`, which make the futures
        draws of the model itself.

        Args:
            x: sequences, `(n, time, ...)`, of which the first `n_past` frames are
                taken.
            n_future: number of frames, of any length; the default is the model's.
            num_samples: futures of each sequence.
            noise: whether to go on from draws, and to add them as `sample`.
            seed: an integer, a `SeedGenerator` or a tensor of shape (2,); the default
                draws from the model's own generator.

        Returns:
            A dict of `mean`, `variance` and, with `noise`, `sample`, each
            `(num_samples, n, n_future, ...)`.

        Raises:
            ValueError: for fewer frames than `n_past`, or numbers below 1.
        """
        n_future = self.n_future if n_future is None else n_future
        check_integer("n_future", n_future)
        check_integer("num_samples", num_samples)
        if not self.n_past:
            raise ValueError(
                "`predict_frames` needs conditioning frames: use `generate`. "
                "Received: n_past=0"
            )
        x = self._past(x)
        start = self._in_parts(self._begin, x)
        result = self._roll_all(start, num_samples, n_future, noise, seed)

        def by_sample(t):
            return ops.swapaxes(ops.reshape(t, (-1, num_samples, *t.shape[1:])), 0, 1)

        return {k: by_sample(v) for k, v in result.items()}

    def _past(self, x):
        """The conditioning frames, checked and scaled."""
        if not data.is_array(x):
            x = np.asarray(x)
        rank = len(self.event_shape) + 1
        if len(x.shape) == rank and (x.shape[1] or 0) >= self.n_past:
            x = x[:, : self.n_past]
        shape = (self.n_past, *self.frame_shape)
        return self._prepared(x, shape, f"n_past={self.n_past} frames, or more")

    def _begin(self, past):
        """What futures of prepared frames start from.

        Features `(n, time, features)`, skips `(n, 1, ...)`, and mean and standard
        deviation of the latents of all frames but the first, `(n, known, L)`.
        """
        n, known = ops.shape(past)[0], max(self.n_past - 1, 0)
        none = ops.zeros((n, known, self.latent_dim))
        if not self.n_past:
            return ops.zeros((n, 1, self._features)), [], none, none
        h, skips = self._encode_frames(past)
        skips = [skip[:, -1:] for skip in skips]
        if not known:
            return h, skips, none, none
        q = self._run(self.posterior_network, h, False)[:, 1:]
        mean, variance = self.posterior(ops.reshape(q, (-1, *q.shape[2:])))
        stddev = ops.sqrt(ops.broadcast_to(variance, ops.shape(mean)))
        shape = (-1, known, self.latent_dim)
        return h, skips, ops.reshape(mean, shape), ops.reshape(stddev, shape)

    def _roll_all(self, start, repeats, n_future, noise, seed):
        """`repeats` futures of each start, one after another, in parts of `CHUNK`."""
        size, known = start[0].shape[0], start[2].shape[1]
        number = ops.shape(start[0])[0] * repeats
        latent_seed, noise_seed = kvv_ops.split_seed(self._seed(seed), 2)
        # Of all at once: what is drawn does not depend on the parts.
        shape = (number, known + n_future, self.latent_dim)
        draws = kvv_ops.normal(shape, latent_seed)
        rows = ops.repeat(ops.arange(ops.shape(start[0])[0]), repeats)
        cuts = [slice(None)]
        if size and size * repeats > CHUNK:
            cuts = [slice(i, i + CHUNK) for i in range(0, size * repeats, CHUNK)]
        seeds = kvv_ops.split_seed(noise_seed, len(cuts))
        results = []
        for cut, cut_seed in zip(cuts, seeds, strict=True):
            taken = keras.tree.map_structure(
                lambda t, cut=cut: ops.take(t, rows[cut], axis=0), start
            )
            results.append(self._roll(taken, draws[cut], noise, cut_seed))
        return join(results)

    def _roll(self, start, draws, noise, seed):
        """One future of each start, with its draws of the latents."""
        before, skips, mean, stddev = start
        known = mean.shape[1]
        n_future = draws.shape[1] - known
        seeds = kvv_ops.split_seed(seed, n_future)
        skips = [skip[:, 0] for skip in skips]
        z = mean + stddev * draws[:, :known]
        frames = []
        for i in range(n_future):
            prior_mean, prior_variance = self._prior_next(before)
            draw = draws[:, known + i]
            z_next = prior_mean + ops.sqrt(prior_variance) * draw
            z = ops.concatenate([z, z_next[:, None]], axis=1)
            g = self._run(self.predictor, [before, z], False)[:, -1]
            parameters = self._decode([g, *skips] if skips else g)
            frame = self._distribution(parameters)
            following = frame["mean"]
            if noise:
                following = self.likelihood.sample(parameters, seed=seeds[i])
                frame["sample"] = following
            frames.append(frame)
            if i + 1 < n_future:
                h_next, _ = self._encode_frames(following[:, None])
                h_next = ops.cast(h_next, before.dtype)
                before = ops.concatenate([before, h_next], axis=1)
        return {k: ops.stack([f[k] for f in frames], axis=1) for k in frames[0]}

    def _prior_next(self, before):
        """Prior of the latents that follow, `(n, L)` or `(1, L)`."""
        if self.prior_network is None:
            zeros = ops.zeros((1, self.latent_dim))
            return self.prior(zeros, zeros + 1.0, training=False)
        features = self._run(self.prior_network, before, False)
        return self.prior_head(features[:, -1])

    def _in_parts(self, function, inputs):
        """Applies `function` to parts of a bounded number of frames."""
        first = inputs[0] if isinstance(inputs, tuple) else inputs
        size, part = first.shape[0], max(CHUNK // self.event_shape[0], 1)
        if size is None or size <= part:
            return function(inputs)
        results = []
        for start in range(0, size, part):
            cut = slice(start, start + part)
            one = isinstance(inputs, tuple)
            chunk = tuple(t[cut] for t in inputs) if one else inputs[cut]
            results.append(function(chunk))
        return join(results)

    # ----------------------------------------------------------------------------------
    # Export

    def export(self, filepath, format="tf_saved_model", verbose=None):
        """Writes endpoints for serving without this package.

            predict_frames(x, seed) -> mean, variance    x: the conditioning frames
            generate(num_samples, seed) -> mean, variance    instead, where n_past=0
            reconstruct(x) -> mean, variance             x: whole sequences
            encode(x) -> mean, variance
            elbo(x, seed) -> elbo, reconstruction, kl

        The first, of one future of the model's own `n_future`, is `serve` too. `elbo`
        is missing where the posterior is deterministic.

        Args:
            filepath: the folder to write.
            format: `"tf_saved_model"`.
            verbose: whether to print what was written.

        Raises:
            RuntimeError: on another backend of Keras than TensorFlow.
            ValueError: for another format.
        """
        from .export import sequence_model

        if format != "tf_saved_model":
            raise ValueError(
                "A sequence model is exported as a SavedModel alone. "
                f"Received: format={format!r}"
            )
        return sequence_model(self, filepath, verbose)
