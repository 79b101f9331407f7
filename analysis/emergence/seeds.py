"""Over seeds a threshold is a distribution: each seed's own, and whether scores have two modes.

Every seed is given the shape, width and levels of all seeds' curve, and its own midpoint.
Scores of one scale have two modes where models of the same size either have the ability or do
not (Zhao et al. 2025, arXiv:2502.17356); whether they do is Silverman's test (1981, J. R.
Statist. Soc. B 43:97): the smoothing that leaves one mode, against its distribution over
tables drawn from that smooth density.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.emergence.likelihood import Data, Rows, Which, basis, deviances
from analysis.emergence.series import Series
from analysis.emergence.thresholds import Estimate
from analysis.expression import Array

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
FEW = 10  # seeds below which modes are not told apart
DRAWS = 400


@dataclass(frozen=True)
class SeedThresholds:
    """The threshold of each seed."""

    seeds: int
    found: int  # seeds whose threshold lies among their scales
    quantiles: Mapping[str, float | None]  # in units of x; None: beyond the scales
    words: str

    def to_json(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "found": self.found,
            "quantiles": dict(self.quantiles),
            "words": self.words,
        }


@dataclass(frozen=True)
class RunError:
    """The standard error of the mean threshold over training runs, each counted once."""

    runs: int
    error: float  # decades

    def widened(self, threshold: Estimate, level: float) -> Estimate:
        """A threshold of all scores with an interval no shorter than Student's t gives the runs':
        what the checkpoints of a run have in common moves its threshold, and only other runs show
        by how much."""
        from scipy.special import stdtrit  # scipy.stats takes most of a second to import

        if threshold.value is None or threshold.interval is None:
            return threshold
        factor = 10 ** (self.error * float(stdtrit(self.runs - 1, (1 + level) / 2)))
        low, high = threshold.interval
        return replace(
            threshold,
            interval=(
                None if low is None else min(low, threshold.value / factor),
                None if high is None else max(high, threshold.value * factor),
            ),
        )


def seed_thresholds(
    series: Series, data: Data, row: Rows, levels: tuple[float, float], rng: np.random.Generator
) -> SeedThresholds | None:
    """None unless two seeds or more have three scales or more. `row` is the curve of all."""
    if series.seed is None:
        return None
    seed_of = np.unique(series.seed, return_inverse=True)[1]
    midpoint = midpoints(data, row, levels, seed_of)
    if len(midpoint) < 2:
        return None
    low, high = float(data.t.min()), float(data.t.max())
    inside = (midpoint >= low) & (midpoint <= high)
    quantiles: dict[str, float | None] = {}
    for q in QUANTILES:
        t = float(np.quantile(midpoint, q, method="nearest"))
        quantiles[f"{q:g}"] = series.to_x(t) if low <= t <= high else None
    return SeedThresholds(len(midpoint), int(inside.sum()), quantiles, _words(series, seed_of, rng))


def midpoints(data: Data, row: Rows, levels: tuple[float, float], part: Which) -> Array:
    """The threshold in log10 of scale of each `part` of the scores (codes from 0) that has three
    scales or more, with the shape, width and levels of the one curve in `row`."""
    enough = [s for s in range(int(part.max()) + 1) if len(np.unique(data.t[part == s])) >= 3]
    low, high = float(data.t.min()), float(data.t.max())
    places = np.linspace(low - 0.5 * (high - low), high + 0.5 * (high - low), 401)
    many = len(places)
    rows = Rows(
        np.repeat(row.shape, many),
        places,
        np.repeat(row.width, many),
        np.full(many, levels[0]),
        np.full(many, levels[1]),
        np.repeat(row.free, many),
        row.shapes,
    )
    if not enough:
        return np.empty(0)
    counts = np.array([(part == s).astype(float) for s in enough])
    tables = data.tables(np.tile(data.unit, (len(enough), 1)), counts)
    if data.bounded:
        left = deviances(data, basis(data, rows), tables)
    else:
        mean = levels[0] + (levels[1] - levels[0]) * rows.rise(data.at)
        left = tables.weight @ (mean**2).T - 2 * tables.score @ mean.T
    return np.asarray(places[np.argmin(left, axis=1)], np.float64)


def run_error(
    series: Series, data: Data, row: Rows, levels: tuple[float, float]
) -> RunError | None:
    """How far the thresholds of single training runs scatter; None unless two runs or more have
    three scales or more, or where other models stand beside them."""
    if series.run is None:
        return None
    part = np.unique(series.run, return_inverse=True)[1]
    midpoint = midpoints(data, row, levels, part)
    count = len(midpoint)
    if count < 2 or count <= int(part.max()):
        return None
    return RunError(count, float(np.std(midpoint, ddof=1) / np.sqrt(count)))


def _words(series: Series, seed: Which, rng: np.random.Generator) -> str:
    """Whether the seeds' mean scores have two modes at the scale where they differ most."""
    by_scale = [
        (float(x), _means(series.value[series.x == x], seed[series.x == x]))
        for x in np.unique(series.x)
    ]
    enough = [(x, values) for x, values in by_scale if len(values) >= FEW]
    if not enough:
        return (
            f"fewer than {FEW} seeds at each scale: too few to test whether scores have two modes"
        )
    x, values = max(enough, key=lambda each: float(each[1].var()))
    p_value, (low, high) = two_modes(values, rng) if np.ptp(values) > 0 else (1.0, (0.0, 0.0))
    at = f"the scores of {len(values)} seeds at {series.scale} = {series.write(x)}"
    if p_value > 0.05:
        return f"{at} show no second mode (p = {p_value:.2g})"
    return f"{at} have two modes, near {low:.3g} and {high:.3g} (p = {p_value:.2g})"


def _means(values: Array, seed: Which) -> Array:
    """The mean score of each seed."""
    code = np.unique(seed, return_inverse=True)[1]
    return np.asarray(np.bincount(code, values) / np.bincount(code), np.float64)


def two_modes(values: Array, rng: np.random.Generator) -> tuple[float, tuple[float, float]]:
    """Silverman's p-value of one mode, and the middle of either group were there two."""
    values = np.sort(values)
    width = _one_mode(values)
    spread = float(values.var())
    shrink = 1 / np.sqrt(1 + width**2 / max(spread, 1e-300))
    drawn = rng.choice(values, (DRAWS, len(values))) + width * rng.normal(size=(DRAWS, len(values)))
    drawn = values.mean() + shrink * (drawn - values.mean())
    wider = sum(_modes(each, width) > 1 for each in drawn)
    # The two halves with the least scatter about their own means.
    cuts = range(1, len(values))
    at = min(cuts, key=lambda i: values[:i].var() * i + values[i:].var() * (len(values) - i))
    middles = float(np.median(values[:at])), float(np.median(values[at:]))
    return (1 + wider) / (DRAWS + 1), middles


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
