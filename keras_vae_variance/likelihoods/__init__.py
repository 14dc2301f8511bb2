"""The decoder's distributions `p(x|z)`."""

from .base import Likelihood
from .bernoulli import Bernoulli
from .gaussian import Gaussian

__all__ = ["Bernoulli", "Gaussian", "Likelihood"]
