"""How many clusters of runs stand behind a coefficient, or behind anything computed from them.

Rows whose noise is shared, as that of points cooled down from one trunk is, are one cluster.

The fit is linearised at its optimum. Only the design matters, no residual: so the same is computed
for a plan. Each cluster has a share of a coefficient's variance under equal noise; their effective
number is 1/Σ share² (Carter, Schnepel and Steigerwald 2017, Review of Economics and Statistics 99).
The linearised fit also says by which factor the variance of a clustered bootstrap is too small, and
how much it varies: it is corrected as Bell and McCaffrey (2002, Survey Methodology 28) do, with
Satterthwaite's degrees of freedom for Student's t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.array import Array, Index
from analysis.laws.law import Law
from analysis.runs.clusters import COLUMN
from analysis.solver.newton import Mask
from analysis.solver.priors import Prior
from analysis.solver.problem import Data, jacobian, predictions

FEWEST = 3  # effective clusters: with fewer a coefficient has no interval
MANY = 12  # effective clusters: fewer are warned of
NORMAL = 1.4826  # standard deviation over median absolute deviation of a normal distribution
NEGLIGIBLE = 1e-9  # of a variance: rounding
LARGE = 200.0  # degrees of freedom from which Student's t is the normal to 1%


def clusters_of(table: pd.DataFrame) -> Index:
    """The number of the cluster of each row, by `trunk_id`; a row without one is its own."""
    if COLUMN not in table or table[COLUMN].isna().all():
        return np.arange(len(table))
    own = table[COLUMN].isna().to_numpy()
    codes = pd.factorize(table[COLUMN])[0]
    codes[own] = codes.max() + 1 + np.arange(int(own.sum()))
    return codes.astype(np.intp)


class Basis(NamedTuple):
    """What a quantity rests on."""

    clusters: float  # as good as so many alike; infinite for what is known beforehand
    own: float  # effective number of the clusters there are: fewer where a prior carries a part
    scale: float  # by which draws of a clustered bootstrap are too narrow; NaN where not known
    freedom: float  # degrees of freedom of their variance

    @property
    def enough(self) -> bool:
        """Whether an interval of a coefficient can be given."""
        return self.clusters > FEWEST - NEGLIGIBLE and bool(np.isfinite(self.scale))


@dataclass(frozen=True)
class Support:
    """How the clusters carry the free coefficients."""

    free: Mask  # of the law's coefficients, those that the rows were to determine
    root: Array  # (p, p): R of J = QR, where J has a row a run and a prior, a column a coefficient
    shares: Array  # (clusters, p, p): QᵀQ of the rows of each

    def of(self, direction: Array) -> Basis:
        """Of the quantity with this gradient by θ, the law's coefficients on the fitting scale."""
        if not direction[self.free].any():
            return Basis(np.inf, np.inf, 1.0, np.inf)
        weight = np.linalg.pinv(self.root.T) @ direction[self.free]
        toward = self.shares @ weight  # (clusters, p)
        each = toward @ weight  # a cluster's part of the variance
        whole = float(weight @ weight)
        own = float(np.sum(each**2))
        if own <= NEGLIGIBLE**2 * whole**2:
            return Basis(np.inf, np.inf, 1.0, np.inf)  # priors alone
        # The draws' own variance is a quadratic form M of the errors, M = diag(each) − toward·
        # towardᵀ: residuals are what the fit left of them. Its mean is tr M, its variance 2·tr M².
        crossed = toward.T @ toward
        seen = float(each.sum() - np.trace(crossed))
        square = own - 2 * float(each @ np.sum(toward**2, axis=1)) + float(np.sum(crossed**2))
        clusters, rows = whole**2 / own, float(each.sum()) ** 2 / own
        if not seen > NEGLIGIBLE * whole or not square > 0:
            return Basis(clusters, rows, float("nan"), 0.0)
        drawn = seen + max(whole - float(each.sum()), 0.0)  # and the priors'
        return Basis(clusters, rows, float(np.sqrt(whole / drawn)), max(drawn**2 / square, 1.0))

    def coefficients(self, law: Law) -> dict[str, Basis]:
        """Of each coefficient of the law, by name."""
        rows = np.eye(len(self.free))
        return {name: self.of(row) for name, row in zip(law.coefficients, rows, strict=True)}


def support(
    law: Law, data: Data, theta: Array, clusters: Index, weights: Array,
    known: Mask, prior: Mapping[str, Prior] | None = None,
) -> Support:  # fmt: skip
    """How `clusters`, the number of the cluster of each row, carry the coefficients of a fit at θ.

    `known` coefficients (held, or at a bound) do not depend on the rows. A prior counts as one more
    row, whose error is its sd in place of the scatter of the rows; without one the observed losses
    do not matter. `weights` are those of the rows in the fit, in any unit.
    """
    rows = jacobian(law, data, theta)
    moving = np.linalg.norm(rows, axis=0) > NEGLIGIBLE
    free = ~known & moving | np.isin(law.coefficients, [*(prior or {})])
    rows = rows[:, free] * np.sqrt(weights / weights.mean())[:, None]
    extra = np.diag(_precision(law, data, theta, prior))[:, free]
    rows = np.concatenate([rows, extra[extra.any(axis=1)]])
    q, root = np.linalg.qr(rows)
    count, p = int(clusters.max()) + 1, int(free.sum())
    shares = np.empty((count, p, p))
    for a in range(p):
        for b in range(p):
            pair = q[: data.n, a] * q[: data.n, b]
            shares[:, a, b] = np.bincount(clusters, pair, minlength=count)
    return Support(free, root, shares)


def _precision(law: Law, data: Data, theta: Array, prior: Mapping[str, Prior] | None) -> Array:
    """The root of each prior's weight against a row's: the rows' scatter over its sd."""
    if not prior:
        return np.zeros(len(law.coefficients))
    with np.errstate(all="ignore"):
        off = np.log(predictions(law, data, theta) / data.observed)
    noise = NORMAL * float(np.median(np.abs(off)))
    return np.array([noise / prior[n].sd if n in prior else 0.0 for n in law.coefficients])


def stretched(values: Array, estimate: float, basis: Basis) -> Array:
    """`values` over the draws with the spread of Student's t, moved away from the estimate by the
    factor of the basis. Infinite ones stay; all are NaN where that factor is not known."""
    if not np.isfinite(estimate):
        return values
    factor = basis.scale * _tails(len(values), round(min(basis.freedom, LARGE), 1))
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values), estimate + (values - estimate) * factor, values)


@lru_cache(maxsize=64)
def _tails(draws: int, freedom: float) -> Array:
    """A factor a draw that makes Student's t of the normal."""
    if not 0 < freedom < LARGE:
        return np.ones(draws)
    from scipy.special import gammaincinv  # scipy.stats takes most of a second to import

    # Between 0 and 1, evenly spread, the same for all that is computed from these draws.
    chances = np.random.default_rng(draws).permutation((np.arange(draws) + 0.5) / draws)
    return np.asarray(np.sqrt(freedom / 2 / gammaincinv(freedom / 2, chances)))
