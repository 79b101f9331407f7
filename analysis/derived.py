"""Intervals of anything computed from a fit's coefficients: an optimum, a curve, an exponent.

Bootstrap draws are refits, so a quantity's own percentiles over them are its interval.
Jackknife draws are a linear picture of the coefficients, stretched by Student's t: far draws
follow no data, and a curved quantity of them is biased. There the quantity is linearised too,
which is the delta method. (Measured on 150 simulated grids of 8 trunks: the 90% interval of
the loss one decade beyond the data covered 91, 91 and 90% so, at 0.5 to 0.8 of the width of
plain percentiles, which covered 91, 86 and 85%.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from analysis.expression import Array
from analysis.fit import Fit
from analysis.model import is_floor

# Coefficients as columns (draws, 1) to values (draws, k).
Quantity: TypeAlias = Callable[[Mapping[str, Array]], Array]

STEP = 0.02  # share of the way to a draw at which a linear quantity's slope is taken


def draws_of(fit: Fit) -> dict[str, Array]:
    """The fit's draws as columns (draws, 1) by coefficient."""
    return {name: fit.draws[name].to_numpy(dtype=np.float64)[:, None] for name in fit.coefficients}


def values_over_draws(fit: Fit, quantity: Quantity) -> Array:
    """The quantity over the fit's draws, (draws, k), by the rule above.

    Choose its scale so that it is nearly linear in log-amplitudes and exponents: the logarithm
    of an N* or a loss. The fit must have draws.
    """
    draws = draws_of(fit)
    if fit.interval.method != "jackknife":
        return quantity(draws)
    centre = {name: np.array([[value]]) for name, value in fit.coefficients.items()}
    estimate = quantity(centre)
    near = {name: _part_way(fit, name, centre[name], draws[name]) for name in draws}
    return estimate + (quantity(near) - estimate) / STEP


def interval_over_draws(fit: Fit, quantity: Quantity, level: float) -> tuple[Array, Array]:
    """The ends (k,) of the central interval that holds a share `level` of the draws' values."""
    return percentiles(values_over_draws(fit, quantity), level)


def percentiles(values: Array, level: float) -> tuple[Array, Array]:
    """The central interval over the first axis of `values`, draws.

    An infinite value is an extreme one, so an end may be infinite; NaN where none is a number.
    """
    huge = 1e300  # interpolating next to inf would give NaN
    known = np.nan_to_num(values, nan=np.nan, posinf=huge, neginf=-huge)
    empty = np.isnan(known).all(axis=0)
    ends = np.nanquantile(np.where(empty, 0.0, known), [(1 - level) / 2, (1 + level) / 2], axis=0)
    ends = np.where(np.abs(ends) > huge**0.5, np.copysign(np.inf, ends), ends)
    low, high = np.where(empty, np.nan, ends)
    return low, high


def _part_way(fit: Fit, name: str, centre: Array, draw: Array) -> Array:
    amplitude = fit.law.symbols[name].positive and not is_floor(fit.law, name)
    if amplitude and centre > 0:  # the jackknife varies amplitudes on the log scale
        with np.errstate(divide="ignore"):
            return np.asarray(centre * (draw / centre) ** STEP)
    return np.asarray(centre + STEP * (draw - centre))
