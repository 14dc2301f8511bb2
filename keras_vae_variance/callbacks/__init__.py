"""Callbacks for `fit`: schedules, a record of the variance, and pictures."""

from .images import ImageLogger
from .records import VarianceHistory
from .schedules import Schedule, VarianceSchedule, WeightSchedule

__all__ = [
    "ImageLogger",
    "Schedule",
    "VarianceHistory",
    "VarianceSchedule",
    "WeightSchedule",
]
