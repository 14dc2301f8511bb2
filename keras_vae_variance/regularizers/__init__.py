"""What the objective adds to the reconstruction term."""

from .base import Regularizer
from .bilbo import BILBO
from .kl import KL

__all__ = ["BILBO", "KL", "Regularizer"]
