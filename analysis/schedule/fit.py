"""Fit the multi-power law to loss curves of one model, and predict those of other schedules.

    fit = fit_schedules(curves, warmup_steps=2160)     # columns curve, step, lr, loss
    print(fit.summary())
    loss = fit.predict(schedule)                       # columns step, lr

The law (`analysis.schedule.annealing`, Luo et al. 2025, arXiv:2503.12811) needs every learning
rate before a loss, not some columns of its row, so it stands beside the registry of
`analysis.laws`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.expression import Array
from analysis.judgement import WIDE
from analysis.prepare import SPARE_ROWS
from analysis.result import Minimised, Status
from analysis.runs.load import shown
from analysis.schedule.annealing import Terms, losses, terms_of
from analysis.schedule.curves import after_warmup, by_curve, read, schedule_of
from analysis.schedule.multipower import AMPLITUDES, FINE, NAMES, ROUGH, End, Problem
from analysis.support import FEWEST
from analysis.trend import student
from analysis.uncertainty import Bounds, Interval
from analysis.units import decimal
from scaling.store.records import Refusal

FORMULA = (
    "L = L0 + A·S1^-alpha - B·sum_k (lr_{k-1} - lr_k)·(1 - (1 + C·lr_k^-gamma·S_k)^-beta); "
    "S_k = lr_k + … + lr_t"
)


@dataclass(frozen=True)
class ScheduleFit:
    """The law's coefficients for one model, and what they are worth.

    `scores` judges the fit on its own curves. `left_out` has a row a curve that was left out: how
    well it was predicted, and the coefficients without it.
    """

    coefficients: Mapping[str, float]
    se: Mapping[str, float]
    interval: Interval
    objective: Minimised
    status: Status
    reason: str  # one sentence a user can act on
    warnings: tuple[str, ...]
    scores: pd.DataFrame
    left_out: pd.DataFrame
    n: int  # losses fitted
    starts: int
    starts_at_optimum: int
    at_bound: tuple[str, ...]
    fixed: tuple[str, ...]
    open: tuple[str, ...]  # may change together and change no prediction at these rows
    warmup_steps: int | None

    def predict(self, schedule: pd.DataFrame, warmup_steps: int | None = None) -> Array:
        """The loss at each row of `schedule` (columns step, lr; curve, if there are several).

        Rates are read as in `fit_schedules`, with the fit's warmup unless another is given.
        """
        named = schedule if "curve" in schedule else schedule.assign(curve="the schedule")
        rows = read(named.assign(loss=np.nan))
        every = np.ones(len(rows), dtype=bool)
        return losses(self.coefficients, rows, every, self._warmup(warmup_steps))

    def score(self, curves: pd.DataFrame, warmup_steps: int | None = None) -> pd.DataFrame:
        """How well curves are predicted after their warmup, a row a curve: n, r2, rmse and mae in
        nats, and the mean and the worst relative error."""
        rows = read(curves)
        warmup = self._warmup(warmup_steps)
        known = after_warmup(rows, warmup)
        return _scores(rows[known], losses(self.coefficients, rows, known, warmup)[known])

    def _warmup(self, given: int | None) -> int | None:
        return self.warmup_steps if given is None else given

    def summary(self) -> str:
        """The fit on one screen."""
        head = f"multi_power on {self.n} losses of {len(self.scores)} curves"
        starts = f"{self.status.value}, {self.starts_at_optimum} of {self.starts} starts"
        lines = [f"{head:<44}{starts:>36}"]
        lines += textwrap.wrap(FORMULA, 88, initial_indent="  ", subsequent_indent="    ")
        lines.append(f"{'':<10}{'estimate':>10}   {self.interval.level:.0%} interval")
        for name in NAMES:
            low, high = bounds = self.interval.coefficients[name]
            span = f"{decimal(low, bounds)} … {decimal(high, bounds)}"
            found = span if low < high else "not known"
            note = "open" if name in self.open else "held" if name in self.fixed else found
            lines.append(f"{name:<10}{decimal(self.coefficients[name], bounds):>10}   {note}")
        goal = self.objective
        lines += ["", f"{goal.name} = {goal.value:.6g} (delta {goal.delta:g})", ""]
        lines.append(f"{'curve':<30}{'losses':>8}{'rmse':>9}{'worst':>9}{'left out: rmse':>17}")
        without = dict(zip(self.left_out["curve"], self.left_out["rmse"], strict=True))
        for curve, n, rmse, worst in self.scores[["curve", "n", "rmse", "worst"]].to_numpy():
            line = f"{shown(str(curve), 29):<30}{n:>8}{rmse:>9.4f}{worst:>9.2%}"
            lines.append(line + (f"{without[curve]:>17.4f}" if curve in without else ""))
        notes = [f"warning: {warning}" for warning in self.warnings]
        if self.status is not Status.CONVERGED:
            notes.insert(0, f"{self.status.value}: {self.reason}")
        lines += [part for note in notes for part in textwrap.wrap(note, 92)]
        return "\n".join(lines)


def fit_schedules(
    curves: pd.DataFrame,
    *,
    warmup_steps: int | None = None,
    delta: float = 1e-3,
    level: float = 0.9,
    fixed: Mapping[str, float] | None = None,
) -> ScheduleFit:
    """The multi-power law fitted to loss curves of one model under two or more schedules.

    curves: columns curve, step, lr and loss (nats), steps rising within a curve. Between two rows
    the rate is a straight line; a row without a loss tells its rate alone, so that a schedule can
    be given step by step. Losses of the warmup are left out: the law holds after it.
    warmup_steps: before its first row a curve's rate rises from zero over so many steps, then
    stays as in that row; needed by curves that begin after step 1.
    delta: where Huber's loss of log residuals, summed over rows, turns linear (the authors' too).
    fixed: coefficients held at a value.

    Intervals are a leave-one-curve-out jackknife: rows of a curve share its noise. (So do
    cooldowns of one trunk, which it does not know: several trunks are better.)
    Raises Refusal for curves that cannot be read or fitted.
    """
    if not delta > 0 or not np.isfinite(delta):
        raise Refusal(f"delta = {delta} is not a positive number. The usual value is 1e-3.")
    if not 0 < level < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. The usual value is 0.9.")
    rows = read(curves)
    told = after_warmup(rows, warmup_steps)
    fitted, parts = [], []
    for places, each in by_curve(rows):
        own = each[told[places]]
        if len(own):
            fitted.append(own)
            steps = own["step"].to_numpy(dtype=np.intp)
            parts.append(terms_of(schedule_of(each, warmup_steps), steps))
    held = _held(fixed or {})
    _check(sum(map(len, fitted)), parts, len(held))
    unit = 1.0 if "C" in held else float(rows["lr"].max())
    problem = Problem(parts, [each["loss"].to_numpy() for each in fitted], delta, unit, held)
    tried = [problem.descend(start, ROUGH) for start in problem.starts()]
    ends = sorted(tried, key=lambda end: end.value)
    best = problem.descend(ends[0].point, FINE)
    reached = sum(end.value <= best.value * (1 + 1e-6) + 1e-20 for end in ends)
    bound, loose = problem.at_bound(best.point), problem.open(best.point)
    predicted = problem.predict(best.point)
    names = [each["curve"].iloc[0] for each in fitted]
    spread = _jackknife(problem, best.point, names, level, bool(loose))
    status, reason = _judge(best, bound, loose, spread.interval, held)
    warnings = list(spread.warnings)
    early = int(rows["loss"].notna().sum() - told.sum())
    if early:
        warnings.append(f"{early} losses of the warmup left out")
    if reached == 1:
        warnings.append(f"only 1 of {len(ends)} starts reached the optimum")
    return ScheduleFit(
        coefficients=_named(problem.leave(best.point)),
        se=spread.se,
        interval=spread.interval,
        objective=Minimised("huber_log", delta, best.value),
        status=status,
        reason=reason or f"{reached} of {len(ends)} starts reached the optimum",
        warnings=tuple(warnings),
        scores=_scores(pd.concat(fitted), predicted),
        left_out=spread.left_out,
        n=len(predicted),
        starts=len(ends),
        starts_at_optimum=reached,
        at_bound=bound,
        open=loose,
        fixed=tuple(held),
        warmup_steps=warmup_steps,
    )


def _held(fixed: Mapping[str, float]) -> Mapping[str, float]:
    for name, value in fixed.items():
        if name not in NAMES:
            raise Refusal(f"fixed: the law has no coefficient {name!r}; it has {', '.join(NAMES)}.")
        if not (np.isfinite(value) and (value > 0 or (value == 0 and name in ("L0", "gamma")))):
            raise Refusal(f"fixed: {name} = {value} is not positive. Give a number above zero.")
    return dict(fixed)


def _check(rows: int, parts: Sequence[Terms], held: int) -> None:
    free = len(NAMES) - held
    least = free + SPARE_ROWS
    if rows < least:
        raise Refusal(
            f"the law has {free} free coefficients and needs at least {least} losses; there are "
            f"{rows}. Give more rows, or more curves."
        )
    if not _falls(parts):
        raise Refusal(
            "lr falls before no loss of any curve, which leaves B, C, beta and gamma open. Add a "
            "curve whose rate decays, or fit m2, a floor and a power, to these."
        )


def _falls(parts: Sequence[Terms]) -> bool:
    return any(bool((part.drop > 0).any()) for part in parts)


def _judge(
    best: End, bound: tuple[str, ...], loose: tuple[str, ...], interval: Interval,
    held: Mapping[str, float],
) -> tuple[Status, str]:  # fmt: skip
    """The status, with a reason unless all is well."""
    more = "add curves whose rate decays otherwise, or hold a coefficient (fixed)"
    if not best.converged or not np.isfinite(best.value):
        return Status.FAILED, (
            "no start came to rest: too few losses for the law, or losses that do not follow it. "
            f"Plot the curves; {more}"
        )
    if loose:
        return Status.WEAKLY_IDENTIFIED, (
            f"{' and '.join(loose)} can change without changing a prediction at these rows, so "
            f"that their values are arbitrary: {more}"
        )
    if bound:
        return Status.AT_BOUND, (
            f"{', '.join(bound)} ended at the edge of what the law allows; these curves do not "
            f"determine {'it' if len(bound) == 1 else 'them'}: {more}"
        )
    # A and B are the value of a term where its sum is 1: judged by their exponents.
    vague = []
    for name in ("alpha", "C", "beta", "gamma"):
        low, high = interval.coefficients[name]
        if name not in held and high > WIDE * low:
            vague.append(name)
    if vague:
        return Status.WEAKLY_IDENTIFIED, (
            f"these curves leave {', '.join(vague)} open (intervals span a factor of {WIDE:g} or "
            f"more): {more}"
        )
    return Status.CONVERGED, ""


class _Spread(NamedTuple):
    interval: Interval
    se: Mapping[str, float]
    left_out: pd.DataFrame
    warnings: tuple[str, ...]


def _jackknife(
    problem: Problem, point: Array, names: Sequence[object], level: float, loose: bool
) -> _Spread:
    """Refits without each curve: what the coefficients are then, and how it is predicted."""
    rows: list[dict[Any, Any]] = []
    lacking: list[str] = []
    for i, name in enumerate(names):
        rest, own = problem.of(j for j in range(len(names)) if j != i), problem.of([i])
        if not _falls(rest.parts) or rest.open(point):
            lacking.append(shown(str(name)))
            continue
        again = rest.descend(point, ROUGH).point
        told = pd.DataFrame({"curve": name, "loss": own.observed})
        scores = _scores(told, own.predict(again)).to_dict("records")[0]
        rows.append({**scores, **_named(rest.leave(again))})
    scored = ["curve", "n", "r2", "rmse", "mae", "mean", "worst"]
    left_out = pd.DataFrame(rows, columns=[*scored, *NAMES])
    count, nan = len(names), float("nan")
    if loose or lacking or count < FEWEST:
        why = f"{count} curve{'' if count == 1 else 's'}"
        if count >= FEWEST:
            why = f"without {', '.join(lacking)} the others leave coefficients open"
        warning = f"{why}: no interval can be computed; add curves of other schedules"
        unknown = {name: Bounds(nan, nan) for name in NAMES}
        no_se: dict[str, float] = dict.fromkeys(NAMES, nan)
        return _Spread(
            Interval(level, "none", unknown),
            no_se,
            left_out,
            () if loose else (warning,),  # the status says it
        )
    freedom = max(count - 3, 1)
    warning = f"{count} curves: leave-one-out jackknife with t({freedom})"
    values = left_out[list(NAMES)].to_numpy(dtype=float, copy=True)
    values[:, AMPLITUDES] = np.log(values[:, AMPLITUDES])
    error = np.sqrt((count - 1) * np.var(values, axis=0))
    reach = student(freedom, level) * error
    estimate = problem.leave(point)
    bounds: dict[str, Bounds] = {}
    se: dict[str, float] = {}
    for i, name in enumerate(NAMES):
        value = float(estimate[i])
        if AMPLITUDES[i]:
            with np.errstate(over="ignore"):
                factor = float(np.exp(reach[i]))
            bounds[name], se[name] = Bounds(value / factor, value * factor), value * error[i]
        else:
            bounds[name], se[name] = Bounds(max(value - reach[i], 0.0), value + reach[i]), error[i]
    interval = Interval(level, "jackknife", bounds)
    return _Spread(interval, {k: float(v) for k, v in se.items()}, left_out, (warning,))


def _named(coefficients: Array) -> dict[str, float]:
    return dict(zip(NAMES, map(float, coefficients), strict=True))


def _scores(rows: pd.DataFrame, predicted: Array) -> pd.DataFrame:
    """A row a curve of rows with columns curve and loss."""
    found = []
    for places, each in by_curve(rows):
        loss = each["loss"].to_numpy()
        error = predicted[places] - loss
        around = float(np.sum((loss - loss.mean()) ** 2))
        found.append(
            {
                "curve": each["curve"].iloc[0],
                "n": len(each),
                "r2": 1 - float(error @ error) / around if around > 0 else float("nan"),
                "rmse": float(np.sqrt(np.mean(error**2))),
                "mae": float(np.mean(np.abs(error))),
                "mean": float(np.mean(np.abs(error) / loss)),
                "worst": float(np.max(np.abs(error) / loss)),
            }
        )
    return pd.DataFrame(found)
