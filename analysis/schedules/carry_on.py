"""Where will this run end? The curve of one run carried on through its schedule, with an interval.

    carried = carry_on(curve, to=72_000)           # columns step, lr, loss; the last rate is kept
    carried = carry_on(curve, schedule=rest)       # columns step, lr: the rates still to come
    print(carried)

The loss is a floor and a power of the summed rates, less what the decay of the rate gains, as in
the multi-power law (`analysis.schedules.annealing`). One unfinished curve leaves most of that open,
so the forecast is an average over floors, breaks (`analysis.schedules.extrapolate`) and, where the
rate falls, over the size and speed of the gain: about the published ones, or `like` another run's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.array import Array, Index
from analysis.interval import Interval
from analysis.schedules.annealing import Terms, annealed, terms_of
from analysis.schedules.curves import Schedule, after_warmup, read, schedule_of
from analysis.schedules.extrapolate import Shift, average
from analysis.text import paragraph
from scaling.store.records import Refusal

# Of a decay from the peak to nothing, in nats, and how fast in peak steps it is felt, both with a
# spread that takes in other setups than the published ones: .11 to .16 nats (Luo et al. 2025, three
# sizes) give or take a factor of 2, and a speed of .03 give or take one of 10.
GAIN, GAIN_SD, SPEED, SPEED_SD = 0.13, np.log(2.0), 0.03, np.log(10.0)
LIKE_SD = np.log(1.25)  # of the gain, where another run's coefficients are given
_SPREADS = np.linspace(-2, 2, 9)  # sd at which a gain is tried, and every other one of a speed
# Where there are gains to average over too, fewer floors and breaks, and a noise of at least what
# the multi-power law leaves of published curves (sd of log losses).
_FLOORS, _BREAKS, _LEAST = 1 - np.geomspace(1, 0.01, 20), 3, 1e-3
_MOST = 300  # losses; more are put together over equal factors of the summed rates
_SHOWN = 60  # steps of a forecast


@dataclass(frozen=True)
class CarriedOn:
    """The rest of a run. `str()` of it is its end in a sentence."""

    frame: pd.DataFrame  # step, lr, loss, low, high: of the steps to come some 60, and the last
    level: float
    seen: int  # losses
    last_step: int  # that was seen
    noise: float  # sd of log losses about the best member

    @property
    def loss(self) -> float:
        """At the end of the run, nats."""
        return float(self.frame["loss"].iloc[-1])

    @property
    def interval(self) -> Interval:
        """Of the loss at the end of the run."""
        last = self.frame.iloc[-1]
        return Interval(float(last["low"]), float(last["high"]))

    def summary(self) -> str:
        """The end in a sentence."""
        step, (low, high) = int(self.frame["step"].iloc[-1]), self.interval
        return paragraph(
            f"step {step:,}: loss {self.loss:.4f}, {self.level:.0%} interval {low:.4f} … "
            f"{high:.4f}, from {self.seen} losses up to step {self.last_step:,}"
        )

    __str__ = summary


def carry_on(
    curve: pd.DataFrame,
    *,
    to: int | None = None,
    schedule: pd.DataFrame | None = None,
    like: Mapping[str, float] | None = None,
    warmup_steps: int | None = None,
    level: float = 0.9,
) -> CarriedOn:
    """The rest of a run, whose `curve` so far has columns step, lr and loss.

    to: the last step; without a schedule the rate of the last row is kept until then.
    schedule: columns step and lr of the steps to come, straight lines between rows; those up to the
        curve's last step are not looked at, so it may be the whole schedule.
    like: coefficients B, C, beta and gamma of the multi-power law for this model, as
        `fit_schedules` or `fit_sizes(...).at(params)` gives them; they say what a decay gains.
    warmup_steps: as in `fit_schedules`.
    Raises Refusal for curves that cannot be read, and where nothing is left to forecast.
    """
    rows = read(curve.assign(curve="the run"))
    known = rows["loss"].notna()
    if not known.any():
        raise Refusal("the curve has no loss. Give the losses so far.")
    last = int(rows["step"][known].max())
    rows = rows[rows["step"] <= last].reset_index(drop=True)
    coming = _coming(rows, last, to, schedule)
    kept = after_warmup(rows, warmup_steps)
    whole = schedule_of(pd.concat([rows, coming], ignore_index=True), warmup_steps)
    shown = np.unique(np.linspace(0, len(coming) - 1, _SHOWN).round().astype(int))
    coming = coming.iloc[shown].reset_index(drop=True)
    past = terms_of(whole, rows["step"][kept].to_numpy(dtype=np.intp))
    future = terms_of(whole, coming["step"].to_numpy(dtype=np.intp))
    losses, peak = rows["loss"][kept].to_numpy(), float(whole.rates.max())
    which = _bins(past.total)
    shifts = [
        Shift(_mean(seen, which), wanted, log_prior)
        for seen, wanted, log_prior in _shifts(past, future, peak, like, whole)
    ]
    grid: dict[str, Any] = (
        {"floors": _FLOORS, "breaks": _BREAKS, "least": _LEAST} if len(shifts) > 1 else {}
    )
    found = average(
        _mean(past.total, which),
        _mean(losses, which),
        future.total,
        shifts,
        level,
        **grid,
    )
    frame = coming[["step", "lr"]].assign(loss=found.loss, low=found.low, high=found.high)
    return CarriedOn(frame, level, int(kept.sum()), last, found.noise)


def _coming(
    rows: pd.DataFrame, last: int, to: int | None, schedule: pd.DataFrame | None
) -> pd.DataFrame:
    """The steps to forecast, with their rates."""
    rate = float(rows["lr"].iloc[-1])
    if schedule is None:
        if to is None:
            raise Refusal("to: give the last step of the run, or its schedule.")
        if to <= last:
            raise Refusal(f"to = {to} is not after the curve's last step, {last}.")
        steps = np.unique(np.linspace(last + 1, to, _SHOWN).round().astype(int))
        return pd.DataFrame({"curve": "the run", "step": steps, "lr": rate, "loss": np.nan})
    plan = read(schedule.assign(curve="the run", loss=np.nan))
    if to is not None:
        if to > plan["step"].max():
            raise Refusal(f"to = {to} is beyond the schedule, which ends at {plan['step'].max()}.")
        rates = np.interp(to, plan["step"], plan["lr"])
        plan = plan[plan["step"] < to]
        plan.loc[len(plan)] = ["the run", to, rates, np.nan]
    plan = plan[plan["step"] > last]
    if not len(plan):
        raise Refusal(f"the schedule ends before the curve's last step, {last}. Give the rest.")
    return plan.reset_index(drop=True)


def _shifts(
    past: Terms, future: Terms, peak: float, like: Mapping[str, float] | None, whole: Schedule
) -> list[tuple[Array, Array, float]]:
    """What decays may gain in the rows seen and in those to come, and how probable that is."""
    both = (past, future)
    if not (np.diff(whole.rates) < 0).any():
        zeros = [np.zeros(len(terms.total)) for terms in both]
        return [(zeros[0], zeros[1], 0.0)]
    if like is not None:
        if missing := [name for name in ("B", "C", "beta", "gamma") if name not in like]:
            raise Refusal(f"like has no {missing[0]}. Give B, C, beta and gamma of the law.")
        found = []
        unit = [
            annealed(terms, float(np.log(like["C"])), like["beta"], like["gamma"]).value
            for terms in both
        ]
        for away in _SPREADS:
            gain = like["B"] * np.exp(away * LIKE_SD)
            found.append((gain * unit[0], gain * unit[1], -0.5 * away**2))
        return found
    scaled = [
        terms._replace(drop=terms.drop / peak, log_rate=terms.log_rate - np.log(peak))
        for terms in both
    ]
    found = []
    for slow in _SPREADS[::2]:
        speed = float(np.log(SPEED / peak) + slow * SPEED_SD)
        unit = [annealed(terms, speed, 0.5, 0.5).value for terms in scaled]
        for away in _SPREADS:
            gain = GAIN * np.exp(away * GAIN_SD)
            found.append((gain * unit[0], gain * unit[1], -0.5 * (away**2 + slow**2)))
    return found


def _bins(total: Array) -> Index:
    """The group of each row: rows of nearly equal summed rates, where there are very many."""
    if len(total) <= _MOST:
        return np.arange(len(total))
    edges = np.linspace(np.log(total[0]), np.log(total[-1]), _MOST)
    return np.unique(np.digitize(np.log(total), edges), return_inverse=True)[1]


def _mean(values: Array, which: Index) -> Array:
    return np.asarray(np.bincount(which, values) / np.bincount(which))
