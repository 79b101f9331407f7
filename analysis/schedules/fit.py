"""Fit the multi-power law to loss curves of one model, and predict those of other schedules.

    fit = fit_schedules(curves, warmup_steps=2160)     # columns curve, step, lr, loss
    print(fit)
    loss = fit.predict(schedule)                       # columns step, lr

The law (`analysis.schedules.annealing`, Luo et al. 2025, arXiv:2503.12811) needs every learning
rate before a loss, not columns of the loss's row, so it is not in the registry of
`analysis.laws.catalogue`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.fitting.effective_clusters import FEWEST
from analysis.fitting.inputs import SPARE_ROWS
from analysis.fitting.intervals import Intervals
from analysis.fitting.result import Minimised, Status
from analysis.fitting.status import WIDE, Verdict
from analysis.interval import Interval, student
from analysis.runs.messages import listed, shown
from analysis.schedules.annealing import Terms, losses, terms_of
from analysis.schedules.curves import after_warmup, by_curve, read, schedule_of
from analysis.schedules.multipower import AMPLITUDES, FINE, NAMES, ROUGH, End, Problem
from analysis.solver.priors import Prior, priors_of
from analysis.text import counted, decimal, paragraph, text_table
from scaling.store.records import Refusal

FORMULA = (
    "L = L0 + A·S1^-alpha - B·sum_k (lr_{k-1} - lr_k)·(1 - (1 + C·lr_k^-gamma·S_k)^-beta); "
    "S_k = lr_k + … + lr_t"
)
JUDGED = ("alpha", "C", "beta", "gamma")  # A and B are judged by their exponents
# The exponents from which the authors' descent starts, and which a few curves leave open: with a
# factor of 1.5 either way. Of no use on curves that determine them; see `fit_schedules`.
EXPONENTS = {"beta": Prior(0.5, 0.4), "gamma": Prior(0.5, 0.4)}
LEAN = 1.0
SCORES = ("n", "r2", "rmse", "mae", "mean", "worst")


@dataclass(frozen=True)
class ScheduleFit:
    """The law's coefficients for one model, with all that is needed to judge them.

    `str()` of it is `summary()`.
    """

    coefficients: Mapping[str, float]
    se: Mapping[str, float]
    interval: Intervals
    objective: Minimised  # with what the priors add
    status: Status
    reason: str  # one sentence a user can act on
    warnings: tuple[str, ...]
    scores: pd.DataFrame  # one row per curve: how well the fit predicts it, as from `score`
    left_out: pd.DataFrame  # the same by a fit without that curve, with its coefficients
    n: int  # losses fitted
    starts: int
    starts_at_optimum: int
    at_bound: tuple[str, ...]
    fixed: tuple[str, ...]
    prior: Mapping[str, Prior]
    lean: float
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
        """How well curves are predicted after their warmup, one row per curve: n, r2, rmse and mae
        in nats, and the mean and the worst relative error."""
        rows = read(curves)
        warmup = self._warmup(warmup_steps)
        known = after_warmup(rows, warmup)
        return scores_of(rows[known], losses(self.coefficients, rows, known, warmup)[known])

    def _warmup(self, given: int | None) -> int | None:
        return self.warmup_steps if given is None else given

    def frame(self) -> pd.DataFrame:
        """One row per coefficient: estimate, se, low and high (NaN where they are not known)."""
        ends = pd.DataFrame(self.interval.coefficients, index=["low", "high"]).T
        return pd.DataFrame({"estimate": self.coefficients, "se": self.se}).join(ends)

    def summary(self) -> str:
        """The fit on one screen."""
        goal = self.objective
        without = dict(zip(self.left_out["curve"], self.left_out["rmse"], strict=True))
        scores = []
        for curve, n, rmse, worst in self.scores[["curve", "n", "rmse", "worst"]].to_numpy():
            again = f"{without[curve]:.4f}" if curve in without else ""
            scores.append([shown(str(curve), 29), str(n), f"{rmse:.4f}", f"{worst:.2%}", again])
        header = ["", "estimate", f"{self.interval.level:.0%} interval"]
        parts = [
            f"multi_power on {self.n} losses of {counted(len(scores), 'curve')}: "
            f"{self.status.value}, {self.starts_at_optimum} of {self.starts} starts",
            paragraph(FORMULA),
            text_table(header, [*map(self._row, NAMES)]),
            f"\n{goal.name} = {goal.value:.6g} (delta {goal.delta:g}, lean {self.lean:g})\n",
            text_table(["curve", "losses", "rmse", "worst", "left out: rmse"], scores),
        ]
        if self.status is not Status.CONVERGED:
            parts.append(paragraph(f"{self.status.value}: {self.reason}"))
        return "\n".join([*parts, *(paragraph(f"warning: {each}") for each in self.warnings)])

    __str__ = summary

    def _row(self, name: str) -> list[str]:
        """A coefficient with its interval, or why it has none."""
        low, high = ends = self.interval.coefficients[name]
        found = f"{decimal(low, ends)} … {decimal(high, ends)}" if low < high else "not known"
        if name in self.prior:
            found += f"  (prior {self.prior[name].value:g}, sd {self.prior[name].sd:g})"
        note = "open" if name in self.open else "held" if name in self.fixed else found
        return [name, decimal(self.coefficients[name], ends), note]


def fit_schedules(
    curves: pd.DataFrame,
    *,
    warmup_steps: int | None = None,
    delta: float = 1e-3,
    level: float = 0.9,
    fixed: Mapping[str, float] | None = None,
    prior: Mapping[str, Prior | tuple[float, float]] = EXPONENTS,
    lean: float = LEAN,
) -> ScheduleFit:
    """The multi-power law fitted to loss curves of one model under two or more schedules.

    curves: columns curve, step, lr and loss (nats), with steps rising within a curve. Between two
        rows the rate is a straight line; a row without a loss gives its rate alone, so a schedule
        can be written step by step. Losses of the warmup are left out: the law holds after it.
    warmup_steps: before its first row a curve's rate rises from zero over so many steps, then stays
        as in that row; needed by curves that begin after step 1.
    delta: where Huber's loss of log residuals, summed over rows, turns linear (as the authors').
    level: the level of the intervals.
    fixed: coefficients held at a value.
    prior: values of coefficients with their relative sd. All priors together pull as one curve
        does, by the misfit that is left without them: on curves that the law fits exactly they have
        no effect. {} is none.
    lean: rows weigh as S1^-lean. 1, the default, counts equal factors of training alike: early
        losses are few, and the power law is seen over all of its range. 0 counts rows alike.

    Intervals are a leave-one-curve-out jackknife, since the rows of a curve share its noise. (The
    cooldowns of one trunk do too, which it does not know: several trunks are better.)
    Raises Refusal for curves that cannot be read or fitted.
    """
    if not delta > 0 or not np.isfinite(delta):
        raise Refusal(f"delta = {delta} is not a positive number. The usual value is 1e-3.")
    if not 0 < level < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. The usual value is 0.9.")
    if not 0 <= lean <= 2:
        raise Refusal(f"lean = {lean} is not between 0 and 2. The usual value is 1.")
    known, held = _priors(prior), dict(fixed or {})
    _refuse_held(held)
    known = {name: each for name, each in known.items() if name not in held}
    rows = read(curves)
    kept = after_warmup(rows, warmup_steps)
    fitted, parts = [], []
    for places, each in by_curve(rows):
        own = each[kept[places]]
        if len(own):
            fitted.append(own)
            steps = own["step"].to_numpy(dtype=np.intp)
            parts.append(terms_of(schedule_of(each, warmup_steps), steps))
    _refuse_few(sum(map(len, fitted)), parts, len(held))
    unit = 1.0 if "C" in held else float(rows["lr"].max())
    observed = [each["loss"].to_numpy() for each in fitted]
    problem = Problem(parts, observed, delta, unit, held, lean)
    ends = [problem.descend(start, ROUGH) for start in problem.starts()]
    if known:
        least = min(end.value for end in ends)
        problem = replace(problem, prior=known, pull=2 * least / len(parts))
        ends = [problem.descend(end.point, ROUGH) for end in ends]
    best = problem.descend(min(ends, key=lambda end: end.value).point, FINE)
    reached = sum(end.value <= best.value * (1 + 1e-6) + 1e-20 for end in ends)
    bound, loose = problem.at_bound(best.point), problem.open(best.point)
    names = [each["curve"].iloc[0] for each in fitted]
    spread = _jackknife(problem, best.point, names, level, bool(loose))
    verdict = _judge(best, bound, loose, spread.interval, held)
    warnings = list(spread.warnings)
    if early := int(rows["loss"].notna().sum() - kept.sum()):
        warnings.append(f"{early} losses of the warmup left out")
    if reached == 1:
        warnings.append(f"only 1 of {len(ends)} starts reached the optimum")
    return ScheduleFit(
        coefficients=_named(problem.leave(best.point)),
        se=spread.se,
        interval=spread.interval,
        objective=Minimised("huber_log", delta, best.value),
        status=verdict.status,
        reason=verdict.reason or f"{reached} of {len(ends)} starts reached the optimum",
        warnings=tuple(warnings),
        scores=scores_of(pd.concat(fitted), problem.predict(best.point)),
        left_out=spread.left_out,
        n=sum(map(len, fitted)),
        starts=len(ends),
        starts_at_optimum=reached,
        at_bound=bound,
        open=loose,
        fixed=tuple(held),
        prior=known,
        lean=lean,
        warmup_steps=warmup_steps,
    )


def _refuse_held(fixed: Mapping[str, float]) -> None:
    """Raises Refusal for a coefficient that the law does not have, or a value it does not allow."""
    for name, value in fixed.items():
        if name not in NAMES:
            raise Refusal(f"fixed: the law has no coefficient {name!r}; it has {', '.join(NAMES)}.")
        if not (np.isfinite(value) and (value > 0 or (value == 0 and name in ("L0", "gamma")))):
            raise Refusal(f"fixed: {name} = {value} is not positive. Give a number above zero.")


def _priors(given: Mapping[str, Prior | tuple[float, float]]) -> dict[str, Prior]:
    """Raises Refusal for a coefficient that the law does not have, or one that is no number."""
    found = priors_of(given)
    for name, known in found.items():
        if name not in NAMES:
            raise Refusal(f"prior: the law has no coefficient {name!r}; it has {', '.join(NAMES)}.")
        if not (known.value > 0 and known.sd > 0):
            raise Refusal(
                f"prior {name} = {known.value} with sd {known.sd}: both must be positive. The sd "
                "is relative, such as 0.4."
            )
    return found


def _refuse_few(rows: int, parts: Sequence[Terms], held: int) -> None:
    """Raises Refusal for too few losses, and for curves whose rate never falls."""
    free = len(NAMES) - held
    least = free + SPARE_ROWS
    if rows < least:
        raise Refusal(
            f"the law has {free} free coefficients and needs at least {least} losses; there are "
            f"{rows}. Give more rows, or more curves."
        )
    if not _falls(parts):
        raise Refusal(
            "lr falls before no loss of any curve, so B, C, beta and gamma are not determined. Add "
            "a curve whose rate decays, or fit m2, a floor and a power, to these."
        )


def _falls(parts: Sequence[Terms]) -> bool:
    """Whether the rate falls before a loss of some curve."""
    return any(bool((part.drop > 0).any()) for part in parts)


def _judge(
    best: End, bound: tuple[str, ...], loose: tuple[str, ...], interval: Intervals,
    held: Mapping[str, float],
) -> Verdict:  # fmt: skip
    """The status, with a reason unless all is well."""
    more = "add curves whose rate decays otherwise, or hold a coefficient (fixed)"
    if not best.converged or not np.isfinite(best.value):
        return Verdict(
            Status.FAILED,
            "no start came to rest: there are too few losses for the law, or they do not follow "
            f"it. Plot the curves; {more}",
        )
    if loose:
        return Verdict(
            Status.WEAKLY_IDENTIFIED,
            f"{listed(loose)} can change without changing a prediction at these rows, so their "
            f"values are arbitrary: {more}",
        )
    if bound:
        return Verdict(
            Status.AT_BOUND,
            f"{listed(bound)} ended at the edge of what the law allows; these curves do not "
            f"determine {'it' if len(bound) == 1 else 'them'}: {more}",
        )
    ends = {name: interval.coefficients[name] for name in JUDGED if name not in held}
    if vague := [name for name, (low, high) in ends.items() if high > WIDE * low]:
        return Verdict(
            Status.WEAKLY_IDENTIFIED,
            f"these curves leave {listed(vague)} open (intervals span a factor of {WIDE:g} or "
            f"more): {more}",
        )
    return Verdict(Status.CONVERGED, "")


class _Spread(NamedTuple):
    interval: Intervals
    se: Mapping[str, float]
    left_out: pd.DataFrame
    warnings: tuple[str, ...]


def _jackknife(
    problem: Problem, point: Array, names: Sequence[object], level: float, loose: bool
) -> _Spread:
    """Refits without each curve: its coefficients, and how well they predict that curve."""
    found: list[pd.DataFrame] = []
    lacking: list[str] = []
    for i, name in enumerate(names):
        rest, own = problem.of(j for j in range(len(names)) if j != i), problem.of([i])
        if not _falls(rest.parts) or rest.open(point):
            lacking.append(shown(str(name)))
            continue
        again = rest.descend(point, ROUGH).point
        rows = pd.DataFrame({"curve": name, "loss": own.observed})
        found.append(scores_of(rows, own.predict(again)).assign(**_named(rest.leave(again))))
    columns = ["curve", *SCORES, *NAMES]
    left_out = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)
    count = len(names)
    if loose or lacking or count < FEWEST:
        why = f"without {', '.join(lacking)} the others leave coefficients open"
        if count < FEWEST:
            why = counted(count, "curve")
        warning = f"{why}: no interval can be computed; add curves of other schedules"
        unknown = Intervals(level, "none", dict.fromkeys(NAMES, Interval(np.nan, np.nan)))
        # Where coefficients are open anyway, the status says it.
        return _Spread(unknown, dict.fromkeys(NAMES, np.nan), left_out, () if loose else (warning,))
    freedom = max(count - 3, 1)
    # A, B and C vary by factors: their errors are those of the logarithm.
    values = left_out[list(NAMES)].to_numpy(dtype=float, copy=True)
    values[:, AMPLITUDES] = np.log(values[:, AMPLITUDES])
    error = np.sqrt((count - 1) * np.var(values, axis=0))
    estimate, reach = problem.leave(point), student(freedom, level) * error
    with np.errstate(over="ignore"):
        factor = np.exp(reach)
        low = np.where(AMPLITUDES, estimate / factor, np.maximum(estimate - reach, 0.0))
        high = np.where(AMPLITUDES, estimate * factor, estimate + reach)
    ends = map(Interval, low.tolist(), high.tolist())
    return _Spread(
        Intervals(level, "jackknife", dict(zip(NAMES, ends, strict=True))),
        _named(np.where(AMPLITUDES, estimate, 1.0) * error),
        left_out,
        (f"{count} curves: leave-one-out jackknife with t({freedom})",),
    )


def _named(coefficients: Array) -> dict[str, float]:
    return dict(zip(NAMES, map(float, coefficients), strict=True))


def scores_of(rows: pd.DataFrame, predicted: Array) -> pd.DataFrame:
    """One row per curve of rows with columns curve and loss, with SCORES."""
    loss = rows["loss"].to_numpy()
    error = np.abs(predicted - loss)
    each = pd.DataFrame({"loss": loss, "square": error**2, "mae": error, "relative": error / loss})
    curves = each.groupby(rows["curve"].to_numpy(), sort=False)
    means, n = curves.mean(), curves.size()
    around = curves["loss"].var(ddof=0)
    return (
        pd.DataFrame(
            {
                "n": n,
                "r2": (1 - means["square"] / around).where(around > 0),
                "rmse": np.sqrt(means["square"]),
                "mae": means["mae"],
                "mean": means["relative"],
                "worst": curves["relative"].max(),
            }
        )
        .rename_axis("curve")
        .reset_index()
    )
