"""A forecast against the scores it was made from: what they have reached already, and whether it
meets them, and the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from analysis.emergence.ability import Posterior, Seen
from analysis.emergence.series import Series

Floats = NDArray[np.float64]
MISSES = 0.15  # root mean square in unit score; real tasks scatter so much about any curve


@dataclass(frozen=True, eq=False)
class Track:
    """The fit up to the cut and the forecast beyond it, on even steps: one of them is the cut."""

    x: Floats
    median: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Score:
    """One score seen."""

    x: float
    value: float


def first_at(series: Series, level: float) -> Score | None:
    """The score of the smallest scale that is at `level` or better; None if none is."""
    there = np.flatnonzero(series.unit >= series.to_unit(np.array(level)))
    if not len(there):
        return None
    first = there[np.argmin(series.t[there])]
    return Score(float(series.x[first]), float(series.value[first]))


def missed(series: Series, cut: float, track: Track) -> str | None:
    """What to say where the mean score of the largest scale up to `cut` lies outside the interval
    of one new model there; None where it lies inside."""
    fitted = series.t <= series.to_t(np.array(cut))
    last = float(series.t[fitted].max())
    at = int(np.abs(series.to_t(track.x) - last).argmin())
    seen = float(series.value[fitted & (series.t == last)].mean())
    low, high = sorted((float(track.low[at]), float(track.high[at])))
    if low <= seen <= high:
        return None
    side = "below" if track.median[at] < seen else "above"
    return (
        f"at the largest scale fitted, {series.scale} = {series.write(series.to_x(last))}, the "
        f"forecast's median {track.median[at]:.3g} [{low:.3g} … {high:.3g}] lies {side} the score "
        f"of {seen:.3g} there by more than its interval: doubt it beyond"
    )


def unlike(fitted: Sequence[Posterior], seen: Seen) -> list[str]:
    """Whether even the scores below the cut lie where the forecast would not have them."""
    own = np.random.default_rng(0)
    many = np.full(len(seen.t), 1e6)
    ours = np.concatenate([each.scores(seen.t, many, own) for each in fitted])
    _, where = np.unique(seen.t, return_inverse=True)
    count = np.bincount(where)
    rising = isotonic_regression(np.bincount(where, seen.share) / count, weights=count).x
    off, least = (
        float(np.sqrt(np.mean((curve - seen.share) ** 2)))
        for curve in (np.median(ours, axis=0), rising[where])
    )
    if off < MISSES or off < 3 * least:
        return []
    return [
        f"the forecast misses the scores up to the cut by {off:.2f}, and the best curve that rises "
        f"by {least:.2f}: they rise faster, or differ more, than the tasks behind its priors; "
        "trust the curve fitted to all scores before it"
    ]
