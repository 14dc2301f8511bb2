"""A variational autoencoder of several layers of latent variables."""

import keras
from keras import ops

from . import ops as kvv_ops
from .checks import check_input
from .layered import ACTIVE, LayeredInference
from .posteriors import DiagonalGaussian, Posterior, SpatialGaussian
from .types import DrawnLatent, Latent
from .vae import VAE, check_parts

__all__ = ["HierarchicalVAE"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class HierarchicalVAE(LayeredInference, VAE):
    """A VAE with a stack of latent layers `z_1 ... z_L`, each a diagonal Gaussian.

        generation           p(z_L) prod_l p(z_l|z_{l+1}) p(x|z_1)
        bottom-up inference  q(z_1|x) prod_l q(z_{l+1}|z_l)
        top-down inference   q(z_L|x) prod_l q(z_l|z_{l+1}, x)

    P2, Section 5 and App. B, shows its decoders on the first kind with 15 layers and no
    skip connections. Top-down inference (Sonderby et al., 2016, Ladder variational
    autoencoders) shares the generative path: the posterior of a layer is made of the
    features from which its prior is made, and of those of `x`. All likelihoods,
    variance models, callbacks and ways of training are those of `VAE`, which this model
    is with one layer.

    The KL in the objective is the sum over the layers: of the divergence from
    `p(z_l|z_{l+1})` in closed form with top-down inference, and for the top layer. With
    bottom-up inference `z_{l+1}` depends on the draw of `z_l`, and the others' term is
    `log q(z_l|z_{l-1}) - log p(z_l|z_{l+1})` at the draw, which by itself may be
    negative. The logs hold them as `kl_1`, ..., `kl_L`, and in `active_layers` the
    number of those that are not within 0.1 nats of 0 (a mean over the batches), where
    the KL of a layer is that nothing uses.

    Latents are flat, `(batch, n)`, everywhere but where networks take them: those get
    them in the shape of their input, such as `(batch, 7, 7, 8)`.

    Args:
        encoders: `L` Keras models. The first takes `x`. With bottom-up inference the
            others take `z_1`, ..., `z_{L-1}`, and each gives the features of the next
            layer's posterior; with top-down inference each takes what the one before
            gave.
        decoders: `L` Keras models. The first takes `z_1` and gives the likelihood's
            parameters, as of `VAE`; the others take `z_2`, ..., `z_L`, and give the
            features of `p(z_l|z_{l+1})`.
        posteriors: `L` of `posteriors`, with heads on the encoders' features; for
            top-down inference on the decoders' and the encoders' features, side by side
            along the last axis, but for the top layer. None makes each a
            `SpatialGaussian(channels, link="bounded")` of the channels that its decoder
            takes (for a vector, of features that are a map, a `DiagonalGaussian`).
        likelihood: one of `likelihoods`.
        conditionals: `L - 1` of `posteriors` again, the `p(z_l|z_{l+1})` for
            l = 1, ..., L - 1. The default has those of the posteriors' configuration.
        prior: of the top layer, one of `priors`; the default is `StandardNormal()`.
        regularizers: a list of those that take several layers, that is `KL`; the
            default is `[KL()]`.
        inference: `"bottom_up"` or `"top_down"`.
        seed: as of `VAE`.
        name: name of the model.

    Raises:
        ValueError: where the parts do not fit together: it names the network and the
            shape. `fit` raises it as `VAE` does.

    Example:

    >>> import keras, numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), "float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
    >>> networks = kvv.backbones.hierarchical(
    ...     (8, 8, 1), likelihood, num_layers=2, channels=8, latent_channels=2
    ... )
    >>> vae = kvv.HierarchicalVAE(*networks, None, likelihood)
    >>> vae.latent_dims
    (32, 8)
    >>> vae.compile(keras.optimizers.Adam(1e-3))
    >>> history = vae.fit(x, epochs=1, verbose=0).history
    >>> sorted(history)[:4]
    ['active_layers', 'kl', 'kl_1', 'kl_2']
    >>> vae.generate(3, temperature=0.7, seed=0)["mean"].shape
    TensorShape([3, 8, 8, 1])
    """

    _PARTS = (
        "encoders",
        "decoders",
        "posteriors",
        "likelihood",
        "conditionals",
        "prior",
        "regularizers",
    )

    def __init__(
        self,
        encoders,
        decoders,
        posteriors,
        likelihood,
        conditionals=None,
        prior=None,
        regularizers=None,
        inference="bottom_up",
        seed=None,
        name=None,
    ):
        # Not VAE's: its networks are single ones.
        keras.Model.__init__(self, name=name, autocast=False)
        if inference not in ("bottom_up", "top_down"):
            raise ValueError(
                "`inference` must be bottom_up or top_down. "
                f"Received: inference={inference!r}"
            )
        self.inference = inference
        encoders, decoders = _list("encoders", encoders), _list("decoders", decoders)
        if not len(encoders) == len(decoders) > 0:
            raise ValueError(
                "`encoders` and `decoders` must have one network for each layer of "
                f"latents. Received: {len(encoders)} encoders, {len(decoders)} decoders"
            )
        if posteriors is None:
            pairs = zip(encoders, decoders, strict=True)
            posteriors = [_default(i, *pair) for i, pair in enumerate(pairs)]
        posteriors = _list("posteriors", posteriors)
        if conditionals is None:
            conditionals = [_copy(posterior) for posterior in posteriors[:-1]]
        conditionals = _list("conditionals", conditionals)
        expected = len(encoders), len(encoders) - 1
        if (len(posteriors), len(conditionals)) != expected:
            raise ValueError(
                f"`posteriors` must be {expected[0]} and `conditionals` {expected[1]}, "
                f"for {expected[0]} layers of latents. Received: {len(posteriors)} "
                f"posteriors, {len(conditionals)} conditionals"
            )
        check_parts(posteriors[0], likelihood, prior, regularizers, seed)
        for part in (*posteriors, *conditionals):
            _check_gaussian(part)
        self.encoders, self.decoders = encoders, decoders
        self.posteriors, self.conditionals = posteriors, conditionals
        self._complete(likelihood, prior, regularizers, seed)

    # ----------------------------------------------------------------------------------
    # Building

    @property
    def encoder(self):
        """The network that takes `x`."""
        return self.encoders[0]

    @property
    def decoder(self):
        """The network that gives the likelihood's parameters."""
        return self.decoders[0]

    @property
    def posterior(self):
        """The posterior of the top layer."""
        return self.posteriors[-1]

    @property
    def num_layers(self):
        """Number `L` of layers of latents."""
        return len(self.posteriors)

    @property
    def latent_dim(self):
        """Number of latent variables of the top layer, whose prior has no condition."""
        return self.posteriors[-1].latent_dim

    @property
    def latent_dims(self):
        """Numbers of latent variables of the layers, from `z_1` to `z_L`."""
        return tuple(posterior.latent_dim for posterior in self.posteriors)

    @property
    def latent_shapes(self):
        """Shapes in which networks take the layers, from `z_1` to `z_L`."""
        return tuple(posterior.event_shape for posterior in self.posteriors)

    def _posteriors(self):
        return (*self.posteriors, *self.conditionals)

    def _build_latents(self):
        for regularizer in self.regularizers:
            if not regularizer.layered and self.num_layers > 1:
                raise ValueError(
                    "`regularizers` must take several layers of latents, as KL does. "
                    f"Received: regularizers with {type(regularizer).__name__}"
                )
        shape, features = self.event_shape, []
        for i, encoder in enumerate(self.encoders):
            name = f"encoders[{i}]"
            what = f"what comes before it, {self.inference}"
            check_input(name, encoder, [shape], what)
            features.append(self._symbolic(encoder, name, shape))
            if self.inference == "bottom_up":
                kvv_ops.build_once(self.posteriors[i], features[i].shape)
                shape = self.posteriors[i].event_shape
            else:
                shape = tuple(features[i].shape[1:])
        if self.inference == "top_down":
            kvv_ops.build_once(self.posteriors[-1], features[-1].shape)
        for i in reversed(range(1, self.num_layers)):
            name, above = f"decoders[{i}]", self.posteriors[i].event_shape
            check_input(name, self.decoders[i], [above], f"z_{i + 1}")
            generated = self._symbolic(self.decoders[i], name, above)
            self._build_pair(i - 1, generated.shape, features[i - 1].shape)

    def _build_pair(self, i, generated, encoded):
        """Builds prior and posterior of a layer below the top, which must agree."""
        if self.inference == "top_down":
            if tuple(generated[:-1]) != tuple(encoded[:-1]):
                raise ValueError(
                    f"`decoders[{i + 1}]` and `encoders[{i}]` must give features that "
                    f"fit side by side, those of z_{i + 1}. Received: shapes "
                    f"{tuple(generated)} and {tuple(encoded)}"
                )
            both = (*generated[:-1], generated[-1] + encoded[-1])
            kvv_ops.build_once(self.posteriors[i], both)
        prior, posterior = self.conditionals[i], self.posteriors[i]
        kvv_ops.build_once(prior, generated)
        if prior.event_shape != posterior.event_shape:
            raise ValueError(
                f"`conditionals[{i}]` and `posteriors[{i}]` must be of the same z_"
                f"{i + 1}; the shape of a SpatialGaussian is that of the features. "
                f"Received: shapes {prior.event_shape} on `decoders[{i + 1}]`, "
                f"{posterior.event_shape} on `encoders[{i}]`"
            )

    def _check_decoder(self):
        shape = self.posteriors[0].event_shape
        check_input("decoders[0]", self.decoders[0], [shape], "z_1")
        latents = keras.KerasTensor((None, *shape))
        self._check_parameters(self._run(self.decoder, latents, False))

    # ----------------------------------------------------------------------------------
    # The objective

    def _pass(self, x, training, seed):
        return self._pass_by(x, training, training, seed)

    def _pass_by(self, x, network_training, statistics, seed):
        draw = self._drawing(seed)
        latents = self._infer_layers(x, draw, network_training, statistics)
        parameters = self._decode(latents[0].sample, network_training)
        nll = self._nll(x, parameters, latents, statistics)
        # Of one layer, regularizers may be any that VAE takes.
        return latents if self.num_layers > 1 else latents[0], parameters, nll

    def _take_in(self, x, seed):
        self._pass_by(x, False, True, seed)

    def _drawing(self, seed):
        """Draws of the layers from a seed; with one layer they are those of VAE."""
        seeds = [seed]
        if self.num_layers > 1:
            seeds = kvv_ops.split_seed(seed, self.num_layers)

        def draw(i, mean, variance):
            return self.posteriors[i].sample(mean, variance, seed=seeds[i])

        return draw

    def _nll(self, x, parameters, latents, training=False):
        # For a likelihood, the latents of all layers are those of one.
        latent = Latent.side_by_side(latents)
        return self.likelihood(x, parameters, latent, training=training)

    def _infer_layers(self, x, draw, training=False, statistics=False):
        """The `Latent`s of all layers; `draw` gives a sample of layer, mean, variance.

        The sample of a layer is the condition of the next one.
        """
        if self.inference == "top_down":
            return self._infer_down(x, draw, training, statistics)
        posteriors, below = [], x
        for i, encoder in enumerate(self.encoders):
            # q(z_{l+1}|z_l)
            moments = self._gaussian(
                self.posteriors[i], self._run(encoder, below, training)
            )
            z = draw(i, *moments)
            posteriors.append((z, *moments))
            below = self._shaped(z, i)
        latents = []
        for i, (z, *_) in enumerate(posteriors[1:]):
            # p(z_l|z_{l+1})
            generated = self._generated(i, z, training)
            prior = self._gaussian(self.conditionals[i], generated)
            latents.append(DrawnLatent(*posteriors[i], *prior))
        _, *moments = posteriors[-1]
        prior = self.prior(*moments, training=statistics)
        return (*latents, Latent(*posteriors[-1], *prior))

    def _infer_down(self, x, draw, training, statistics):
        features, below = [], x
        for encoder in self.encoders:
            below = self._run(encoder, below, training)
            features.append(below)
        # q(z_L|x)
        moments = self._gaussian(self.posteriors[-1], features[-1])
        prior = self.prior(*moments, training=statistics)
        latents = [Latent(draw(self.num_layers - 1, *moments), *moments, *prior)]
        for i in reversed(range(self.num_layers - 1)):
            # p(z_l|z_{l+1}) and q(z_l|z_{l+1}, x)
            generated = self._generated(i, latents[0].sample, training)
            prior = self._gaussian(self.conditionals[i], generated)
            both = ops.concatenate([generated, features[i]], axis=-1)
            moments = self._gaussian(self.posteriors[i], both)
            latents.insert(0, Latent(draw(i, *moments), *moments, *prior))
        return tuple(latents)

    def _generated(self, i, above, training=False):
        """Features of layer `i`, counted from 0, given a sample of the one above."""
        return self._run(self.decoders[i + 1], self._shaped(above, i + 1), training)

    def _gaussian(self, part, features):
        moments = part(features)
        kvv_ops.note_added_losses(part)
        return moments

    def _shaped(self, z, i):
        return ops.reshape(z, (-1, *self.posteriors[i].event_shape))

    def _decode(self, z, training=False):
        return super()._decode(self._shaped(z, 0), training)

    def _diagnostic_names(self):
        layers = [f"kl_{i + 1}" for i in range(self.num_layers)]
        return (*super()._diagnostic_names(), *layers, "active_layers")

    def _diagnostics(self, x, latent, parameters, batch):
        found = super()._diagnostics(x, latent, parameters, batch)
        layers = (latent,) if isinstance(latent, Latent) else latent
        means = [ops.reshape(batch.mean(layer.kl()), ()) for layer in layers]
        found |= {f"kl_{i + 1}": kl for i, kl in enumerate(means)}
        active = [ops.cast(ops.abs(kl) > ACTIVE, "float32") for kl in means]
        return found | {"active_layers": sum(active)}

    def get_config(self):
        """The parts, serialised."""
        return {**super().get_config(), "inference": self.inference}


def _list(name, parts):
    if not isinstance(parts, (list, tuple)):
        raise ValueError(
            f"`{name}` must be a list, with one for each layer of latents. "
            f"Received: {name}={parts}"
        )
    return list(parts)


def _default(i, encoder, decoder):
    """The posterior of layer `i`, counted from 0, for what its decoder takes."""
    shape = getattr(decoder, "input_shape", None)
    if not isinstance(shape, tuple) or None in shape[1:]:
        raise ValueError(
            "`posteriors` must be given unless each decoder is a Keras model with one "
            f"input of a known shape. Received: decoders[{i}].input_shape={shape}"
        )
    features = getattr(encoder, "output_shape", None)
    if len(shape) == 2 and features is None:
        raise ValueError(
            "`posteriors` must be given unless each encoder is a Keras model with one "
            f"output of a known shape. Received: encoders[{i}]={encoder}"
        )
    # Of a vector, of features that are a map.
    flattens = len(shape) == 2 and len(features) > 2
    kind = DiagonalGaussian if flattens else SpatialGaussian
    return kind(shape[-1], link="bounded")


def _copy(posterior):
    """A part of the same configuration, with weights and a name of its own."""
    config = posterior.get_config()
    config.pop("name", None)
    return type(posterior).from_config(config)


def _check_gaussian(part):
    if not isinstance(part, Posterior) or part.deterministic:
        raise ValueError(
            "`posteriors` and `conditionals` must be of keras_vae_variance.posteriors, "
            f"with a variance. Received: {part}"
        )
