"""What a law predicts for runs it was not fitted to, with intervals, and what to doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.arguments import described, usable, wrong_kind
from analysis.array import Array
from analysis.fitting.fit import Fit, Status
from analysis.fitting.functionals import interval_over_draws
from analysis.fitting.source import Source, as_source, level_of, refuse_failed
from analysis.fitting.status import interpolates
from analysis.forecast.ensemble import ensemble_of
from analysis.forecast.scatter import run_spans, scale_of
from analysis.forecast.together import together
from analysis.forecast.warnings import (
    basis_warnings,
    distance,
    floor_warnings,
    range_warnings,
    repeat_warnings,
    source_warnings,
)
from analysis.interval import Interval
from analysis.laws.law import Law
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.runs.columns.units import TOKEN
from analysis.text import counted, decimal, human
from scaling.store.records import Refusal

CHECKED = 2.4  # decades beyond the data; few runs of benchmarks/forecasts.py lie farther
# Nats/token of guessing at random with the largest vocabulary behind a published law, GPT-NeoX's
# 50,432 tokens (Porian et al. 2024, arXiv:2406.19146).
CHANCE = float(np.log(50_432))


DOUBTS = {Status.WEAKLY_IDENTIFIED: "weakly identified", Status.AT_BOUND: "at a bound"}


@dataclass(frozen=True)
class Prediction:
    """The loss of one run by a law, or what else it is a law of (`target`)."""

    features: dict[str, float]  # the law's features at the run, and the unique tokens given
    loss: float  # nats/token
    level: float | None  # of the intervals; null for published coefficients, which have none
    interval: Interval | None  # in which a run's loss should fall
    curve: Interval | None  # of the fitted curve alone: what the coefficients leave open
    decades_beyond: float | None  # see `warnings.distance`; 0 inside, None: not known
    target: str = "loss"  # what the law predicts, if something else
    doubt: str = ""  # how the fit ended, if not well: weakly identified, at a bound
    law_loss: float | None = None  # by the fitted law alone; null where `loss` is that

    @property
    def sentence(self) -> str:
        """One line for the terminal."""
        at = ", ".join(f"{name} {human(value)}" for name, value in self.features.items())
        said = f"{at}: {self.target} {number_text(self.target, self.loss)}"
        said += f" by a fit that is {self.doubt}" if self.doubt else ""
        if self.interval is None or self.curve is None or self.level is None:
            far = self.decades_beyond
            return f"{said}, no interval" + ("" if far is None else f", {_far(far)}")
        text = f"{said}, {self.level:.0%} forecast {span_text(self.target, self.interval)}"
        if self.decades_beyond is not None:
            text += f", {_far(self.decades_beyond)}"
        curve = span_text(self.target, self.curve)
        if self.law_loss is None:
            return f"{text} (the curve alone {curve})"
        return f"{text} (the fitted law alone {number_text(self.target, self.law_loss)}, {curve})"

    def verdict(self, observed: float, unit: str = TOKEN) -> str:
        """Whether an observed loss, in the unit of the law, fell inside, in words."""
        off = f"observed {number_text(self.target, observed)}"
        off += f" {unit}" if self.target == "loss" else ""
        off += f", off by {difference_text(self.target, observed - self.loss, observed)}"
        if observed > 0 and self.loss > 0:
            off += f" ({observed / self.loss - 1:+.2%})"
        if self.interval is None or self.level is None:
            return f"{off}; no interval to fall inside"
        where = "inside" if self.interval.holds(observed) else "outside"
        return f"{off}, {where} the {self.level:.0%} forecast interval"

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        interval = self.interval and {"level": self.level, self.target: list(self.interval)}
        return {
            **self.features,
            self.target: self.loss,
            "interval": interval,
            "curve": self.curve and list(self.curve),
            **({} if self.law_loss is None else {"law_loss": self.law_loss}),
            "decades_beyond_data": self.decades_beyond,
            **({"doubt": self.doubt} if self.doubt else {}),
        }


def predict(
    source: Source, rows: pd.DataFrame | Mapping[str, ArrayLike], *, level: float | None = None
) -> pd.DataFrame:
    """The loss at every one of `rows`: a table, or a mapping of columns (or numbers) by name.

    One row for each, under the same index: the law's features, the loss forecast (or what else the
    law predicts), `run_low` and `run_high` in which the loss of one run should fall (NaN without
    draws), `law_loss` by the fitted law alone, `curve_low` and `curve_high` of its curve, and
    `decades_beyond` the fitted runs (NaN: not known). What is doubtful is in `.attrs["warnings"]`,
    the level in `.attrs["level"]`. Columns, units and refusals are those of `predictions`.
    """
    law = as_source("source", source).law
    rows = _checked(law, rows if isinstance(rows, pd.DataFrame) else _table(rows))
    found = predictions(source, rows, level=level)
    made = pd.DataFrame([_row(each) for each in found], index=rows.index)
    made.attrs["level"] = found[0].level if found else None
    made.attrs["warnings"] = forecast_warnings(source, rows, found)
    return made


def _table(columns: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Columns, or numbers, by name as a table. Raises Refusal for what is none."""
    if not isinstance(columns, Mapping):
        raise wrong_kind(
            "rows", columns, "a table or columns by name",
            "Give a DataFrame or e.g. {'params': [1e8, 1e9], 'tokens': [2e9, 2e10]}.",
        )  # fmt: skip
    counts = {name: np.size(values) for name, values in columns.items() if np.ndim(values)}
    if len({*counts.values()}) > 1:
        given = " and ".join(f"{count} of {name}" for name, count in counts.items())
        raise Refusal(f"{given} are given: give equally many, or one for all.")
    return pd.DataFrame(dict(columns), index=None if counts else [0])


def _row(each: Prediction) -> dict[str, float]:
    nan = float("nan")
    curve_low, curve_high = each.curve or (nan, nan)
    run_low, run_high = each.interval or (nan, nan)
    return {
        **each.features, each.target: each.loss, "run_low": run_low, "run_high": run_high,
        "law_loss": each.loss if each.law_loss is None else each.law_loss,
        "curve_low": curve_low, "curve_high": curve_high,
        "decades_beyond": nan if each.decades_beyond is None else each.decades_beyond,
    }  # fmt: skip


def predictions(
    source: Source, rows: pd.DataFrame, *, level: float | None = None
) -> list[Prediction]:
    """The loss forecast at every row of `rows`, which needs the law's columns (`flops` is 6·N·D).

    By the laws of `ensemble` together, fitted to the same runs, with what the fitted law says
    beside it (`law_loss`, `curve`); by the fitted law alone where `ensemble.why_plain` says why.
    Level and refusals are those of `law_predictions`.
    """
    alone = law_predictions(source, rows, level=level)
    joint = ensemble_of(source) if isinstance(source, Fit) else None
    known = [each for each in alone if each.interval is not None]
    if joint is None or not isinstance(source, Fit) or len(known) < len(alone):
        return alone
    features = {name: rows[name].to_numpy(dtype=float) for name in ("params", "tokens")}
    far = np.array([each.decades_beyond for each in alone], dtype=float)
    losses, spans = together(joint, features, far, level_of(source, level))
    return [
        replace(each, loss=float(loss), interval=span, law_loss=each.loss)
        for each, loss, span in zip(alone, losses, spans, strict=True)
    ]


def law_predictions(
    source: Source, rows: pd.DataFrame, *, level: float | None = None
) -> list[Prediction]:
    """The loss at every row of `rows` by the law of the source alone.

    Intervals are at `level`, by default the fit's. Of more `unique_tokens` than tokens, the tokens
    are used: none of them repeats. Raises Refusal for a fit that failed, naming a column that is
    missing, and naming the column and the row of a cell that is not a positive number. There is no
    interval beyond runs through whose means the law passes.
    """
    refuse_failed(source)
    rows = _checked(source.law, rows)
    if "unique_tokens" in source.law.features:
        rows = rows.assign(unique_tokens=_used(rows))
    features = {name: rows[name].to_numpy(dtype=float) for name in source.law.features}
    losses = np.broadcast_to(source.predict(features), len(rows))
    given = {"unique_tokens": source.law.given["unique_tokens"]} if source.law.given else {}
    where = [
        {name: float(values[i]) for name, values in features.items()} | given
        for i in range(len(rows))
    ]
    target, level = source.law.target, level_of(source, level)
    doubt = DOUBTS.get(source.status, "") if isinstance(source, Fit) else ""
    if not isinstance(source, Fit) or not len(source.draws):
        return [
            Prediction(at, float(loss), None, None, None, None, target, doubt)
            for at, loss in zip(where, losses, strict=True)
        ]
    to_scale, back = scale_of(source)
    ends = interval_over_draws(source, lambda c: to_scale(source.law.predict(c, features)), level)
    low, high = map(back, ends)
    compute = {"flops": rows["flops"]} if "flops" in rows else {}
    far = distance(source, {**compute, **features})
    runs = run_spans(source, losses, low, high, far, level)
    unknown = (far > 0) & interpolates(source)
    return [
        Prediction(
            at,
            float(loss),
            level,
            None if none else run,
            None if none else Interval(float(curve_low), float(curve_high)),
            float(decades),
            target,
            doubt,
        )
        for at, loss, run, curve_low, curve_high, decades, none in zip(
            where, losses, runs, low, high, far, unknown, strict=True
        )
    ]


def _checked(law: Law, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the columns that the law uses as positive floats, and `flops` as 6·N·D.

    Raises Refusal naming what is missing, or the column and the row of a cell that is unusable.
    """
    used = {*law.features}
    derived = {"params", "tokens"} <= {*rows.columns}
    if derived and "flops" in used:
        used = (used - {"flops"}) | {"params", "tokens"}
    if missing := [name for name in law.features if name in used and name not in rows]:
        raise Refusal(
            f"{law.name} needs {', '.join(missing)}. Give a --table with it (in Python: rows with "
            "such a column)."
        )
    rows = rows.assign(**{name: _positive(rows, name) for name in rows if name in used})
    if derived and {"params", "tokens"} <= used:
        rows = rows.assign(flops=FLOPS_PER_PARAM_TOKEN * rows["params"] * rows["tokens"])
    return rows


def _positive(rows: pd.DataFrame, name: str) -> Array:
    """The column as floats. Raises Refusal naming the first row whose cell is not positive."""
    values = pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    if (bad := ~usable(values)).any():
        at = int(np.argmax(bad))
        cell = rows[name].iloc[at]
        shown = described(cell) if isinstance(cell, str) else f"{values[at]:g}"
        other = ", or the tokens where none repeats" if name == "unique_tokens" else ", such as 1e9"
        raise Refusal(
            f"{name} = {shown} in row {at + 1} of {len(rows)} is not possible: give a positive "
            f"number{other}."
        )
    return values


def _used(rows: pd.DataFrame) -> Array:
    """The different tokens that each run sees: of those that exist, as many as it trains on."""
    unique = rows["unique_tokens"].to_numpy(dtype=float)
    return np.minimum(unique, rows["tokens"].to_numpy(dtype=float)) if "tokens" in rows else unique


def forecast_warnings(
    source: Source, rows: pd.DataFrame, predictions: Sequence[Prediction]
) -> list[str]:
    """What to know before using `predictions` of `rows`: what is said against the source first."""
    said = [*source_warnings(source), *_above_chance(source, predictions)]
    if {"unique_tokens", "tokens"} <= {*source.law.features} & {*rows.columns}:
        more = int((rows["unique_tokens"] > rows["tokens"]).sum())
        if more:
            of = "" if len(rows) == 1 else f" in {more} of {counted(len(rows), 'row')}"
            said.append(
                f"There are more unique tokens than tokens{of}: no token repeats, and the tokens "
                "are used."
            )
    if "unique_tokens" in source.law.given:
        most = int(np.argmax(rows["tokens"].to_numpy(dtype=float)))
        at = {name: float(rows[name].iloc[most]) for name in source.law.features}

        def in_words(law: Law) -> str:
            loss = float(law.predict(source.coefficients, at))
            return f"a loss of {number_text(law.target, loss)}"

        said += repeat_warnings(source.law, at["tokens"], in_words)
    if not isinstance(source, Fit):
        return said
    given = [each for each in predictions if each.interval is not None]
    far = max((each.decades_beyond or 0.0 for each in given), default=0.0)
    if far > CHECKED:
        said.append(
            f"{_far(far).capitalize()}: such intervals were checked on published tables, up to "
            f"{CHECKED} decades beyond."
        )
    if given:
        where = {name: np.array([e.features[name] for e in given]) for name in source.law.features}
        to, _ = scale_of(source)
        said += basis_warnings(source, lambda c: to(source.law.predict(c, where)), "the prediction")
    columns = {name: [each.features[name] for each in predictions] for name in source.law.features}
    said += range_warnings(source, columns)
    if predictions:
        losses = [each.loss for each in predictions]
        said += floor_warnings(source, losses, predictions[0].level or source.interval.level)
    return said


def _above_chance(source: Source, predictions: Sequence[Prediction]) -> list[str]:
    """A published law where it gives a larger loss than guessing at random does."""
    most = max((each.loss for each in predictions), default=0.0)
    if isinstance(source, Fit) or source.law.target != "loss" or most <= CHANCE:
        return []
    return [
        f"A loss of {number_text('loss', most)} nats/token is above {CHANCE:.1f}, that of guessing "
        "at random with the largest vocabulary of the published runs: the law is of far larger "
        "runs and does not hold here. Fit runs of your own near this size."
    ]


def _far(decades: float) -> str:
    return "inside the data" if decades < 0.05 else f"{decades:.1f} decades beyond the data"


# --- numbers in words --------------------------------------------------------------------------

COUNTS = ("params", "tokens", "batch_tokens")  # targets that are written with a suffix
ROUNDING = 1e-9  # of a number: what exact runs are off by


def number_text(target: str, value: float) -> str:
    """Losses to four decimals, counts with a suffix, what is small or large to four digits."""
    if target in COUNTS:
        return human(value)
    return f"{value:.4f}" if _plain(value) else decimal(value)


def difference_text(target: str, value: float, of: float) -> str:
    """With its sign, to the digits of the number `of` that it was taken from."""
    if abs(value) < ROUNDING * abs(of):
        return "+0"
    return f"{value:+.4f}" if _plain(of) and target not in COUNTS else f"{value:+.2g}"


def _plain(value: float) -> bool:
    return 0.1 <= abs(value) < 100


def span_text(target: str, span: Interval) -> str:
    """`low … high`, as `number_text` writes numbers."""
    return f"{number_text(target, span[0])} … {number_text(target, span[1])}"
