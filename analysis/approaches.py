"""Three ways to the same exponent: how the best size grows with compute, N* ∝ C^a.

Hoffmann et al. 2022, section 3: the lower envelope (1), isoFLOP minima (2, by a parabola and by
Akima's curve as Porian et al. 2024) and the fitted law (3). The first two assume no form of the
loss, so they are a check on the third. All are read at C = 6·N·D of the same N, and approach 2 is
refused where budgets are equal in another count of compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.derived import interval_over_draws
from analysis.envelope import envelope
from analysis.expression import Array
from analysis.fit import Fit, Status
from analysis.isoflop import (
    Allocation,
    Method,
    allocation,
    optima,
    tally,
    without_each_size,
)
from analysis.laws import Law
from analysis.optimum import (
    FLOPS_PER_PARAM_TOKEN,
    Coefficients,
    compute_optimal,
    require_params_and_tokens,
    why_not_interior,
)
from analysis.outliers import bulk
from analysis.runs.checks import LEAST
from analysis.runs.rows import listed
from analysis.uncertainty import Bounds
from analysis.units import counted, decimal, scientific, with_interval
from scaling.store.records import Refusal

ENVELOPE, PARABOLA, AKIMA, LAW = "1 envelope", "2 parabola", "2 Akima", "3 law"
SAME = 0.005  # of a: less is no difference, however narrow the intervals
# Of a: more is no agreement, however wide the intervals. It moves N* by 12% in a decade of compute,
# a third of a step of √2 between sizes.
CLOSE = 0.05
SLOPE_OVER = 10.0  # factor of compute over which the law's exponent is taken

_BIAS = (
    "a parabola is biased where alpha and beta differ or the sizes are off-centre, "
    "Czech et al. 2026, arXiv:2603.22339"
)


@dataclass(frozen=True)
class Approach:
    """What one way of reading the runs says."""

    method: str
    exponent: float | None  # a in N* ∝ C^a; None where refused
    interval: Bounds | None  # of a; None where the points leave no scatter to judge by
    params: float | None  # N* at `Approaches.flops`
    tokens: float | None  # D* there
    used: str  # what it was read from
    reason: str  # why it was refused, or what it left out


@dataclass(frozen=True)
class Approaches:
    """All of them at one budget inside the data."""

    flops: float
    level: float
    rows: tuple[Approach, ...]  # by method: envelope, parabola, Akima, law

    @property
    def sentence(self) -> str:
        """Whether they agree, and if not which way and what is known of it."""
        *others, law = self.rows
        read = [each for each in others if each.exponent is not None]
        if law.exponent is None:
            return f"The law has no exponent to compare with: {law.reason}."
        if not read:
            first, second = others[0].reason, others[1].reason
            why = f"approach 1: {first}; approach 2: {second}"
            if first == second:
                why = f"approaches 1 and 2: {first}"
            return f"Only the law gives an exponent here ({why})."
        same, vague, apart, unsure = (
            [each for each in read if _verdict(each, law) == verdict]
            for verdict in ("close", "vague", "apart", "no interval")
        )
        parts = []
        if same:
            most = max(abs(_gap(each, law)) for each in same)
            parts.append(
                f"{_names(same)} agree{'s' * (len(same) == 1)} with the law, a differing by at "
                f"most {most:.2g}, within the intervals (up to ± {_reach([*same, law]):.2g})"
            )
        for each in vague:
            parts.append(
                f"{each.method} cannot be told apart from the law (a differs by "
                f"{abs(_gap(each, law)):.2g}, interval ± {_reach([each, law]):.2g})"
            )
        for side, sign in (("above", 1), ("below", -1)):
            gaps = {
                each.method: abs(_gap(each, law)) for each in apart if sign * _gap(each, law) > 0
            }
            if gaps:
                parts.append(
                    f"{listed(list(gaps))} disagree{'s' * (len(gaps) == 1)}: a lies "
                    f"{_span(list(gaps.values()))} {side} the law's, the intervals apart"
                )
        if apart:
            parts.append(_known([each.method for each in apart]))
        if unsure:
            parts.append(f"{_names(unsure)}: no interval to compare by")
        sizes = [each.params for each in (*read, law) if each.params is not None]
        factor = max(sizes) / min(sizes)
        parts.append(f"N* at {scientific(self.flops)} FLOPs differs by a factor of {factor:.2f}")
        return "; ".join(parts) + "."

    @property
    def cautions(self) -> tuple[str, ...]:
        """The disagreement with the law that every answer of the fit repeats, or none."""
        *others, law = self.rows
        read = [each for each in others if each.exponent is not None]
        apart = [] if law.exponent is None else [e for e in read if _verdict(e, law) == "apart"]
        if not apart:
            return ()
        said = ", ".join(f"{e.method} {_exponent(e)}" for e in (*apart, law))
        return (f"ways to read a in N* ∝ C^a disagree beyond their intervals: {said}",)

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        rows = [
            {**asdict(each), "interval": each.interval and list(each.interval)}
            for each in self.rows
        ]
        return {"flops": self.flops, "level": self.level, "rows": rows, "sentence": self.sentence}


def comparable(law: Law) -> bool:
    """Whether the law predicts a loss from params and tokens, and from nothing else."""
    return law.target == "loss" and set(law.features) == {"params", "tokens"}


def approaches(fit: Fit) -> Approaches:
    """The exponent by each approach from the rows of `fit`, at the level of its intervals.

    Budgets are the rows' `budget_flops` if they have it, else clusters of equal 6·N·D. Raises
    Refusal for a law that does not predict a loss from params and tokens alone.
    """
    require_params_and_tokens(fit.law)
    level = fit.interval.level
    rows = bulk(fit).drop(columns="flops", errors="ignore")
    far = len(fit.table) - len(rows)
    beyond = f"{counted(far, 'row')} far off the law left out" if far else ""
    flops = FLOPS_PER_PARAM_TOKEN * rows["params"].to_numpy() * rows["tokens"].to_numpy()
    read = [
        _tried(ENVELOPE, lambda: _by_envelope(rows, level), beyond),
        _tried(PARABOLA, lambda: _by_isoflop(rows, "parabola", level), beyond),
        _tried(AKIMA, lambda: _by_isoflop(rows, "akima", level), beyond),
    ]
    common = _common(flops, [each.reach for each in read if each.reach is not None])
    return Approaches(common, level, (*(_row(each, common) for each in read), _law(fit, common)))


class _Reading(NamedTuple):
    method: str
    found: Allocation | None
    reach: Bounds | None  # of the compute of the optima found
    used: str
    reason: str


class _Found(NamedTuple):
    allocation: Allocation
    flops: pd.Series
    used: str
    left_out: str


def _tried(method: str, read: Callable[[], _Found], beyond: str) -> _Reading:
    try:
        found = read()
    except Refusal as refused:
        return _Reading(method, None, None, "", str(refused).split(". ")[0])
    reach = Bounds(float(found.flops.min()), float(found.flops.max()))
    return _Reading(method, found.allocation, reach, found.used, _both(found.left_out, beyond))


def _both(*said: str) -> str:
    return "; ".join(filter(None, said))


def _by_envelope(rows: pd.DataFrame, level: float) -> _Found:
    lower = envelope(rows)
    used = f"{counted(len(lower.crossings), 'crossing')} of {len(lower.params)} sizes"
    left_out = (
        f"{counted(lower.at_edge, 'change')} of the best size where runs begin or end"
        if lower.at_edge
        else ""
    )
    return _Found(lower.allocation(level), lower.crossings["flops"], used, left_out)


def _by_isoflop(rows: pd.DataFrame, method: Method, level: float) -> _Found:
    found = optima(rows, method)
    grown = allocation(found, level, without_each_size(rows, method))
    return _Found(grown, found["flops"].dropna(), *tally(found))


def _common(flops: Array, reaches: list[Bounds]) -> float:
    """The middle of what all approaches have seen; of the runs if they share nothing."""
    low = max((reach.low for reach in reaches), default=math.inf)
    high = min((reach.high for reach in reaches), default=-math.inf)
    if low > high:
        low, high = float(flops.min()), float(flops.max())
    return math.sqrt(low * high)


def _row(reading: _Reading, flops: float) -> Approach:
    method, found, _, used, reason = reading
    if found is None:
        return Approach(method, None, None, None, None, used, reason)
    at = float(found.params.at(flops)), float(found.tokens.at(flops))
    return Approach(method, found.params.exponent, found.params.interval, *at, used, reason)


def _law(fit: Fit, flops: float) -> Approach:
    best = compute_optimal(fit.law, fit.coefficients, flops)
    used = f"{fit.law.name} on {fit.data.n} runs"
    if fit.status is Status.FAILED or not bool(best.interior):
        failed = fit.status is Status.FAILED
        reason = "its fit failed" if failed else why_not_interior(best, flops)
        if not failed and flops < FLOPS_PER_PARAM_TOKEN * math.prod(LEAST.values()):
            reason += " (are params and tokens in units?)"
        return Approach(LAW, None, None, None, None, used, reason)

    def slope(coefficients: Coefficients) -> Array:
        ends = [
            compute_optimal(fit.law, coefficients, flops * factor).params
            for factor in (SLOPE_OVER**-0.5, SLOPE_OVER**0.5)
        ]
        return np.asarray(np.log(ends[1] / ends[0]) / math.log(SLOPE_OVER))

    interval = None
    if len(fit.draws):
        low, high = interval_over_draws(fit, slope, fit.interval.level)
        interval = Bounds(float(low[0]), float(high[0]))
    exponent = float(slope(fit.coefficients))
    return Approach(LAW, exponent, interval, float(best.params), float(best.tokens), used, "")


# --- the sentence -------------------------------------------------------------------------------


def _exponent(of: Approach) -> str:
    assert of.exponent is not None
    return with_interval(decimal, of.exponent, of.interval)


def _gap(one: Approach, other: Approach) -> float:
    assert one.exponent is not None and other.exponent is not None
    return one.exponent - other.exponent


def _verdict(one: Approach, law: Approach) -> Literal["close", "vague", "apart", "no interval"]:
    """What can be told of `one` beside the law: nothing without an interval of both."""
    if one.interval is None or law.interval is None:
        return "no interval"
    disjoint = one.interval.low > law.interval.high or law.interval.low > one.interval.high
    gap = abs(_gap(one, law))
    if disjoint and gap >= SAME:
        return "apart"
    return "close" if gap <= CLOSE else "vague"


def _reach(of: Sequence[Approach]) -> float:
    """Half the widest interval."""
    return max((each.interval.high - each.interval.low) / 2 for each in of if each.interval)


def _names(of: Sequence[Approach]) -> str:
    return listed([each.method for each in of])


def _known(apart: list[str]) -> str:
    """What may explain it: a parabola's own bias, or a form that the others do not assume."""
    free = [method for method in apart if method != PARABOLA]
    if not free:
        return _BIAS
    verb = "assumes" if len(free) == 1 else "assume"
    doubt = f"{listed(free)} {verb} no form of the loss, so doubt the law's first"
    return doubt + (f" (and {_BIAS})" if PARABOLA in apart else "")


def _span(gaps: list[float]) -> str:
    low, high = f"{min(gaps):.2g}", f"{max(gaps):.2g}"
    return low if low == high else f"{low} to {high}"
