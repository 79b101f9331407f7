"""Intervals of anything computed from a fit's coefficients: an optimum, a curve, an exponent.

The fit's draws are refits, so the values of a quantity over them show its uncertainty. Where few
clusters carry the quantity its draws are too narrow, by a factor of its own: N* may rest on two
trunks where E rests on twelve (see `analysis.fitting.effective_clusters`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from analysis.array import Array
from analysis.fitting.effective_clusters import Basis, stretched
from analysis.fitting.inputs import support_of
from analysis.interval import percentiles
from analysis.solver.problem import to_coefficients, to_theta

if TYPE_CHECKING:
    from analysis.fitting.fit import Fit

# Coefficients as columns (draws, 1) to values (draws, k).
Quantity: TypeAlias = Callable[[Mapping[str, Array]], Array]

STEP = 0.01  # of a coefficient's spread: over which a quantity's slope is taken


def draws_of(fit: Fit) -> dict[str, Array]:
    """The fit's draws as columns (draws, 1) by coefficient."""
    return {name: fit.draws[name].to_numpy(dtype=np.float64)[:, None] for name in fit.coefficients}


def values_over_draws(fit: Fit, quantity: Quantity) -> Array:
    """The quantity over the fit's draws, (draws, k), as far off as its own clusters have it.

    Choose its scale so that it varies evenly: the logarithm of an N* or of a loss. The fit must
    have draws. NaN where its error is not known.
    """
    values = quantity(draws_of(fit))
    estimate, bases = _bases(fit, quantity)
    columns = [stretched(values[:, j], float(estimate[j]), basis) for j, basis in enumerate(bases)]
    return np.stack(columns, axis=1)


def interval_over_draws(fit: Fit, quantity: Quantity, level: float) -> tuple[Array, Array]:
    """The ends (k,) of the central interval that holds a share `level` of the draws' values."""
    return percentiles(values_over_draws(fit, quantity), level)


def clusters_behind(fit: Fit, quantity: Quantity) -> float:
    """On how many clusters in effect the least certain of the quantity's values rests; infinite
    where none rests on the runs. The fit must have draws."""
    return min(basis.clusters for basis in _bases(fit, quantity)[1])


def _bases(fit: Fit, quantity: Quantity) -> tuple[Array, list[Basis]]:
    """The quantity at the estimate (k,), and what each of its values rests on."""
    carried = support_of(fit)
    estimate, slopes = _slopes(fit, quantity, draws_of(fit))
    # A quantity without a slope (an optimum at an edge) is as uncertain as the least certain.
    least = min(carried.coefficients(fit.law.fitted).values(), key=lambda basis: basis.clusters)
    return estimate, [carried.of(s) if np.isfinite(s).all() else least for s in slopes.T]


def _slopes(fit: Fit, quantity: Quantity, draws: Mapping[str, Array]) -> tuple[Array, Array]:
    """The quantity at the estimate (k,), and its derivatives by θ (coefficients, k)."""
    law = fit.law.fitted
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
