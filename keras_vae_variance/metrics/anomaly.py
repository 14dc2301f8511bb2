"""How unlike the training data examples are."""

import numpy as np

from ..types import Latent
from .base import check_density, check_integer, draws, float64
from .likelihood import log_likelihood

__all__ = ["anomaly_scores"]

_KINDS = ("elbo", "log_likelihood", "reconstruction")


def anomaly_scores(vae, x, kind="elbo", num_samples=20, seed=None, batch_size=256):
    """Scores of examples, the larger the less likely under the model.

        elbo              KL(q(z|x) || p(z)) - E_q(z|x) log p(x|z)
        log_likelihood    -log p(x), importance-weighted: see `log_likelihood`
        reconstruction    -E_q(z|x) log p(x|z)

    The first is minus the ELBO (P0, Eq. 4), with the KL in closed form (of several
    layers of latents, as in training). Expectations are means of `num_samples` draws. A
    decoder that predicts its variance tells an error where it expects one from an error
    where it does not, which a squared error cannot.

    A score ranks the examples of one model: those of other models are on scales of
    their own. Another kind of data need not be less likely: plain images can be
    likelier than those that a model was trained on (Nalisnick et al., "Do Deep
    Generative Models Know What They Don't Know?", 2019). Try a detector on anomalies
    like those that are looked for.

    The noise is a function of the seed and the place of the example.

    Args:
        vae: a trained `VAE`.
        x: the images, in any form that `VAE.fit` takes, read once. Labels and weights
            are ignored.
        kind: "elbo", "log_likelihood" or "reconstruction", the last of which a
            deterministic posterior has too.
        num_samples: number of draws `z ~ q(z|x)` an example.
        seed: int, or None for a fresh one from Python's `random`, which
            `keras.utils.set_random_seed` seeds.
        batch_size: the most images that the decoder makes at a time.

    Returns:
        A float64 NumPy array of shape `(n,)`, in nats and in the order of `x`.

    Raises:
        ValueError: on another kind, a `num_samples` that is not a positive int, no
            examples, and a deterministic posterior where `kind` needs a density.

    Example:

    >>> import numpy as np
    >>> from sklearn.metrics import roc_auc_score
    >>> import keras_vae_variance as kvv
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(0.5, 0.1, (64, 8, 8, 1)).astype("float32")
    >>> likelihood = kvv.likelihoods.Gaussian(kvv.variances.Fixed(0.01))
    >>> encoder, decoder = kvv.backbones.mlp((8, 8, 1), 2, likelihood)
    >>> vae = kvv.VAE(encoder, decoder, kvv.posteriors.DiagonalGaussian(2), likelihood)
    >>> other = rng.random((64, 8, 8, 1), dtype="float32")
    >>> scores = kvv.metrics.anomaly_scores(vae, np.concatenate([x, other]), seed=0)
    >>> anomalous = np.repeat([False, True], 64)
    >>> round(float(roc_auc_score(anomalous, scores)), 3)
    1.0
    """
    if kind not in _KINDS:
        raise ValueError(
            f"`kind` must be one of {', '.join(_KINDS)}. Received: kind={kind!r}"
        )
    check_integer("num_samples", num_samples)
    check_integer("batch_size", batch_size)
    if kind == "log_likelihood":
        return -log_likelihood(vae, x, num_samples, seed=seed, chunk_size=batch_size)
    if kind == "elbo":
        check_density(vae, "no ELBO; there is kind='reconstruction'")
    scores = []
    for batch, latents in draws(vae, x, num_samples, seed, batch_size):
        total = 0.0
        for layers in latents:
            parameters = vae.decode(layers[0].sample)
            nll = vae.likelihood(batch, parameters, Latent.side_by_side(layers))
            total = total + float64(nll)
            if kind == "elbo":
                total += sum(float64(layer.kl()) for layer in layers)
        scores.append(total / num_samples)
    return np.concatenate(scores)
