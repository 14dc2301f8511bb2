"""What the objective adds to the reconstruction term."""

from .base import Regularizer
from .bilbo import BILBO
from .dip import DIP
from .kl import KL
from .mmd import MMD
from .rae import DecoderGradientPenalty, LatentNorm

__all__ = [
    "BILBO",
    "DIP",
    "DecoderGradientPenalty",
    "KL",
    "LatentNorm",
    "MMD",
    "Regularizer",
]
