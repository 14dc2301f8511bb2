"""The decoder's distributions `p(x|z)`."""

from .base import Likelihood
from .bernoulli import Bernoulli
from .bitwise import BitwiseCategorical
from .categorical import Categorical
from .discretized import DiscretizedGaussian, DiscretizedLogistic
from .gaussian import Gaussian
from .logistic_mixture import LogisticMixture
from .student_t import StudentT

__all__ = [
    "Bernoulli",
    "BitwiseCategorical",
    "Categorical",
    "DiscretizedGaussian",
    "DiscretizedLogistic",
    "Gaussian",
    "Likelihood",
    "LogisticMixture",
    "StudentT",
]
