"""What would have changed the answer: the floor, the threshold, a size, a handful of rows.

Every refit starts from the optimum, so a screen of them costs little more than one fit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.fitting.inputs import Inputs, Minimum
from analysis.fitting.lack_of_fit import LackOfFit, lack_of_fit
from analysis.fitting.result import HANDFUL, HANDFULS, Diagnostics
from analysis.runs.columns.units import unit_of
from analysis.runs.replicates import replicates
from analysis.solver.objective import THRESHOLDED
from analysis.solver.problem import coefficients_at, jacobian, predictions, to_coefficients
from analysis.solver.search import descend

STEPS = 1000  # of a refit, at most: where it ends counts, not where it got to
MOST_SIZES = 24  # beyond that, sizes are dropped by tenths of the range


def diagnose(inputs: Inputs, minimum: Minimum) -> Diagnostics:
    """Diagnostics of the minimum of `inputs`."""
    return Diagnostics(
        profile=_profile(inputs, minimum),
        sensitivity=_sensitivity(inputs, minimum),
        lack_of_fit=_lack_of_fit(inputs, minimum),
    )


def _lack_of_fit(inputs: Inputs, minimum: Minimum) -> LackOfFit | None:
    """The test of `lack_of_fit`; None also for losses or predictions without a logarithm."""
    law, data, theta = inputs.law, inputs.data, minimum.best.theta
    predicted = predictions(law, data, theta)
    if not ((data.observed > 0).all() and (predicted > 0).all()):
        return None
    return lack_of_fit(
        np.log(data.observed / predicted),
        jacobian(law, data, theta)[:, ~inputs.held.mask],
        inputs.weights,
        replicates(inputs.rows, law.features, law.target),
        inputs.clusters,
    )


def _profile(inputs: Inputs, minimum: Minimum) -> pd.DataFrame:
    """The best fit with the floor held, by continuation from the optimum outwards."""
    law, weights, problem = inputs.law, inputs.weights, minimum.problem
    point = minimum.best.point
    free = np.flatnonzero(problem.floors & ~inputs.held.mask)
    if not len(free):
        return pd.DataFrame()
    at = int(free[0])
    name, top = law.coefficients[at], float(inputs.data.scale.min())
    here = float(coefficients_at(law, problem, point)[name])
    below = [here * share for share in (0.98, 0.95, 0.9, 0.8, 0.5, 0.0)] if here > 0 else []
    above = [here + (top - here) * share for share in (0.05, 0.1, 0.2, 0.4)]
    held = inputs.held.mask.copy()
    held[at] = True
    points, costs = [point], [float(problem.local(point[None], weights[None], False).value[0])]
    for values in (below, above):
        start = point.copy()
        for value in values:
            start[at] = np.log(value) if value > 0 else problem.lower[at]
            found = descend(problem, start[None], weights[None], held, max_iterations=100)
            start = found.theta[0].copy()
            points.append(found.theta[0])
            costs.append(float(found.value[0]))
    table = pd.DataFrame(to_coefficients(law, problem.leave(np.stack(points))))
    table[name] = [here, *below, *above]
    table.insert(0, "objective", costs)
    return table.sort_values(name, ignore_index=True)


def _sensitivity(inputs: Inputs, minimum: Minimum) -> pd.DataFrame:
    """Refits of changed rows, threshold or N, all else as the fit has it."""
    n = inputs.data.n
    without = _drops(inputs, minimum)
    kept = np.stack([np.ones(n), *without.values()])
    start = np.repeat(minimum.best.point[None], len(kept), 0)
    ends = descend(
        minimum.problem, start, kept * inputs.weights, inputs.held.mask, max_iterations=STEPS
    )
    others = {**_other_thresholds(inputs, minimum), **_other_counts(inputs)}
    problem = minimum.problem
    points = np.stack([*ends.theta, *(problem.enter(theta) for theta in others.values())])
    table = pd.DataFrame(coefficients_at(inputs.law, problem, points))
    table.insert(0, "n", [*kept.sum(axis=1).astype(int), *[n] * len(others)])
    table.insert(0, "change", ["as fitted", *without, *others])
    return table


def _other_thresholds(inputs: Inputs, minimum: Minimum) -> dict[str, Array]:
    """θ of the fit with a tenth and ten times the threshold of its penalty, by what is changed."""
    made, found = inputs.settings, {}
    if made.objective not in THRESHOLDED:
        return {}
    for factor in (0.1, 10.0):
        changed = replace(inputs, settings=replace(made, delta=made.delta * factor))
        problem = changed.problem()
        start = problem.enter(minimum.problem.leave(minimum.best.point[None]))
        follow = partial(
            descend, start=start, weights=inputs.weights[None], fixed=inputs.held.mask,
            max_iterations=STEPS,
        )  # fmt: skip
        end = follow(problem)
        if made.prior:
            end = follow(changed.with_priors(problem, end.theta[0]))
        found[f"delta {made.delta * factor:g}"] = problem.leave(end.theta)[0]
    return found


def _other_counts(inputs: Inputs) -> dict[str, Array]:
    """θ of the fit to N counted otherwise, where the table has other counts that differ by more
    than a factor, by what is changed."""
    rows, found = inputs.rows, {}
    if "params" not in inputs.law.features:
        return {}
    for column in rows.columns:
        if not str(column).startswith("params_") or not pd.api.types.is_numeric_dtype(rows[column]):
            continue
        unit = rows.attrs.get("units", {}).get("params", unit_of(str(column)))
        values = rows[column].to_numpy(dtype=float) * unit
        if (np.isfinite(values) & (values > 0)).all() and np.ptp(values / rows["params"]) > 1e-6:
            changed = replace(inputs, rows=rows.assign(params=values))
            found[f"N = {column}"] = changed.minimise().best.theta
    return found


def _drops(inputs: Inputs, minimum: Minimum) -> dict[str, Array]:
    """Which rows stay, by what is dropped."""
    law, data = inputs.law, inputs.data
    drops: dict[str, Array] = {}
    spare = data.n - len(law.coefficients) - 2
    if spare > HANDFUL:
        residual = minimum.problem.residuals(minimum.best.point[None])[0]
        for name, size in zip(HANDFULS, (data.observed, np.abs(residual)), strict=True):
            kept = np.where(size >= np.sort(size)[-HANDFUL], 0.0, 1.0)
            if not any(np.array_equal(kept, other) for other in drops.values()):
                drops[name] = kept
    column = "params" if "params" in law.features else law.features[0]
    values = inputs.rows[column].to_numpy()
    sizes = np.unique(values)
    if len(sizes) > MOST_SIZES:
        edges = np.quantile(values, np.linspace(0, 1, 11))
        part = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, 9)
        groups = {f"{edges[i]:.3g} to {edges[i + 1]:.3g}": part == i for i in range(10)}
    else:
        groups = {f"{size:.3g}": values == size for size in sizes}
    for name, members in groups.items():
        # What is left must still be a design: two sizes at least, and rows to spare.
        if members.sum() <= spare and len(np.unique(values[~members])) > 1:
            drops[f"without {column} {name}"] = np.where(members, 0.0, 1.0)
    return drops
