"""Intervals of anything computed from a fit's coefficients: an optimum, a curve, an exponent.

Bootstrap draws are refits, so a quantity's own percentiles over them are its interval. Jackknife
draws are not: a linear picture of the coefficients, stretched by Student's t, whose far draws
follow no data. There the quantity itself is jackknifed: computed from a refit without each
cluster, its spread stretched alike. (Measured on 60 simulated grids of 8 trunks: the loss inside
the data at 1.2% noise between trunks had a 90% interval 3.5 times narrower than by linear
coefficients, and covered 85%; at 0.4% noise it covered 92%.)
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
    """The quantity over as many draws as the fit has, (draws, k), by the rule above.

    Choose its scale so that it varies evenly: the logarithm of an N* or of a loss. The fit must
    have draws.
    """
    if fit.interval.method != "jackknife":
        return quantity(draws_of(fit))
    linear = _linear(fit, quantity)
    if fit.left_out.empty:  # saved by an earlier version
        return linear
    left_out = quantity({k: fit.left_out[k].to_numpy()[:, None] for k in fit.coefficients})
    clusters = len(left_out)
    with np.errstate(invalid="ignore"):  # infinite in a refit without an answer
        deviation = left_out - left_out.mean(axis=0)
    rng = np.random.default_rng(0)
    freedom = max(clusters - 3, 1)  # as the fit's own jackknife has it
    normal = rng.standard_normal((len(fit.draws), clusters)) * np.sqrt((clusters - 1) / clusters)
    stretch = np.sqrt(freedom / rng.chisquare(freedom, size=(len(fit.draws), 1)))
    with np.errstate(invalid="ignore"):
        direct = _estimate(fit, quantity) + normal @ deviation * stretch
    return np.where(np.isfinite(left_out).all(axis=0), direct, linear)


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


def _estimate(fit: Fit, quantity: Quantity) -> Array:
    return quantity({name: np.array([[value]]) for name, value in fit.coefficients.items()})


def _linear(fit: Fit, quantity: Quantity) -> Array:
    """The quantity as a linear function of the draws: the delta method."""
    draws = draws_of(fit)
    near = {name: _part_way(fit, name, draws[name]) for name in draws}
    estimate = _estimate(fit, quantity)
    return estimate + (quantity(near) - estimate) / STEP


def _part_way(fit: Fit, name: str, draw: Array) -> Array:
    centre = fit.coefficients[name]
    amplitude = fit.law.symbols[name].positive and not is_floor(fit.law, name)
    if amplitude and centre > 0:  # the jackknife varies amplitudes on the log scale
        with np.errstate(divide="ignore"):
            return np.asarray(centre * (draw / centre) ** STEP)
    return np.asarray(centre + STEP * (draw - centre))
