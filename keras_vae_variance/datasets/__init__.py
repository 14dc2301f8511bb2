"""Data sets: the papers', synthetic ones of known density, and users' own images."""

from .files import from_folder
from .handwritten import digits
from .images import resize
from .noise import noisy_regions
from .synthetic import Plane, hypersphere, plane
from .tfds import load
from .video import moving_digits, windows

__all__ = [
    "Plane",
    "digits",
    "from_folder",
    "hypersphere",
    "load",
    "moving_digits",
    "noisy_regions",
    "plane",
    "resize",
    "windows",
]
