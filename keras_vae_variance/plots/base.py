"""What the figures share: arrays from tensors, images that are checked, and colours."""

import numpy as np
from keras import ops

__all__ = ["CLASSES", "CURVES", "array", "check_images", "check_points", "number"]

# The palette of Okabe and Ito, less its yellow, which is pale for a line.
CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# Ten classes, chosen by an optimiser to stay apart for the colour-blind too.
# M. A. Petroff, Accessible Color Sequences for Data Visualization, 2021.
CLASSES = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)


def array(t):
    """A tensor of any backend, or an array, as a NumPy array."""
    return np.asarray(ops.convert_to_numpy(t))


def check_images(images, label):
    """The images `(n, H, W, 1 or 3)` as an array; uint8 is scaled to [0, 1]."""
    images = array(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            "Images must be of shape (n, height, width, channels) with 1 or 3 "
            f"channels. Received: shape {images.shape} for {label!r}"
        )
    return images / 255.0 if images.dtype == np.uint8 else images


def check_points(name, z, latent_dim=None):
    """The latents `(n, latent_dim)` as an array; None takes any dimension."""
    z = array(z)
    of_dim = z.ndim == 2 and z.size and latent_dim in (None, z.shape[1])
    if not of_dim or not np.isfinite(z).all():
        raise ValueError(
            f"`{name}` must be latents of shape (n, {latent_dim or 'latent_dim'}), all "
            f"finite. Received: {name} of shape {z.shape} and type {z.dtype}, with "
            f"{np.count_nonzero(~np.isfinite(z))} values that are not"
        )
    return z


def number(value, form):
    """A number as text, with the minus sign that Matplotlib's axes have."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")
