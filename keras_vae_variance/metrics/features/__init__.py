"""Feature extractors: what the distances between sets of images see of an image.

Each is a callable from float32 images in [0, 1], `(n, height, width, channels)`, to
vectors, `(n, F)`, with a `name` that results carry. Any Keras model of that kind is
one.
"""

from .classifier import classifier, penultimate
from .inception import Inception2015, inception_v3
from .squeezenet import squeezenet

__all__ = [
    "Inception2015",
    "classifier",
    "inception_v3",
    "penultimate",
    "squeezenet",
]
