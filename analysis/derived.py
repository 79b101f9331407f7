"""Intervals of anything computed from a fit's coefficients: an optimum, a curve, an exponent.

The fit's draws are refits, so a quantity computed from each says how far it could have come out
otherwise. Where few clusters carry the quantity its draws are too narrow, by a factor of its own:
N* may rest on two trunks where E rests on twelve (see `analysis.support`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from analysis.expression import Array
from analysis.fit import Fit, law_fitted, support_of
from analysis.model import to_coefficients, to_theta
from analysis.support import Basis, stretched

# Coefficients as columns (draws, 1) to values (draws, k).
Quantity: TypeAlias = Callable[[Mapping[str, Array]], Array]

STEP = 0.01  # of a coefficient's spread: over which a quantity's slope is taken


def draws_of(fit: Fit) -> dict[str, Array]:
    """The fit's draws as columns (draws, 1) by coefficient."""
    return {name: fit.draws[name].to_numpy(dtype=np.float64)[:, None] for name in fit.coefficients}


def values_over_draws(fit: Fit, quantity: Quantity) -> Array:
    """The quantity over the fit's draws, (draws, k), as far off as its own clusters have it.

    Choose its scale so that it varies evenly: the logarithm of an N* or of a loss. The fit must
    have draws. NaN where the clusters say nothing of its error.
    """
    values = quantity(draws_of(fit))
    if fit.table.empty:  # saved without its rows
        return values
    estimate, bases = _bases(fit, quantity)
    columns = [stretched(values[:, j], float(estimate[j]), basis) for j, basis in enumerate(bases)]
    return np.stack(columns, axis=1)


def clusters_behind(fit: Fit, quantity: Quantity) -> float:
    """On how many clusters in effect the least certain of the quantity's values rests; infinite
    where none rests on the runs. The fit must have draws and its rows."""
    return min(basis.clusters for basis in _bases(fit, quantity)[1])


def _bases(fit: Fit, quantity: Quantity) -> tuple[Array, list[Basis]]:
    """The quantity at the estimate (k,), and what each of its values rests on."""
    carried = support_of(fit)
    estimate, slopes = _slopes(fit, quantity, draws_of(fit))
    # A quantity without a slope (an optimum at an edge) is as uncertain as the least certain.
    least = min(carried.coefficients(law_fitted(fit)).values(), key=lambda basis: basis.clusters)
    return estimate, [carried.of(s) if np.isfinite(s).all() else least for s in slopes.T]


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


def _slopes(fit: Fit, quantity: Quantity, draws: Mapping[str, Array]) -> tuple[Array, Array]:
    """The quantity at the estimate (k,), and its derivatives by θ (coefficients, k)."""
    law = law_fitted(fit)
    names = law.coefficients
    theta = to_theta(law, fit.coefficients)
    spread = to_theta(law, {name: draws[name][:, 0] for name in names})
    low, high = percentiles(spread, 0.68)
    with np.errstate(invalid="ignore"):  # the logarithm of a floor that is 0 in every draw
        length = high - low
    step = np.where(np.isfinite(length) & (length > 0), STEP * length, STEP)
    free = ~np.isin(names, (*fit.fixed, *fit.at_bound))
    moved = np.diag(np.where(free, step, 0.0))
    points = to_coefficients(law, np.concatenate([theta[None], theta + moved, theta - moved]))
    with np.errstate(all="ignore"):
        values = quantity({name: np.asarray(points[name])[:, None] for name in names})
        above, below = np.split(values[1:], 2)
        return values[0], (above - below) / (2 * step[:, None])
