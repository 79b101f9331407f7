"""A fit as plain values at full precision, and back from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from analysis.constraints import Prior
from analysis.diagnostics import Diagnostics, LackOfFit
from analysis.estimate import Estimate, FitData, Minimised, Settings, Status
from analysis.laws import Law
from analysis.runs.columns import TOKEN
from analysis.runs.rows import row_number
from analysis.summary import basis_of, doubts
from analysis.tradeoff import flat_directions
from analysis.uncertainty import Bounds, Interval
from scaling.store.records import Refusal

E = TypeVar("E", bound=Estimate)


def to_json(fit: Estimate) -> dict[str, Any]:
    """All that the summary shows as plain values at full precision (without draws and rows).

    `excluded` counts the rows left out by reason, e.g. {"status diverged": 2}; `excluded_rows`
    has their numbers as warnings call them: lines of a CSV file, else rows from 1. `doubts` says
    in words what stands in `diagnostics`.
    """
    data = fit.data
    first = int(fit.excluded.attrs.get("first_row", 1))
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "coefficients": dict(fit.coefficients),
        "se": dict(fit.se),
        "interval": {
            "level": fit.interval.level,
            "method": fit.interval.method,
            "basis": basis_of(fit),
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
        "cautions": list(fit.cautions),
        "data": {
            "n": data.n,
            "clusters": data.clusters,
            "params_column": data.params_column,
            "params": None if data.params is None else list(data.params),
            "tokens": None if data.tokens is None else list(data.tokens),
            "flops_max": data.flops_max,
            "sha256": data.sha256,
            "loss_unit": data.loss_unit,
        },
        "rmse_log": fit.rmse_log,
        "starts": fit.starts,
        "starts_at_optimum": fit.starts_at_optimum,
        "condition_number": fit.condition_number,
        "flat_directions": flat_directions(fit),
        "at_bound": list(fit.at_bound),
        "open": list(fit.open),
        "fixed": list(fit.fixed),
        "settings": asdict(fit.settings),
        "effective_clusters": dict(fit.clusters),
        "diagnostics": _diagnostics_json(fit.diagnostics),
        "doubts": doubts(fit),
        "excluded": fit.excluded["reason"].value_counts().to_dict(),
        "excluded_rows": {
            str(reason): [row_number(label, first) for label in rows.index]
            for reason, rows in fit.excluded.groupby("reason")
        },
    }


def from_json(
    kind: type[E],
    value: Mapping[str, Any],
    law: Law,
    draws: pd.DataFrame,
    rows: pd.DataFrame,
    source: str,
) -> E:
    """The fit, as a `kind` of estimate, that `to_json` gave `value` for, read from `source`.

    Raises Refusal where it failed, is of an earlier version whose intervals did not hold, or a
    coefficient is not what the law allows, and LookupError,
    TypeError or ValueError where it is no fit at all.
    """
    if Status(value["status"]) is Status.FAILED:
        raise Refusal(f"{source} is of a fit that failed: {value['reason']}.")
    data = value["data"]
    interval = value["interval"]
    if interval["method"] == "jackknife":
        raise Refusal(
            f"{source} has jackknife intervals of an earlier version, which were too narrow where "
            "several runs share a point. Fit again."
        )
    if "effective_clusters" not in value and not draws.empty:
        raise Refusal(
            f"{source} has intervals of an earlier version, which resampled whole clusters and did "
            "not count how many carry a coefficient: what is computed from its draws today would "
            "have other intervals than its coefficients. Fit again."
        )
    return kind(
        law=law,
        coefficients=_allowed(law, value["coefficients"], source),
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
        draws=draws[list(law.coefficients)],
        data=FitData(
            n=int(data["n"]),
            clusters=int(data["clusters"]),
            params_column=str(data["params_column"]),
            params=None if data["params"] is None else Bounds(*data["params"]),
            tokens=None if data["tokens"] is None else Bounds(*data["tokens"]),
            flops_max=data["flops_max"],
            sha256=str(data["sha256"]),
            loss_unit=str(data.get("loss_unit", TOKEN)),  # files of before have none
        ),
        rmse_log=_number(value["rmse_log"]),
        starts=int(value["starts"]),
        starts_at_optimum=int(value["starts_at_optimum"]),
        condition_number=_number(value["condition_number"]),
        at_bound=tuple(value["at_bound"]),
        open=tuple(value["open"]),
        settings=_settings(value, source),
        diagnostics=_diagnostics(value["diagnostics"]),
        excluded=_excluded(value["excluded_rows"]),
        table=rows,
        clusters={k: float(v) for k, v in value.get("effective_clusters", {}).items()},
        cautions=tuple(value["cautions"]),
    )


def _settings(value: Mapping[str, Any], source: str) -> Settings:
    """Raises Refusal for a fit of before whose weights or priors are not in its file."""
    if "settings" in value:
        made = dict(value["settings"])
        prior = {name: Prior(**known) for name, known in made.pop("prior").items()}
        return Settings(**made, prior=prior)
    if value["constrained"]:
        raise Refusal(
            f"{source} was fitted with {', '.join(value['constrained'])} by an earlier version, "
            "which did not keep them. Fit again."
        )
    goal = value["objective"]
    return Settings(
        objective=str(goal["name"]),
        delta=float(goal["delta"]),
        level=float(value["interval"]["level"]),
        fixed={name: _number(value["coefficients"][name]) for name in value["fixed"]},
    )


def _allowed(law: Law, values: Mapping[str, Any], source: str) -> dict[str, float]:
    """Coefficients. Raises Refusal for one outside what the law allows."""
    found = {name: _number(values[name]) for name in law.coefficients}
    for name, value in found.items():
        symbol = law.symbols[name]
        slack = 1e-9 * abs(value)  # a bound comes back from its logarithm
        if not (np.isfinite(value) and symbol.lower - slack <= value <= symbol.upper + slack):
            raise Refusal(
                f"{source}: {name} = {value} is outside what {law.name} allows ({symbol.lower:g} "
                f"to {symbol.upper:g}). Fit again."
            )
    return found


def _excluded(listed: Mapping[str, Any]) -> pd.DataFrame:
    """Row numbers back to labels, of rows from 1."""
    pairs = [(reason, row) for reason, rows in listed.items() for row in rows]
    labels = [row - 1 if isinstance(row, int) else row for _, row in pairs]
    return pd.DataFrame({"reason": [reason for reason, _ in pairs]}, index=labels)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)  # JSON has no NaN


def _diagnostics_json(diagnostics: Diagnostics | None) -> dict[str, Any] | None:
    if diagnostics is None:
        return None
    test = diagnostics.lack_of_fit
    return {
        "profile": diagnostics.profile.to_dict("records"),
        "sensitivity": diagnostics.sensitivity.to_dict("records"),
        "lack_of_fit": None if test is None else asdict(test),
    }


_TABLES = ("profile", "sensitivity")  # of the diagnostics


def _diagnostics(value: dict[str, Any] | None) -> Diagnostics | None:
    if value is None:
        return None
    test = value["lack_of_fit"]
    if not all(isinstance(row, dict) for name in _TABLES for row in value[name]):
        raise TypeError(f"{' or '.join(_TABLES)} is no table")
    return Diagnostics(
        profile=pd.DataFrame(value["profile"]),
        sensitivity=pd.DataFrame(value["sensitivity"]),
        lack_of_fit=None if test is None else LackOfFit(**test),
    )
