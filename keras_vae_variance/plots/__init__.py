"""Figures, made with Matplotlib and without pyplot's global state.

Each function returns a `matplotlib.figure.Figure`; `figure.savefig("name.png")` writes
it. Images are grey where they have one channel and RGB where they have three, clipped
to [0, 1]. Standard deviations are in the units of the pixels, on one colour scale a
figure, from the lowest to the highest of them. The colours (viridis, blue and
vermilion) and the line styles stay apart in grey print and for the colour-blind.
"""

from .curves import history, latent_density
from .images import (
    image_rows,
    overview,
    reconstructions,
    samples,
)

__all__ = [
    "history",
    "image_rows",
    "latent_density",
    "overview",
    "reconstructions",
    "samples",
]
