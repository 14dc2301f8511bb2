"""The variational autoencoder: networks, posterior, prior, likelihood, regularizers."""

import random

import keras
import numpy as np
from keras import ops

from . import data
from . import ops as kvv_ops
from .fitting import Fitting
from .inference import Inference
from .likelihoods import Likelihood
from .posteriors import Posterior
from .priors import Prior, StandardNormal
from .regularizers import KL, Regularizer
from .saving import Saving
from .steps import GlobalMean, NonFiniteLossError, Steps
from .types import Latent

__all__ = ["VAE", "NonFiniteLossError"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class VAE(Fitting, Inference, Saving, Steps, keras.Model):
    """A variational autoencoder, composed of orthogonal parts.

        loss = mean over the batch of -log p(x|z) + sum of weight * term,   z ~ q(z|x)

    With the default regularizer, the KL at weight 1, the loss is the negative ELBO (P0,
    Eq. 5) in nats, constants included. Compile it with an optimizer alone. `fit` takes
    arrays, `tf.data` and `PyDataset`, of images alone, `(x,)`, `(x, y)` or
    `(x, y, sample_weight)`; labels are ignored. uint8 images are divided by 255 on the
    device. `predict`, and calling the model, are `reconstruct`.

    The logs hold `loss`, `reconstruction` (-log p(x|z)), each regularizer's term
    without its weight, and two diagnostics at the sampled `z`: `variance`, the mean of
    the variance that the model has without `x`, and `mse`, the squared error summed
    over the event.

    Args:
        encoder: Keras model from `x` to a tensor of features.
        decoder: Keras model from latents to the likelihood's parameters, a dict by
            name; a single tensor stands for the only head of a likelihood.
        posterior: one of `posteriors`, which owns the dense heads on the features.
        likelihood: one of `likelihoods`.
        prior: one of `priors`; the default is `StandardNormal()`.
        regularizers: a list of `regularizers`; the default is `[KL()]`.
        seed: integer behind the posterior draws and the order of the data. The default
            draws one, from Python's generator.
        name: name of the model.

    Raises:
        ValueError: where the parts do not fit together; `fit` raises it for data that
            do not fit the model, and `NonFiniteLossError` where the loss becomes NaN or
            infinite, with the model as it was before that step.

    Example:

    >>> import keras, numpy as np
    >>> import keras_vae_variance as kvv
    >>> x = np.random.default_rng(0).random((64, 8, 8, 1), "float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.MaximumLikelihood())
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> posterior = kvv.posteriors.DiagonalGaussian(2)
    >>> vae = kvv.VAE(encoder, decoder, posterior, likelihood)
    >>> vae.compile(keras.optimizers.Adam(1e-3))
    >>> history = vae.fit(x, epochs=2, verbose=0)
    >>> sorted(history.history)
    ['kl', 'loss', 'mse', 'reconstruction', 'variance']
    >>> vae.generate(3, seed=0)["mean"].shape
    TensorShape([3, 8, 8, 1])
    """

    def __init__(
        self,
        encoder,
        decoder,
        posterior,
        likelihood,
        prior=None,
        regularizers=None,
        seed=None,
        name=None,
    ):
        # x must reach the likelihood as it is: no casting at __call__.
        super().__init__(name=name, autocast=False)
        check_parts(posterior, likelihood, prior, regularizers, seed)
        self.encoder = encoder
        self.decoder = decoder
        self.posterior = posterior
        self._complete(likelihood, prior, regularizers, seed)

    def _complete(self, likelihood, prior, regularizers, seed):
        """The rest of the constructor, once the networks are there."""
        self.likelihood = likelihood
        self.prior = StandardNormal() if prior is None else prior
        self.regularizers = [KL()] if regularizers is None else list(regularizers)
        self.seed = random.randrange(2**31) if seed is None else int(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self._build_parts()
        self._averages = [
            GlobalMean(name)
            for name in ("loss", *self._term_names, *self._diagnostic_names())
        ]
        self._make_flag()
        self.built = True

    # ----------------------------------------------------------------------------------
    # Building

    def _build_parts(self):
        """Builds everything from the encoder's input shape, and checks that it fits."""
        shape = getattr(self.encoder, "input_shape", None)
        if not isinstance(shape, tuple) or None in shape[1:]:
            raise ValueError(
                "`encoder` must be a Keras model with one input of a known shape, such "
                f"as a functional model. Received: encoder.input_shape={shape}"
            )
        self.event_shape = shape[1:]
        self._build_latents()
        kvv_ops.build_once(self.prior, (None, self.latent_dim))
        kvv_ops.build_once(self.likelihood, (None, *self.event_shape))
        self._check_decoder()
        for regularizer in self.regularizers:
            kvv_ops.build_once(regularizer, (None, *self.event_shape))
        for part in (self.likelihood, *self.regularizers):
            for posterior in self._posteriors():
                part.check(posterior, self.prior)
        terms = [regularizer.term for regularizer in self.regularizers]
        if len(set(terms)) < len(terms):
            raise ValueError(
                "`regularizers` must be of different kinds. "
                f"Received: terms {', '.join(terms)}"
            )
        self._term_names = ("reconstruction", *terms)
        self._convolves = any(hasattr(p, "kernel_size") for p in self._flatten_layers())

    def _build_latents(self):
        """Builds what is between x and z."""
        features = self._symbolic(self.encoder, "encoder", self.event_shape)
        kvv_ops.build_once(self.posterior, features.shape)

    def _posteriors(self):
        return (self.posterior,)

    def _symbolic(self, network, name, shape):
        """What a network gives of inputs of a shape: one symbolic tensor."""
        features = self._run(network, keras.KerasTensor((None, *shape)), False)
        if not isinstance(features, keras.KerasTensor):
            raise ValueError(
                f"`{name}` must give one tensor of features; mean and variance are "
                f"heads of the posterior. Received: {type(features).__name__}"
            )
        return features

    def _check_decoder(self):
        shape = getattr(self.decoder, "input_shape", None)
        if isinstance(shape, tuple) and shape[1:] != (self.latent_dim,):
            raise ValueError(
                f"`decoder` must take latents of shape (None, {self.latent_dim}), the "
                f"posterior's. Received: decoder.input_shape={shape}"
            )
        latents = keras.KerasTensor((None, self.latent_dim))
        self._check_parameters(self._run(self.decoder, latents, False))

    def _check_parameters(self, outputs):
        """Raises where the decoder's outputs are not the likelihood's parameters."""
        parameters = self._named(outputs)
        for name, head in self._heads().items():
            if parameters[name].shape[1:] != tuple(head.shape):
                raise ValueError(
                    f"`decoder` must give `{name}` of shape (None, "
                    f"{', '.join(map(str, head.shape))}). "
                    f"Received: {name}.shape={parameters[name].shape}"
                )

    def _heads(self):
        return self.likelihood.heads(self.event_shape)

    def _named(self, outputs):
        """The decoder's outputs as a dict by head."""
        heads = self._heads()
        if not isinstance(outputs, dict):
            if len(heads) > 1 or isinstance(outputs, (list, tuple)):
                raise ValueError(
                    "`decoder` must give a dict of the likelihood's parameters "
                    f"{', '.join(heads)}. Received: {type(outputs).__name__}"
                )
            outputs = {next(iter(heads)): outputs}
        if missing := [name for name in heads if name not in outputs]:
            raise ValueError(
                f"`decoder` must give the likelihood's parameters {', '.join(heads)}. "
                f"Received: {', '.join(outputs)}, without {', '.join(missing)}"
            )
        return outputs

    @property
    def latent_dim(self):
        """Number of latent variables."""
        return self.posterior.latent_dim

    @property
    def latent_dims(self):
        """Numbers of latent variables of all layers, from `x` upwards."""
        return (self.latent_dim,)

    # ----------------------------------------------------------------------------------
    # The objective

    def objective(self, x, training=False, sample_weight=None):
        """The unweighted terms of the loss, at one draw `z ~ q(z|x)`.

        Args:
            x: data, `(batch, ...)`.
            training: whether batch statistics are taken, and running averages updated.
            sample_weight: weights of the examples in batch statistics, `(batch,)`.

        Returns:
            A dict: `reconstruction` of shape `(batch,)`, and each regularizer's term,
            `(batch,)` or a scalar of the global batch; nats.
        """
        return self._forward(x, training, sample_weight)[0]

    def _forward(self, x, training, sample_weight=None):
        """Terms; their global means, with the loss and the diagnostics; the batch."""
        # A step has its own tests of values, inside of its graph.
        x, present = self._prepared(x, self.event_shape, self._shape_of, False), 1.0
        if self._convolves:
            x, sample_weight, present = kvv_ops.never_empty(x, sample_weight)

        def decode(z):
            return self._decode(z, training)

        with kvv_ops.batch(x, sample_weight, present) as batch:
            seed = kvv_ops.fold_replica(self.seed_generator)
            latent, parameters, reconstruction = self._pass(x, training, seed)
            terms = {"reconstruction": reconstruction}
            for regularizer in self.regularizers:
                terms[regularizer.term] = regularizer(
                    x, latent, decode=decode, training=training
                )
            means = {name: _mean(batch, term) for name, term in terms.items()}
            parts = (*self._posteriors(), self.prior, self.likelihood)
            for part in (*parts, *self.regularizers):
                kvv_ops.note_added_losses(part)
            loss = means["reconstruction"] + batch.added_loss() + self._weight_loss()
            for regularizer in self.regularizers:
                loss = loss + regularizer.weight * means[regularizer.term]
            means["loss"] = loss
            means |= self._diagnostics(x, latent, parameters, batch)
        return terms, means, batch

    def _pass(self, x, training, seed):
        """Latent, the likelihood's parameters and -log p(x|z), at one draw of z."""
        latent = self._infer(x, training, training, seed)
        parameters = self._decode(latent.sample, training)
        nll = self.likelihood(x, parameters, latent, training=training)
        return latent, parameters, nll

    def _weight_loss(self):
        """Sum of the `kernel_regularizer`s and the like of the networks."""
        weights = [w for w in self.trainable_weights if w.regularizer is not None]
        return sum(ops.cast(w.regularizer(w), "float32") for w in weights)

    def _diagnostic_names(self):
        return ("variance", "mse")

    def _diagnostics(self, x, latent, parameters, batch):
        """Quantities for the logs, which never enter the objective."""
        parameters = {k: ops.stop_gradient(v) for k, v in parameters.items()}
        mean, variance = self.likelihood.diagnostics(parameters)
        variance = ops.mean(variance, axis=tuple(range(1, len(variance.shape))))
        mse = kvv_ops.sum_event(ops.square(x - mean))
        return {"variance": _mean(batch, variance), "mse": _mean(batch, mse)}

    def prepare(self, x):
        """Checks `x` and makes it a float32 tensor; uint8 is divided by 255.

        The one place that scales: every method of the model calls it on what it gets,
        so that data need no preparation beforehand.

        Args:
            x: data, `(n, ...)`, uint8 or float.

        Raises:
            ValueError: on another shape, on no example, on NaN or infinite values, and
                on values outside [0, 1] where the likelihood needs them inside. (While
                a graph is traced there are no values to check.)
            TypeError: on integers other than uint8.
        """
        return self._prepared(x, self.event_shape, self._shape_of)

    # Examples that the likelihood sees for each of the model's: frames, of sequences.
    _steps = 1
    # What has the shape of an example, for messages.
    _shape_of = "the encoder's input"

    @property
    def target_shape(self):
        """Shape of that of an example which the likelihood scores: all of it."""
        return self.event_shape

    def _prepared(self, x, shape, what, tensors=True):
        if not data.is_array(x):
            x = np.asarray(x)
        unit_interval = self.likelihood.unit_interval
        data.check_images(x, shape, unit_interval, tensors=tensors, what=what)
        if tensors:
            data.check_not_empty(x)
        x = ops.convert_to_tensor(x)
        if keras.backend.standardize_dtype(x.dtype) == "uint8":
            return ops.cast(x, "float32") / 255.0
        return ops.cast(x, "float32")

    def _infer(self, x, network_training, statistics, seed):
        """The `Latent` of prepared x; `seed` None takes the posterior mean."""
        mean, variance = self.posterior(self._run(self.encoder, x, network_training))
        prior_mean, prior_variance = self.prior(mean, variance, training=statistics)
        sample = mean
        if seed is not None:
            sample = self.posterior.sample(mean, variance, seed=seed)
        return Latent(sample, mean, variance, prior_mean, prior_variance)

    def _decode(self, z, training=False):
        outputs = self._named(self._run(self.decoder, z, training))
        return {name: ops.cast(value, "float32") for name, value in outputs.items()}

    def _run(self, network, inputs, training):
        # A network without a `training` argument hands it on to its layers.
        outputs = network(inputs, training=training)
        kvv_ops.note_added_losses(network)
        return outputs

    def _stage(self):
        """The stage of two-stage training, or None."""
        return getattr(getattr(self.likelihood, "variance_model", None), "stage", None)


def check_parts(posterior, likelihood, prior, regularizers, seed):
    parts = [
        ("posterior", posterior, Posterior, "posteriors"),
        ("likelihood", likelihood, Likelihood, "likelihoods"),
    ]
    if prior is not None:
        parts.append(("prior", prior, Prior, "priors"))
    if regularizers is not None:
        if not isinstance(regularizers, (list, tuple)):
            raise ValueError(
                "`regularizers` must be a list, such as [regularizers.KL()]. "
                f"Received: regularizers={regularizers}"
            )
        for part in regularizers:
            parts.append(("regularizers", part, Regularizer, "regularizers"))
    for name, part, kind, module in parts:
        if not isinstance(part, kind):
            raise ValueError(
                f"`{name}` must be of keras_vae_variance.{module}. "
                f"Received: {name}={part}"
            )
    if seed is not None and not isinstance(seed, (int, np.integer)):
        raise ValueError(f"`seed` must be an integer or None. Received: seed={seed}")


def _mean(batch, term):
    """Global mean of a term of shape `(batch,)`; a scalar is one already."""
    return ops.reshape(batch.mean(term), ()) if len(term.shape) else term
