"""What a trained model is used for: codes, images, the ELBO, exact averages."""

import keras
import numpy as np
from keras import ops

from . import data
from . import ops as kvv_ops
from .checks import check_integer
from .running import RunningAverage

__all__ = ["Inference"]

# Examples that these methods push through the networks at once.
CHUNK = 256


class Inference:
    """A mixin of `VAE`: its methods outside of training."""

    def call(self, x, training=False):
        """The reconstruction of `x`: see `reconstruct`."""
        latent = self._infer(self.prepare(x), training, False, None)
        return self._distribution(self._decode(latent.mean, training))

    def _distribution(self, parameters):
        mean, variance = self.likelihood.moments(parameters)
        return {"mean": mean, "variance": variance}

    def encode(self, x, sample=False, seed=None):
        """The posterior of `x`, and the prior beside it.

        Args:
            x: data, `(n, ...)`.
            sample: whether `.sample` is a draw; else it is the mean.
            seed: of the draw: an integer, a `SeedGenerator` or a tensor of shape (2,).
                The default draws from the model's own generator.

        Returns:
            A `types.Latent`, of arrays of shape `(n, L)`; `(1, L)` where all examples
            share.
        """
        latent = self._chunked(lambda part: self._infer(part, False, False, None), x)
        if sample:
            z = self.posterior.sample(
                latent.mean, latent.variance, seed=self._seed(seed)
            )
            latent = latent._replace(sample=z)
        return latent

    def encode_layers(self, x, sample=False, seed=None):
        """A tuple with what `encode` gives of each layer of latents; here of one."""
        return (self.encode(x, sample, seed),)

    def draw_layers(self, x, noise, latent=None):
        """A tuple with the `Latent` of each layer, at draws by the given noise.

            z = mean + stddev * noise

        Args:
            x: data as `prepare` gives them, `(n, ...)`.
            noise: standard normal draws, `(n, sum of latent_dims)`.
            latent: what `encode(x)` gave, where it is at hand; of several layers it is
                of no use, as all but the first depend on draws.
        """
        latent = self.encode(x) if latent is None else latent
        z = latent.mean + ops.sqrt(latent.variance) * noise
        return (latent._replace(sample=z),)

    def decode(self, z):
        """The likelihood's parameters at latents `z`, a dict by name.

        Args:
            z: latents, `(n, L)`.
        """
        z = ops.convert_to_tensor(z, dtype="float32")
        if len(z.shape) != 2 or z.shape[-1] != self.latent_dim:
            raise ValueError(
                f"`z` must have the shape (n, {self.latent_dim}). "
                f"Received: z.shape={tuple(z.shape)}"
            )
        return self._chunked(self._decode, z, prepare=False)

    def reconstruct(self, x):
        """Mean and variance of `p(x|z)` at the posterior mean; deterministic.

        Args:
            x: data, `(n, ...)`.

        Returns:
            A dict of `mean` and `variance`, of the shape of `x`. The variance is the
            model's uncertainty for each pixel, in squared units of `x`.
        """
        parameters = self.decode(self.encode(x).mean)
        return self._distribution(parameters)

    def generate(self, num_samples, sampler=None, noise=False, seed=None):
        """Images from latents that are drawn, or given.

        Images are means of `p(x|z)` unless `noise` asks for draws of it: the noise is
        what the model could not explain, independent from pixel to pixel, and a picture
        with it looks grainy rather than truer (P3, Section 3.2).

        Args:
            num_samples: how many, or latents `z` of shape `(n, L)`.
            sampler: one of `samplers`, fitted; the default is the prior.
            noise: whether to add `sample`, a draw of `p(x|z)`.
            seed: an integer, a `SeedGenerator` or a tensor of shape (2,); the default
                draws from the model's own generator.

        Returns:
            A dict of `mean`, `variance` and, with `noise`, `sample`, each
            `(n, ...)`.
        """
        latent_seed, noise_seed = kvv_ops.split_seed(self._seed(seed), 2)
        z = num_samples
        if len(np.shape(z)) == 0:
            if not keras.ops.is_tensor(num_samples):  # a tensor in a SavedModel
                check_integer("num_samples", num_samples)
            z = self._draw_latents(num_samples, sampler, latent_seed)
        parameters = self.decode(z)
        result = self._distribution(parameters)
        if noise:
            result["sample"] = self.likelihood.sample(parameters, seed=noise_seed)
        return result

    def _draw_latents(self, num_samples, sampler, seed, temperature=1.0):
        if sampler is not None:
            seed = ops.cast(seed % (2**31 - 1), "int32")
            return sampler.sample(num_samples, seed=seed)
        zeros = ops.zeros((1, self.latent_dim))
        mean, variance = self.prior(zeros, zeros + 1.0, training=False)
        shape = (num_samples, self.latent_dim)
        noise = temperature * kvv_ops.normal(shape, seed)
        return mean + ops.sqrt(variance) * noise

    def elbo(self, x, num_samples=1, seed=None):
        """The evidence lower bound of each example, whatever was trained.

            elbo = E_q(z|x) log p(x|z) - KL(q(z|x) || p(z))          (P0, Eq. 4)

        with the KL at weight 1 and in closed form, and the expectation by draws. Also
        for Iso-D and Diag-D their mean is taken outside of the logarithm of the
        variance, where P1's objectives (Eq. G.4 to G.17) have it inside.

        It takes data that fit in memory; of others, minus the ELBO is
        `metrics.anomaly_scores`.

        Args:
            x: data, `(n, ...)`.
            num_samples: draws of `z` for each example.
            seed: an integer, a `SeedGenerator` or a tensor of shape (2,); the default
                draws from the model's own generator.

        Returns:
            A dict of `elbo`, `reconstruction` (-log p(x|z)) and `kl`, each `(n,)`, in
            nats.

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
        latent = self.encode(x)
        shape = (num_samples, *latent.mean.shape)
        if shape[1] is None:
            shape = (num_samples, ops.shape(latent.mean)[0], self.latent_dim)
        noise = kvv_ops.normal(shape, self._seed(seed))

        def nll(part):
            x, mean, variance, *noise = part
            total = 0.0
            for draw in noise:
                z = mean + ops.sqrt(variance) * draw
                part_latent = latent._replace(sample=z, mean=mean, variance=variance)
                parameters = self._decode(z)
                total += self.likelihood(x, parameters, part_latent, training=False)
            return total / num_samples

        variance = ops.broadcast_to(latent.variance, ops.shape(latent.mean))
        parts = (x, latent.mean, variance, *(noise[i] for i in range(num_samples)))
        reconstruction = self._chunked(nll, parts, prepare=False)
        kl = kvv_ops.gaussian_kl(*latent[1:])
        return {
            "elbo": -(reconstruction + kl),
            "reconstruction": reconstruction,
            "kl": kl,
        }

    def log_terms(self, x, noise, latent=None):
        """The terms of importance weights, at draws `z` by the given noise.

            z = mean + stddev * noise:   -log p(x|z), log q(z|x), log p(z)

        Args:
            x: data as `prepare` gives them, `(n, ...)`.
            noise: standard normal draws, `(n, sum of latent_dims)`.
            latent: what `encode(x)` gave, where it is at hand.

        Returns:
            The three terms, each `(n,)`, in nats, and `z`. Those of several layers of
            latents are summed, but for `log p(z)`, that of the top one, which `z` is
            too; the priors of the others are in the first term.
        """
        (latent,) = self.draw_layers(x, noise, latent)
        z = latent.sample
        nll = self.likelihood(x, self.decode(z), latent, training=False)
        log_q = -0.5 * ops.sum(
            ops.square(noise) + ops.log(latent.variance) + kvv_ops.LOG_2_PI, axis=-1
        )
        log_p = kvv_ops.gaussian_log_prob(z, latent.prior_mean, latent.prior_variance)
        return nll, log_q, log_p, z

    def calibrate(self, x, batch_size=CHUNK):
        """Replaces the running averages by exact means over a data set.

        One pass, with one posterior draw an example from a fixed seed, and with the
        networks as in evaluation. Without running averages it does nothing.

        Args:
            x: data in any form that `fit` takes.
            batch_size: examples in a batch, for arrays.

        Returns:
            The model itself.
        """
        averages = [a for a in self._flatten_layers() if isinstance(a, RunningAverage)]
        check_integer("batch_size", batch_size)
        before = [(v, ops.copy(v)) for v in self._changed_by_forward()]
        replaced = set()
        generator = keras.random.SeedGenerator(0)

        def take_in(x, weights):
            x = self.prepare(x)
            with kvv_ops.batch(x, weights):
                self._take_in(x, generator)

        try:
            for average in averages:
                average.reset()
                average.exact = True
            empty = bool(averages)
            for part, weights in data.batches(x, batch_size) if averages else ():
                take_in(part, weights)
                empty = False
            if empty:
                raise ValueError(f"`x` must hold at least one example. Received: x={x}")
            for average in averages:
                # One that was not updated belongs to a stage that is over.
                if kvv_ops.concrete(average.weight) > 0:
                    average.settle()
                    replaced |= {id(v) for v in average.variables}
        finally:
            for average in averages:
                average.exact = False
            for variable, value in before:
                if id(variable) not in replaced:
                    variable.assign(value)
        return self

    def _take_in(self, x, seed):
        """Updates running averages alone by a batch, at one draw."""
        latent = self._infer(x, False, True, seed)
        parameters = self._decode(latent.sample)
        self.likelihood(x, parameters, latent, training=True)

    def _seed(self, seed):
        return self.seed_generator if seed is None else kvv_ops.as_seed(seed)

    def _chunked(self, function, inputs, prepare=True):
        """Applies `function` to parts of a bounded number of examples."""
        if prepare:
            inputs = self.prepare(inputs)
        first = inputs[0] if isinstance(inputs, tuple) else inputs
        if first.shape[0] is None or first.shape[0] <= CHUNK:
            return function(inputs)
        results = []
        for start in range(0, first.shape[0], CHUNK):
            part = keras.tree.map_structure(
                lambda t, start=start: t[start : start + CHUNK], inputs
            )
            results.append(function(part))
        return join(results)


def join(results):
    """One result of those for parts of the examples."""

    def joined(*parts):
        # What all examples share is the same in every part.
        shared = parts[0].shape[0] == 1 and len(parts[0].shape) == 2
        return parts[0] if shared else ops.concatenate(parts, axis=0)

    return keras.tree.map_structure(joined, *results)
