"""What is measured of a trained VAE."""

from .base import Estimate
from .likelihood import log_likelihood
from .scores import Score, dequantize, equivalent_beta, equivalent_variance

__all__ = [
    "Estimate",
    "Score",
    "dequantize",
    "equivalent_beta",
    "equivalent_variance",
    "log_likelihood",
]
