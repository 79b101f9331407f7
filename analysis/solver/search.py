"""The global optimum: a grid over the nonlinear coefficients, then Newton from the best.

Where a law is linear in some coefficients they are solved for in closed form at every grid
point (variable projection, Golub & Pereyra 1973), so the grid spans only the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from analysis.array import Array
from analysis.laws.catalogue import LAWS
from analysis.laws.formula import Expr
from analysis.laws.jets import evaluate, variable
from analysis.laws.law import Law
from analysis.laws.structure import curvature, symbols
from analysis.solver.newton import Descents, Mask, Tolerances, minimise
from analysis.solver.objective import Objective
from analysis.solver.power_sum import model
from analysis.solver.problem import DEEP, FAINT, Data, Model, to_coefficients, to_theta

_SAMPLE = 2000  # rows a start is judged on; the refinement uses all of them
_THINNED = 20_000  # rows from which descents begin on fewer
_FINALISTS = 24  # of many descents, the ones followed to the end
_LONG = 3000  # steps
_TRACE = 1e-3  # of a term of unit size
_CHUNK = 3 * 2**14  # elements of a work array: a dozen of them stay in the cache of one core


@dataclass(frozen=True)
class BestDescent:
    """The best of several descents, and how many of them found it."""

    theta: Array  # on the law's fitting scale
    point: Array  # in the model's coordinates
    value: float
    starts: int
    reached: int
    converged: bool


def optimise(
    law: Law, data: Data, weights: Array, objective: Objective, fixed: Mask, theta_fixed: Array,
    problem: Model,
) -> BestDescent:  # fmt: skip
    """The best minimum found of `problem`, the law on the data, maybe with priors. `fixed`
    coefficients stay at `theta_fixed`."""
    starts = grid_starts(law, data, weights, objective, fixed, theta_fixed)
    # Many nonlinear coefficients, many valleys.
    nonlinear = len(law.coefficients) - len(linear_coefficients(law)) - int(fixed.sum())
    best = starts[: 8 if nonlinear <= 2 else 24 if nonlinear <= 4 else 64]
    if data.n > _THINNED:  # most of the way on some of the rows
        some = slice(None, None, data.n // _THINNED + 1)
        thin = model(law, data.rows(some), objective, centred=not fixed.any())
        way = descend(thin, thin.enter(best), weights[None, some], fixed, max_iterations=30)
        best = thin.leave(way.theta)
    point = problem.enter(best)
    if len(best) > _FINALISTS:
        early = descend(problem, point, weights[None, :], fixed, max_iterations=30)
        point = early.theta[np.argsort(early.value, kind="stable")[:_FINALISTS]]
    minima = descend(problem, point, weights[None, :], fixed)
    first = int(np.argmin(minima.value))
    if not minima.converged[first]:  # a long valley: the lowest is followed to its end
        lowest = minima.theta[[first]]
        end = descend(problem, lowest, weights[None, :], fixed, max_iterations=_LONG)
        minima.theta[first], minima.value[first] = end.theta[0], end.value[0]
        minima.ended[first] = end.ended[0]
    first = int(np.argmin(np.where(np.isfinite(minima.value), minima.value, np.inf)))
    value = float(minima.value[first])
    near = minima.value <= value * (1 + 1e-7) + negligible(weights)
    return BestDescent(
        theta=problem.leave(minima.theta[first : first + 1])[0],
        point=minima.theta[first],
        value=value,
        starts=len(point),
        reached=int(np.sum(near)),
        converged=bool(np.any(minima.converged & near)),
    )


def negligible(weights: Array) -> float:
    """An objective this small is a perfect fit: residuals of 1e-13 at every point."""
    return 0.5e-26 * float(np.sum(weights))


def descend(
    problem: Model,
    start: Array,
    weights: Array,
    fixed: Mask,
    tolerance: float = 1e-18,
    metric: Array | None = None,
    max_iterations: int = 300,
) -> Descents:
    """Minimise from every start. A floor ends at 0 where that is as good."""
    tolerances = Tolerances(tolerance, negligible(weights[0]), max_iterations)

    follow = partial(minimise, problem, fixed=fixed, tolerances=tolerances, metric=metric)
    minima = follow(start, weights, faint=problem.faint)
    # A floor that falls to 0 stops where one e-fold more of it promises less than the tolerance,
    # which depends on the tolerance alone and not on the runs.
    tiny = problem.floors & ~fixed & (minima.theta < problem.lower + DEEP - FAINT)
    rows = np.flatnonzero((tiny & (minima.theta > problem.lower)).any(axis=1))
    if not len(rows):
        return minima
    without = np.where(tiny, problem.lower, minima.theta)[rows]
    ends = follow(without, weights if len(weights) == 1 else weights[rows])
    as_good = ends.value <= minima.value[rows] * (1 + tolerance)
    for part in ("theta", "value", "ended"):
        getattr(minima, part)[rows[as_good]] = getattr(ends, part)[as_good]
    return minima


def linear_coefficients(law: Law) -> tuple[str, ...]:
    """Positive coefficients in which the formula is jointly linear (E, A, B of chinchilla)."""
    curved, chosen = curvature(law.loss), list[Expr]()
    for node in symbols(law.loss):
        if node.symbol is None or node.symbol.feature or not node.symbol.positive:
            continue
        if not any(frozenset((node, other)) in curved for other in [*chosen, node]):
            chosen.append(node)
    return tuple(c.symbol.name for c in chosen[:4] if c.symbol is not None)


def grid_starts(
    law: Law, data: Data, weights: Array, objective: Objective, fixed: Mask, theta_fixed: Array
) -> Array:
    """Starting points on the law's fitting scale, best first."""
    step = max(1, data.n // _SAMPLE)
    data, weights = data.rows(slice(None, None, step)), weights[::step]
    values = to_coefficients(law, theta_fixed)
    held = {n: float(values[n]) for n, f in zip(law.coefficients, fixed, strict=True) if f}
    thetas = [_starts(law, data, weights, held, {})]
    simple = LAWS.get(law.within)  # an own law may name one that is not shipped
    if simple is not None and not held:
        # The optimum of a simpler law is a start with the new coefficients still open.
        none = np.zeros(len(simple.coefficients))
        inner = Data({k: data.features[k] for k in simple.symbols if k in data.features},
                     data.observed)  # fmt: skip
        problem = model(simple, inner, objective)
        found = optimise(simple, inner, weights, objective, none.astype(bool), none, problem)
        known = {k: float(v) for k, v in to_coefficients(simple, found.theta).items()}
        thetas.append(_starts(law, data, weights, held, known))
    theta = np.concatenate(thetas)
    problem = model(law, data, objective, centred=not fixed.any())
    score = np.concatenate([
        objective.of(problem.residuals(np.clip(problem.enter(piece), problem.lower, problem.upper)))
        .value @ weights
        for piece in np.array_split(theta, 1 + theta.shape[0] * data.n // _CHUNK)
    ])  # fmt: skip
    order = np.argsort(np.where(np.isfinite(score), score, np.inf), kind="stable")
    return theta[order]


def _starts(
    law: Law, data: Data, weights: Array, held: Mapping[str, float], known: Mapping[str, float]
) -> Array:
    """A grid over what is neither held nor known; linear coefficients in closed form."""
    linear = [n for n in linear_coefficients(law) if n not in held]
    free = [n for n in law.coefficients if n not in held and n not in known and n not in linear]
    grid = _grid(law, data, free)
    values = {name: grid[:, i] for i, name in enumerate(free)}
    for name, value in {**known, **held}.items():
        if name not in linear:
            values[name] = np.full(len(grid), value)
    thetas = []
    rows = max(1, _CHUNK // data.n)
    for at in range(0, len(grid), rows):
        piece = {k: v[at : at + rows] for k, v in values.items()}
        piece.update(_project(law, data, weights, piece, linear))
        thetas.append(to_theta(law, piece))
    return np.concatenate(thetas)


def _grid(law: Law, data: Data, names: list[str]) -> Array:
    """A geometric or even lattice for up to three coefficients, a low-discrepancy set beyond."""
    if not names:
        return np.empty((1, 0))
    unit: Array
    if len(names) <= 3:
        axis = np.linspace(0, 1, {1: 64, 2: 16, 3: 10}[len(names)])
        unit = np.array(list(itertools.product(*[axis] * len(names))))
    else:
        unit = _low_discrepancy(2048, len(names))
    columns = []
    for i, name in enumerate(names):
        symbol = law.symbols[name]
        low, high = symbol.start_lower, symbol.start_upper
        if symbol.near:
            x = _range_of(law, data, symbol.near)
            low, high = x.min() * 10**low, x.max() * 10**high
        if low > 0:
            columns.append(low * (high / low) ** unit[:, i])
        else:
            columns.append(low + (high - low) * unit[:, i])
    return np.stack(columns, axis=1)


def _range_of(law: Law, data: Data, near: str) -> Array:
    """The values a start is placed by: `column`, `1/column`, `<loss` or `>loss` (one end)."""
    if near[0] in "<>":
        return np.array([data.scale.min() if near[0] == "<" else data.scale.max()])
    column = near.removeprefix("1/")
    x = next(data.features[s.name] for s in law.symbols.values() if s.column == column)
    return x if column == near else 1 / x


def _low_discrepancy(count: int, size: int) -> Array:
    """Roberts' additive recurrence on the generalised golden ratio, in [0, 1)."""
    ratio = 1.5
    for _ in range(50):
        ratio = (1 + ratio) ** (1 / (size + 1))
    steps = np.arange(1, count + 1)[:, None] * ratio ** -np.arange(1.0, size + 1)
    return np.asarray((0.5 + steps) % 1.0)


def _project(
    law: Law, data: Data, weights: Array, values: dict[str, Array], linear: list[str]
) -> dict[str, Array]:
    """The linear coefficients that fit best in relative error, never negative."""
    if not linear:
        return {}
    letters = {k: v[:, None] for k, v in values.items()}
    letters |= {k: v[None, :] for k, v in data.features.items()}
    at_zero = evaluate(law.loss, letters | {n: variable(0.0, i) for i, n in enumerate(linear)})
    batch = next(iter(values.values())).shape[0] if values else 1
    slopes = [np.broadcast_to(at_zero.gradient[i], (batch, data.n)) for i in range(len(linear))]
    with np.errstate(all="ignore"):
        columns = np.stack([slope / data.scale for slope in slopes], axis=-1)
        rest = np.broadcast_to(at_zero.value, (batch, data.n))
        goal = data.observed / data.scale - rest / data.scale
        # Columns of unit size: the raw ones span fifteen decades.
        size = np.sqrt(np.einsum("bnk,bnk,n->bk", columns, columns, weights) / weights.sum())
        columns = columns / size[:, None, :]
        gram = np.einsum("bnk,bnl,n->bkl", columns, columns, weights)
        right = np.einsum("bnk,bn,n->bk", columns, goal, weights)
    best = _nonnegative(gram, right)
    return {name: best[:, i] / size[:, i] for i, name in enumerate(linear)}


def _nonnegative(gram: Array, right: Array) -> Array:
    """The least squares solutions with no negative entry, (b, k), of normal equations.

    Every subset of columns is tried: there are few, and the batch is large. An entry that is best
    at 0 is _TRACE instead, since it is fitted as a logarithm.
    """
    batch, count = right.shape
    best, score = np.full((batch, count), _TRACE), np.full(batch, -np.inf)
    for subset in itertools.product([False, True], repeat=count):
        pick = np.flatnonzero(subset)
        if not pick.size:
            continue
        matrix = gram[:, pick][:, :, pick] + 1e-12 * np.trace(gram[0]) * np.eye(pick.size)
        usable = np.isfinite(matrix).all(axis=(1, 2)) & np.isfinite(right[:, pick]).all(axis=1)
        matrix = np.where(usable[:, None, None], matrix, np.eye(pick.size))
        vector = np.where(usable[:, None], right[:, pick], 0.0)
        answer = np.linalg.solve(matrix, vector[..., None])[..., 0]
        decrease = np.sum(answer * vector, axis=1)
        better = usable & (answer > 0).all(axis=1) & (decrease > score)
        candidate = np.full((batch, count), _TRACE)
        candidate[:, pick] = answer
        best = np.where(better[:, None], candidate, best)
        score = np.where(better, decrease, score)
    return best
