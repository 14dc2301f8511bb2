"""What every data set needs: a random generator, and arguments that are checked."""

import numbers
import random

import numpy as np

__all__ = ["check_integer", "check_positive", "generator"]


def generator(seed):
    """A `numpy.random.Generator` of `seed`; a generator is itself, and goes on.

    None is a fresh seed from Python's `random`, which `keras.utils.set_random_seed`
    seeds.
    """
    if seed is None:
        seed = random.randrange(2**63)
    integer = isinstance(seed, numbers.Integral) and seed >= 0
    if not (integer or isinstance(seed, np.random.Generator)):
        raise ValueError(
            "`seed` must be an integer of at least 0, a numpy.random.Generator or None."
            f" Received: seed={seed}"
        )
    return np.random.default_rng(seed)


def check_integer(name, value, least):
    """Raises where `value` is not an integer of at least `least`."""
    if not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. Received: {name}={value}"
        )


def check_positive(name, value):
    """Raises where `value` is not a finite number above 0."""
    if not isinstance(value, numbers.Real) or not 0 < value < np.inf:
        raise ValueError(
            f"`{name}` must be a positive finite number. Received: {name}={value}"
        )
