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
from analysis.runs.seeds import DRAWS, paired_means
from analysis.runs.sweep import Best, Measured, measured
from analysis.runs.sweep_curves import Curves, fit_curves, noise_of


@dataclass(frozen=True)
class Regret:
    """What one value costs at one N and D."""

    params: float
    tokens: float
    value: float
    nats: float | None  # its loss above the least, in the loss's unit; null where nothing shows it
    share: float | None  # the same over the least
    interval: Interval | None  # of `nats`, for this value; null where the noise is not known
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
    are taken as given, without an error of their own. Intervals are of the noise of runs: where
    three or more seeds trained every value, the seeds are drawn jointly over values and points
    (`analysis.runs.seeds`), else every loss by itself with the noise of `sweep`. Where the value
    may be the optimum itself the interval begins at 0. Raises Refusal as `sweep` does.
    """
    read = measured(table, column)
    given = [values(each) for each in read.best] if callable(values) else [*values]
    means, drawn = _losses(read, column, seed)
    inside = [each for each in read.best if each.edge is None]
    curve_of = {id(each): number for number, each in enumerate(inside)}
    curves = None if drawn is None else _redrawn(read, inside, drawn)
    found = []
    for number, (best, value) in enumerate(zip(read.best, given, strict=True)):
        reason = _unseen(best, value, read, curve_of.get(id(best)))
        if reason:
            found.append(Regret(best.params, best.tokens, value, None, None, None, reason))
            continue
        curve = curve_of[id(best)]
        signed, least = _signed(best, value, read, curve, read.curves, means[number][None])
        span = None
        if curves is not None and drawn is not None:
            draws, _ = _signed(best, value, read, curve, curves, drawn[number])
            span = _folded(central(draws, level))
        nats = abs(float(signed[0]))
        found.append(Regret(best.params, best.tokens, value, nats, nats / float(least[0]), span))
    return tuple(found)


def _losses(read: Measured, column: str, seed: int) -> tuple[list[Array], list[Array] | None]:
    """The mean loss at each value tried, a list by N and D, and draws of them."""
    means = [np.array(each.losses) for each in read.best]
    ends = np.cumsum([len(each) for each in means])[:-1]
    joint = paired_means(read.rows, ["params", "tokens", column], seed=seed)
    if joint is not None:
        return means, np.split(joint, ends, axis=1)
    noise = noise_of(read.rows, column, read.windows, read.curves)
    if noise is None:
        return means, None
    rng = np.random.default_rng(seed)
    sd = noise.sd * np.sqrt(noise.freedom / rng.chisquare(noise.freedom, (DRAWS, 1)))
    runs = read.rows.groupby(["params", "tokens", column]).size().to_numpy()
    off = sd / np.sqrt(runs) * rng.standard_normal((DRAWS, len(runs)))
    return means, np.split(np.concatenate(means) + off, ends, axis=1)


def _redrawn(read: Measured, inside: Sequence[Best], drawn: list[Array]) -> Curves:
    """The curves through each draw of the losses."""
    losses = dict(zip(map(id, read.best), drawn, strict=True))
    return fit_curves(
        read.windows,
        [
            losses[id(best)][:, _near(best, window.x)]
            for best, window in zip(inside, read.windows, strict=True)
        ],
    )


def _near(best: Best, x: Array) -> slice:
    """The place of a window among the values tried."""
    first = int(np.argmin(np.abs(best.logs - x[0])))
    return slice(first, first + len(x))


def _unseen(best: Best, value: float, read: Measured, curve: int | None) -> str:
    """Why the sweep does not show what the value costs there; empty where it does."""
    if curve is not None:
        window, bottom = read.windows[curve].x, float(read.curves.bottom[curve][0])
    if curve is None or not window[0] < bottom < window[-1]:
        return "the best lies at or beyond an end of the sweep"
    if not best.tried[0] <= value <= best.tried[-1]:
        return f"beyond what was tried, {best.tried[0]:.3g} to {best.tried[-1]:.3g}"
    return ""


def _signed(
    best: Best, value: float, read: Measured, curve: int, curves: Curves, losses: Array
) -> tuple[Array, Array]:
    """The regret, one per draw, negative where the value lies below the optimum; and the least."""
    x, window = np.log(value / best.value), read.windows[curve].x
    bottom = curves.bottom[curve]
    least = curves.at(curve, bottom)
    there = curves.at(curve, np.full_like(bottom, x))
    if not window[0] <= x <= window[-1]:
        logs = best.logs
        right = int(np.clip(np.searchsorted(logs, x), 1, len(logs) - 1))
        part = (x - logs[right - 1]) / (logs[right] - logs[right - 1])
        for at, weight in ((right - 1, 1 - part), (right, part)):
            there = there + weight * (
                losses[:, at] - curves.at(curve, np.full_like(bottom, logs[at]))
            )
    return np.sign(x - bottom) * np.maximum(there - least, 0.0), least


def _folded(span: Interval) -> Interval:
    """The sizes of what lies in an interval of signed regrets, which may hold the optimum: 0."""
    low, high = sorted(map(abs, span))
    return Interval(0.0 if span.low <= 0 <= span.high else low, high)
