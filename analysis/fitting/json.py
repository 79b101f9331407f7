"""A fit as plain values at full precision, and back from them."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import numpy as np
import pandas as pd

from analysis.fitting.fit import Fit
from analysis.fitting.intervals import Intervals
from analysis.fitting.lack_of_fit import LackOfFit
from analysis.fitting.result import Diagnostics, FitData, Minimised, Settings, Status
from analysis.fitting.summary import basis_of, doubts, flat_with
from analysis.interval import Interval
from analysis.laws.law import Law
from analysis.plain import plain
from analysis.runs.messages import row_number
from analysis.runs.table import OF_FILE, read_runs
from analysis.solver.priors import Prior
from scaling.store.records import Refusal

Made = TypeVar("Made")

# Fields of a fit that its JSON has under their own names.
_SAME = (
    "coefficients", "se", "interval", "objective", "status", "reason", "warnings", "cautions",
    "data", "rmse_log", "starts", "starts_at_optimum", "condition_number", "at_bound", "open",
    "fixed", "settings", "effective_clusters", "diagnostics",
)  # fmt: skip


def to_json(fit: Fit) -> dict[str, Any]:
    """All that the summary shows as plain values at full precision (without draws and rows).

    `excluded` counts the rows left out by reason, e.g. {"status diverged": 2}; `excluded_rows`
    has their numbers as warnings call them: lines of a CSV file, else rows from 1. `doubts` puts
    `diagnostics` in words.
    """
    first = int(fit.excluded.attrs.get("first_row", 1))
    value = {name: plain(getattr(fit, name)) for name in _SAME}
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "n": fit.data.n,
        **value,
        "interval": {**value["interval"], "basis": basis_of(fit)},
        "flat_directions": _flat_directions(fit),
        "doubts": doubts(fit),
        "excluded": plain(fit.excluded["reason"].value_counts().to_dict()),
        "excluded_rows": {
            str(reason): [row_number(label, first) for label in rows.index]
            for reason, rows in fit.excluded.groupby("reason")
        },
    }


def _flat_directions(fit: Fit) -> list[dict[str, Any]]:
    """Ways in which the coefficients can change almost without effect, in words and numbers."""
    found: list[dict[str, Any]] = []
    if fit.open:
        found.append({"coefficients": list(fit.open), "correlation": None, "words": fit.reason})
    for name in fit.law.coefficients:
        other = flat_with(fit, name)
        if other is None or any({name, other.name} == set(f["coefficients"]) for f in found):
            continue
        way = "rise and fall together" if other.correlation > 0 else "trade against each other"
        words = (
            f"{name} and {other.name} {way} along the draws (correlation "
            f"{other.correlation:.3f}): their values are known far worse than their effect"
        )
        pair = [name, other.name]
        found.append({"coefficients": pair, "correlation": other.correlation, "words": words})
    return found


def from_json(
    value: Mapping[str, Any], law: Law, draws: pd.DataFrame, rows: pd.DataFrame, source: str
) -> Fit:
    """The fit that `to_json` gave `value` for, read from `source`.

    Raises Refusal where it failed, is of an earlier version whose intervals did not hold, or a
    coefficient is not what the law allows, and LookupError, TypeError or ValueError where it is no
    fit at all.
    """
    if Status(value["status"]) is Status.FAILED:
        raise Refusal(f"{source} is of a fit that failed: {value['reason']}.")
    interval, data = value["interval"], value["data"]
    if "effective_clusters" not in value and interval["method"] != "none":
        raise Refusal(
            f"{source} has intervals of an earlier version, which did not count how many clusters "
            "carry a coefficient and were too narrow where few do. Fit again."
        )
    ranges = {
        name: data[name] and Interval(*map(_number, data[name])) for name in ("params", "tokens")
    }
    _refuse_unasked(data.get("asked"))
    bounds = {k: Interval(*map(_number, interval["coefficients"][k])) for k in law.coefficients}
    said = tuple(interval.get("warnings", ()))  # files of before have none
    checks = value["diagnostics"]
    return Fit(
        law=law,
        coefficients=_allowed(law, value["coefficients"], source),
        se={k: _number(value["se"][k]) for k in law.coefficients},
        interval=Intervals(float(interval["level"]), str(interval["method"]), bounds, said),
        objective=_typed(Minimised(**value["objective"])),
        status=Status(value["status"]),
        reason=str(value["reason"]),
        draws=draws[list(law.coefficients)],
        data=_typed(FitData(**{**data, **ranges})),
        rmse_log=_number(value["rmse_log"]),
        starts=int(value["starts"]),
        starts_at_optimum=int(value["starts_at_optimum"]),
        condition_number=_number(value["condition_number"]),
        settings=_settings(value, source),
        diagnostics=None if checks is None else _diagnostics(checks),
        excluded=_excluded(value["excluded_rows"]),
        table=rows,
        effective_clusters=value.get("effective_clusters", {}),
        **{name: _texts(value[name]) for name in ("warnings", "cautions", "at_bound", "open")},
    )


def _typed(made: Made) -> Made:
    """A dataclass of plain values. Raises TypeError where one is not of the kind of its field."""
    for name, hint in get_type_hints(type(made)).items():
        value = getattr(made, name)
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        kinds = tuple(Real if kind is float else kind for kind in kinds)
        if {*kinds} <= {Real, int, str, bool, NoneType, Interval} and not isinstance(value, kinds):
            raise TypeError(f"{name} is {value!r:.60}")
    return made


def _refuse_unasked(asked: Any) -> None:
    """Raise TypeError for what no call of `read_runs` was given."""
    for name, value in ({} if asked is None else asked).items():
        each = [*value, *value.values()] if isinstance(value, dict) else value
        parts = each if isinstance(each, list) else [each]
        known = name in OF_FILE or name in (read_runs.__kwdefaults__ or {})
        if not (known and all(isinstance(part, str | bool | Real) for part in parts)):
            raise TypeError(f"asked is {asked!r:.60}")


def _texts(values: Any) -> tuple[str, ...]:
    if not (isinstance(values, list) and all(isinstance(each, str) for each in values)):
        raise TypeError(f"{values!r:.60} is no list of texts")
    return tuple(values)


def _settings(value: Mapping[str, Any], source: str) -> Settings:
    """Raises Refusal for a fit of before whose weights or priors are not in its file."""
    if "settings" in value:
        made = dict(value["settings"])
        prior = {name: Prior(**known) for name, known in made.pop("prior").items()}
        return _typed(Settings(**made, prior=prior))
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
    """The rows left out, with labels that give the same numbers in a table whose rows count from
    1."""
    pairs = [(reason, row) for reason, rows in listed.items() for row in rows]
    labels = [row - 1 if isinstance(row, int) else row for _, row in pairs]
    return pd.DataFrame({"reason": [reason for reason, _ in pairs]}, index=labels)


def _number(value: object) -> float:
    if value is None:
        return float("nan")  # JSON has none
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r:.60} is no number")
    return float(value)


def _diagnostics(value: Mapping[str, Any]) -> Diagnostics:
    tables = {name: value[name] for name in ("profile", "sensitivity")}
    if not all(isinstance(row, dict) for rows in tables.values() for row in rows):
        raise TypeError(f"{' or '.join(tables)} is no table")
    for row in (row for rows in tables.values() for row in rows):
        for name, cell in row.items():
            _texts([cell]) if name == "change" else _number(cell)
    test = value["lack_of_fit"]
    return Diagnostics(
        lack_of_fit=None if test is None else _typed(LackOfFit(**test)),
        **{name: pd.DataFrame(rows) for name, rows in tables.items()},
    )
