"""Figures, made with Matplotlib and without pyplot's global state.

Each function returns a `matplotlib.figure.Figure`; `figure.savefig("name.png")` writes
it. Images are grey where they have one channel and RGB where they have three, clipped
to [0, 1]. Standard deviations are in the units of the pixels, on one colour scale a
figure, from the lowest to the highest of them. Colours stay apart for the colour-blind;
line styles, markers and tags say the same in grey print.
"""

from .calibration import calibration
from .curves import history, rate_distortion
from .images import (
    image_rows,
    interpolations,
    overview,
    reconstructions,
    samples,
)
from .latents import latent_density, manifold
from .scatter import latent_scatter, principal_components, tsne

__all__ = [
    "calibration",
    "history",
    "image_rows",
    "interpolations",
    "latent_density",
    "latent_scatter",
    "manifold",
    "overview",
    "principal_components",
    "rate_distortion",
    "reconstructions",
    "samples",
    "tsne",
]
