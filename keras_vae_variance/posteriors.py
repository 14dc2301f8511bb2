"""The encoder's distributions `q(z|x)`, all of them Gaussian."""

import math
import numbers

import keras
from keras import ops

from . import ops as kvv_ops
from .checks import check_integer

__all__ = [
    "ConstantGaussian",
    "Deterministic",
    "DiagonalGaussian",
    "IsotropicGaussian",
    "Posterior",
    "SpatialGaussian",
]


class Posterior(keras.layers.Layer):
    """Base class of the posteriors `q(z|x) = N(mean, diag(variance))`.

    A subclass overrides `_variance` (and `build`, where that has weights). A user calls
    the layer with the encoder's features and gets `mean, variance`; `sample` draws.

    Attributes:
        shared_variance: whether all examples share the variance, which then has a
            leading size of 1.
        deterministic: whether the variance is 0.
    """

    shared_variance = True
    deterministic = False

    def __init__(self, latent_dim, **kwargs):
        # Under mixed precision Keras would cast the features down at __call__.
        super().__init__(dtype="float32", **kwargs)
        check_integer("latent_dim", latent_dim)
        self.latent_dim = int(latent_dim)
        self.mean = keras.layers.Dense(self.latent_dim, dtype="float32", name="mean")

    def build(self, features_shape):
        """Creates the dense heads for features of shape `(None, ...)`, flattened."""
        kvv_ops.build_once(self.mean, (None, math.prod(features_shape[1:])))

    @property
    def event_shape(self):
        """Shape of `z` as networks may take it; by itself it is flat, of `(L,)`."""
        return (self.latent_dim,)

    def call(self, features):
        """Mean and variance, `(batch, L)`; a shared variance is `(1, L)`."""
        features = ops.reshape(features, (-1, math.prod(features.shape[1:])))
        return self.mean(features), self._variance(features)

    def _variance(self, features):
        raise NotImplementedError

    def sample(self, mean, variance, seed=None):
        """A draw `z = mean + sqrt(variance) * noise`, of shape `(batch, L)`."""
        return mean + ops.sqrt(variance) * kvv_ops.normal(ops.shape(mean), seed)

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        config.pop("dtype")
        return {**config, "latent_dim": self.latent_dim}


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class DiagonalGaussian(Posterior):
    """A diagonal Gaussian with a variance predicted for each example.

        log_variance    s2 = exp(a)
        softplus        s2 = softplus(a)^2             (P4)
        relu            s2 = (relu(a) + 1e-3)^2        (P0, App. B.1)
        bounded         s2 = exp(10 tanh(a / 10))

    with `a` a dense head on the features. P0 ends the standard deviation in a ReLU,
    which can be 0 and make the KL infinite; hence the 1e-3. The last link keeps the
    standard deviation between exp(-5) and exp(5), as Vahdat and Kautz, 2020, NVAE: in a
    stack of layers, each of which is a condition of the next, an exponential overflows.

    Args:
        latent_dim: number `L` of latent variables.
        link: "log_variance", "softplus", "relu" or "bounded".

    Raises:
        ValueError: on another link, or a `latent_dim` that is not positive.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> posterior = kvv.posteriors.DiagonalGaussian(16)
    >>> mean, variance = posterior(np.zeros((2, 64), "float32"))
    >>> tuple(mean.shape), tuple(variance.shape)
    ((2, 16), (2, 16))
    """

    shared_variance = False

    def __init__(self, latent_dim, link="log_variance", **kwargs):
        super().__init__(latent_dim, **kwargs)
        if link not in ("log_variance", "softplus", "relu", "bounded"):
            raise ValueError(
                "`link` must be log_variance, softplus, relu or bounded. "
                f"Received: link={link}"
            )
        self.link = link
        # A ReLU that starts below 0 for all examples has no gradient to come back by,
        # and leaves the variance at 1e-6.
        bias = "ones" if link == "relu" else "zeros"
        self.spread = keras.layers.Dense(
            self.latent_dim, bias_initializer=bias, dtype="float32", name="spread"
        )

    def build(self, features_shape):
        super().build(features_shape)
        kvv_ops.build_once(self.spread, (None, math.prod(features_shape[1:])))

    def _variance(self, features):
        spread = self.spread(features)
        if self.link == "log_variance":
            return ops.exp(spread)
        if self.link == "softplus":
            return ops.square(ops.softplus(spread))
        if self.link == "bounded":
            return ops.exp(10.0 * ops.tanh(spread / 10.0))
        return ops.square(ops.relu(spread) + 1e-3)

    def get_config(self):
        return {**super().get_config(), "link": self.link}


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class SpatialGaussian(DiagonalGaussian):
    """A diagonal Gaussian over a map: channels for each position of the features.

        mean, a    1x1 convolutions of the features; s2 = link(a)

    as `DiagonalGaussian` has it where the features are a vector. Latents are flat all
    the same: `(batch, L)` with `L = rows * columns * channels`. Networks that take them
    as maps get them in `event_shape`. The kernel of `a` starts at 0, hence the variance
    at one value.

    Args:
        channels: latent variables at each position.
        link: as of `DiagonalGaussian`.

    Raises:
        ValueError: on another link, or a number of channels that is not positive.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> posterior = kvv.posteriors.SpatialGaussian(3)
    >>> mean, variance = posterior(np.zeros((2, 7, 7, 64), "float32"))
    >>> tuple(mean.shape), posterior.event_shape
    ((2, 147), (7, 7, 3))
    """

    def __init__(self, channels, link="log_variance", **kwargs):
        check_integer("channels", channels)
        super().__init__(channels, link, **kwargs)
        self.spread.kernel_initializer = keras.initializers.Zeros()
        self.channels = self.latent_dim
        self._positions = ()

    def build(self, features_shape):
        self._positions = tuple(features_shape[1:-1])
        self.latent_dim = math.prod(self._positions) * self.channels
        for head in (self.mean, self.spread):
            kvv_ops.build_once(head, features_shape)

    @property
    def event_shape(self):
        return (*self._positions, self.channels)

    def call(self, features):
        flat = (-1, self.latent_dim)
        return ops.reshape(self.mean(features), flat), ops.reshape(
            self._variance(features), flat
        )

    def get_config(self):
        config = super().get_config()
        del config["latent_dim"]
        return {**config, "channels": self.channels}


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class IsotropicGaussian(Posterior):
    """A Gaussian with one learned variance for all examples and dimensions.

        s2 = exp(rate * parameter)                      (P1, Section 4)

    Adam moves a parameter by at most its learning rate a step: at a rate of 1 and 1e-3,
    the variance of 0.0045 that P1 ends at is 5,400 steps away from the 1 that it starts
    at, and farther if there is any doubt on the way.

    Args:
        latent_dim: number `L` of latent variables.
        rate: how far the log variance moves for each unit of its parameter.

    Raises:
        ValueError: if `rate` is not a positive finite number.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> posterior = kvv.posteriors.IsotropicGaussian(16)
    >>> mean, variance = posterior(np.zeros((2, 64), "float32"))
    >>> tuple(variance.shape)
    (1, 16)
    """

    def __init__(self, latent_dim, rate=10.0, **kwargs):
        super().__init__(latent_dim, **kwargs)
        if not (isinstance(rate, numbers.Real) and 0 < rate < math.inf):
            raise ValueError(
                f"`rate` must be a positive finite number. Received: rate={rate!r}"
            )
        self.rate = float(rate)

    def build(self, features_shape):
        super().build(features_shape)
        self.parameter = self.add_weight(
            shape=(), initializer="zeros", name="parameter"
        )

    def _variance(self, features):
        ones = ops.ones((1, self.latent_dim), dtype="float32")
        return ops.exp(self.rate * self.parameter) * ones

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class ConstantGaussian(Posterior):
    """A Gaussian with a constant variance, that of P4, Section 4.3.

    P4 takes 1 for simple data and 1/100 for CelebA; P1, App. E, sweeps it. Pair it with
    the `Floating` prior: against a fixed one it has no reason to be right.

    Args:
        latent_dim: number `L` of latent variables.
        variance: the variance `s2`, a positive number.

    Raises:
        ValueError: if `variance` is not positive and finite.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> posterior = kvv.posteriors.ConstantGaussian(16, variance=0.01)
    >>> mean, variance = posterior(np.zeros((2, 64), "float32"))
    >>> tuple(variance.shape)
    (1, 16)
    """

    def __init__(self, latent_dim, variance=1.0, **kwargs):
        super().__init__(latent_dim, **kwargs)
        if not (isinstance(variance, numbers.Real) and 0 < variance < math.inf):
            raise ValueError(
                "`variance` must be a positive finite number; for a variance of 0 take "
                f"posteriors.Deterministic. Received: variance={variance}"
            )
        self.variance = float(variance)

    def _variance(self, features):
        return ops.full((1, self.latent_dim), self.variance, dtype="float32")

    def get_config(self):
        return {**super().get_config(), "variance": self.variance}


@keras.saving.register_keras_serializable(package="keras_vae_variance")
class Deterministic(Posterior):
    """A point, `z = mean`, with variance 0: for autoencoders, RAE and WAE.

    There is no ELBO with it: `KL` and `VAE.elbo` refuse it.

    Args:
        latent_dim: number `L` of latent variables.

    Example:

    >>> import numpy as np
    >>> import keras_vae_variance as kvv
    >>> posterior = kvv.posteriors.Deterministic(16)
    >>> mean, variance = posterior(np.zeros((2, 64), "float32"))
    >>> bool((posterior.sample(mean, variance) == mean).numpy().all())
    True
    """

    deterministic = True

    def _variance(self, features):
        return ops.zeros((1, self.latent_dim), dtype="float32")

    def sample(self, mean, variance, seed=None):
        return mean
