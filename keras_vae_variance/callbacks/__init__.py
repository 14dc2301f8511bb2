"""Callbacks for `fit`: schedules, records, pictures, and runs that go on."""

from .images import ImageLogger
from .nonfinite import SkipNonFinite
from .records import VarianceHistory
from .resume import Resume
from .schedules import Schedule, VarianceSchedule, WeightSchedule

__all__ = [
    "ImageLogger",
    "Resume",
    "Schedule",
    "SkipNonFinite",
    "VarianceHistory",
    "VarianceSchedule",
    "WeightSchedule",
]
