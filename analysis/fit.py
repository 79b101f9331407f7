"""Fit a law to a run table: the global optimum, what it is worth, and why to doubt it.

    fit(law("chinchilla"), read_runs("results/mine")).summary()

The result is frozen. It carries a status with a reason, so that a fit which went wrong says
so instead of handing over a wrong minimum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.constraints import Fixed, Prior, Regularised, fixed_of, scatter
from analysis.diagnostics import diagnose
from analysis.evaluator import model
from analysis.expression import Array, evaluate
from analysis.identifiability import refuse_line
from analysis.judgement import Design, judge, no_floor, regime
from analysis.laws import Law
from analysis.model import Data, Model, is_floor, to_coefficients
from analysis.newton import Mask
from analysis.objective import Objective
from analysis.objective import objective as objective_named
from analysis.result import Fit, FitData, Minimised, Status, load_fit, save_fit, to_json
from analysis.runs.checks import suspicious
from analysis.runs.table import loss_unit_of, standardise, usable
from analysis.search import Optimum, optimise
from analysis.uncertainty import Bounds, Index, Interval, Uncertainty, clusters_of, uncertainty
from scaling.records import Refusal

__all__ = ["Fit", "Prior", "Status", "fit", "load_fit", "save_fit", "to_json"]

SPARE_ROWS = 2  # rows beyond the coefficients; fewer leave no residual to judge by
MOST_WORK = 100_000_000  # rows × draws: half a minute; a larger table gets fewer, at least
LEAST_DRAWS = 100
# Of JᵀJ at unit diagonal, smallest against largest eigenvalue: 2e-16 and less where a direction
# is open, 5e-9 and more for twenty laws on sound designs (both measured).
DEFICIENT = 1e-13
INERT = 1e-13  # a log-prediction that moves less per unit of a coefficient is rounding


def fit(
    law: Law,
    table: pd.DataFrame,
    *,
    objective: str = "huber_log",
    delta: float = 1e-3,
    bootstrap: int = 4000,
    level: float = 0.9,
    seed: int = 0,
    cluster: str | None = "trunk_id",
    weights: str | None = None,
    fixed: Mapping[str, float] | None = None,
    prior: Mapping[str, Prior] | None = None,
    checks: bool = True,
    on_estimate: Callable[[Mapping[str, float]], None] | None = None,
) -> Fit:
    """The law's coefficients at the global optimum, with intervals by the cluster rule.

    objective: see `analysis.objective`; delta is the Huber threshold on log residuals.
    bootstrap: draws (0: the estimate alone, without intervals or diagnostics).
    cluster: column that names the runs that share noise.
    weights: column that multiplies each row's penalty. fixed: coefficients held at a value.
    prior: what is known of others. checks: whether to compute the diagnostics.
    on_estimate: told the coefficients before the resampling, which takes longer than they did.
    Raises Refusal for input that cannot be fitted; a fit that fails has status FAILED.
    """
    if not 0 < level < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. The usual value is 0.9.")
    if bootstrap < 0:
        raise Refusal(f"bootstrap = {bootstrap} is negative. 0 leaves intervals out.")
    goal = objective_named(objective, delta)
    selection = usable(table)
    rows = _prepare(law, selection.rows, goal, len(fixed or {}))
    data = _data(law, rows)
    held = fixed_of(law, fixed or {})
    weight = _weights(rows, weights)
    best = optimise(law, data, weight, goal, held.mask, held.theta)
    problem = model(law, data, goal, centred=not held.mask.any())
    if prior:
        noise = scatter(problem, best.point, data, weight, goal)
        problem = Regularised(law, problem, prior, noise)
        best = optimise(law, data, weight, goal, held.mask, held.theta, problem)
    clusters = clusters_of(rows, cluster)
    draws = min(bootstrap, max(LEAST_DRAWS, MOST_WORK // data.n)) if best.converged else 0
    bound = _at_bound(law, problem, best.point, held.mask)
    if on_estimate is not None and best.converged:
        on_estimate(_coefficients(law, best, bound))
    design = _design(law, data, best.theta, held.mask, _known(law, prior) | held.mask)
    # Resamples of rows that leave a direction open all stay where the search happened to stop.
    loose = design.open if not bound else ()
    spread = uncertainty(
        law, problem, best.point, weight, clusters,
        fixed=held.mask, draws=0 if loose else draws, level=level, seed=seed,
    )  # fmt: skip
    if 0 < len(spread.draws) < bootstrap and draws < bootstrap:
        few = f"{data.n} rows: intervals come from {len(spread.draws)} of {bootstrap} draws"
        spread = replace(spread, warnings=(*spread.warnings, few))
    found = _assemble(
        law, rows, selection.excluded, data, goal, best, spread, clusters, held, bound, design
    )
    constrained = [f"weights {weights}"] if weights is not None else []
    constrained += [f"a prior of {name}" for name in prior or ()]
    found = replace(found, constrained=tuple(constrained))
    if not checks or bootstrap == 0 or found.status is Status.FAILED:
        return found
    seen = diagnose(law, rows, data, weight, goal, problem, best.point, held.mask)
    return replace(found, diagnostics=seen)


def _assemble(
    law: Law, rows: pd.DataFrame, excluded: pd.DataFrame, data: Data, goal: Objective,
    best: Optimum, spread: Uncertainty, clusters: Index, held: Fixed,
    bound: tuple[str, ...], design: Design,
) -> Fit:  # fmt: skip
    coefficients = _coefficients(law, best, bound)
    predicted = law.predict(coefficients, {s.column: data.features[n]
        for n, s in law.symbols.items() if s.feature})  # fmt: skip
    with np.errstate(all="ignore"):
        rmse = float(np.sqrt(np.mean(np.log(predicted / data.observed) ** 2)))
    smallest = float(data.scale.min())
    status, reason = judge(law, rows, best, bound, design, spread, held.mask, smallest)
    cautions = suspicious(rows, law.features)
    warnings = [*cautions, *spread.warnings]
    if "trunk_id" not in rows or rows["trunk_id"].isna().all():
        warnings.append("no trunk_id column: every row counts as independent")
    if _points(law, rows) == len(law.coefficients) - held.mask.sum():
        warnings.append("as many distinct points as coefficients: nothing tests the law's form")
    if best.converged and best.reached == 1:
        warnings.append(f"only 1 of {best.starts} starts reached the optimum")
    settled = [n for n, h in zip(law.coefficients, held.mask, strict=True) if h or n in bound]
    warnings += no_floor(law, spread, settled, smallest)
    warnings += regime(law, rows)
    return Fit(
        law=law,
        coefficients=coefficients,
        se=spread.se,
        interval=_told(law, spread.interval, bound),
        objective=Minimised(goal.name, goal.delta, best.value),
        status=status,
        reason=reason,
        warnings=tuple(warnings),
        cautions=cautions,
        draws=spread.draws,
        data=_describe(law, rows, clusters),
        rmse_log=rmse,
        starts=best.starts,
        starts_at_optimum=best.reached,
        condition_number=design.condition,
        at_bound=bound,
        open=() if bound else design.open,
        fixed=tuple(n for n, h in zip(law.coefficients, held.mask, strict=True) if h),
        diagnostics=None,
        excluded=excluded,
        table=rows,
    )


def _coefficients(law: Law, best: Optimum, bound: tuple[str, ...]) -> dict[str, float]:
    coefficients = {k: float(v) for k, v in to_coefficients(law, best.theta).items()}
    for name in bound:
        if is_floor(law, name):
            coefficients[name] = 0.0  # its share of any loss is below rounding
    return coefficients


def _told(law: Law, interval: Interval, bound: tuple[str, ...]) -> Interval:
    """Without those of floors that ended at nothing, whose draws are dust that is not nothing."""
    unknown = Bounds(float("nan"), float("nan"))
    dust = dict.fromkeys((name for name in bound if is_floor(law, name)), unknown)
    return replace(interval, coefficients={**interval.coefficients, **dust})


def _prepare(law: Law, table: pd.DataFrame, goal: Objective, held: int = 0) -> pd.DataFrame:
    """The rows with the law's columns as floats; `flops` is always 6·N·D of this table's N."""
    counted = "params" in table or "params_total" in table
    derived = "flops" in law.features and counted and "tokens" in table
    derived = derived and law.target not in ("params", "tokens")  # there they are the answer
    needed = [c for c in law.features if not (c == "flops" and derived)]
    if derived:
        needed += ["params", "tokens"]
    rows = standardise(
        table,
        require=[*dict.fromkeys(needed), law.target],
        signed=() if goal.log else (law.target,),
    )
    if derived:
        rows["flops"] = 6 * rows["params"] * rows["tokens"]
    least = len(law.coefficients) - held + SPARE_ROWS
    need = f"{law.name} has {least - SPARE_ROWS} free coefficients and needs at least "
    if len(rows) < least:
        raise Refusal(
            f"{need}{least} usable runs; there are {len(rows)}. Train more, or fit a law with "
            "fewer."
        )
    refuse_line({column: rows[column].to_numpy() for column in law.features})
    points = _points(law, rows)
    if points < least - SPARE_ROWS:
        raise Refusal(
            f"{need}as many distinct ({', '.join(law.features)}); the {len(rows)} runs lie at "
            f"{points}. Repeats tell the noise, not the law: train elsewhere, or fit a law with "
            "fewer."
        )
    return rows


def _points(law: Law, rows: pd.DataFrame) -> int:
    return len(rows[list(law.features)].drop_duplicates())


def _weights(rows: pd.DataFrame, column: str | None) -> Array:
    if column is None:
        return np.ones(len(rows))
    # standardise() refuses what is not positive and finite; the scale of weights is arbitrary.
    weight = standardise(rows, require=[column])[column].to_numpy()
    return np.asarray(weight / weight.mean())


def _data(law: Law, rows: pd.DataFrame) -> Data:
    features = {n: rows[s.column].to_numpy() for n, s in law.symbols.items() if s.feature}
    return Data(features, rows[law.target].to_numpy())


def _at_bound(law: Law, problem: Model, point: Array, held: Mask) -> tuple[str, ...]:
    # Fifteen e-folds above nothing is still nothing: 1e-9 of any loss.
    floors = np.array([is_floor(law, name) for name in law.coefficients])
    # Valleys that end at a bound are so flat there that a descent may rest a percent short.
    logs = np.array([law.symbols[name].positive for name in law.coefficients])
    gap = np.where(logs & ~floors, 0.02, 1e-9)
    near = (point <= problem.lower + np.where(floors, 15.0, gap)) | (point >= problem.upper - gap)
    near &= ~held
    return tuple(name for name, b in zip(law.coefficients, near, strict=True) if b)


def _design(law: Law, data: Data, theta: Array, held: Mask, known: Mask) -> Design:
    """`known` coefficients (held, or under a prior) cannot move."""
    matrix = _information(law, data, theta, centred=not held.any())
    if not np.isfinite(matrix).all():
        return Design(float("inf"), ())
    condition = float(np.linalg.cond(matrix[~held][:, ~held]))
    if known.all():
        return Design(condition, ())
    if known.any() and not held.any():  # centred amplitudes would carry a known exponent along
        matrix = _information(law, data, theta, centred=False)
    matrix = matrix[~known][:, ~known]
    free = [name for name, k in zip(law.coefficients, known, strict=True) if not k]
    diagonal = np.diag(matrix)
    # Unit diagonal, so that units do not count; what moves no prediction at all stays at zero.
    moves = diagonal > INERT**2 * data.n
    scale = np.where(moves, 1 / np.sqrt(np.where(moves, diagonal, 1.0)), 0.0)
    values, vectors = np.linalg.eigh(matrix * scale[:, None] * scale)
    flat = np.abs(vectors[:, values < DEFICIENT * values[-1]]).max(axis=1, initial=0.0)
    return Design(condition, tuple(n for n, v in zip(free, flat, strict=True) if v > 0.05))


def _information(law: Law, data: Data, theta: Array, centred: bool) -> Array:
    """JᵀJ of log-predictions at θ: on rows without residuals, the Hessian of log-L2."""
    letters = {n: data.features[n] for n, s in law.symbols.items() if s.feature}
    values = letters | {k: np.asarray(v) for k, v in to_coefficients(law, theta).items()}
    with np.errstate(all="ignore"):
        predicted = np.broadcast_to(evaluate([law.loss], values)[0], data.n)
        if not (np.isfinite(predicted).all() and (predicted > 0).all()):
            return np.full((len(theta), len(theta)), np.inf)
        exact = model(law, Data(letters, predicted), objective_named("log_l2"), centred=centred)
        local = exact.local(exact.enter(theta[None]), np.ones((1, data.n)), False)
    return local.hessian[0]


def _known(law: Law, prior: Mapping[str, Prior] | None) -> Mask:
    return np.array([name in (prior or {}) for name in law.coefficients])


def _describe(law: Law, rows: pd.DataFrame, clusters: Index) -> FitData:
    def span(column: str) -> Bounds | None:
        if column not in rows or not pd.api.types.is_numeric_dtype(rows[column]):
            return None
        return Bounds(float(rows[column].min()), float(rows[column].max()))

    digest = hashlib.sha256()
    for column in [*law.features, law.target]:
        digest.update(column.encode() + b"\0")
        digest.update(np.ascontiguousarray(rows[column].to_numpy(), dtype="<f8").tobytes())
    params, tokens = span("params"), span("tokens")
    return FitData(
        n=len(rows),
        clusters=int(clusters.max()) + 1,
        params_column=str(rows.attrs.get("params_column", "params")),
        params=params,
        tokens=tokens,
        flops_max=None
        if params is None or tokens is None
        else float((6 * rows["params"] * rows["tokens"]).max()),
        sha256=digest.hexdigest(),
        loss_unit=loss_unit_of(rows),
    )
