"""Fit a law to a run table: the global optimum, what it is worth, and why to doubt it.

    fit(law("chinchilla"), read_runs("results/mine")).summary()

The result is frozen. It carries a status with a reason, so that a fit which went wrong says
so instead of handing over a wrong minimum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.expression import Array
from analysis.laws import Law
from analysis.laws import law as law_named
from analysis.model import Data, Model, is_floor, model, to_coefficients
from analysis.objective import Objective
from analysis.objective import objective as objective_named
from analysis.quality import refuse_line, standardise, suspicious, usable
from analysis.search import Optimum, optimise
from analysis.uncertainty import Bounds, Index, Interval, Uncertainty, clusters_of, uncertainty
from scaling.records import Refusal, read_json, write_json, write_table

SPARE_ROWS = 2  # rows beyond the coefficients; fewer leave no residual to judge by
WIDE = 20.0  # an interval spanning more than this factor pins nothing down


class Status(Enum):
    CONVERGED = "converged"
    AT_BOUND = "at_bound"
    WEAKLY_IDENTIFIED = "weakly_identified"
    FAILED = "failed"


@dataclass(frozen=True)
class Minimised:
    """What was minimised and the value reached (a sum over rows)."""

    name: str
    delta: float
    value: float


@dataclass(frozen=True)
class FitData:
    """What the fit saw. Ranges are None for a law over other columns."""

    n: int
    clusters: int
    params_column: str
    params: Bounds | None
    tokens: Bounds | None
    flops_max: float | None  # largest 6·N·D
    sha256: str  # of the fitted columns


@dataclass(frozen=True)
class Fit:
    """A law with coefficients, and everything needed to judge them."""

    law: Law
    coefficients: Mapping[str, float]
    se: Mapping[str, float]
    interval: Interval
    objective: Minimised
    status: Status
    reason: str  # one sentence a user can act on
    warnings: tuple[str, ...]
    draws: pd.DataFrame  # a column a coefficient, a row a draw
    data: FitData
    rmse_log: float  # of log(predicted / observed)
    starts: int
    starts_at_optimum: int
    condition_number: float
    at_bound: tuple[str, ...]
    excluded: pd.DataFrame  # rows left out, and why
    table: pd.DataFrame  # rows fitted

    def predict(self, features: Mapping[str, Any]) -> Array:
        """Loss at the features, by column name (`params`, `tokens`; `flops` is 6·N·D)."""
        return self.law.predict(self.coefficients, features)

    def predict_interval(self, features: Mapping[str, Any]) -> Bounds:
        """Percentile bounds of the fitted curve (arrays) at the level of the fit.

        They carry the uncertainty of the coefficients only, not of the law's form.
        Raises Refusal if the fit has no draws.
        """
        if self.draws.empty:
            raise Refusal(f"this fit has no draws: {'; '.join(self.warnings) or self.reason}.")
        columns = {k: np.atleast_1d(np.asarray(v, dtype=float)) for k, v in features.items()}
        drawn = {k: self.draws[k].to_numpy()[:, None] for k in self.law.coefficients}
        tails = [50 * (1 - self.interval.level), 50 * (1 + self.interval.level)]
        low, high = np.percentile(self.law.predict(drawn, columns), tails, axis=0)
        return Bounds(low, high)

    def summary(self) -> str:
        """The fit on one screen."""
        from analysis.summary import summary

        return summary(self)


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
) -> Fit:
    """The law's coefficients at the global optimum, with intervals by the cluster rule.

    objective: see `analysis.objective`; delta is the Huber threshold on log residuals.
    bootstrap: draws (0 leaves intervals out). cluster: column of the runs that share noise.
    Raises Refusal for input that cannot be fitted; a fit that fails has status FAILED.
    """
    if not 0 < level < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. The usual value is 0.9.")
    if bootstrap < 0:
        raise Refusal(f"bootstrap = {bootstrap} is negative. 0 leaves intervals out.")
    goal = objective_named(objective, delta)
    selection = usable(table)
    rows = _prepare(law, selection.rows)
    data = _data(law, rows)
    size = len(law.coefficients)
    fixed, weights = np.zeros(size, dtype=bool), np.ones(data.n)
    best = optimise(law, data, weights, goal, fixed, np.zeros(size))
    problem = model(law, data, goal)
    clusters = clusters_of(rows, cluster)
    spread = uncertainty(
        law, problem, best.point, weights, clusters,
        fixed=fixed, draws=bootstrap if best.converged else 0, level=level, seed=seed,
    )  # fmt: skip
    return _assemble(law, rows, selection.excluded, data, goal, problem, best, spread, clusters)


def _assemble(
    law: Law, rows: pd.DataFrame, excluded: pd.DataFrame, data: Data, goal: Objective,
    problem: Model, best: Optimum, spread: Uncertainty, clusters: Index,
) -> Fit:  # fmt: skip
    coefficients = {k: float(v) for k, v in to_coefficients(law, best.theta).items()}
    bound = _at_bound(law, problem, best.point)
    for name in bound:
        if is_floor(law, name):
            coefficients[name] = 0.0  # its share of any loss is below rounding
    condition = _condition(law, data, problem, best.point)
    predicted = law.predict(coefficients, {s.column: data.features[n]
        for n, s in law.symbols.items() if s.feature})  # fmt: skip
    with np.errstate(all="ignore"):
        rmse = float(np.sqrt(np.mean(np.log(predicted / data.observed) ** 2)))
    status, reason = _judge(law, best, bound, spread)
    warnings = [*suspicious(rows), *spread.warnings]
    if "trunk_id" not in rows or rows["trunk_id"].isna().all():
        warnings.append("no trunk_id column: every row counts as independent")
    if best.converged and best.reached == 1:
        warnings.append(f"only 1 of {best.starts} starts reached the optimum")
    warnings += _regime(law, rows)
    return Fit(
        law=law,
        coefficients=coefficients,
        se=spread.se,
        interval=spread.interval,
        objective=Minimised(goal.name, goal.delta, best.value),
        status=status,
        reason=reason,
        warnings=tuple(warnings),
        draws=spread.draws,
        data=_describe(law, rows, clusters),
        rmse_log=rmse,
        starts=best.starts,
        starts_at_optimum=best.reached,
        condition_number=condition,
        at_bound=bound,
        excluded=excluded,
        table=rows,
    )


def _prepare(law: Law, table: pd.DataFrame) -> pd.DataFrame:
    """The rows with the law's columns as floats; `flops` is always 6·N·D of this table's N."""
    counted = "params" in table or "params_total" in table
    derived = "flops" in law.features and counted and "tokens" in table
    needed = [c for c in law.features if not (c == "flops" and derived)]
    if derived:
        needed += ["params", "tokens"]
    rows = standardise(table, require=[*dict.fromkeys(needed), law.target])
    if derived:
        rows["flops"] = 6 * rows["params"] * rows["tokens"]
    least = len(law.coefficients) + SPARE_ROWS
    if len(rows) < least:
        raise Refusal(
            f"{law.name} has {len(law.coefficients)} coefficients and needs at least {least} "
            f"usable runs; there are {len(rows)}. Train more, or fit a law with fewer."
        )
    refuse_line({column: rows[column].to_numpy() for column in law.features})
    return rows


def _data(law: Law, rows: pd.DataFrame) -> Data:
    features = {n: rows[s.column].to_numpy() for n, s in law.symbols.items() if s.feature}
    return Data(features, rows[law.target].to_numpy())


def _at_bound(law: Law, problem: Model, point: Array) -> tuple[str, ...]:
    near = (point <= problem.lower + 1e-9) | (point >= problem.upper - 1e-9)
    return tuple(name for name, b in zip(law.coefficients, near, strict=True) if b)


def _condition(law: Law, data: Data, problem: Model, point: Array) -> float:
    """Condition number of JᵀJ of log-predictions in the model's (centred) coordinates."""
    plain = model(law, data, objective_named("log_l2"))
    with np.errstate(all="ignore"):
        matrix = plain.local(plain.enter(problem.leave(point[None])), np.ones((1, data.n)), True)
        if not np.isfinite(matrix.majoriser).all():
            return float("inf")
        return float(np.linalg.cond(matrix.majoriser[0]))


class _Verdict(NamedTuple):
    status: Status
    reason: str


def _judge(law: Law, best: Optimum, bound: tuple[str, ...], spread: Uncertainty) -> _Verdict:
    if not best.converged or not np.isfinite(best.value):
        return _Verdict(
            Status.FAILED,
            f"none of {best.starts} starts came to rest; the rows may not follow {law.name}: "
            "plot them, or fit a law with fewer coefficients",
        )
    if bound:
        names = ", ".join(bound)
        return _Verdict(
            Status.AT_BOUND,
            f"{names} ended at the edge of what the law allows; these rows do not determine "
            f"{'it' if len(bound) == 1 else 'them'}: use a law without, or more scale",
        )
    vague = [name for name in law.coefficients if _vague(law, name, spread.interval)]
    if vague:
        return _Verdict(
            Status.WEAKLY_IDENTIFIED,
            f"these rows leave {', '.join(vague)} open (intervals span a factor of "
            f"{WIDE:g} or more): add runs that vary N and D more, or fix a coefficient",
        )
    return _Verdict(Status.CONVERGED, f"{best.reached} of {best.starts} starts reached the optimum")


def _vague(law: Law, name: str, interval: Interval) -> bool:
    """Open within a factor WIDE. An amplitude is not judged: it is the intercept at N = 1,
    far outside any data, and its interval is the exponent's multiplied."""
    symbol = law.symbols[name]
    if interval.method == "none" or (symbol.positive and not is_floor(law, name)):
        return False
    low, high = interval.coefficients[name]
    return bool(symbol.lower == 0.0 and not high < WIDE * low)


def _regime(law: Law, rows: pd.DataFrame) -> list[str]:
    """A law of one variable, fitted where another varies too."""
    if len(law.features) != 1 or law.features[0] not in ("params", "tokens", "flops"):
        return []
    if not {"params", "tokens"} <= set(rows.columns):
        return []
    repeated = rows.groupby(law.features[0])[law.target].agg(lambda x: x.max() / x.min()).max()
    single = rows[law.features[0]].nunique() == len(rows)
    if not single and repeated > 1.05:
        return [
            f"runs with equal {law.features[0]} differ by {repeated - 1:.0%} in {law.target}: "
            f"{law.name} holds for {law.note}; select those rows with --where"
        ]
    return []


def _describe(law: Law, rows: pd.DataFrame, clusters: Index) -> FitData:
    def span(column: str) -> Bounds | None:
        if column not in rows:
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
    )


# --- files --------------------------------------------------------------------------------------


def to_json(fit: Fit) -> dict[str, Any]:
    """The fit as plain values at full precision (without draws and rows)."""
    data = fit.data
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "coefficients": dict(fit.coefficients),
        "se": dict(fit.se),
        "interval": {
            "level": fit.interval.level,
            "method": fit.interval.method,
            "coefficients": {k: list(v) for k, v in fit.interval.coefficients.items()},
        },
        "objective": {
            "name": fit.objective.name,
            "delta": fit.objective.delta,
            "value": fit.objective.value,
        },
        "n": data.n,
        "status": fit.status.value,
        "reason": fit.reason,
        "warnings": list(fit.warnings),
        "data": {
            "n": data.n,
            "clusters": data.clusters,
            "params_column": data.params_column,
            "params": None if data.params is None else list(data.params),
            "tokens": None if data.tokens is None else list(data.tokens),
            "flops_max": data.flops_max,
            "sha256": data.sha256,
        },
        "rmse_log": fit.rmse_log,
        "starts": fit.starts,
        "starts_at_optimum": fit.starts_at_optimum,
        "condition_number": fit.condition_number,
        "at_bound": list(fit.at_bound),
    }


def save_fit(fit: Fit, path: Path) -> None:
    """Write the fit as JSON at `path`, and its draws and fitted rows as Parquet beside it."""
    value = to_json(fit)
    draws = path.with_name(f"{path.stem}.draws.parquet")
    write_table(draws, fit.draws)
    rows = path.with_name(f"{path.stem}.rows.parquet")
    kept = dict.fromkeys([*fit.law.features, "params", "tokens", fit.law.target])
    write_table(rows, fit.table[[column for column in kept if column in fit.table]])
    value["draws"], value["rows"] = draws.name, rows.name
    value["excluded"] = fit.excluded["reason"].value_counts().to_dict()
    write_json(path, value)


def load_fit(path: Path, law: Law | None = None) -> Fit:
    """The fit saved at `path`, with the columns of its rows that the law uses.

    `law` is needed for a law outside the registry. Raises Refusal for a file that is no fit.
    """
    value = read_json(path)
    try:
        if law is None:
            law = law_named(value["law"])
        data = value["data"]
        interval = value["interval"]
        draws = path.with_name(Path(value["draws"]).name)
        rows = path.with_name(Path(value["rows"]).name)
        return Fit(
            law=law,
            coefficients={k: _number(value["coefficients"][k]) for k in law.coefficients},
            se={k: _number(value["se"][k]) for k in law.coefficients},
            interval=Interval(
                float(interval["level"]),
                str(interval["method"]),
                {k: Bounds(*map(_number, interval["coefficients"][k])) for k in law.coefficients},
            ),
            objective=Minimised(**value["objective"]),
            status=Status(value["status"]),
            reason=str(value["reason"]),
            warnings=tuple(value["warnings"]),
            draws=pd.read_parquet(draws)[list(law.coefficients)],
            data=FitData(
                n=int(data["n"]),
                clusters=int(data["clusters"]),
                params_column=str(data["params_column"]),
                params=None if data["params"] is None else Bounds(*data["params"]),
                tokens=None if data["tokens"] is None else Bounds(*data["tokens"]),
                flops_max=data["flops_max"],
                sha256=str(data["sha256"]),
            ),
            rmse_log=_number(value["rmse_log"]),
            starts=int(value["starts"]),
            starts_at_optimum=int(value["starts_at_optimum"]),
            condition_number=_number(value["condition_number"]),
            at_bound=tuple(value["at_bound"]),
            excluded=pd.DataFrame({"reason": []}),
            table=pd.read_parquet(rows),
        )
    except OSError as error:
        raise Refusal(
            f"{path} names its draws in {value['draws']!r} and its rows in {value['rows']!r}, "
            f"which cannot be read ({error.strerror or error}). Keep the three files together, "
            "or fit again."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refusal(
            f"{path} is not a fit ({type(error).__name__}: {error}). "
            "Give the JSON file that `scaling fit` wrote."
        ) from error


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)  # JSON has no NaN
