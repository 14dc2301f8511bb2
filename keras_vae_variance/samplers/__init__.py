"""Distributions of latent vectors to generate from, fitted to a trained VAE."""

from .aggregate import AggregatePosterior
from .base import Sampler
from .gaussian_mixture import GaussianMixture
from .prior import OptimalPrior, Prior
from .second_stage import SecondStage

__all__ = [
    "AggregatePosterior",
    "GaussianMixture",
    "OptimalPrior",
    "Prior",
    "Sampler",
    "SecondStage",
]
