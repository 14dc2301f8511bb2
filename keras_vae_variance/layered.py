"""What a model of several layers of latents is used for."""

import math
import numbers
from typing import NamedTuple

import numpy as np
from keras import ops

from . import ops as kvv_ops
from .checks import check_integer
from .inference import CHUNK, join

__all__ = ["ActiveLayers", "LayeredInference"]

# Mean KL of a layer, in nats, within which of 0 it does not count as active.
ACTIVE = 0.1


class ActiveLayers(NamedTuple):
    """What `HierarchicalVAE.active_layers` finds.

    Attributes:
        count: number of active layers.
        kl: mean over the data of each layer's KL, `(L,)`, in nats.
    """

    count: int
    kl: np.ndarray


class LayeredInference:
    """A mixin of `HierarchicalVAE`: its methods outside of training."""

    def call(self, x, training=False):
        """The reconstruction of `x`: see `reconstruct`."""
        return self._reconstruct(self.prepare(x), training)

    def encode(self, x, sample=False, seed=None, depth=None):
        """The posterior of one layer for `x`, and its prior beside it.

        Args:
            x: data, `(n, ...)`.
            sample: whether `.sample` is a draw, and the other layers are at draws. Else
                it is the mean, and they are at their means.
            seed: of the draws, as of `VAE.encode`.
            depth: the layer, from 1 to `L`.

        Returns:
            A `types.Latent` of flat arrays `(n, L_depth)`; `(1, L_depth)` where all
            examples share. Its prior is `p(z_l|z_{l+1})`.

        Raises:
            ValueError: without a `depth`, where there are several layers.
        """
        if depth is None and self.num_layers > 1:
            raise ValueError(
                "Each layer of latents has a posterior of its own, given another one, "
                "and there is no one Gaussian q(z|x), on which samplers and most "
                "metrics rely: of `encode`, `depth` must be given. "
                f"Received: depth=None of a model with {self.num_layers} layers"
            )
        if self.num_layers == 1:
            self._check_depth(1 if depth is None else depth)
            return super().encode(x, sample, seed)
        self._check_depth(depth)
        return self._encoded(x, sample, seed, lambda layers: layers[depth - 1])

    def encode_layers(self, x, sample=False, seed=None):
        """A tuple with what `encode` gives of each layer, from `z_1` to `z_L`."""
        if self.num_layers == 1:
            return super().encode_layers(x, sample, seed)
        return self._encoded(x, sample, seed, lambda layers: layers)

    def draw_layers(self, x, noise, latent=None):
        """A tuple with the `Latent` of each layer; see `VAE.draw_layers`."""
        if self.num_layers == 1:
            return super().draw_layers(x, noise, latent)
        parts = self._split(noise)
        return self._infer_layers(
            x, lambda i, mean, variance: mean + ops.sqrt(variance) * parts[i]
        )

    def _split(self, noise):
        """The noise of each layer."""
        ends = np.cumsum(self.latent_dims)
        sizes = zip(ends, self.latent_dims, strict=True)
        return [noise[:, end - size : end] for end, size in sizes]

    def _encoded(self, x, sample, seed, pick):
        if sample:
            return self._seeded(
                lambda x, seed: pick(self._infer_layers(x, self._drawing(seed))),
                self.prepare(x),
                seed,
            )
        return self._chunked(lambda x: pick(self._infer_layers(x, _mean)), x)

    def decode(self, z, depth=1):
        """The likelihood's parameters at latents `z` of one layer, a dict by name.

        Args:
            z: latents of this layer, `(n, L_depth)` or in the shape that networks take.
            depth: the layer, from 1 to `L`. Below it, latents are at the means of
                `p(z_l|z_{l+1})`.
        """
        self._check_depth(depth)
        z = self._flat(z, depth)
        return self._chunked(
            lambda z: self._decode(self._descend(z, depth, _mean)), z, prepare=False
        )

    def reconstruct(self, x):
        """Mean and variance of `p(x|z_1)`, all layers at the posterior mean.

        Args:
            x: data, `(n, ...)`.

        Returns:
            A dict of `mean` and `variance`, as of `VAE.reconstruct`.
        """
        return self._chunked(self._reconstruct, x)

    def _reconstruct(self, x, training=False):
        if self.inference == "bottom_up":
            features = self._run(self.encoders[0], x, training)
            z, _ = self._gaussian(self.posteriors[0], features)
        else:
            z = self._infer_layers(x, _mean, training)[0].mean
        return self._distribution(self._decode(z, training))

    def generate(
        self, num_samples, sampler=None, noise=False, seed=None, temperature=1.0
    ):
        """Images from latents that are drawn layer by layer, from the top.

            z_l = mean + temperature_l * stddev * noise     of p(z_l|z_{l+1})

        Args:
            num_samples: how many, or latents of the top layer, `(n, L)` or in the shape
                that networks take.
            sampler: of the top layer's latents; the default is the prior.
            noise: whether to add `sample`, a draw of `p(x|z_1)`.
            seed: as of `VAE.generate`.
            temperature: a number of at least 0, or one for each layer, from `z_1` to
                `z_L`. It has no effect on a top layer that is given, or of a sampler.

        Returns:
            A dict as of `VAE.generate`.
        """
        temperatures = self._temperatures(temperature)
        latent_seed, noise_seed = kvv_ops.split_seed(self._seed(seed), 2)
        lower_seed = None
        if self.num_layers > 1:
            latent_seed, lower_seed = kvv_ops.split_seed(latent_seed, 2)
        z = num_samples
        if len(np.shape(z)) == 0:
            if not ops.is_tensor(num_samples):  # a tensor in a SavedModel
                check_integer("num_samples", num_samples)
            z = self._draw_latents(num_samples, sampler, latent_seed, temperatures[-1])
        z = self._flat(z, self.num_layers)

        def decode(z, seed):
            def draw(i, mean, variance):
                noise = kvv_ops.normal(ops.shape(mean), seeds[i])
                return mean + temperatures[i] * ops.sqrt(variance) * noise

            seeds = kvv_ops.split_seed(seed, self.num_layers - 1)
            return self._decode(self._descend(z, self.num_layers, draw))

        if self.num_layers == 1:
            parameters = self._chunked(self._decode, z, prepare=False)
        else:
            parameters = self._seeded(decode, z, lower_seed)
        result = self._distribution(parameters)
        if noise:
            result["sample"] = self.likelihood.sample(parameters, seed=noise_seed)
        return result

    def elbo(self, x, num_samples=1, seed=None):
        """The evidence lower bound of each example, with the KL at weight 1.

            elbo = E_q [ log p(x|z_1) - sum_l KL_l ]

        with the layers' KL as in training, and the expectation by draws of all layers.

        Args:
            x: data, `(n, ...)`.
            num_samples: draws of all layers for each example.
            seed: as of `VAE.elbo`.

        Returns:
            A dict of `elbo`, `reconstruction` (-log p(x|z_1)) and `kl`, each `(n,)`, in
            nats.
        """
        if self.num_layers == 1:
            return super().elbo(x, num_samples, seed)
        reconstruction, layers = self._terms(x, num_samples, seed)
        kl = ops.sum(layers, axis=-1)
        return {
            "elbo": -(reconstruction + kl),
            "reconstruction": reconstruction,
            "kl": kl,
        }

    def layer_kl(self, x, num_samples=1, seed=None):
        """The KL of each layer for each example: arguments are those of `elbo`.

        Returns:
            A tensor `(n, L)`, in nats, whose sum over the layers is the `kl` of `elbo`.
        """
        if self.num_layers == 1:
            return ops.expand_dims(self.elbo(x, num_samples, seed)["kl"], -1)
        return self._terms(x, num_samples, seed)[1]

    def active_layers(self, x, threshold=ACTIVE, num_samples=1, seed=None):
        """The layers that the model makes use of.

            | mean over x of KL_l | > threshold

        A layer on which nothing depends, at and above which the posterior is the prior,
        has a KL of 0. (`metrics.active_units` is about the dimensions of one layer.)

        Args:
            x: data, `(n, ...)`.
            threshold: in nats.
            num_samples: draws of all layers for each example.
            seed: as of `elbo`.

        Returns:
            An `ActiveLayers`: the `count`, and the mean `kl` of all layers.
        """
        if not (isinstance(threshold, numbers.Real) and 0 <= threshold < math.inf):
            raise ValueError(
                "`threshold` must be a finite number of at least 0. "
                f"Received: threshold={threshold!r}"
            )
        kl = ops.convert_to_numpy(self.layer_kl(x, num_samples, seed))
        kl = kl.astype("float64").mean(axis=0)
        return ActiveLayers(int(np.sum(np.abs(kl) > threshold)), kl)

    def log_terms(self, x, noise, latent=None):
        """The terms of importance weights through all layers; see `VAE.log_terms`."""
        if self.num_layers == 1:
            return super().log_terms(x, noise, latent)
        latents = self.draw_layers(x, noise)
        nll = self._nll(x, self._decode(latents[0].sample), latents)
        log_q = log_p = 0.0
        for layer, part in zip(latents, self._split(noise), strict=True):
            nll, log_q = (
                nll - log_p,
                log_q
                - 0.5
                * ops.sum(
                    ops.square(part) + ops.log(layer.variance) + kvv_ops.LOG_2_PI,
                    axis=-1,
                ),
            )
            log_p = kvv_ops.gaussian_log_prob(
                layer.sample, layer.prior_mean, layer.prior_variance
            )
        return nll, log_q, log_p, latents[-1].sample

    # ----------------------------------------------------------------------------------

    def _terms(self, x, num_samples, seed):
        """-log p(x|z_1) `(n,)`, and the layers' KL `(n, L)`: means over draws."""
        check_integer("num_samples", num_samples)

        def terms(x, seed):
            nll = kl = 0.0
            for seed_of_draw in kvv_ops.split_seed(seed, num_samples):
                latents = self._infer_layers(x, self._drawing(seed_of_draw))
                nll += self._nll(x, self._decode(latents[0].sample), latents)
                kl += ops.stack([layer.kl() for layer in latents], axis=-1)
            return nll / num_samples, kl / num_samples

        return self._seeded(terms, self.prepare(x), seed)

    def _seeded(self, function, inputs, seed):
        """`function` of parts of a bounded number of examples, and a seed for each."""
        size = inputs.shape[0]
        starts = range(0, size or 1, CHUNK)
        seeds = kvv_ops.split_seed(self._seed(seed), len(starts))
        if size is None or size <= CHUNK:
            return function(inputs, seeds[0])
        parts = [inputs[start : start + CHUNK] for start in starts]
        return join([function(*pair) for pair in zip(parts, seeds, strict=True)])

    def _descend(self, z, depth, draw):
        """From latents of a layer to those of the lowest."""
        for i in reversed(range(depth - 1)):
            moments = self._gaussian(self.conditionals[i], self._generated(i, z))
            z = draw(i, *moments)
        return z

    def _flat(self, z, depth):
        z = ops.convert_to_tensor(z, dtype="float32")
        flat = (self.latent_dims[depth - 1],)
        shaped = self.latent_shapes[depth - 1]
        if tuple(z.shape[1:]) not in (flat, shaped):
            known = dict.fromkeys((flat, shaped))
            shapes = " or ".join(f"(n, {', '.join(map(str, s))})" for s in known)
            raise ValueError(
                f"`z` must have the shape {shapes}, that of z_{depth}. "
                f"Received: z.shape={tuple(z.shape)}"
            )
        return ops.reshape(z, (-1, *flat))

    def _check_depth(self, depth):
        integer = isinstance(depth, (int, np.integer)) and not isinstance(depth, bool)
        if not integer or not 1 <= depth <= self.num_layers:
            raise ValueError(
                f"`depth` must be an integer from 1 to {self.num_layers}, the number "
                f"of layers. Received: depth={depth!r}"
            )

    def _temperatures(self, temperature):
        given = np.asarray(temperature, "float32")
        shapes = ((), (self.num_layers,))
        if given.shape not in shapes or not (np.isfinite(given) & (given >= 0)).all():
            raise ValueError(
                "`temperature` must be a finite number of at least 0, or "
                f"{self.num_layers} of them, one for each layer. "
                f"Received: temperature={temperature}"
            )
        return np.broadcast_to(given, (self.num_layers,)).tolist()


def _mean(i, mean, variance):
    return mean
