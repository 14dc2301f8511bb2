"""The SavedModel: what a model server, or TensorFlow alone, needs of a VAE."""

import keras
import tensorflow as tf

from .ops import need_tensorflow

__all__ = ["saved_model"]


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
    images = tf.TensorSpec((None, *vae.event_shape), tf.float32, name="x")
    latents = tf.TensorSpec((None, vae.latent_dim), tf.float32, name="z")
    count = tf.TensorSpec((), tf.int32, name="num_samples")
    seed = tf.TensorSpec((2,), tf.int32, name="seed")

    def encode(x):
        latent = vae.encode(x)
        variance = tf.broadcast_to(latent.variance, tf.shape(latent.mean))
        return {"mean": latent.mean, "variance": variance}

    def decode(z):
        return vae.decode(z)

    def reconstruct(x):
        return vae.reconstruct(x)

    def generate(num_samples, seed):
        return vae.generate(num_samples, sampler=sampler, seed=seed)

    def elbo(x, seed):
        return vae.elbo(x, seed=seed)

    endpoints = {
        "serve": (reconstruct, [images]),
        "reconstruct": (reconstruct, [images]),
        "encode": (encode, [images]),
        "decode": (decode, [latents]),
        "generate": (generate, [count, seed]),
        "elbo": (elbo, [images, seed]),
    }
    if vae.posterior.deterministic:
        del endpoints["elbo"]
    archive = keras.export.ExportArchive()
    archive.track(vae)
    for name, (function, signature) in endpoints.items():
        # There is no Python control flow to convert, only source files to depend on.
        function = tf.autograph.experimental.do_not_convert(function)
        archive.add_endpoint(name, function, signature)
    return archive.write_out(filepath, verbose=True if verbose is None else verbose)
