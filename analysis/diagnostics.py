"""What would have changed the answer: the floor, the threshold, a size, a handful of rows.

Every refit starts from the optimum, so a screen of them costs little more than one fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.constraints import Fixed, Prior, Regularised, residual_variance
from analysis.evaluator import model
from analysis.expression import Array
from analysis.identifiability import DEFICIENT, jacobian
from analysis.laws import Law
from analysis.model import Data, Model, coefficients_at, to_coefficients
from analysis.newton import Mask
from analysis.objective import Objective, objective
from analysis.runs.cells import Index
from analysis.runs.columns import unit_of
from analysis.runs.settings import NO_SPREAD, replicates
from analysis.search import descend, optimise

LARGEST = 5  # rows, as Besiroglu et al. 2024 dropped
STEPS = 1000  # of a refit, at most: where it ends counts, not where it got to
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
    # As many independent runs would tell the scatter as well: branches of one trunk repeat its
    # noise. None in files of before.
    independent: float | None = None


@dataclass(frozen=True)
class Diagnostics:
    """profile: a row a held floor (floor, objective, other coefficients). sensitivity: a row a
    change (change, n, coefficients); the first row is the fit itself."""

    profile: pd.DataFrame
    sensitivity: pd.DataFrame
    lack_of_fit: LackOfFit | None


def diagnose(
    law: Law, rows: pd.DataFrame, data: Data, weights: Array, goal: Objective,
    problem: Model, point: Array, held: Fixed, prior: Mapping[str, Prior], clusters: Index,
) -> Diagnostics:  # fmt: skip
    """Diagnostics of the optimum `point` of `problem`, which is `law` on `data` with `prior`."""
    residual = problem.residuals(point[None])[0]
    predicted = data.observed * np.exp(residual) if goal.log else data.observed + residual
    relative = (data.observed > 0).all() and (predicted > 0).all()
    return Diagnostics(
        profile=_profile(law, data, weights, problem, point, held.mask),
        sensitivity=_sensitivity(law, rows, data, weights, goal, problem, point, held, prior),
        lack_of_fit=lack_of_fit(
            np.log(data.observed / predicted),
            jacobian(law, data, problem.leave(point[None])[0])[:, ~held.mask],
            weights,
            replicates(rows, law.features, law.target),
            clusters,
        )
        if relative
        else None,
    )


def lack_of_fit(
    residual: Array, slopes: Array, weights: Array, cell: Index, cluster: Index
) -> LackOfFit | None:
    """The F test of log residuals, rows of one `cell` being replicates and rows of one `cluster`
    sharing noise; None without replicates that differ, spare points, or a point of two clusters.

    `slopes` are those of log predictions by the free coefficients (n, p), `weights` inverse
    variances. Both mean squares have Satterthwaite's degrees of freedom (1946, Biometrics Bulletin
    2, 110) under noise of which a share is the cluster's: the share that the replicates show, or,
    since few replicates show it badly, one half-way from there to 1, whichever gives the larger p.
    (Simulated on five designs of 36 to 96 rows and 6 to 24 trunks, which have a share of 0 to 1 of
    the noise: false alarms in 1 to 7% at a nominal 5%, in 0 to 1.8% at 1%; rows counted as
    independent: up to 21% and 14%. On the rows of results/reference/isoflop at .7: 4% and 1%
    instead of 10% and 4%.)
    """
    point = pd.factorize(cell)[0]
    total = np.bincount(point, weights)
    size = np.sqrt(total)

    def mean(values: Array) -> Array:
        return np.bincount(point, weights * values) / total

    middle = mean(residual)
    apart = residual - middle[point]
    pure = float(np.sum(weights * apart**2))
    count = np.bincount(point)
    repeats = int(np.sum(count - 1))
    if repeats == 0 or pure <= repeats * NO_SPREAD**2:
        return None
    # In units of one row's noise, points are orthogonal: what the coefficients can move of their
    # means is not lack of fit, wherever the objective left them.
    moved = [size * mean(column) for column in slopes.T if column.any()]
    fitted = _directions(np.array(moved).reshape(-1, len(size)).T)
    if fitted.shape[1] >= len(count):
        return None
    left = size * middle - fitted @ (fitted.T @ (size * middle))
    lack = float(left @ left)
    run = pd.factorize(cluster)[0]
    within, between = _moments(point, run, weights, size, fitted)
    seen = within.share(pure, float(np.sum(np.bincount(run, weights * apart) ** 2)))
    from scipy.special import fdtrc  # scipy.stats takes most of a second to import

    tests = []
    for share in (seen, (1 + seen) / 2):
        repeated, missed = within.at(share), between.at(share)
        if min(repeated.size, missed.size) < 1e-9 * len(point):
            continue  # the coefficients take up all of the noise of trunks
        f = (lack / missed.size) / (pure / repeated.size)
        tests.append(
            LackOfFit(
                groups=int(np.sum(count > 1)),
                replicates=repeats,
                replicate_sd=float(np.sqrt(pure / repeated.size)),
                residual_sd=float(np.sqrt(lack / missed.size)),
                f=float(f),
                p_value=float(fdtrc(missed.freedom, repeated.freedom, f)),
                independent=repeated.freedom,
            )
        )
    return max(tests, key=lambda test: test.p_value, default=None)


def _directions(columns: Array) -> Array:
    """An orthonormal basis of what the columns span, as far as they are not rounding."""
    if not columns.shape[1]:
        return columns
    unit = columns / np.linalg.norm(columns, axis=0)
    vectors, values, _ = np.linalg.svd(unit, full_matrices=False)
    return np.asarray(vectors[:, values > DEFICIENT * values.max()])


class _Squares(NamedTuple):
    """A sum of squares of unit noise: what to expect, and its degrees of freedom."""

    size: float
    freedom: float


class _Moments(NamedTuple):
    """Of a projection P of rows: tr P, and tr S and tr S² of what it leaves of the clusters, S."""

    rows: float
    shared: float
    squared: float

    def share(self, squares: float, sums: float) -> float:
        """The share of the noise that is the clusters', from the rows' squares and those of the
        clusters' sums; 0 where every row is a cluster."""
        singular = self.shared**2 - self.rows * self.squared
        if abs(singular) < 1e-9 * self.shared**2:
            return 0.0
        common = max((self.shared * squares - self.rows * sums) / singular, 0.0)
        own = max((self.shared * sums - self.squared * squares) / singular, 0.0)
        return common / (common + own)

    def at(self, share: float) -> _Squares:
        """Of noise of which that share is the clusters'."""
        own = 1 - share
        expected = share * self.shared + own * self.rows
        variance = share**2 * self.squared + 2 * share * own * self.shared + own**2 * self.rows
        return _Squares(expected, expected**2 / variance if variance > 0 else 0.0)


def _moments(
    point: Index, cluster: Index, weights: Array, size: Array, fitted: Array
) -> tuple[_Moments, _Moments]:
    """Of the scatter within points, and of that of their means about what is `fitted`."""
    from scipy.sparse import csr_array  # only where runs were repeated

    each = np.bincount(cluster, weights)
    shares = csr_array((weights / size[point], (point, cluster)), shape=(len(size), len(each)))
    means = float(shares.power(2).sum())
    gram = shares @ shares.T if len(size) <= len(each) else shares.T @ shares
    squared = float(gram.power(2).sum())
    along = np.asarray(shares.T @ fitted)  # clusters × coefficients
    crossed = float(np.sum(np.asarray(shares @ along) ** 2))
    lost = along.T @ along
    return (
        _Moments(
            len(point) - len(size),
            float(each.sum()) - means,
            float(each @ each - 2 * each @ shares.power(2).sum(axis=0)) + squared,
        ),
        _Moments(
            len(size) - fitted.shape[1],
            means - float(np.trace(lost)),
            squared - 2 * crossed + float(np.sum(lost**2)),
        ),
    )


def _profile(
    law: Law, data: Data, weights: Array, problem: Model, point: Array, fixed: Mask
) -> pd.DataFrame:
    """The best fit with the floor held, by continuation from the optimum outwards."""
    free = np.flatnonzero(problem.floors & ~fixed)
    if not len(free):
        return pd.DataFrame()
    at = int(free[0])
    name, top = law.coefficients[at], float(data.scale.min())
    here = float(coefficients_at(law, problem, point)[name])
    below = [here * share for share in (0.98, 0.95, 0.9, 0.8, 0.5, 0.0)] if here > 0 else []
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
    table[name] = [value for value, _, _ in ends]
    table.insert(0, "objective", [value for _, value, _ in ends])
    return table


def _sensitivity(
    law: Law, rows: pd.DataFrame, data: Data, weights: Array, goal: Objective,
    problem: Model, point: Array, held: Fixed, prior: Mapping[str, Prior],
) -> pd.DataFrame:  # fmt: skip
    """Refits of changed rows, threshold or N, all else as the fit has it."""
    changes = {"as fitted": np.ones(data.n)}
    changes.update(_drops(law, rows, data, problem, point))
    kept = np.stack(list(changes.values()))
    ends = descend(
        problem, np.repeat(point[None], len(kept), 0), kept * weights, held.mask,
        max_iterations=STEPS,
    )  # fmt: skip
    names = list(changes)
    thetas = [problem.leave(ends.theta)]
    counts = [int(k.sum()) for k in kept]
    if goal.name in ("huber_log", "huber", "asymmetric"):
        for factor in (0.1, 10.0):
            changed = objective(goal.name, goal.delta * factor)
            other = model(law, data, changed, centred=not held.mask.any())
            start = other.enter(problem.leave(point[None]))
            end = descend(other, start, weights[None], held.mask, max_iterations=STEPS)
            if prior:
                noise = residual_variance(other, end.theta[0], data, weights, changed)
                known = Regularised(law, other, prior, noise)
                end = descend(known, start, weights[None], held.mask, max_iterations=STEPS)
            names.append(f"delta {goal.delta * factor:g}")
            thetas.append(other.leave(end.theta))
            counts.append(data.n)
    for column, other_n in _conventions(law, rows).items():
        letter = next(s.name for s in law.symbols.values() if s.column == "params")
        other_data = Data({**data.features, letter: other_n}, data.observed)
        best = optimise(law, other_data, weights, goal, held.mask, held.theta)
        if prior:
            other = model(law, other_data, goal, centred=not held.mask.any())
            noise = residual_variance(other, best.point, other_data, weights, goal)
            known = Regularised(law, other, prior, noise)
            best = optimise(law, other_data, weights, goal, held.mask, held.theta, known)
        names.append(f"N = {column}")
        thetas.append(best.theta[None])
        counts.append(data.n)
    points = problem.enter(np.concatenate(thetas))
    table = pd.DataFrame(coefficients_at(law, problem, points))
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
