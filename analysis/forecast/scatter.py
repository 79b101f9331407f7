"""How far runs lie off a fitted law, and the interval of one run's loss that follows.

The rms of a fit's residuals is too small a scale: the coefficients have absorbed a part of them,
and runs that share noise are not as many as they look. What the coefficients cannot absorb,
(I - QQᵀ)r with Q an orthonormal basis of the law's slopes, is the same whatever the objective.
Its squares, of rows and of the sums over clusters, have expectations linear in the two variances,
a cluster's and a row's own, which give both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.fitting.effective_clusters import clusters_of
from analysis.fitting.identifiability import jacobian
from analysis.fitting.outliers import capped
from analysis.interval import Interval, student
from analysis.runs.replicates import NO_SPREAD, replicates
from analysis.solver.problem import Data, to_theta

if TYPE_CHECKING:
    from analysis.fitting.fit import Fit

# Beyond the data laws err by more than their coefficients' intervals say: this much of the scatter
# of log loss more with each decade. With .94 intervals of 90% held 90% of the later runs of five
# independent sources, each source counted alike and each run once; with one source left out,
# .75 to 1.21 (benchmarks/forecasts.py). Rounded up: on tables that nobody had looked at they held
# 78%.
GROWTH = 1.0


class Scatter(NamedTuple):
    """Of one run about the law."""

    sd: float  # on the scale of `scale_of`: mostly of log loss
    freedom: float  # independent residuals that it was measured on


def scatter_of(fit: Fit) -> Scatter | None:
    """The standard deviation of a new run about the fitted law; None without the fit's rows.

    Degrees of freedom by Satterthwaite (1946, doi:10.2307/3002019); n - p where no rows share a
    cluster. It is that of all rows alike: weights, which need not be inverse variances, do not
    enter, and `warnings.source_warnings` says so.
    """
    law = fit.law.fitted
    if {*law.features, law.target} - {*fit.table}:
        return None
    columns = {name: fit.table[name].to_numpy(dtype=float) for name in (*law.features, law.target)}
    features = {name: columns[each.column] for name, each in law.symbols.items() if each.feature}
    data = Data(features, columns[law.target])
    predicted = np.broadcast_to(law.predict(fit.coefficients, columns), data.n)
    to, _ = scale_of(fit)
    residual = to(data.observed) - to(predicted)
    free = np.array([name not in {*fit.fixed, *fit.at_bound} for name in law.coefficients])
    slopes = jacobian(law, data, to_theta(law, fit.coefficients))[:, free]
    if to is np.log:
        residual = capped(residual, int(free.sum()))
    else:
        slopes *= predicted[:, None]
    basis = np.linalg.qr(slopes)[0]
    residual = residual - basis @ (basis.T @ residual)
    clusters = clusters_of(fit.table)
    size = np.bincount(clusters)
    sums = np.zeros((len(size), basis.shape[1]))
    np.add.at(sums, clusters, basis)
    # With M = I - QQᵀ and S = ZZᵀ, which is 1 where two rows share a cluster:
    m = len(residual) - basis.shape[1]  # tr M
    ms = len(residual) - float(np.sum(sums**2))  # tr MS
    msms = float(size @ size - 2 * size @ np.sum(sums**2, axis=1) + np.sum((sums.T @ sums) ** 2))
    squares = float(residual @ residual)  # expected: own·tr M + shared·tr MS
    of_clusters = float(np.sum(np.bincount(clusters, residual) ** 2))  # own·tr MS + shared·tr MSMS
    own, shared = _variances(m, ms, msms, squares, of_clusters)
    share = shared / (own + shared) if own + shared > 0 else 0.0
    trace = (1 - share) * m + share * ms
    square = (1 - share) ** 2 * m + 2 * share * (1 - share) * ms + share**2 * msms
    return Scatter(float(np.sqrt(squares / trace)), trace**2 / square)


def _variances(m: float, ms: float, msms: float, squares: float, of_clusters: float) -> Array:
    """A row's own variance and a cluster's, neither below zero."""
    determinant = m * msms - ms**2
    if determinant <= 1e-9 * m * msms:  # every row is its own cluster
        return np.array([squares / m, 0.0])
    own = (squares * msms - of_clusters * ms) / determinant
    shared = (of_clusters * m - squares * ms) / determinant
    if shared < 0:
        return np.array([squares / m, 0.0])
    return np.array([0.0, squares / ms]) if own < 0 else np.array([own, shared])


def scale_of(source: Fit) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """The scale on which the fit's losses scatter evenly, and back from it: logarithms, or the
    losses themselves where some have none."""
    target = source.law.target
    signed = target in source.table and not (source.table[target] > 0).all()
    if signed or not np.isfinite(source.rmse_log):
        return np.asarray, np.asarray
    return np.log, np.exp


def run_spans(
    source: Fit, loss: Array, low: Array, high: Array, decades: Array, level: float
) -> list[Interval | None]:
    """The interval of each run's loss by one law, around the curve's `loss`, `low` and `high`.

    `decades` is how far it lies outside the fit's (`warnings.distance`). None without the fit's
    rows.
    """
    to, back = scale_of(source)
    scatter = scatter_of(source)
    if scatter is None:
        return [None] * len(loss)
    ends = forecast_ends(to(loss), to(low), to(high), scatter, decades, level)
    return [Interval(float(a), float(b)) for a, b in zip(*map(back, ends), strict=True)]


def forecast_ends(
    middle: Array, low: Array, high: Array, scatter: Scatter, decades: Array, level: float
) -> tuple[Array, Array]:
    """Ends of the interval of a run's loss, from those of the curve's, on the scale of `scatter`;
    `decades` is how far outside the fit it lies."""
    reach = student(scatter.freedom, level) * scatter.sd * (1 + GROWTH * decades)
    below, above = np.maximum(middle - low, 0.0), np.maximum(high - middle, 0.0)
    return middle - np.hypot(below, reach), middle + np.hypot(above, reach)


def seed_scatter(rows: pd.DataFrame, features: list[str], target: str = "loss") -> Scatter | None:
    """Of the loss between replicate runs, pooled over their cells.

    None where no run was repeated, and where repeats differ by nothing.
    """
    cells = rows[target].groupby(replicates(rows, features, target))
    freedom = float((cells.size() - 1).sum())
    if freedom == 0:
        return None
    sd = float(np.sqrt(((rows[target] - cells.transform("mean")) ** 2).sum() / freedom))
    return Scatter(sd, freedom) if sd > NO_SPREAD * float(rows[target].abs().mean()) else None
