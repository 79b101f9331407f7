"""How flat the bottom is: the sizes that are nearly as good, and the price of being off.

Published optima differ by factors that matter little to the loss. A shape that suits the hardware
inside these ranges is a better choice than N* itself.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.optimize import brentq

from analysis.answer import law_for
from analysis.caution import By, Source
from analysis.decide import WAYS
from analysis.forecast import CHECKED
from analysis.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.solve import Ask, solve
from analysis.units import Span, human, scientific
from analysis.valley import Valley
from scaling.store.records import Refusal

SHARES = (0.005, 0.01, 0.02)
FACTORS = (0.5, 2.0)
FAR = 60.0  # how far from N* an end is looked for, in nats of N


@dataclass(frozen=True)
class Range:
    """Sizes within `share` of the best loss at equal compute, or of the compute at equal loss."""

    share: float
    by_loss: Span
    by_compute: Span


@dataclass(frozen=True)
class Price:
    """What a size of `factor` times N* costs."""

    factor: float
    excess_loss: float  # share of the best loss, at the same compute
    compute_ratio: float  # compute for the best loss, over the least; inf if never reached


@dataclass(frozen=True)
class FlatBottom:
    """Around the optimum of one budget, by the estimate itself (no interval)."""

    flops: float
    params: float  # N*
    loss: float
    ranges: tuple[Range, ...]
    prices: tuple[Price, ...]


def flat_bottom(
    source: Source,
    flops: float,
    *,
    shares: Sequence[float] = SHARES,
    factors: Sequence[float] = FACTORS,
) -> FlatBottom:
    """Sizes whose loss, or whose compute for the best loss, is within each of `shares` of the best.

    `flops` is C = 6ND. An end is infinite where even the largest size stays within. Raises
    Refusal as `recommend` does, and for shares and factors that are not positive.
    """
    for name, values in (("shares", shares), ("factors", factors)):
        if not all(0 < value < math.inf for value in values):
            raise Refusal(f"{name} = {list(values)} must be positive and finite, e.g. 0.01.")
    ask = Ask(flops=flops)
    law = law_for(source, ask)
    best = solve(law, source.coefficients, ask)
    if not best.interior:
        raise Refusal(f"{ask}: {law.name} has no optimum there. Give a larger budget.")
    at, least = float(best.params), float(best.loss)

    def excess_loss(shift: float) -> float:
        moved = Ask(params=at * math.exp(shift), flops=flops)
        return float(solve(law, source.coefficients, moved).loss) / least - 1

    def excess_compute(shift: float) -> float:
        there = solve(law, source.coefficients, Ask(params=at * math.exp(shift), loss=least))
        if not math.isfinite(float(there.tokens)):
            return math.inf
        return float(FLOPS_PER_PARAM_TOKEN * there.params * there.tokens) / flops - 1

    return FlatBottom(
        flops=flops,
        params=at,
        loss=least,
        ranges=tuple(
            Range(share, _within(excess_loss, share, at), _within(excess_compute, share, at))
            for share in shares
        ),
        prices=tuple(
            Price(each, excess_loss(math.log(each)), 1 + excess_compute(math.log(each)))
            for each in factors
        ),
    )


def _within(excess: Callable[[float], float], share: float, at: float) -> Span:
    """N at which `excess`, zero at N* and growing both ways, meets `share`."""

    def gap(shift: float) -> float:
        return min(excess(shift), 1e6) - share

    ends = []
    for side in (-1.0, 1.0):
        reach = 0.5
        while gap(side * reach) < 0 and reach < FAR:
            reach *= 2
        if gap(side * reach) < 0:
            ends.append(0.0 if side < 0 else math.inf)
        else:
            ends.append(at * math.exp(brentq(gap, 0.0, side * reach, xtol=1e-10)))
    return ends[0], ends[1]


@dataclass(frozen=True)
class OfRuns:
    """The same by the valley of the runs' own losses, which tells of the loss alone.

    Without ranges and prices where it is not carried: a plain valley is as deep, as a share of the
    loss, at every budget, which was checked up to CHECKED decades beyond the runs.
    """

    decades: float  # of the budget beyond the runs
    params: float  # N*
    by_loss: tuple[tuple[float, Span], ...]  # share of the loss, and the sizes within it
    excess_loss: tuple[tuple[float, float], ...]  # factor of N*, and what it loses


def of_runs(valley: Valley, flops: float) -> OfRuns:
    """The sizes nearly as good by the runs' own valley: N*·exp(± √(ln(1 + share)/k))."""
    at = valley.params(flops)
    decades = max(0.0, (math.log(flops) - valley.top) / math.log(10))
    if decades > CHECKED:
        return OfRuns(decades, at, (), ())
    reach = [(each, math.sqrt(math.log1p(each) / valley.curvature)) for each in SHARES]
    return OfRuns(
        decades,
        at,
        tuple((share, (at * math.exp(-far), at * math.exp(far))) for share, far in reach),
        tuple((factor, valley.excess(factor * at, flops)) for factor in FACTORS),
    )


def to_json(flat: FlatBottom, runs: OfRuns | None = None, by: By = "law") -> dict[str, Any]:
    """Plain values; `by` is the one that the answer follows."""
    return asdict(flat) | {"by_runs": None if runs is None else asdict(runs), "by": by}


def to_text(flat: FlatBottom, runs: OfRuns | None = None, by: By = "law", reason: str = "") -> str:
    """A few lines for the terminal: first by whom the answer follows (`by`, for a `reason`), then
    by the other."""
    lines = [f"{scientific(flat.flops)} FLOPs: sizes nearly as good as N*"]
    if runs is None:
        return "\n".join([*lines, *_by_law(flat)])
    parts = [_by_law(flat), _by_runs(runs)]
    first, second = parts if by == "law" else reversed(parts)
    why = f" ({reason.rstrip('.')})" if reason else ""
    said = f"N* follows {WAYS[by]}{why}. The price of another size is, by the law, that of "
    said += "exponents fitted to all runs"
    if runs.by_loss:
        said += "; by the runs, how steeply their losses rise around their minima, the same share "
        said += "of the loss at every budget."
    else:
        said += f". By the runs it is not carried to this budget, {runs.decades:.1f} decades "
        said += f"beyond them: valleys were checked up to {CHECKED}. Use the law's."
    lines += textwrap.wrap(said, 100)
    return "\n".join([*lines, *first, *second])


def _by_law(flat: FlatBottom) -> list[str]:
    return [
        f"By the law, N* = {human(flat.params)}",
        *(
            f"  within {each.share:.1%}  of the loss {_span(each.by_loss):<18}"
            f"of the compute {_span(each.by_compute)}"
            for each in flat.ranges
        ),
        *(
            f"  {each.factor:g} × N* loses {each.excess_loss:.2%} of loss, or costs "
            f"{human(each.compute_ratio)} × the compute for the same loss"
            for each in flat.prices
        ),
    ]


def _by_runs(runs: OfRuns) -> list[str]:
    return [
        f"By the runs' own minima, N* = {human(runs.params)}",
        *(f"  within {share:.1%}  of the loss {_span(ends)}" for share, ends in runs.by_loss),
        *(f"  {times:g} × N* loses {more:.2%} of loss" for times, more in runs.excess_loss),
    ]


def _span(ends: Span) -> str:
    return f"{human(ends[0])} … {human(ends[1])}"
