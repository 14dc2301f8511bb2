"""What other programs need of a VAE: a SavedModel, or the file of another runtime."""

import importlib.util

import keras
import tensorflow as tf
from keras import ops

from .ops import need_tensorflow

__all__ = ["saved_model", "sequence_model", "single_file"]

# By format: the package that Keras needs beside TensorFlow, and the options that Keras
# has for it, where Keras itself would swallow others.
_FORMATS = {
    "onnx": ("tf2onnx", {"opset_version"}),
    "litert": (None, None),
    "openvino": ("openvino", set()),
}


def saved_model(vae, filepath, sampler=None, verbose=None):
    """Writes the endpoints of `VAE.export` to a SavedModel.

    Args:
        vae: a `VAE`.
        filepath: the folder to write.
        sampler: a fitted sampler for `generate`, or None for the prior.
        verbose: whether to print the endpoints; as None, they are.

    Returns:
        The path that was written.

    Raises:
        RuntimeError: on another backend of Keras.
    """
    need_tensorflow("The export of a SavedModel")
    count = tf.TensorSpec((), tf.int32, name="num_samples")
    seed = tf.TensorSpec((2,), tf.int32, name="seed")

    def generate(num_samples, seed):
        return vae.generate(num_samples, sampler=sampler, seed=seed)

    def elbo(x, seed):
        return vae.elbo(x, seed=seed)

    deterministic = _deterministic(vae)
    endpoints = {
        "serve": deterministic["reconstruct"],  # the first is a server's default
        **deterministic,
        "generate": (generate, [count, seed]),
    }
    if not vae.posterior.deterministic:
        endpoints["elbo"] = elbo, [_images(vae), seed]
    return _write(vae, filepath, endpoints, verbose)


def sequence_model(vae, filepath, verbose=None):
    """Writes the endpoints of `SequenceVAE.export` to a SavedModel.

    Args:
        vae: a `SequenceVAE`.
        filepath: the folder to write.
        verbose: whether to print the endpoints; as None, they are.

    Returns:
        The path that was written.

    Raises:
        RuntimeError: on another backend of Keras.
    """
    need_tensorflow("The export of a SavedModel")
    seed = tf.TensorSpec((2,), tf.int32, name="seed")
    past = tf.TensorSpec((None, vae.n_past, *vae.frame_shape), tf.float32, name="x")

    def predict_frames(x, seed):
        return {k: v[0] for k, v in vae.predict_frames(x, seed=seed).items()}

    def generate(num_samples, seed):
        return vae.generate(num_samples, seed=seed)

    def encode(x):
        latent = vae.encode(x)
        variance = ops.broadcast_to(latent.variance, ops.shape(latent.mean))
        return {"mean": latent.mean, "variance": variance}

    def elbo(x, seed):
        return vae.elbo(x, seed=seed)

    name, future = "predict_frames", (predict_frames, [past, seed])
    if not vae.n_past:
        count = tf.TensorSpec((), tf.int32, name="num_samples")
        name, future = "generate", (generate, [count, seed])
    endpoints = {
        "serve": future,
        name: future,
        "reconstruct": (vae.reconstruct, [_images(vae)]),
        "encode": (encode, [_images(vae)]),
    }
    if not vae.posterior.deterministic:
        endpoints["elbo"] = elbo, [_images(vae), seed]
    return _write(vae, filepath, endpoints, verbose)


def _write(vae, filepath, endpoints, verbose):
    archive = keras.export.ExportArchive()
    archive.track(vae)
    for name, (function, signature) in endpoints.items():
        # There is no Python control flow to convert, only source files to depend on.
        function = tf.autograph.experimental.do_not_convert(function)
        archive.add_endpoint(name, function, signature)
    return archive.write_out(filepath, verbose=True if verbose is None else verbose)


def single_file(
    vae, filepath, format, endpoint, verbose=None, input_signature=None, **options
):
    """Writes one of the deterministic endpoints of `VAE.export` to a file.

    Args:
        vae: a `VAE`.
        filepath: the file to write.
        format: `"onnx"`, `"litert"` or `"openvino"`.
        endpoint: `"reconstruct"`, `"encode"` or `"decode"`.
        verbose: whether to print the path; as None, it is.
        input_signature: as in `keras.Model.export`; as None, the batch size is dynamic.
        **options: those of `keras.Model.export` for this format.

    Raises:
        ImportError: if the package that writes this format is not installed.
        RuntimeError: on another backend of Keras.
        ValueError: if there is no such format, endpoint or option, or a network is not
            in float32.
    """
    need_tensorflow("The export of a file")
    if format not in _FORMATS:
        raise ValueError(
            f"`format` must be one of tf_saved_model, {', '.join(_FORMATS)}. "
            f"Received: format={format!r}"
        )
    package, known = _FORMATS[format]
    if known is not None and (unknown := set(options) - known):
        raise ValueError(
            f"The options of {format} are {', '.join(known) or 'none'}. "
            f"Received: {', '.join(f'{name}={options[name]!r}' for name in unknown)}"
        )
    deterministic = _deterministic(vae)
    if endpoint not in deterministic:
        raise ValueError(
            f"`endpoint` must be one of {', '.join(deterministic)}: files of this "
            f"format hold no random draws. Received: endpoint={endpoint!r}"
        )
    for layer in vae._flatten_layers():
        # Of bfloat16, the converters write files that the runtimes refuse.
        if layer.compute_dtype != "float32":
            raise ValueError(
                "Files of this format need float32: make the model under this policy, "
                "and give it the weights by `set_weights`. "
                f"Received: {layer.name} with dtype={layer.dtype_policy.name!r}"
            )
    if package and importlib.util.find_spec(package) is None:
        raise ImportError(f"The export to {format} needs `pip install {package}`.")
    if format == "litert":
        # Keras would let through what the runtime does not have.
        builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
        options.setdefault("target_spec", builtins)
    function, signature = deterministic[endpoint]
    _Endpoint(vae, function).export(
        str(filepath),
        format=format,
        verbose=verbose,
        input_signature=signature if input_signature is None else input_signature,
        **options,
    )


def _images(vae):
    return tf.TensorSpec((None, *vae.event_shape), tf.float32, name="x")


def _deterministic(vae):
    """Functions and signatures of the endpoints without random draws, by name."""
    # Those that the decoder of the images takes.
    latents = tf.TensorSpec((None, vae.latent_dims[0]), tf.float32, name="z")

    def encode(x):
        layered = len(vae.latent_dims) > 1
        moments = {}
        for layer, latent in enumerate(vae.encode_layers(x), start=1):
            end = f"_{layer}" if layered else ""
            variance = ops.broadcast_to(latent.variance, ops.shape(latent.mean))
            moments |= {f"mean{end}": latent.mean, f"variance{end}": variance}
        return moments

    return {
        "reconstruct": (vae.reconstruct, [_images(vae)]),
        "encode": (encode, [_images(vae)]),
        "decode": (vae.decode, [latents]),
    }


class _Endpoint(keras.Model):
    """The model that Keras's exporters take: one function of a VAE as its `call`."""

    def __init__(self, vae, function):
        super().__init__(autocast=False, name=vae.name)
        self.vae = vae
        self.function = function
        self.built = True

    def call(self, inputs):
        return self.function(inputs)
