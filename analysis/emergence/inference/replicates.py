"""Replicates: the threshold of each seed or run, and a test of two modes among their scores.

Every replicate has the shape, width and levels of the curve through all scores, and a midpoint of
its own. Scores of one scale have two modes where models of the same size either have the ability
or do not (Zhao et al. 2025, arXiv:2502.17356). Silverman's test (1981, J. R. Statist. Soc. B 43:97)
takes the least smoothing that leaves one mode, and compares it with its distribution over samples
from that smooth density.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.emergence.response.deviance import (
    Curves,
    Data,
    Indices,
    basis,
    deviances,
    rounded,
)
from analysis.emergence.response.estimate import Estimate
from analysis.emergence.scores.series import Series
from analysis.interval import Interval, student

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
FEW = 10  # seeds: with fewer, two modes are not tested
SAMPLES = 400


@dataclass(frozen=True)
class SeedThresholds:
    """The distribution of the threshold over seeds."""

    seeds: int
    found: int  # seeds whose threshold lies among their scales
    quantiles: Mapping[str, float | None]  # in units of x; None: beyond the scales
    words: str


def seed_thresholds(
    series: Series, data: Data, curve: Curves, rng: np.random.Generator
) -> SeedThresholds | None:
    """The thresholds of the seeds; None unless two or more seeds have three or more scales.

    `curve` is the one through all scores, with its levels on the unit scale.
    """
    midpoint = np.empty(0) if series.seed is None else midpoints(data, curve, series.seed)
    if len(midpoint) < 2:
        return None
    low, high = float(data.t.min()), float(data.t.max())
    inside = (midpoint >= low) & (midpoint <= high)
    quantiles: dict[str, float | None] = {}
    for q in QUANTILES:
        t = float(np.quantile(midpoint, q, method="nearest"))
        quantiles[f"{q:g}"] = series.to_x(t) if low <= t <= high else None
    return SeedThresholds(len(midpoint), int(inside.sum()), quantiles, _words(series, rng))


def midpoints(data: Data, curve: Curves, part: Indices) -> Array:
    """The threshold in log10 of scale of each part of the scores that has three scales or more.

    `part` has a label for each score. Shape, width and levels are those of the one `curve`. Of a
    part that never rises, or has risen before its first scale, it is the end of the places tried,
    whatever the shape: from some place on, all fit alike.
    """
    enough = [s for s in np.unique(part) if len(np.unique(data.t[part == s])) >= 3]
    if not enough:
        return np.empty(0)
    low, high = float(data.t.min()), float(data.t.max())
    places = np.linspace(low - 0.5 * (high - low), high + 0.5 * (high - low), 401)
    moved = replace(curve[[0] * len(places)], midpoint=places)
    counts = np.array([(part == s).astype(float) for s in enough])
    tables = data.tables(np.tile(data.unit, (len(enough), 1)), counts)
    if data.bounded:
        left = deviances(data, basis(data, moved), tables)
    else:
        mean = moved.scores(data.at)
        left = tables.weight @ (mean**2).T - 2 * tables.score @ mean.T
        left = rounded(left, tables.weight.sum(1)[:, None])
    return np.array([_place(places, each == each.min()) for each in left])


def _place(places: Array, best: Indices) -> float:
    """The one of `places` that stands for those flagged, which fit equally well.

    They are all places between two scales where a rise is steep: the middle. They reach an end
    where there is no rise: that end. The first of them would be the rounding's choice.
    """
    if best[0] != best[-1]:
        return float(places[0] if best[0] else places[-1])
    return float(places[best].mean())


def spread_of_runs(series: Series, data: Data, curve: Curves, level: float) -> float | None:
    """Decades to either side of the mean threshold over training runs, by Student's t at `level`.

    None unless there are two or more runs, all with three or more scales.
    """
    if series.run is None:
        return None
    midpoint = midpoints(data, curve, series.run)
    count = len(midpoint)
    if count < max(2, len(np.unique(series.run))):
        return None
    return float(np.std(midpoint, ddof=1) / np.sqrt(count)) * student(count - 1, level)


def widened(threshold: Estimate, decades: float) -> Estimate:
    """`threshold` with an interval no shorter than `decades` to either side.

    What the checkpoints of a run have in common moves its threshold, and only other runs show by
    how much.
    """
    if threshold.value is None or threshold.interval is None:
        return threshold
    low, high = threshold.interval
    by = 10**decades
    wide = Interval(min(low, threshold.value / by), max(high, threshold.value * by))
    return replace(threshold, interval=wide)


def _words(series: Series, rng: np.random.Generator) -> str:
    """A sentence on two modes in the seeds' mean scores at the scale where they differ most."""
    means = pd.Series(series.value).groupby([series.x, series.seed]).mean().groupby(level=0)
    enough = [each for _, each in means if len(each) >= FEW]
    if not enough:
        return (
            f"fewer than {FEW} seeds at each scale: too few to test whether scores have two modes"
        )
    widest = max(enough, key=lambda each: float(each.var(ddof=0)))
    x, values = widest.index[0][0], np.asarray(widest, np.float64)
    p_value, (low, high) = two_modes(values, rng) if np.ptp(values) > 0 else (1.0, (0.0, 0.0))
    at = f"the scores of {len(values)} seeds at {series.scale} = {series.write(x)}"
    if p_value > 0.05:
        return f"{at} show no second mode (p = {p_value:.2g})"
    return f"{at} have two modes, near {low:.3g} and {high:.3g} (p = {p_value:.2g})"


def two_modes(values: Array, rng: np.random.Generator) -> tuple[float, tuple[float, float]]:
    """Silverman's p-value of one mode, and the medians of the two groups if there are two."""
    values = np.sort(values)
    width = _one_mode(values)
    spread = float(values.var())
    shrink = 1 / np.sqrt(1 + width**2 / max(spread, 1e-300))
    size = SAMPLES, len(values)
    drawn = rng.choice(values, size) + width * rng.normal(size=size)
    drawn = values.mean() + shrink * (drawn - values.mean())
    wider = sum(_modes(each, width) > 1 for each in drawn)
    # The two halves with the least scatter about their own means.
    cuts = range(1, len(values))
    at = min(cuts, key=lambda i: values[:i].var() * i + values[i:].var() * (len(values) - i))
    middles = float(np.median(values[:at])), float(np.median(values[at:]))
    return (1 + wider) / (SAMPLES + 1), middles


def _one_mode(values: Array) -> float:
    """The least smoothing (standard deviation of a normal kernel) that leaves one mode."""
    low, high = 0.0, float(values[-1] - values[0])
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if _modes(values, middle) > 1 else (low, middle)
    return high


def _modes(values: Array, width: float) -> int:
    grid = np.linspace(values.min() - 2 * width, values.max() + 2 * width, 256)
    density = np.exp(-0.5 * ((grid[:, None] - values) / max(width, 1e-300)) ** 2).sum(1)
    rising = np.diff(density) > 0
    return max(int(((~rising[1:]) & rising[:-1]).sum()), 1)
