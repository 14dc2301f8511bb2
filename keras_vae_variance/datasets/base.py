"""What every data set needs: arguments that are checked."""

import numbers

import numpy as np

__all__ = ["check_positive"]


def check_positive(name, value):
    """Raises where `value` is not a finite number above 0."""
    if not isinstance(value, numbers.Real) or not 0 < value < np.inf:
        raise ValueError(
            f"`{name}` must be a positive finite number. Received: {name}={value!r}"
        )
