"""Foreign values as numpy columns: what is no number of 64 bits becomes `NONE`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.slices import NONE

_LOW, _HIGH = -(1 << 63), (1 << 63) - 1


def integers(values: Sequence[Any]) -> NDArray[np.int64]:
    """Return decoded JSON values as a column; `NONE` for what is no integer, or too large."""
    try:
        found = np.array(values)
    except (ValueError, OverflowError):  # lists of different lengths
        found = np.empty(0, np.object_)
    if found.dtype == np.int64 and found.shape == (len(values),):
        return found
    return np.array(
        [one if type(one) is int and _LOW <= one <= _HIGH else NONE for one in values], np.int64
    )


def ids(values: Sequence[Any]) -> NDArray[np.int64]:
    """Return ids as a column; `NONE`, too, for 0, with which profilers say that they know none."""
    found = integers(values)
    found[found == 0] = NONE
    return found
