"""Where the variance of a Gaussian decoder comes from: the question of this package."""

from .baggins import Baggins
from .base import Variance
from .fixed import Fixed
from .learned import Learned
from .maximum_likelihood import MaximumLikelihood
from .predicted import Predicted

__all__ = [
    "Baggins",
    "Fixed",
    "Learned",
    "MaximumLikelihood",
    "Predicted",
    "Variance",
]
