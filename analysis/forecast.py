"""What a law says of runs it did not see, and how it did on one it was not shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.caution import (
    basis_warnings,
    distance,
    floor_warnings,
    level_of,
    range_warnings,
    refuse_failed,
    repeat_warnings,
    source_warnings,
)
from analysis.derived import interval_over_draws
from analysis.expression import Array
from analysis.fit import Fit, Status
from analysis.judgement import interpolates
from analysis.limited import Limited
from analysis.published import Published
from analysis.runs.columns import TOKEN
from analysis.runs.settings import NO_SPREAD, replicates
from analysis.scatter import Scatter, run_spans, scale_of
from analysis.trend import student
from analysis.units import Span, counted, decimal, human
from scaling.store.records import Refusal

# Draws of the fit without its largest run, and rows × draws that take no longer than the fit.
DRAWS, FEWEST_DRAWS, MOST_WORK = 200, 25, 20_000_000
CHECKED = 2.4  # decades beyond the data; few runs of benchmarks/forecasts.py lie farther
# Nats/token of guessing at random with the largest vocabulary behind a published law, GPT-NeoX's
# 50,432 tokens (Porian et al. 2024, arXiv:2406.19146).
CHANCE = float(np.log(50_432))


@dataclass(frozen=True)
class Prediction:
    """The loss of one run by a law, or what else it is a law of (`target`)."""

    features: dict[str, float]  # the law's features at the run, and the unique tokens given
    loss: float  # nats/token
    level: float | None  # of the intervals; null for published coefficients, which have none
    interval: Span | None  # in which a run's loss should fall
    curve: Span | None  # of the fitted curve alone: what the coefficients leave open
    decades_beyond: float | None  # see `caution.distance`; 0 inside, None: not known
    target: str = "loss"  # what the law predicts, if something else

    @property
    def sentence(self) -> str:
        """One line for the terminal."""
        at = ", ".join(f"{name} {human(value)}" for name, value in self.features.items())
        said = f"{at}: {self.target} {_number(self.target, self.loss)}"
        if self.interval is None or self.curve is None or self.level is None:
            far = self.decades_beyond
            return f"{said}, no interval" + ("" if far is None else f", {_far(far)}")
        text = f"{said}, {self.level:.0%} forecast {_written(self.target, self.interval)}"
        if self.decades_beyond is not None:
            text += f", {_far(self.decades_beyond)}"
        return f"{text} (the curve alone {_written(self.target, self.curve)})"

    def verdict(self, observed: float, unit: str = TOKEN) -> str:
        """Whether an observed loss, in the unit of the law, fell inside, in words."""
        off = f"observed {_number(self.target, observed)}"
        off += f" {unit}" if self.target == "loss" else ""
        off += f", off by {_difference(self.target, observed - self.loss, observed)}"
        if observed > 0 and self.loss > 0:
            off += f" ({observed / self.loss - 1:+.2%})"
        if self.interval is None or self.level is None:
            return f"{off}; no interval to fall inside"
        where = "inside" if _holds(self.interval, observed) else "outside"
        return f"{off}, {where} the {self.level:.0%} forecast interval"

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        interval = self.interval and {"level": self.level, self.target: list(self.interval)}
        return {
            **self.features,
            self.target: self.loss,
            "interval": interval,
            "curve": self.curve and list(self.curve),
            "decades_beyond_data": self.decades_beyond,
        }


def predict(
    source: Fit | Published, rows: pd.DataFrame, *, level: float | None = None
) -> list[Prediction]:
    """The loss at every row of `rows`, which needs the law's columns (`flops` is 6·N·D).

    Intervals are at `level`, by default the fit's, as `answer` gives them.
    Of more `unique_tokens` than tokens, the tokens are used: none of them repeats. Raises Refusal
    for a fit that failed, naming a column that is missing, and `unique_tokens` that are not
    positive. There is no interval beyond runs through whose means the law passes.
    """
    if {"params", "tokens"} <= set(rows.columns):
        rows = rows.assign(flops=6.0 * rows["params"] * rows["tokens"])
    refuse_failed(source)
    missing = [name for name in source.law.features if name not in rows]
    if missing:
        raise Refusal(f"{source.law.name} needs {', '.join(missing)}. Give a --table with it.")
    if "unique_tokens" in source.law.features:
        rows = rows.assign(unique_tokens=_used(rows))
    features = {name: rows[name].to_numpy(dtype=float) for name in source.law.features}
    losses = np.atleast_1d(source.predict(features))
    asked, level = level_of(source, level), None
    runs: Sequence[Span | None] = [None] * len(rows)
    curves: Sequence[Span | None] = [None] * len(rows)
    beyond: list[float | None] = [None] * len(rows)
    if isinstance(source, Fit) and len(source.draws):
        level = asked
        to, back = scale_of(source)
        low, high = interval_over_draws(
            source, lambda c: to(source.law.predict(c, features)), level
        )
        far = distance(
            source, {"flops": rows["flops"], **features} if "flops" in rows else features
        )
        curves = [(float(a), float(b)) for a, b in zip(back(low), back(high), strict=True)]
        runs = run_spans(source, losses, back(low), back(high), far, level)
        beyond = [float(each) for each in far]
        if interpolates(source):
            curves = [None if away else span for span, away in zip(curves, far > 0, strict=True)]
            runs = [None if away else span for span, away in zip(runs, far > 0, strict=True)]
    given: dict[str, float] = {}
    if isinstance(source.law, Limited):
        given["unique_tokens"] = source.law.unique_tokens
    return [
        Prediction(
            {name: float(values[i]) for name, values in features.items()} | given,
            float(losses[i]),
            level,
            runs[i],
            curves[i],
            beyond[i],
            source.law.target,
        )
        for i in range(len(rows))
    ]


def _used(rows: pd.DataFrame) -> Array:
    """The different tokens that each run sees: of those that exist, as many as it trains on."""
    unique = rows["unique_tokens"].to_numpy(dtype=float)
    if (bad := ~(unique > 0)).any():
        place = int(np.argmax(bad))
        raise Refusal(
            f"unique_tokens = {unique[place]:g} in row {place + 1} of {len(rows)} is not possible: "
            "give a positive number, or the tokens where none repeats."
        )
    return np.minimum(unique, rows["tokens"].to_numpy(dtype=float)) if "tokens" in rows else unique


def forecast_warnings(
    source: Fit | Published, rows: pd.DataFrame, predictions: Sequence[Prediction]
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
    if isinstance(source.law, Limited):
        most = int(np.argmax(rows["tokens"].to_numpy(dtype=float)))
        at = {name: float(rows[name].iloc[most]) for name in source.law.features}

        def told(law: Limited) -> str:
            return f"a loss of {_number(law.target, float(law.predict(source.coefficients, at)))}"

        said += repeat_warnings(source.law, at["tokens"], told)
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


def _above_chance(source: Fit | Published, predictions: Sequence[Prediction]) -> list[str]:
    """A published law where it gives a larger loss than guessing at random does."""
    most = max((each.loss for each in predictions), default=0.0)
    if isinstance(source, Fit) or source.law.target != "loss" or most <= CHANCE:
        return []
    return [
        f"A loss of {_number('loss', most)} nats/token is above {CHANCE:.1f}, which guessing at "
        "random costs with the largest vocabulary of the published runs: the law is of far larger "
        "runs and does not hold here. Fit runs of your own near this size."
    ]


def _far(decades: float) -> str:
    return "inside the data" if decades < 0.05 else f"{decades:.1f} decades beyond the data"


COUNTS = ("params", "tokens", "batch_tokens")  # targets that are written with a suffix
ROUNDING = 1e-9  # of a number: what exact runs are off by


def _number(target: str, value: float) -> str:
    """Losses to four decimals, counts with a suffix, what is small or large to four digits."""
    if target in COUNTS:
        return human(value)
    return f"{value:.4f}" if _plain(value) else decimal(value)


def _difference(target: str, value: float, of: float) -> str:
    """With its sign, to the digits of the number `of` that it was taken from."""
    if abs(value) < ROUNDING * abs(of):
        return "+0"
    return f"{value:+.4f}" if _plain(of) and target not in COUNTS else f"{value:+.2g}"


def _plain(value: float) -> bool:
    return 0.1 <= abs(value) < 100


def _written(target: str, span: Span) -> str:
    return f"{_number(target, span[0])} … {_number(target, span[1])}"


def _holds(span: Span, value: float) -> bool:
    return span[0] <= value <= span[1]


@dataclass(frozen=True)
class LeftOut:
    """The largest cell against the forecast of a fit without it."""

    features: dict[str, float]  # the law's features at the cell
    observed: float  # nats/token; the mean over seeds
    forecast: float | None  # null if the rest cannot be fitted
    level: float  # of the interval
    interval: Span | None  # in which its loss should have fallen; null without draws of the rest
    seed_sd: float | None  # of one run's loss, from replicate seeds; null without any
    reason: str  # why there is no forecast
    target: str = "loss"  # what the law predicts, if something else

    @property
    def error(self) -> float | None:
        """forecast − observed, nats/token."""
        return None if self.forecast is None else self.forecast - self.observed

    @property
    def error_in_seed_sds(self) -> float | None:
        """The error in standard deviations between seeds."""
        if self.error is None or not self.seed_sd:
            return None
        return self.error / self.seed_sd

    @property
    def sentence(self) -> str:
        """One line for the terminal."""
        if self.forecast is None:
            return f"Largest run ({self._cell}) left out: {self.reason}"
        off = f"off by {self._off}"
        if self.error_in_seed_sds is not None and self.seed_sd is not None:
            sd = _number(self.target, self.seed_sd)
            off += f", {self.error_in_seed_sds:+.1f} sd of a seed ({sd})"
        if self.interval is not None:
            off += f", {'inside' if not self.missed else 'OUTSIDE'} its {self._forecast}"
        return (
            f"Largest run ({self._cell}) left out of a second fit: {self.target} forecast "
            f"{_number(self.target, self.forecast)}, observed "
            f"{_number(self.target, self.observed)}, {off}"
        )

    @property
    def missed(self) -> bool:
        """Whether the loss lies outside the interval in which it should have fallen."""
        if self.interval is None or self.error is None:
            return False
        rounded = abs(self.error) < ROUNDING * abs(self.observed)
        return not rounded and not _holds(self.interval, self.observed)

    @property
    def cautions(self) -> tuple[str, ...]:
        """The alarm that every answer of the fit repeats, or none."""
        if not self.missed:
            return ()
        return (
            f"a fit without the largest ({self._cell}) misses it by {self._off}, outside its "
            f"{self._forecast}: expect larger runs to be missed by as much or more",
        )

    @property
    def _cell(self) -> str:
        return ", ".join(f"{name} {human(value)}" for name, value in self.features.items())

    @property
    def _off(self) -> str:
        assert self.error is not None
        share = f" ({self.error / self.observed:+.2%})" if self.observed > 0 else ""
        return f"{_difference(self.target, self.error, self.observed)}{share}"

    @property
    def _forecast(self) -> str:
        assert self.interval is not None
        return f"{self.level:.0%} forecast interval {_written(self.target, self.interval)}"


def leave_out_largest(fitted: Fit) -> LeftOut:
    """Fit the same law without the cell of the largest 6·N·D (or largest feature), predict it."""
    rows = fitted.table
    features = list(fitted.law.features)
    if {"params", "tokens"} <= set(rows.columns):
        size = rows["params"] * rows["tokens"]
    else:
        size = rows[features[0]]
    at = {name: float(rows[name].to_numpy()[int(np.argmax(size))]) for name in features}
    cell = np.logical_and.reduce([np.isclose(rows[name], at[name], rtol=1e-9) for name in at])
    observed = float(rows.loc[cell, fitted.law.target].mean())
    seeds = seed_scatter(rows, features, fitted.law.target)
    sd = None if seeds is None else seeds.sd
    level = fitted.interval.level
    try:
        again = fitted.again(
            rows[~cell],
            bootstrap=min(DRAWS, len(fitted.draws), max(FEWEST_DRAWS, MOST_WORK // len(rows))),
            checks=False,
        )
    except Refusal as error:
        return LeftOut(at, observed, None, level, None, sd, str(error), fitted.law.target)
    if again.status is Status.FAILED:
        return LeftOut(at, observed, None, level, None, sd, again.reason, fitted.law.target)
    [found] = predict(again, rows.loc[cell].iloc[:1])
    interval = found.interval
    if interval is not None and seeds is not None:  # no forecast is better than a seed's scatter
        reach = student(seeds.freedom, level) * seeds.sd
        interval = min(interval[0], found.loss - reach), max(interval[1], found.loss + reach)
    return LeftOut(at, observed, found.loss, level, interval, sd, "", fitted.law.target)


def seed_scatter(rows: pd.DataFrame, features: list[str], target: str = "loss") -> Scatter | None:
    """Of the loss between replicate runs, pooled over their cells.

    None where no run was repeated, and where repeats differ by nothing.
    """
    cells = rows[target].groupby(replicates(rows, features, target))
    freedom = float((cells.size() - 1).sum())
    if freedom == 0:
        return None
    sd = float(np.sqrt(((rows[target] - cells.transform("mean")) ** 2).sum() / freedom))
    return Scatter(sd, freedom) if sd > NO_SPREAD * float(rows[target].abs().mean()) else None
