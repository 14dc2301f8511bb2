"""What is measured of a trained VAE."""

from . import features
from .anomaly import anomaly_scores
from .base import Estimate
from .calibration import Calibration, calibration, coverage
from .evidence import (
    constant_variance_penalty,
    linearized_elbo,
    log_evidence,
    optimal_decoder,
)
from .frechet import Distance, Moments, frechet_distance
from .information import (
    MutualInformationBound,
    marginal_kl,
    mutual_information,
    mutual_information_bound,
)
from .interpolation import interpolate
from .kernel import kernel_distance
from .latent import ActiveUnits, active_units, kl_to_prior
from .likelihood import log_likelihood
from .precision_recall import PrecisionRecall, precision_recall
from .regions import region_variance
from .scores import Score, dequantize, equivalent_beta, equivalent_variance
from .smoothness import expected_gap, local_smoothness
from .video import BestOfSamples, best_of_samples, horizon_coverage, psnr, ssim

__all__ = [
    "ActiveUnits",
    "BestOfSamples",
    "Calibration",
    "Distance",
    "Estimate",
    "Moments",
    "MutualInformationBound",
    "PrecisionRecall",
    "Score",
    "active_units",
    "anomaly_scores",
    "best_of_samples",
    "calibration",
    "constant_variance_penalty",
    "coverage",
    "dequantize",
    "equivalent_beta",
    "equivalent_variance",
    "expected_gap",
    "features",
    "frechet_distance",
    "horizon_coverage",
    "interpolate",
    "kernel_distance",
    "kl_to_prior",
    "linearized_elbo",
    "local_smoothness",
    "log_evidence",
    "log_likelihood",
    "marginal_kl",
    "mutual_information",
    "mutual_information_bound",
    "optimal_decoder",
    "precision_recall",
    "psnr",
    "region_variance",
    "ssim",
]
