"""How flat the bottom is: the sizes that are nearly as good, and the price of being off.

Published optima differ by factors that matter little to the loss. A shape that suits the hardware
inside these ranges is a better choice than N* itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.array import Array
from analysis.fitting.source import Source
from analysis.forecast.predict import CHECKED
from analysis.interval import Interval
from analysis.laws.inverse import solve
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.laws.scalar import root
from analysis.plain import plain
from analysis.recommend.by_law import law_for, solved
from analysis.recommend.question import Question
from analysis.recommend.recommendation import BY_IN_WORDS, By
from analysis.text import human, paragraph, scientific

if TYPE_CHECKING:
    from analysis.allocation.valley import Valley

SHARES = (0.005, 0.01, 0.02)
FACTORS = (0.5, 2.0)
FAR = 60.0  # how far from N* an end is searched, in ln N


@dataclass(frozen=True)
class Range:
    """Sizes within `share` of the best loss at equal compute, or of the compute at equal loss."""

    share: float
    by_loss: Interval
    by_compute: Interval


@dataclass(frozen=True)
class Price:
    """What a size of `factor` times N* costs."""

    factor: float
    excess_loss: float  # share of the best loss, at the same compute
    compute_ratio: float  # compute for the best loss, over the least; inf if never reached


@dataclass(frozen=True)
class ByRuns:
    """The same by the valley of the runs' own losses, which knows the loss alone.

    A plain valley is as deep, as a share of the loss, at every budget; that was checked up to
    CHECKED decades beyond the runs, and there are no ranges and prices farther out.
    """

    decades: float  # of the budget beyond the runs
    params: float  # N*
    by_loss: tuple[tuple[float, Interval], ...]  # share of the loss, and the sizes within it
    excess_loss: tuple[tuple[float, float], ...]  # factor of N*, and what it loses

    def text(self) -> list[str]:
        """Lines for the terminal."""
        return [
            f"By the runs' own minima, N* = {human(self.params)}",
            *(f"  within {share:.1%}  of the loss {_span(ends)}" for share, ends in self.by_loss),
            *(f"  {times:g} × N* loses {more:.2%} of loss" for times, more in self.excess_loss),
        ]


@dataclass(frozen=True)
class FlatBottom:
    """Around the optimum of one budget, by the estimate itself (no interval)."""

    flops: float
    params: float  # N* by the law, as are the loss, the ranges and the prices
    loss: float
    ranges: tuple[Range, ...]
    prices: tuple[Price, ...]
    by_runs: ByRuns | None = None
    by: By = "law"  # the one that the answer follows

    def json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        return dict(plain(self))

    def text(self, reason: str = "") -> str:
        """A few lines for the terminal: first by whom the answer follows, for a `reason`, then by
        the other."""
        heading, runs = f"{scientific(self.flops)} FLOPs: sizes nearly as good as N*", self.by_runs
        if runs is None:
            return "\n".join([heading, *self._law_text()])
        parts = [self._law_text(), runs.text()]
        first, second = parts if self.by == "law" else reversed(parts)
        why = f" ({reason.rstrip('.')})" if reason else ""
        said = (
            f"N* follows {BY_IN_WORDS[self.by]}{why}. The price of another size follows, by the "
            "law, from exponents fitted to all runs"
        )
        if runs.by_loss:
            said += (
                "; by the runs, from how steeply their losses rise around their minima, the same "
                "share of the loss at every budget."
            )
        else:
            said += (
                f". By the runs there is none at this budget, {runs.decades:.1f} decades beyond "
                f"them: valleys were checked up to {CHECKED}. Use the law's."
            )
        return "\n".join([heading, paragraph(said), *first, *second])

    def _law_text(self) -> list[str]:
        return [
            f"By the law, N* = {human(self.params)}",
            *(
                f"  within {each.share:.1%}  of the loss {_span(each.by_loss):<18}"
                f"of the compute {_span(each.by_compute)}"
                for each in self.ranges
            ),
            *(
                f"  {each.factor:g} × N* loses {each.excess_loss:.2%} of loss, or costs "
                f"{human(each.compute_ratio)} × the compute for the same loss"
                for each in self.prices
            ),
        ]


def flat_bottom(
    source: Source, flops: float, valley: Valley | None = None, by: By = "law"
) -> FlatBottom:
    """Sizes whose loss, or whose compute for the best loss, is within each of SHARES of the best,
    and the price of FACTORS of N*; with a `valley` by the runs too.

    `flops` is C = 6ND, `by` is the one that the answer follows. An end is infinite where even the
    largest size stays within. Raises Refusal as `recommend` does.
    """
    question = Question(flops=flops)
    law, coefficients = law_for(source, question), source.coefficients
    best = solved(source, law, question)
    at, least = float(best.params), float(best.loss)

    def price(factor: float) -> Price:
        size = factor * at
        loss = float(solve(law, coefficients, Question(params=size, flops=flops)).loss)
        run = solve(law, coefficients, Question(params=size, loss=least))
        compute = float(FLOPS_PER_PARAM_TOKEN * run.params * run.tokens)
        return Price(factor, loss / least - 1, compute / flops)

    ranges = _ranges(
        lambda n, d: law.predict(coefficients, {"params": n, "tokens": d}), at, least, flops
    )
    runs = None if valley is None else _by_runs(valley, flops)
    return FlatBottom(flops, at, least, ranges, tuple(map(price, FACTORS)), runs, by)


def _ranges(
    loss: Callable[[Array, Array], Array], at: float, least: float, flops: float
) -> tuple[Range, ...]:
    """The sizes around N* within each of SHARES, where `loss` of N and D grows both ways."""
    above = 1 + np.array(SHARES)[:, None]
    equal = np.ones_like(above)
    # Of the compute: sizes that reach the least loss with so much more compute.
    target = least * np.concatenate([above, equal])
    tokens_times_params = flops / FLOPS_PER_PARAM_TOKEN * np.concatenate([equal, above])

    def end(side: float) -> Array:
        def room(off: Array) -> Array:
            with np.errstate(over="ignore", divide="ignore"):
                params = at * np.exp(side * off)
                return target - loss(params, tokens_times_params / params)

        with np.errstate(over="ignore"):
            off = root(room, np.zeros_like(target), np.full_like(target, FAR))
            return at * np.exp(side * off[:, 0])

    spans = [Interval(float(low), float(high)) for low, high in zip(end(-1), end(1), strict=True)]
    return tuple(map(Range, SHARES, spans[: len(SHARES)], spans[len(SHARES) :]))


def _by_runs(valley: Valley, flops: float) -> ByRuns:
    """The sizes nearly as good by the runs' own valley: N*·exp(± √(ln(1 + share)/k))."""
    at = valley.params(flops)
    decades = valley.decades_beyond(flops)
    if decades > CHECKED:
        return ByRuns(decades, at, (), ())
    reach = [(each, math.sqrt(math.log1p(each) / valley.curvature)) for each in SHARES]
    return ByRuns(
        decades,
        at,
        tuple((share, Interval(at * math.exp(-far), at * math.exp(far))) for share, far in reach),
        tuple((factor, valley.excess(factor * at, flops)) for factor in FACTORS),
    )


def _span(ends: Interval) -> str:
    return f"{human(ends[0])} … {human(ends[1])}"
