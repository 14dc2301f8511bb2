"""A model as a configuration, as a file, and as what other programs run."""

import copy

import keras

__all__ = ["Saving"]


class Saving:
    """A mixin of `VAE`: what Keras needs to save it, and its export."""

    # Arguments of the constructor that are objects.
    _PARTS = ("encoder", "decoder", "posterior", "likelihood", "prior", "regularizers")

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
        return {
            **{part: serialize(getattr(self, part)) for part in self._PARTS},
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
        config = copy.deepcopy(config)  # functional models empty theirs
        if missing := [part for part in cls._PARTS if part not in config]:
            raise ValueError(
                f"`config` must have {', '.join(cls._PARTS)}, as `get_config` gives "
                f"them. Received: config without {', '.join(missing)}"
            )
        for part in cls._PARTS:
            config[part] = keras.saving.deserialize_keras_object(config[part])
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
        endpoint=None,
        **kwargs,
    ):
        """Writes endpoints for serving without this package.

            encode(x) -> mean, variance            decode(z) -> the parameters
            reconstruct(x) -> mean, variance       serve is reconstruct
            generate(num_samples, seed) -> mean, variance      seed: int32, shape (2,)
            elbo(x, seed) -> elbo, reconstruction, kl

        A SavedModel has all of them; `elbo` is missing where the posterior is
        deterministic. A file of another format has one of the first three. Arguments
        and results have these names, and batch sizes are dynamic.

        Args:
            filepath: the folder or file to write. LiteRT files end in `.tflite`, those
                of OpenVINO in `.xml`.
            format: `"tf_saved_model"`, `"onnx"`, `"litert"` or `"openvino"`.
            verbose: whether to print what was written.
            input_signature: of another format, where its batch size is to be fixed.
            sampler: a fitted sampler for the SavedModel's `generate`; the default is
                the prior.
            endpoint: the one that a file of another format holds: `"reconstruct"`, the
                default, `"encode"` or `"decode"`.
            **kwargs: options that `keras.Model.export` has for another format.

        Raises:
            ImportError: if the package that writes the format is not installed.
            RuntimeError: on another backend of Keras than TensorFlow.
            ValueError: if there is no such format or endpoint, or an argument is of
                another format.
        """
        from .export import saved_model, single_file

        if format == "tf_saved_model":
            if input_signature is not None or endpoint is not None or kwargs:
                raise ValueError(
                    "The SavedModel has all endpoints, with signatures of their own. "
                    f"Received: input_signature={input_signature}, "
                    f"endpoint={endpoint!r}, {kwargs}"
                )
            return saved_model(self, filepath, sampler, verbose)
        if sampler is not None:
            raise ValueError(
                "`sampler` is for `generate`, which the SavedModel alone has. "
                f"Received: sampler={sampler}, format={format!r}"
            )
        return single_file(
            self,
            filepath,
            format,
            endpoint or "reconstruct",
            verbose=verbose,
            input_signature=input_signature,
            **kwargs,
        )


def _with_public_optimizers(config):
    if not isinstance(config, dict):
        return config
    config = {key: _with_public_optimizers(value) for key, value in config.items()}
    if str(config.get("module")).startswith("keras.src.backend.torch.optimizers."):
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config
