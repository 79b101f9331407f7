"""How well a law describes runs that it was not fitted to: those of each group left out in turn.

Residuals of the fitted rows are smaller the more coefficients a law has; residuals of rows left out
are not (Stone 1974).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.array import Array, Index
from analysis.fitting.effective_clusters import clusters_of
from analysis.solver.objective import objective
from analysis.solver.power_sum import model
from analysis.solver.problem import Data, to_coefficients, to_theta
from analysis.solver.search import descend

if TYPE_CHECKING:
    from analysis.fitting.fit import Fit

MOST_GROUPS = 100  # more would change little, and each takes a refit
DUST = -30.0  # logarithm at which a floor that ended at 0 begins
NOWHERE = 1e3  # the residual where a refit gave no number
_TOLERANCE = 1e-6  # of the objective: a fiftieth of a standard error
_STEPS = 200  # of a refit


def groups_of(table: pd.DataFrame, seed: int) -> Index:
    """The number of each row's group: its cluster, or of many clusters one of MOST_GROUPS parts."""
    clusters = clusters_of(table)
    count = int(clusters.max()) + 1
    order = np.random.default_rng(seed).permutation(count)
    return np.asarray(order[clusters] % min(count, MOST_GROUPS), dtype=np.intp)


def without_each(groups: Index) -> Array:
    """The weights (groups, rows) that leave each group out."""
    return (groups != np.arange(int(groups.max()) + 1)[:, None]).astype(float)


def law_residuals(
    fit: Fit, table: pd.DataFrame, features: dict[str, Array], groups: Index
) -> Array:
    """log(observed / predicted) of each row of `table` by its law refitted without the row's group.

    For fits without weights, priors and held coefficients. NOWHERE where a refit gave no number.
    """
    observed = table[fit.law.target].to_numpy(dtype=float)
    columns = {
        name: features[each.column] for name, each in fit.law.symbols.items() if each.feature
    }
    goal = objective(fit.settings.objective, fit.settings.delta)
    problem = model(fit.law, Data(columns, observed), goal)
    start = problem.enter(np.maximum(to_theta(fit.law, fit.coefficients), DUST)[None])
    weights = without_each(groups)
    minima = descend(
        problem, np.repeat(np.clip(start, problem.lower, problem.upper), len(weights), 0), weights,
        np.zeros(start.shape[1], dtype=bool), _TOLERANCE, max_iterations=_STEPS,
    )  # fmt: skip
    found = to_coefficients(fit.law, problem.leave(minima.theta)[groups])
    with np.errstate(all="ignore"):
        residual = np.log(observed / fit.law.predict(found, features))
    return np.where(np.isfinite(residual), residual, NOWHERE)
