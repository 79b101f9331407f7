"""Fit a law to a run table: the global optimum, what it is worth, and why to doubt it.

    fit(law("chinchilla"), read_runs("results/mine")).summary()

The result is frozen. It carries a status with a reason, so that a fit which went wrong says
so instead of handing over a wrong minimum.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.constraints import (
    Fixed,
    Prior,
    Regularised,
    above,
    contradictions,
    fixed_of,
    residual_variance,
)
from analysis.diagnostics import diagnose
from analysis.estimate import Estimate, FitData, Minimised, Settings, Status
from analysis.evaluator import model
from analysis.expression import Array
from analysis.fit_file import read_fit, save_fit
from analysis.identifiability import Design, design_at
from analysis.judgement import judge, no_floor, regime
from analysis.laws import Law
from analysis.limited import Limited
from analysis.model import NEARLY, Data, Model, coefficients_at, to_theta
from analysis.newton import Mask
from analysis.objective import Objective
from analysis.objective import objective as objective_named
from analysis.outliers import Outliers, outliers
from analysis.prepare import data_of, prepare, weights_of
from analysis.result import to_json
from analysis.runs.examine import examine
from analysis.runs.table import loss_unit_of, usable
from analysis.runs.trajectories import AUTO, COLUMN
from analysis.search import Optimum, optimise
from analysis.summary import summary
from analysis.support import Support, support
from analysis.uncertainty import Bounds, Index, Interval, Uncertainty, clusters_of, uncertainty
from scaling.store.records import Refusal, did_you_mean

__all__ = ["Fit", "Prior", "Settings", "Status", "fit", "load_fit", "save_fit", "to_json"]

MOST_WORK = 100_000_000  # rows × draws: half a minute; a larger table gets fewer, at least
LEAST_DRAWS = 100


@dataclass(frozen=True, repr=False)
class Fit(Estimate):
    """A law with coefficients, and everything needed to judge them, in words too."""

    def again(self, rows: pd.DataFrame, *, law: Law | None = None, **changes: Any) -> Fit:
        """A fit of other rows (or by another `law`) made as this one was, but for `changes`.

        `changes` are fields of `Settings`. Rows of this fit keep the clusters it found. A law of
        other coefficients takes neither what is fixed nor priors. Raises Refusal as `fit` does, and
        for what is no table or no field.
        """
        if not isinstance(rows, pd.DataFrame):
            raise Refusal(
                f"rows = {rows!r} is no table of runs. Give a DataFrame, e.g. read_runs({rows!r})."
            )
        known = [each.name for each in fields(Settings)]
        if unknown := [name for name in changes if name not in known]:
            raise Refusal(
                f"{unknown[0]!r} is no setting of a fit. Give one of {', '.join(known)}."
                f"{did_you_mean(unknown[0], known)}"
            )
        made = {each.name: getattr(self.settings, each.name) for each in fields(Settings)}
        if made["cluster"] not in rows and COLUMN in self.table and COLUMN in rows:
            # What `auto`, or a column that is not at hand, was found to be.
            made["cluster"] = COLUMN
        if law is not None and law.coefficients != self.law.coefficients:
            made |= {"fixed": {}, "prior": {}}
        return fit(law or self.law, rows, **{**made, **changes})

    def summary(self) -> str:
        """The fit on one screen."""
        return summary(self)

    def to_frame(self) -> pd.DataFrame:
        """A row a coefficient: its value, standard error and interval (NaN where unknown)."""
        names = list(self.law.coefficients)
        bounds = [self.interval.coefficients[name] for name in names]
        return pd.DataFrame(
            {
                "value": [self.coefficients[name] for name in names],
                "se": [self.se[name] for name in names],
                "low": [each.low for each in bounds],
                "high": [each.high for each in bounds],
            },
            index=pd.Index(names, name="coefficient"),
        )

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.4g}" for name, value in self.coefficients.items())
        return f"<Fit {self.law.name} on {self.data.n} runs, {self.status.value}: {values}>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary())}</pre>"


def load_fit(path: Path | str, law: Law | None = None) -> Fit:
    """The fit saved at `path`, with the columns of its rows that the law uses.

    `law` is needed for one that `analysis.laws.law` does not find by name. Raises Refusal for a
    file that is no fit or has changed since it was written, for a fit that failed, and for a law
    other than the one that was fitted.
    """
    return read_fit(Fit, path, law)


def fit(
    law: Law,
    table: pd.DataFrame,
    *,
    objective: str = "huber_log",
    delta: float = 1e-3,
    bootstrap: int = 4000,
    level: float = 0.9,
    seed: int = 0,
    cluster: str = AUTO,
    weights: str | None = None,
    fixed: Mapping[str, float] | None = None,
    prior: Mapping[str, Prior] | None = None,
    checks: bool = True,
    on_estimate: Callable[[Mapping[str, float]], None] | None = None,
) -> Fit:
    """The law's coefficients at the global optimum, with intervals by the cluster rule.

    objective: see `analysis.objective`; delta is the Huber threshold on log residuals.
    bootstrap: draws (0: the estimate alone, without intervals or diagnostics).
    cluster: column that names the runs whose rows share noise; `auto` finds it, see
    `analysis.runs.trajectories`; `none`: every row is independent.
    weights: column that multiplies each row's penalty. fixed: coefficients held at a value.
    prior: what is known of others. checks: whether to compute the diagnostics.
    on_estimate: told the coefficients before the resampling, which takes longer than they did.
    Raises Refusal for input that cannot be fitted; a fit that fails has status FAILED.
    """
    settings = Settings(
        objective, delta, bootstrap, level, seed, cluster, weights, dict(fixed or {}),
        dict(prior or {}), checks,
    )  # fmt: skip
    if not 0 < level < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. The usual value is 0.9.")
    if bootstrap < 0:
        raise Refusal(f"bootstrap = {bootstrap} is negative. 0 leaves intervals out.")
    goal = objective_named(objective, delta)
    selection = usable(table)
    held = fixed_of(law, fixed or {})
    known = _known(law, prior) | held.mask
    usual = prepare(law, selection.rows, goal, held, known)
    seen = examine(usual, law.features, law.target, cluster)
    rows = seen.rows
    data = data_of(law, rows)
    if both := sorted({*(fixed or {})} & {*(prior or {})}):
        raise Refusal(f"{both[0]} is held and has a prior. Give one of the two.")
    weight = weights_of(rows, weights)
    best = optimise(law, data, weight, goal, held.mask, held.theta)
    problem = model(law, data, goal, centred=not held.mask.any())
    if prior:
        noise = residual_variance(problem, best.point, data, weight, goal)
        problem = Regularised(law, problem, prior, noise)
        best = optimise(law, data, weight, goal, held.mask, held.theta, problem)
    clusters = clusters_of(rows)
    draws = min(bootstrap, max(LEAST_DRAWS, MOST_WORK // data.n)) if best.converged else 0
    bound = _at_bound(law, problem, best.point, held.mask)
    coefficients = _coefficients(law, problem, best, fixed or {})
    if on_estimate is not None and best.converged:
        on_estimate(coefficients)
    design = design_at(law, data, best.theta, held.mask, known)
    # Resamples of rows that leave a direction open all stay where the search happened to stop.
    loose = design.open if not bound else ()
    settled = held.mask | np.isin(law.coefficients, bound)
    precision = _precision(weight, data, goal)
    carried = support(law, data, best.theta, clusters, precision, settled, prior)
    spread = uncertainty(
        law, problem, best.point, weight, clusters, carried,
        fixed=held.mask, draws=0 if loose else draws, level=level, seed=seed,
    )  # fmt: skip
    spread = _held(law, spread, fixed or {})
    if 0 < len(spread.draws) < bootstrap and draws < bootstrap:
        few = f"{data.n} rows: intervals come from {len(spread.draws)} of {bootstrap} draws"
        spread = replace(spread, warnings=(*spread.warnings, few))
    odd = outliers(law, rows, data, weight, problem, best.point, held.mask, spread.se)
    contrary = () if not best.converged else contradictions(law, coefficients, prior or {})
    cautions = (*seen.cautions, *odd.cautions, *above(law, fixed or {}, rows), *contrary)
    notes = (*cautions, *selection.warnings, *spread.warnings, *seen.warnings)
    found = _assemble(
        law, rows, selection.excluded, data, goal, best, coefficients, spread, clusters, held,
        bound, design, odd, notes, settings,
    )  # fmt: skip
    found = replace(found, cautions=cautions)
    if not checks or bootstrap == 0 or found.status is Status.FAILED:
        return found
    checked = diagnose(
        law, rows, data, weight, goal, problem, best.point, held, prior or {}, clusters
    )
    return replace(found, diagnostics=checked)


def law_fitted(found: Fit) -> Law:
    """The law whose coefficients the fit has, where its data were limited since too."""
    return found.law.fitted if isinstance(found.law, Limited) else found.law


def support_of(found: Fit) -> Support:
    """How the clusters of a fit's rows carry its coefficients. The fit must have its rows."""
    law, made = law_fitted(found), found.settings
    data = data_of(law, found.table)
    goal = objective_named(made.objective, made.delta)
    precision = _precision(weights_of(found.table, made.weights), data, goal)
    known = np.isin(law.coefficients, (*found.fixed, *found.at_bound))
    theta = to_theta(law, found.coefficients)
    return support(law, data, theta, clusters_of(found.table), precision, known, made.prior)


def _precision(weight: Array, data: Data, goal: Objective) -> Array:
    """Of the rows' log losses: a penalty of differences counts large losses more."""
    return weight if goal.log else weight * data.observed**2


def _assemble(
    law: Law, rows: pd.DataFrame, excluded: pd.DataFrame, data: Data, goal: Objective,
    best: Optimum, coefficients: Mapping[str, float], spread: Uncertainty, clusters: Index,
    held: Fixed, bound: tuple[str, ...], design: Design, odd: Outliers, notes: tuple[str, ...],
    settings: Settings,
) -> Fit:  # fmt: skip
    smallest = float(data.scale.min())
    status, reason = judge(law, rows, best, bound, design, spread, held.mask, smallest)
    warnings = [note for note in notes if note != reason]
    if best.converged and best.reached == 1 < best.starts:
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
        draws=spread.draws,
        data=_describe(law, rows, clusters),
        rmse_log=odd.rms,
        starts=best.starts,
        starts_at_optimum=best.reached,
        condition_number=design.condition,
        at_bound=bound,
        open=() if bound else design.open,
        settings=settings,
        diagnostics=None,
        excluded=excluded,
        table=rows,
        clusters=spread.clusters,
    )


def _coefficients(
    law: Law, problem: Model, best: Optimum, fixed: Mapping[str, float]
) -> dict[str, float]:
    found = {k: float(v) for k, v in coefficients_at(law, problem, best.point).items()}
    return found | {name: float(value) for name, value in fixed.items()}


def _held(law: Law, spread: Uncertainty, fixed: Mapping[str, float]) -> Uncertainty:
    """Held coefficients at their values, to the last digit; of nothing else nothing is unsure."""
    exactly = {name: Bounds(value, value) for name, value in fixed.items()}
    return replace(
        spread,
        interval=replace(spread.interval, coefficients={**spread.interval.coefficients, **exactly}),
        se={**spread.se, **dict.fromkeys(fixed, 0.0)},
        draws=spread.draws.assign(**fixed),
        spread=spread.spread.assign(**fixed),
        warnings=() if len(fixed) == len(law.coefficients) else spread.warnings,
    )


def _told(law: Law, interval: Interval, bound: tuple[str, ...]) -> Interval:
    """Without those of floors that ended at nothing, whose draws are dust that is not nothing."""
    unknown = Bounds(float("nan"), float("nan"))
    dust = dict.fromkeys((name for name in bound if name in law.floors), unknown)
    return replace(interval, coefficients={**interval.coefficients, **dust})


def _at_bound(law: Law, problem: Model, point: Array, held: Mask) -> tuple[str, ...]:
    floors = np.array([name in law.floors for name in law.coefficients])
    # Valleys that end at a bound are so flat there that a descent may rest a percent short.
    logs = np.array([law.symbols[name].positive for name in law.coefficients])
    gap = np.where(logs & ~floors, 0.02, 1e-9)
    near = (point <= problem.lower + np.where(floors, NEARLY, gap)) | (point >= problem.upper - gap)
    near &= ~held
    return tuple(name for name, b in zip(law.coefficients, near, strict=True) if b)


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
