"""The variational autoencoder: networks, posterior, prior, likelihood, regularizers."""

import random

import keras
import numpy as np
from keras import ops

from . import data
from . import ops as kvv_ops
from .fitting import Fitting
from .likelihoods import Likelihood
from .posteriors import Posterior
from .priors import Prior, StandardNormal
from .regularizers import KL, Regularizer
from .running import RunningAverage
from .steps import GlobalMean, NonFiniteLossError, TensorFlowSteps
from .types import Latent

__all__ = ["VAE", "NonFiniteLossError"]

# Examples that the methods outside of fit and predict push through the networks at
# once.
_CHUNK = 256


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class VAE(Fitting, TensorFlowSteps, keras.Model):
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
        _check_parts(posterior, likelihood, prior, regularizers, seed)
        self.encoder = encoder
        self.decoder = decoder
        self.posterior = posterior
        self.likelihood = likelihood
        self.prior = StandardNormal() if prior is None else prior
        self.regularizers = [KL()] if regularizers is None else list(regularizers)
        self.seed = random.randrange(2**31) if seed is None else int(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self._build_parts()
        self._averages = [
            GlobalMean(name) for name in ("loss", *self._term_names, "variance", "mse")
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
        features = self._run(
            self.encoder, keras.KerasTensor((None, *self.event_shape)), False
        )
        if not isinstance(features, keras.KerasTensor):
            raise ValueError(
                "`encoder` must give one tensor of features; mean and variance are "
                f"heads of the posterior. Received: {type(features).__name__}"
            )
        kvv_ops.build_once(self.posterior, features.shape)
        kvv_ops.build_once(self.prior, (None, self.latent_dim))
        kvv_ops.build_once(self.likelihood, (None, *self.event_shape))
        self._check_decoder()
        for regularizer in self.regularizers:
            regularizer.check(self.posterior, self.prior)
        terms = [regularizer.term for regularizer in self.regularizers]
        if len(set(terms)) < len(terms):
            raise ValueError(
                "`regularizers` must be of different kinds. "
                f"Received: terms {', '.join(terms)}"
            )
        self._term_names = ("reconstruction", *terms)

    def _check_decoder(self):
        shape = getattr(self.decoder, "input_shape", None)
        if isinstance(shape, tuple) and shape[1:] != (self.latent_dim,):
            raise ValueError(
                f"`decoder` must take latents of shape (None, {self.latent_dim}), the "
                f"posterior's. Received: decoder.input_shape={shape}"
            )
        latents = keras.KerasTensor((None, self.latent_dim))
        outputs = self._run(self.decoder, latents, False)
        parameters = self._named(outputs)
        for name, head in self.likelihood.heads(self.event_shape).items():
            if parameters[name].shape[1:] != tuple(head.shape):
                raise ValueError(
                    f"`decoder` must give `{name}` of shape (None, "
                    f"{', '.join(map(str, head.shape))}). "
                    f"Received: {name}.shape={parameters[name].shape}"
                )

    def _named(self, outputs):
        """The decoder's outputs as a dict by head."""
        heads = self.likelihood.heads(self.event_shape)
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
        x = self.prepare(x)

        def decode(z):
            return self._decode(z, training)

        with kvv_ops.batch(x, sample_weight) as batch:
            seed = kvv_ops.fold_replica(self.seed_generator)
            latent = self._infer(x, training, training, seed)
            parameters = decode(latent.sample)
            terms = {
                "reconstruction": self.likelihood(
                    x, parameters, latent, training=training
                )
            }
            for regularizer in self.regularizers:
                terms[regularizer.term] = regularizer(
                    x, latent, decode=decode, training=training
                )
            means = {name: _mean(batch, term) for name, term in terms.items()}
            parts = (self.posterior, self.prior, self.likelihood)
            for part in (*parts, *self.regularizers):
                kvv_ops.note_added_losses(part)
            loss = means["reconstruction"] + batch.added_loss() + self._weight_loss()
            for regularizer in self.regularizers:
                loss = loss + regularizer.weight * means[regularizer.term]
            means["loss"] = loss
            means |= self._diagnostics(x, parameters, batch)
        return terms, means, batch

    def _weight_loss(self):
        """Sum of the `kernel_regularizer`s and the like of the networks."""
        weights = [w for w in self.trainable_weights if w.regularizer is not None]
        return sum(ops.cast(w.regularizer(w), "float32") for w in weights)

    def _diagnostics(self, x, parameters, batch):
        """Quantities for the logs, which never enter the objective."""
        parameters = {k: ops.stop_gradient(v) for k, v in parameters.items()}
        variance = self.likelihood.variance(parameters)
        variance = ops.mean(variance, axis=tuple(range(1, len(variance.shape))))
        mse = kvv_ops.sum_event(ops.square(x - self.likelihood.mean(parameters)))
        return {"variance": _mean(batch, variance), "mse": _mean(batch, mse)}

    def prepare(self, x):
        """Checks `x` and makes it a float32 tensor; uint8 is divided by 255.

        The one place that scales: every method of the model calls it on what it gets,
        so that data need no preparation beforehand.

        Args:
            x: data, `(n, ...)`, uint8 or float.

        Raises:
            ValueError: on another shape, on NaN or infinite values, and on values
                outside [0, 1] where the likelihood needs them inside.
            TypeError: on integers other than uint8.
        """
        if not data.is_array(x):
            x = np.asarray(x)
        data.check_images(x, self.event_shape, self.likelihood.unit_interval)
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

    # ----------------------------------------------------------------------------------
    # Using the model

    def call(self, x, training=False):
        """The reconstruction of `x`: see `reconstruct`."""
        latent = self._infer(self.prepare(x), training, False, None)
        return self._distribution(self._decode(latent.mean, training))

    def _distribution(self, parameters):
        return {
            "mean": self.likelihood.mean(parameters),
            "variance": self.likelihood.variance(parameters),
        }

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
                _check_count("num_samples", num_samples)
            z = self._draw_latents(num_samples, sampler, latent_seed)
        parameters = self.decode(z)
        result = self._distribution(parameters)
        if noise:
            result["sample"] = self.likelihood.sample(parameters, seed=noise_seed)
        return result

    def _draw_latents(self, num_samples, sampler, seed):
        if sampler is not None:
            return sampler.sample(
                num_samples, seed=ops.cast(seed % (2**31 - 1), "int32")
            )
        zeros = ops.zeros((1, self.latent_dim))
        mean, variance = self.prior(zeros, zeros + 1.0, training=False)
        shape = (num_samples, self.latent_dim)
        return mean + ops.sqrt(variance) * kvv_ops.normal(shape, seed)

    def elbo(self, x, num_samples=1, seed=None):
        """The evidence lower bound of each example, whatever was trained.

            elbo = E_q(z|x) log p(x|z) - KL(q(z|x) || p(z))          (P0, Eq. 4)

        with the KL at weight 1 and in closed form, and the expectation by draws.

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
        _check_count("num_samples", num_samples)
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

    def calibrate(self, x, batch_size=_CHUNK):
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
        _check_count("batch_size", batch_size)
        before = [(v, ops.copy(v)) for v in self._changed_by_forward()]
        replaced = set()
        generator = keras.random.SeedGenerator(0)

        def take_in(x, weights):
            x = self.prepare(x)
            with kvv_ops.batch(x, weights):
                latent = self._infer(x, False, True, generator)
                parameters = self._decode(latent.sample)
                self.likelihood(x, parameters, latent, training=True)

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

    def _seed(self, seed):
        return self.seed_generator if seed is None else kvv_ops.as_seed(seed)

    def _chunked(self, function, inputs, prepare=True):
        """Applies `function` to parts of a bounded number of examples."""
        if prepare:
            inputs = self.prepare(inputs)
        first = inputs[0] if isinstance(inputs, tuple) else inputs
        if first.shape[0] is None or first.shape[0] <= _CHUNK:
            return function(inputs)
        results = []
        for start in range(0, first.shape[0], _CHUNK):
            part = keras.tree.map_structure(
                lambda t, start=start: t[start : start + _CHUNK], inputs
            )
            results.append(function(part))

        def join(*parts):
            # What all examples share is the same in every part.
            shared = parts[0].shape[0] == 1 and len(parts[0].shape) == 2
            return parts[0] if shared else ops.concatenate(parts, axis=0)

        return keras.tree.map_structure(join, *results)

    # ----------------------------------------------------------------------------------
    # Keras

    def save_own_variables(self, store):
        """Saves the random state: with it, training continues as it would have."""
        for i, generator in enumerate(self._generators()):
            store[f"seed_generator_{i}"] = generator.state

    def load_own_variables(self, store):
        """Loads the random state."""
        generators = self._generators()
        if len(store.keys()) != len(generators):
            raise ValueError(
                f"The file must hold {len(generators)} random states, one for each "
                "layer of this model that draws. "
                f"Received: store with {len(store.keys())} of them"
            )
        for i, generator in enumerate(generators):
            generator.state.assign(store[f"seed_generator_{i}"])

    def _generators(self):
        return [g for layer in self._flatten_layers() for g in layer._seed_generators]

    def get_config(self):
        """The parts, serialised."""
        serialize = keras.saving.serialize_keras_object
        parts = ("encoder", "decoder", "posterior", "likelihood", "prior")
        return {
            **{part: serialize(getattr(self, part)) for part in parts},
            "regularizers": [serialize(r) for r in self.regularizers],
            "seed": self.seed,
            "name": self.name,
            # By it, compile wraps the optimizer of a mixed_float16 model.
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config):
        """Rebuilds the model from `get_config`."""
        config = dict(config)
        parts = ("encoder", "decoder", "posterior", "likelihood", "prior")
        for part in parts:
            config[part] = keras.saving.deserialize_keras_object(config[part])
        config["regularizers"] = [
            keras.saving.deserialize_keras_object(r) for r in config["regularizers"]
        ]
        dtype_policy = keras.dtype_policies.get(config.pop("dtype", None))
        model = cls(**config)
        model.dtype_policy = dtype_policy
        return model

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        sampler=None,
        **kwargs,
    ):
        """Writes a SavedModel with named endpoints, for serving without this package.

            encode(x) -> mean, variance            decode(z) -> the parameters
            reconstruct(x) -> mean, variance       serve is reconstruct
            generate(num_samples, seed) -> mean, variance      seed: int32, shape (2,)
            elbo(x, seed) -> elbo, reconstruction, kl

        Batch sizes are dynamic. `elbo` is missing where the posterior is deterministic.
        Other formats of `keras.Model.export` hold `reconstruct` alone.

        Args:
            filepath: the folder to write.
            format: as in `keras.Model.export`.
            verbose: whether to print the endpoints.
            input_signature: for the other formats; the SavedModel makes its own.
            sampler: a fitted sampler for `generate`; the default is the prior.
            **kwargs: options of the other formats.
        """
        if format != "tf_saved_model":
            return super().export(
                filepath,
                format=format,
                verbose=verbose,
                input_signature=input_signature,
                **kwargs,
            )
        from .export import saved_model

        if input_signature is not None or kwargs:
            raise ValueError(
                "The SavedModel's endpoints have signatures of their own. "
                f"Received: input_signature={input_signature}, {kwargs}"
            )
        return saved_model(self, filepath, sampler, verbose)


def _check_parts(posterior, likelihood, prior, regularizers, seed):
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


def _check_count(name, count):
    if not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(
            f"`{name}` must be an integer of at least 1. Received: {name}={count}"
        )


def _mean(batch, term):
    """Global mean of a term of shape `(batch,)`; a scalar is one already."""
    return ops.reshape(batch.mean(term), ()) if len(term.shape) else term
