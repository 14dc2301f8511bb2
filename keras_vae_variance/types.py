"""The records that flow between the parts."""

from typing import Any, NamedTuple

__all__ = ["Head", "Latent"]


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
