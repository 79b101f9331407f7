"""Three ways to the same exponent: how the best size grows with compute, N* ∝ C^a.

Hoffmann et al. 2022, section 3: the lower envelope (1), isoFLOP minima (2, by a parabola and by
Akima's curve as Porian et al. 2024) and the fitted law (3). The first two assume no form of the
loss, so they are a check on the third. All are read at C = 6·N·D of the same N, and approach 2 is
refused where budgets are equal in another count of compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pandas as pd

from analysis.allocation.envelope import envelope
from analysis.allocation.isoflop import Method, allocation, optima, tally, without_each_size
from analysis.allocation.power_law import OVER, Allocation, local_exponent
from analysis.array import Array
from analysis.fitting.fit import Fit, Status
from analysis.fitting.functionals import interval_over_draws
from analysis.fitting.outliers import bulk
from analysis.interval import Interval
from analysis.laws.law import Law
from analysis.laws.optimum import (
    FLOPS_PER_PARAM_TOKEN,
    Coefficients,
    compute_optimal,
    require_params_and_tokens,
    why_not_interior,
)
from analysis.plain import plain
from analysis.runs.checks.before_fit import LEAST
from analysis.runs.messages import listed
from analysis.text import counted, decimal, scientific, with_interval
from scaling.store.records import Refusal

ENVELOPE, PARABOLA, AKIMA, LAW = "1 envelope", "2 parabola", "2 Akima", "3 law"
SAME = 0.005  # of a: less is no difference, however narrow the intervals
# Of a: more is no agreement, however wide the intervals. It moves N* by 12% in a decade of compute,
# a third of a step of √2 between sizes.
CLOSE = 0.05

_BIAS = (
    "a parabola is biased where alpha and beta differ or the sizes are off-centre, "
    "Czech et al. 2026, arXiv:2603.22339"
)


@dataclass(frozen=True)
class Approach:
    """What one way of reading the runs says."""

    method: str
    exponent: float | None  # a in N* ∝ C^a; None where refused
    interval: Interval | None  # of a; None where the points leave no scatter to judge by
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
        """Whether they agree, and if not, in which direction they differ."""
        *others, law = self.rows
        read = [each for each in others if each.exponent is not None]
        if law.exponent is None:
            return f"The law has no exponent to compare with: {law.reason}."
        if not read:
            first, second = others[0].reason, others[1].reason
            separate = f"approach 1: {first}; approach 2: {second}"
            why = f"approaches 1 and 2: {first}" if first == second else separate
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
                f"{each.method} cannot be separated from the law (a differs by "
                f"{abs(_gap(each, law)):.2g}, interval ± {_reach([each, law]):.2g})"
            )
        for side, sign in (("above", 1), ("below", -1)):
            there = [each for each in apart if sign * _gap(each, law) > 0]
            if there:
                gaps = [f"{abs(_gap(each, law)):.2g}" for each in there]
                low, high = min(gaps, key=float), max(gaps, key=float)
                parts.append(
                    f"{_names(there)} disagree{'s' * (len(there) == 1)}: a lies "
                    f"{low if low == high else f'{low} to {high}'} {side} the law's, "
                    "the intervals apart"
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
        apart = [each for each in others if _verdict(each, law) == "apart"]
        if not apart:
            return ()
        said = ", ".join(f"{e.method} {_exponent(e)}" for e in (*apart, law))
        return (f"ways to read a in N* ∝ C^a disagree beyond their intervals: {said}",)

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        return {**plain(self), "sentence": self.sentence}


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
        _tried(PARABOLA, lambda: _by_isoflop(rows, PARABOLA, "parabola", level), beyond),
        _tried(AKIMA, lambda: _by_isoflop(rows, AKIMA, "akima", level), beyond),
    ]
    common = _common(flops, [each.reach for each in read if each.reach is not None])
    return Approaches(common, level, (*(each.at(common) for each in read), _law(fit, common)))


class _Reading(NamedTuple):
    """What an approach reads off the runs; no allocation where it was refused."""

    method: str
    allocation: Allocation | None
    reach: Interval | None  # of the compute of the optima found
    used: str
    reason: str

    def at(self, flops: float) -> Approach:
        """The approach at a budget."""
        if self.allocation is None:
            return Approach(self.method, None, None, None, None, self.used, self.reason)
        grown = self.allocation.of_params
        size, data = float(self.allocation.params(flops)), float(self.allocation.tokens(flops))
        interval = grown.interval
        return Approach(self.method, grown.exponent, interval, size, data, self.used, self.reason)


def _tried(method: str, read: Callable[[], _Reading], beyond: str) -> _Reading:
    try:
        found = read()
    except Refusal as refused:
        return _Reading(method, None, None, "", refused.cause.rstrip("."))
    return found._replace(reason="; ".join(filter(None, (found.reason, beyond))))


def _by_envelope(rows: pd.DataFrame, level: float) -> _Reading:
    lower = envelope(rows)
    used = f"{counted(len(lower.crossings), 'crossing')} of {len(lower.params)} sizes"
    left_out = ""
    if lower.at_edge:
        left_out = (
            f"{counted(lower.at_edge, 'change')} of the best size caused only by where runs begin "
            "or end"
        )
    found = lower.allocation(level)
    return _Reading(ENVELOPE, found, _span_of(lower.crossings["flops"]), used, left_out)


def _by_isoflop(rows: pd.DataFrame, name: str, method: Method, level: float) -> _Reading:
    found = optima(rows, method)
    grown = allocation(found, level, without_each_size(rows, method))
    return _Reading(name, grown, _span_of(found["flops"].dropna()), *tally(found))


def _span_of(flops: pd.Series) -> Interval:
    return Interval(float(flops.min()), float(flops.max()))


def _common(flops: Array, reaches: list[Interval]) -> float:
    """The middle of what all approaches have seen; of the runs if they share nothing."""
    low = max((reach.low for reach in reaches), default=math.inf)
    high = min((reach.high for reach in reaches), default=-math.inf)
    if low > high:
        low, high = float(flops.min()), float(flops.max())
    return math.sqrt(low * high)


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
        return local_exponent(fit.law, coefficients, flops, OVER)

    interval = None
    if len(fit.draws):
        ends = interval_over_draws(fit, slope, fit.interval.level)
        interval = Interval(*(end.item() for end in ends))
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
    """How the exponent of `one` compares with the law's: not at all without intervals of both."""
    if one.interval is None or law.interval is None:
        return "no interval"
    gap = abs(_gap(one, law))
    if not one.interval.meets(law.interval) and gap >= SAME:
        return "apart"
    return "close" if gap <= CLOSE else "vague"


def _reach(of: Sequence[Approach]) -> float:
    """Half the widest interval."""
    return max(each.interval.width / 2 for each in of if each.interval)


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
