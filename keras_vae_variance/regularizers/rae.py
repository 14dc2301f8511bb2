"""What regularised autoencoders add in place of a KL divergence."""

import keras
from keras import ops

from .. import ops as kvv_ops
from .base import RandomRegularizer, Regularizer

__all__ = ["DecoderGradientPenalty", "LatentNorm"]


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class LatentNorm(Regularizer):
    """The squared norm of the latents, for each example.

        latent_norm = 1/2 |z|^2

    The latent term of the regularised autoencoders (RAE) that P1, Section 6, compares
    with; its weight is their beta. Pair it with the `Deterministic` posterior.

    Args:
        weight: its weight in the objective.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> z, one = np.full((1, 2), 3.0, "float32"), np.ones((1, 2), "float32")
    >>> latent = kvv.types.Latent(z, z, 0.0 * one, 0.0 * one, one)
    >>> kvv.regularizers.LatentNorm()(z, latent).numpy().tolist()
    [9.0]
    """

    term = "latent_norm"

    def call(self, x, latent, decode=None, training=False):
        return 0.5 * ops.sum(ops.square(latent.sample), axis=-1)


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class DecoderGradientPenalty(RandomRegularizer):
    """The squared norm of the decoder's Jacobian, for each example.

        decoder_gradient_penalty = |d m/d z|_F^2 = E |J^T u|^2,   u ~ N(0, I)

    at one draw of `u` an example, which is unbiased: the penalty of RAE-GP (P1, Section
    6). `m` is the decoder's output named `mean`, or its only one, such as Bernoulli's
    `logits`; `z` is the latents' sample. The gradient of the sum of the outputs would
    be another quantity, in which the pixels' gradients cancel.

    The decoder runs once more, and must treat each example by itself: in training,
    batch normalisation does not.

    Args:
        weight: its weight in the objective.
        seed: integer behind the draws. The default draws one, from Python's generator.

    Raises:
        ValueError: in a call without `decode`, or with a decoder of several outputs
            none of which is named `mean`.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> posterior = kvv.posteriors.Deterministic(2)
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(1.0))
    >>> networks = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> rae_gp = [
    ...     kvv.regularizers.LatentNorm(1e-3),
    ...     kvv.regularizers.DecoderGradientPenalty(1e-3),
    ... ]
    >>> vae = kvv.VAE(*networks, posterior, likelihood, regularizers=rae_gp)
    """

    term = "decoder_gradient_penalty"

    def call(self, x, latent, decode=None, training=False):
        if decode is None:
            raise ValueError(
                "DecoderGradientPenalty needs `decode`, a callable from latents to the "
                f"likelihood's parameters. Received: decode={decode}"
            )
        mean, pull_back = kvv_ops.vjp(lambda z: _mean(decode(z)), latent.sample)
        seed = kvv_ops.fold_replica(self.seed_generator)
        u = kvv_ops.normal(ops.shape(mean), seed)
        return ops.sum(ops.square(pull_back(u)), axis=-1)


def _mean(parameters):
    if "mean" in parameters:
        return parameters["mean"]
    if len(parameters) > 1:
        raise ValueError(
            "DecoderGradientPenalty needs a decoder output named `mean`, or a decoder "
            f"of one output. Received: parameters={', '.join(parameters)}"
        )
    (only,) = parameters.values()
    return only
