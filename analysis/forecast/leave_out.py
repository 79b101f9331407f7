"""The largest run against the forecast of a fit without it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.fitting.fit import Fit, Status
from analysis.forecast.predict import (
    ROUNDING,
    difference_text,
    number_text,
    predictions,
    span_text,
)  # fmt: skip
from analysis.forecast.scatter import seed_scatter
from analysis.interval import Interval, student
from analysis.text import human
from scaling.store.records import Refusal

# Draws of the fit without its largest run, and rows × draws that take no longer than the fit.
DRAWS, FEWEST_DRAWS, MOST_WORK = 200, 25, 20_000_000


@dataclass(frozen=True)
class LeftOut:
    """The largest cell against the forecast of a fit without it."""

    features: dict[str, float]  # the law's features at the cell
    observed: float  # nats/token; the mean over seeds
    forecast: float | None  # null if the rest cannot be fitted
    level: float  # of the interval
    interval: Interval | None  # in which its loss should have fallen; null without draws
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
            sd = number_text(self.target, self.seed_sd)
            off += f", {abs(self.error_in_seed_sds):.1f} × the spread between seeds ({sd})"
        if self.interval is not None:
            off += f", {'inside' if not self.missed else 'OUTSIDE'} its {self._forecast}"
        return (
            f"Largest run ({self._cell}) left out of a second fit: {self.target} forecast "
            f"{number_text(self.target, self.forecast)}, observed "
            f"{number_text(self.target, self.observed)}, {off}"
        )

    @property
    def missed(self) -> bool:
        """Whether the loss lies outside the interval in which it should have fallen."""
        if self.interval is None or self.error is None:
            return False
        rounded = abs(self.error) < ROUNDING * abs(self.observed)
        return not rounded and not self.interval.holds(self.observed)

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
        return f"{difference_text(self.target, self.error, self.observed)}{share}"

    @property
    def _forecast(self) -> str:
        assert self.interval is not None
        return f"{self.level:.0%} forecast interval {span_text(self.target, self.interval)}"


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
    sd, level = None if seeds is None else seeds.sd, fitted.interval.level
    left = LeftOut(at, observed, None, level, None, sd, "", fitted.law.target)
    draws = min(DRAWS, len(fitted.draws), max(FEWEST_DRAWS, MOST_WORK // len(rows)))
    try:
        again = fitted.again(rows[~cell], bootstrap=draws, checks=False)
    except Refusal as error:
        return replace(left, reason=str(error))
    if again.status is Status.FAILED:
        return replace(left, reason=again.reason)
    [found] = predictions(again, rows.loc[cell].iloc[:1])
    interval = found.interval
    if interval is not None and seeds is not None:  # no forecast is better than a seed's scatter
        reach = student(seeds.freedom, level) * seeds.sd
        interval = Interval(
            min(interval.low, found.loss - reach), max(interval.high, found.loss + reach)
        )
    return replace(left, forecast=found.loss, interval=interval)
