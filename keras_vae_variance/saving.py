"""A model as a configuration, as a file and as a SavedModel."""

import keras

__all__ = ["Saving"]


class Saving:
    """A mixin of `VAE`: what Keras needs to save it, and its export."""

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

    def get_compile_config(self):
        """What `compile` was given, bound to no backend.

        Keras would save what the default of `jit_compile` is on this backend and
        device, and a class of torch's own for the optimizer.
        """
        config = super().get_compile_config()
        if config and self.jit_compile == self._resolve_auto_jit_compile():
            config["jit_compile"] = "auto"
        return _with_public_optimizers(config)

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


def _with_public_optimizers(config):
    if not isinstance(config, dict):
        return config
    config = {key: _with_public_optimizers(value) for key, value in config.items()}
    if str(config.get("module")).startswith("keras.src.backend.torch.optimizers."):
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config
