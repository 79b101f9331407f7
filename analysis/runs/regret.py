"""What a value of a swept setting costs at each N and D: its loss above the least of the sweep.

Both losses are read off the curve through the best value and its neighbours; that of a value
further off, between values tried, also off how far their losses lie from that curve. A value beyond
what was tried has no regret, nor has any where the best lies at or beyond an end: nothing shows the
least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.interval import Interval, central
from analysis.runs.sweep import Best
from analysis.runs.swept_draws import Point, points


@dataclass(frozen=True)
class Regret:
    """What one value costs at one N and D."""

    params: float
    tokens: float
    value: float
    nats: float | None  # its loss above the least, in the loss's unit; null where nothing shows it
    share: float | None  # the same over the least
    interval: Interval | None  # of `nats`; null where the noise is not known
    reason: str = ""  # why there is none


def regrets(
    table: pd.DataFrame,
    column: str,
    values: Callable[[Best], float] | Sequence[float],
    *,
    level: float = 0.9,
    seed: int = 0,
) -> tuple[Regret, ...]:
    """The regret of a value at each N and D of a sweep of `column`, in the order of N, then D.

    `values` are one for each point in that order, or a function of the best value tried there; they
    are taken as given, without an error of their own. Intervals are of the noise of runs, as
    `analysis.runs.swept_draws` draws them, and begin at 0 where the value may be the optimum.
    Raises Refusal as `analysis.runs.sweep.sweep` does.
    """
    found = points(table, column, seed=seed)
    given = [values(each.best) for each in found] if callable(values) else values
    return tuple(
        regret_at(each, value, level=level) for each, value in zip(found, given, strict=True)
    )


def regret_at(
    point: Point, value: float, drawn: Array | None = None, *, level: float = 0.9
) -> Regret:
    """The regret of a value at one point; `drawn` are the value's own draws where it was measured
    in the same sweep."""
    best = point.best
    reason = ""
    if not point.has_optimum:
        reason = "the best lies at or beyond an end of the sweep"
    elif not best.tried[0] <= value <= best.tried[-1]:
        reason = f"beyond what was tried, {best.tried[0]:.3g} to {best.tried[-1]:.3g}"
    if reason:
        return Regret(best.params, best.tokens, value, None, None, None, reason)
    each = np.full(len(point.losses), value) if drawn is None else np.append(value, drawn)
    cost = point.cost(each)
    nats = abs(float(cost[0]))
    span = _folded(central(cost[1:], level)) if len(cost) > 1 else None
    return Regret(best.params, best.tokens, value, nats, nats / float(point.least[0]), span)


def _folded(span: Interval) -> Interval:
    """The sizes of what lies in an interval of signed regrets, which may hold the optimum: 0."""
    low, high = sorted(map(abs, span))
    return Interval(0.0 if span.low <= 0 <= span.high else low, high)
