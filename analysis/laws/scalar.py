"""The minimum or the root of many functions of one variable at once.

The variable is mostly the logarithm of a size or of an amount of data. A function maps points to
values of the same shape, one problem a row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.array import Array

_CELLS = 64  # of the grid that is narrowed around its least value
# Sixth-order differences at a wide step: truncation and rounding are both below 1e-10 for
# anything that varies as smoothly as a power law does in logarithms.
_STEP = 0.05
_OFFSETS = _STEP * np.arange(-3, 4)
_SLOPE = np.array([-1, 9, -45, 0, 45, -9, 1]) / (60 * _STEP)
_CURVATURE = np.array([2, -27, 270, -490, 270, -27, 2]) / (180 * _STEP**2)


def argmin(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where `function` is least on [low, high], shape (rows,); an end where it falls towards it.

    `function` maps points (rows, k) to values (rows, k). A grid is narrowed around its least
    value (no assumption of a single valley), then the derivative's root is polished: comparing
    values alone cannot see closer to a minimum than the square root of the rounding error.
    """
    fractions = np.linspace(0.0, 1.0, _CELLS + 1)
    rows = np.arange(len(low))
    a, b = low, high
    for _ in range(4):  # each is 32 times finer: 50 nats of ln N to 5e-5
        grid = a[:, None] + (b - a)[:, None] * fractions
        values = function(grid)
        best = np.argmin(np.where(np.isfinite(values), values, np.inf), axis=1)
        a, b = grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, _CELLS)]
    return np.clip(_polished(function, (a + b) / 2), low, high)


def root(falling: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where a falling function is zero on [low, high], to rounding; infinite where it stays above.

    `low` and `high` have the shape of the points that `falling` takes. A function that is negative
    at `low` has its root there.
    """
    unreachable = ~(falling(high) < 0)
    for _ in range(56):  # 70 nats to 1e-15
        middle = (low + high) / 2
        above = falling(middle) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(unreachable, np.inf, (low + high) / 2)


def slope(function: Callable[[Array], Array], at: Array) -> Array:
    """The derivative of `function` at `at`, both (rows, 1), by differences."""
    return (function(at + _OFFSETS) @ _SLOPE)[:, None]


def _polished(function: Callable[[Array], Array], start: Array) -> Array:
    # Newton on the slope. A step that does not lower the value (a kink, e.g. where data starts
    # to repeat) is not taken.
    x = start
    for _ in range(4):
        values = function(x[:, None] + _OFFSETS)
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes, curvature = values @ _SLOPE, values @ _CURVATURE
            move = np.where(curvature > 0, -slopes / curvature, 0.0)
        x = x + np.clip(np.nan_to_num(move), -_STEP, _STEP)
    both = function(np.stack([start, x], axis=1))
    rounding = 1e-14 * np.abs(both[:, 0])
    return np.where(both[:, 1] <= both[:, 0] + rounding, x, start)
