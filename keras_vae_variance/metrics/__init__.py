"""What is measured of a trained VAE."""

from .likelihood import log_likelihood

__all__ = ["log_likelihood"]
