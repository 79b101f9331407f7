"""What would have changed the answer: the floor, the threshold, a size, a handful of rows.

Every refit starts from the optimum, so a screen of them costs little more than one fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evaluator import model
from analysis.expression import Array
from analysis.laws import Law
from analysis.model import Data, Model, is_floor, to_coefficients
from analysis.newton import Mask
from analysis.objective import Objective, objective
from analysis.runs.columns import unit_of
from analysis.runs.settings import NO_SPREAD, replicates
from analysis.search import descend, optimise

LARGEST = 5  # rows, as Besiroglu et al. 2024 dropped
NOTHING = 1e-9  # of the smallest loss: a floor that ended lower is at its bound, none
MOST_SIZES = 24  # beyond that, sizes are dropped by tenths of the range


@dataclass(frozen=True)
class LackOfFit:
    """Scatter about the law against scatter among replicates, in log(loss).

    A small `p_value` says that the law misses by more than repeating a run does.
    """

    groups: int  # points run more than once
    replicates: int  # runs beyond the first at their point
    replicate_sd: float
    residual_sd: float  # about the law, free of replicate scatter where that is larger
    f: float
    p_value: float


@dataclass(frozen=True)
class Diagnostics:
    """profile: a row a held floor (floor, objective, other coefficients). sensitivity: a row a
    change (change, n, coefficients); the first row is the fit itself."""

    profile: pd.DataFrame
    sensitivity: pd.DataFrame
    lack_of_fit: LackOfFit | None


def diagnose(
    law: Law, rows: pd.DataFrame, data: Data, weights: Array, goal: Objective,
    problem: Model, point: Array, fixed: Mask,
) -> Diagnostics:  # fmt: skip
    """Diagnostics of the optimum `point` of `problem`, which is `law` on `data`."""
    residual = problem.residuals(point[None])[0]
    predicted = data.observed * np.exp(residual) if goal.log else data.observed + residual
    relative = (data.observed > 0).all() and (predicted > 0).all()
    return Diagnostics(
        profile=_profile(law, data, weights, problem, point, fixed),
        sensitivity=_sensitivity(law, rows, data, weights, goal, problem, point, fixed),
        lack_of_fit=lack_of_fit(
            data.observed,
            predicted,
            len(law.coefficients) - int(fixed.sum()),
            replicates(rows, law.features, law.target),
        )
        if relative
        else None,
    )


def lack_of_fit(
    observed: Array, predicted: Array, coefficients: int, cell: NDArray[np.intp]
) -> LackOfFit | None:
    """The classical F test, rows of one `cell` being replicates; None without replicates that
    differ, or without spare points."""
    point = pd.factorize(cell)[0]
    residual = np.log(observed / predicted)
    count = np.bincount(point)
    mean = np.bincount(point, residual) / count
    pure, replicates = float(np.sum((residual - mean[point]) ** 2)), int(np.sum(count - 1))
    freedom = len(count) - coefficients
    if replicates == 0 or freedom <= 0 or pure <= replicates * NO_SPREAD**2:
        return None
    lack = max(float(np.sum(residual**2)) - pure, 0.0)
    f = (lack / freedom) / (pure / replicates)
    from scipy.special import fdtrc  # scipy.stats takes most of a second to import

    return LackOfFit(
        groups=int(np.sum(count > 1)),
        replicates=replicates,
        replicate_sd=float(np.sqrt(pure / replicates)),
        residual_sd=float(np.sqrt(lack / freedom)),
        f=float(f),
        p_value=float(fdtrc(freedom, replicates, f)),
    )


def _profile(
    law: Law, data: Data, weights: Array, problem: Model, point: Array, fixed: Mask
) -> pd.DataFrame:
    """The best fit with the floor held, by continuation from the optimum outwards."""
    floors = [i for i, n in enumerate(law.coefficients) if is_floor(law, n) and not fixed[i]]
    if not floors:
        return pd.DataFrame()
    at = floors[0]
    here, top = float(np.exp(point[at])), float(data.scale.min())
    if here < NOTHING * top:
        here, below = 0.0, []
    else:
        below = [here * share for share in (0.98, 0.95, 0.9, 0.8, 0.5, 0.0)]
    above = [here + (top - here) * share for share in (0.05, 0.1, 0.2, 0.4)]
    held = fixed.copy()
    held[at] = True
    ends = []
    for values in (below, above):
        start = point.copy()
        for value in values:
            start[at] = np.log(value) if value > 0 else problem.lower[at]
            minimum = descend(problem, start[None], weights[None], held, max_iterations=100)
            start = minimum.theta[0].copy()
            ends.append((value, float(minimum.value[0]), start.copy()))
    start_value = float(problem.local(point[None], weights[None], False).value[0])
    ends.append((here, start_value, point))
    ends.sort(key=lambda end: end[0])
    table = pd.DataFrame(
        to_coefficients(law, problem.leave(np.stack([theta for _, _, theta in ends])))
    )
    table[law.coefficients[at]] = [value for value, _, _ in ends]
    table.insert(0, "objective", [value for _, value, _ in ends])
    return table


def _sensitivity(
    law: Law, rows: pd.DataFrame, data: Data, weights: Array, goal: Objective,
    problem: Model, point: Array, fixed: Mask,
) -> pd.DataFrame:  # fmt: skip
    changes = {"as fitted": np.ones(data.n)}
    changes.update(_drops(law, rows, data, problem, point))
    kept = np.stack(list(changes.values()))
    ends = descend(
        problem, np.repeat(point[None], len(kept), 0), kept * weights, fixed, max_iterations=150
    )
    names = list(changes)
    thetas = [problem.leave(ends.theta)]
    counts = [int(k.sum()) for k in kept]
    if goal.name in ("huber_log", "huber", "asymmetric"):
        for factor in (0.1, 10.0):
            other = model(
                law, data, objective(goal.name, goal.delta * factor), centred=not fixed.any()
            )
            start = other.enter(problem.leave(point[None]))
            end = descend(other, start, weights[None], fixed, max_iterations=150)
            names.append(f"delta {goal.delta * factor:g}")
            thetas.append(other.leave(end.theta))
            counts.append(data.n)
    for column, other_n in _conventions(law, rows).items():
        letter = next(s.name for s in law.symbols.values() if s.column == "params")
        other_data = Data({**data.features, letter: other_n}, data.observed)
        theta_fixed = problem.leave(point[None])[0]
        best = optimise(law, other_data, weights, goal, fixed, theta_fixed)
        names.append(f"N = {column}")
        thetas.append(best.theta[None])
        counts.append(data.n)
    table = pd.DataFrame(to_coefficients(law, np.concatenate(thetas)))
    table.insert(0, "n", counts)
    table.insert(0, "change", names)
    return table


def _conventions(law: Law, rows: pd.DataFrame) -> dict[str, Array]:
    """The other counts of parameters the table has, where they tell another story."""
    if "params" not in law.features:
        return {}
    found = {}
    for column in rows.columns:
        if not str(column).startswith("params_") or not pd.api.types.is_numeric_dtype(rows[column]):
            continue
        unit = rows.attrs.get("units", {}).get("params", unit_of(str(column)))
        values = rows[column].to_numpy(dtype=float) * unit
        if (np.isfinite(values) & (values > 0)).all() and np.ptp(values / rows["params"]) > 1e-6:
            found[str(column)] = values
    return found


def _drops(
    law: Law, rows: pd.DataFrame, data: Data, problem: Model, point: Array
) -> dict[str, Array]:
    """Which rows stay, by what is dropped."""
    drops: dict[str, Array] = {}
    spare = data.n - len(law.coefficients) - 2
    if spare > LARGEST:
        for name, size in (
            (f"the {LARGEST} largest losses", data.observed),
            (f"the {LARGEST} largest residuals", np.abs(problem.residuals(point[None])[0])),
        ):
            kept = np.where(size >= np.sort(size)[-LARGEST], 0.0, 1.0)
            if not any(np.array_equal(kept, other) for other in drops.values()):
                drops[f"without {name}"] = kept
    column = "params" if "params" in law.features else law.features[0]
    values = rows[column].to_numpy()
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
