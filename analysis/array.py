"""What arrays of numbers are called, and the means of their groups."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.intp]


def mean_by(group: Index, values: ArrayLike) -> Array:
    """The mean of `values` in each group, by the number of the group."""
    return np.asarray(np.bincount(group, np.asarray(values, dtype=float)) / np.bincount(group))
