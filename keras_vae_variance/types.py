"""The records that flow between the parts."""

from typing import Any, NamedTuple

from keras import ops

from . import ops as kvv_ops

__all__ = ["DrawnLatent", "Head", "Latent"]


class Latent(NamedTuple):
    """What the posterior and the prior say of one layer of latent variables.

    Shapes are `(batch, latent_dim)`; whatever is shared by the batch has a leading
    size of 1. Variances are sigma squared, never standard deviations.

    Attributes:
        sample: a draw `z ~ q(z|x)`, or the posterior mean where no draw was asked for.
        mean: posterior mean `mu(x)`.
        variance: posterior variance `s2(x)`.
        prior_mean: mean of `p(z)`.
        prior_variance: variance `S2` of `p(z)`.
    """

    sample: Any
    mean: Any
    variance: Any
    prior_mean: Any
    prior_variance: Any

    def kl(self):
        """KL divergence of `q(z|x)` from `p(z)`, in nats, of shape `(batch,)`."""
        return kvv_ops.gaussian_kl(*self[1:])

    @staticmethod
    def side_by_side(latents):
        """The `Latent`s of all layers, a tuple with draws, as that of one layer."""
        if len(latents) == 1:
            return latents[0]
        size = ops.shape(latents[0].sample)[0]

        def rows(t):
            return ops.broadcast_to(t, (size, t.shape[-1]))

        fields = zip(*latents, strict=True)
        return Latent(*(ops.concatenate([rows(t) for t in f], axis=-1) for f in fields))


class DrawnLatent(Latent):
    """A `Latent` whose prior was found from its own draw.

    Where `z_2 ~ q(z_2|z_1)` depends on the draw `z_1`, the prior `p(z_1|z_2)` is no
    distribution that `q(z_1|x)` could be compared with in closed form: given `z_2`,
    `z_1` is not distributed as `q(z_1|x)` any more.
    """

    __slots__ = ()

    def kl(self):
        """`log q(z) - log p(z)` at the draw, in nats, of shape `(batch,)`.

        Its expectation takes the place of a divergence in the ELBO; by itself it may be
        negative.
        """
        z, mean, variance, prior_mean, prior_variance = self
        log_q = kvv_ops.gaussian_log_prob(z, mean, variance)
        return log_q - kvv_ops.gaussian_log_prob(z, prior_mean, prior_variance)


class Head(NamedTuple):
    """One output that a likelihood needs from the decoder.

    Attributes:
        shape: shape of the output for one example, without the batch.
        activation: name of a Keras activation, or None for a linear output. The head
            named `"mean"` takes the `mean_activation` of the backbone instead.
        role: `"mean"` for what is built at the end of the decoder, `"variance"` for
            what a backbone may build at an earlier tap.
    """

    shape: tuple
    activation: str | None = None
    role: str = "mean"
