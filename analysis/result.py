"""What a fit hands over: coefficients, what they are worth, and the file they are kept in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.diagnostics import Diagnostics, LackOfFit
from analysis.estimate import Estimate, FitData, Minimised, Status
from analysis.laws import Law
from analysis.laws import law as law_named
from analysis.runs.columns import TOKEN
from analysis.runs.load import load
from analysis.summary import doubts, summary
from analysis.tradeoff import flat_directions
from analysis.uncertainty import Bounds, Interval
from scaling.records import Refusal, read_json, write_json, write_table

__all__ = ["Fit", "FitData", "Minimised", "Status", "load_fit", "save_fit", "to_json"]

COUNTS = ("params", "tokens", "unique_tokens")
GROUPS = ("trunk_id", "budget_flops", "variant")  # columns that say which rows belong together


@dataclass(frozen=True)
class Fit(Estimate):
    """A law with coefficients, and everything needed to judge them, in words too."""

    def summary(self) -> str:
        """The fit on one screen."""
        return summary(self)


def to_json(fit: Fit) -> dict[str, Any]:
    """All that the summary shows as plain values at full precision (without draws and rows).

    `excluded` counts the rows left out by reason, e.g. {"status diverged": 2}; `excluded_rows`
    has their numbers in the table, from 1. `doubts` says in words what stands in `diagnostics`.
    """
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
        "constrained": list(fit.constrained),
        "diagnostics": _diagnostics_json(fit.diagnostics),
        "doubts": doubts(fit),
        "excluded": fit.excluded["reason"].value_counts().to_dict(),
        "excluded_rows": {
            str(reason): [_row_number(label) for label in rows.index]
            for reason, rows in fit.excluded.groupby("reason")
        },
    }


def save_fit(fit: Fit, path: Path, also: Mapping[str, Any] | None = None) -> None:
    """Write the fit as JSON at `path`, and its draws and fitted rows as Parquet beside it.

    `also`: what was read off the same rows, kept under its own keys; `load_fit` passes it over.
    """
    value = {**to_json(fit), **(also or {})}
    draws = path.with_name(f"{path.stem}.draws.parquet")
    write_table(draws, fit.draws)
    rows = path.with_name(f"{path.stem}.rows.parquet")
    kept = dict.fromkeys([*fit.law.features, *COUNTS, *GROUPS, fit.law.target])
    saved = fit.table[[column for column in kept if column in fit.table]]
    if "unique_tokens" in saved:  # of a law that does not ask for it: as it was read, text and all
        numbers = pd.to_numeric(saved["unique_tokens"], errors="coerce")
        saved = saved.assign(unique_tokens=numbers)
    saved.attrs.clear()  # where they were read from is no part of them
    write_table(rows, saved)
    value["draws"], value["rows"] = draws.name, rows.name
    write_json(path, value)


def load_fit(path: Path, law: Law | None = None) -> Fit:
    """The fit saved at `path`, with the columns of its rows that the law uses.

    `law` is needed for one that `analysis.laws.law` does not find by name. Raises Refusal for a
    file that is no fit, and for a law other than the one that was fitted.
    """
    value = read_json(path)
    try:
        law = _fitted_law(path, str(value["law"]), str(value["formula"]), law)
        data = value["data"]
        interval = value["interval"]
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
            draws=_beside(path, value["draws"])[list(law.coefficients)],
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
            open=tuple(value.get("open", ())),
            fixed=tuple(value["fixed"]),
            diagnostics=_diagnostics(value.get("diagnostics")),
            excluded=_excluded(value),
            table=_beside(path, value["rows"]),
            cautions=tuple(value.get("cautions", ())),
            constrained=tuple(value.get("constrained", ())),  # files of before have none
        )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise Refusal(
            f"{path} is not a fit ({type(error).__name__}: {error}). "
            "Give the JSON file that `scaling fit` wrote."
        ) from error


def _fitted_law(path: Path, name: str, formula: str, given: Law | None) -> Law:
    """The law that was fitted, `given` or found by name; Refusal where it is not to be had."""
    law = given
    if law is None:
        try:
            law = law_named(name)
        except Refusal as refusal:
            raise Refusal(
                f"{path} is a fit of {formula}, a law of someone's own. Install the package that "
                f"declares it, or in Python give it: load_fit(path, law). ({refusal})"
            ) from refusal
    # A formula of another time or hand would predict other losses from these coefficients.
    if law.formula != formula:
        raise Refusal(
            f"{path} is a fit of {name}, {formula}; the law given reads {law.formula}. Fit again, "
            "or give the law that was fitted."
        )
    return law


def _beside(path: Path, name: str) -> pd.DataFrame:
    """A table that the fit at `path` names; only of its own folder, whatever the name says."""
    found = path.with_name(Path(name).name)
    if not found.exists():
        raise Refusal(
            f"{path} names {name!r}, which is not beside it. Keep the three files together, or "
            "fit again."
        )
    return load(found)


def _row_number(label: Any) -> int | str:
    return int(label) + 1 if isinstance(label, (int, np.integer)) else str(label)


def _excluded(value: Mapping[str, Any]) -> pd.DataFrame:
    """Row numbers back to labels; a file of before has the counts alone."""
    listed = value.get("excluded_rows")
    if listed is None:
        listed = {reason: [0] * int(count) for reason, count in value["excluded"].items()}
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
