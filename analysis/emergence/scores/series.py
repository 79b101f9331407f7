"""A series: the scores of one task by one metric against one scale.

Scores of bounded metrics are converted to a share of the way from worst to best, so that accuracy,
BLEU from 0 to 100 and a Brier score are treated alike; those of unbounded ones (log-probabilities,
losses, perplexities) to a share of the observed range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.array import Array
from analysis.emergence.scores.metrics import Metric, lower_is_better
from analysis.interval import Interval
from analysis.text import decimal, human, scientific
from scaling.store.records import Refusal

MOST_QUESTIONS = 1e9  # behind a score; a benchmark has a hundred thousand


@dataclass(frozen=True, eq=False)
class Series:
    """One task and metric against one scale. Raises Refusal for values that cannot be scores."""

    task: str
    metric: Metric
    scale: str  # the column: params, tokens, flops, loss
    x: Array  # the scale of each score, positive
    value: Array  # in the metric's own units
    n: Array | None = None  # questions behind each value
    stderr: Array | None = None  # used only where n is not known
    chance: float | None = None  # chance level; None: fitted
    group: Array | None = None  # points of one group share their noise: a family, a trunk
    seed: Array | None = None  # replicates, each with its own threshold
    run: Array | None = None  # the training run of each score; scores of one run are checkpoints
    falling: bool = False  # smaller x is progress, as when the scale is a loss

    def __post_init__(self) -> None:
        for name in ("x", "value", "n", "stderr"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, np.asarray(given, dtype=np.float64))
        for name in ("group", "seed", "run"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, np.asarray(given).astype(str))
        _check(self)

    @property
    def label(self) -> str:
        """The name of the series in messages."""
        return f"{self.task} / {self.metric.name}"

    @property
    def t(self) -> Array:
        """log10 of the scale, its sign such that it rises with progress."""
        return self.to_t(self.x)

    def to_t(self, x: ArrayLike) -> Array:
        """log10 of scales, its sign such that it rises with progress."""
        logs: Array = np.log10(np.asarray(x, dtype=np.float64))
        return -logs if self.falling else logs

    def to_x(self, t: float) -> float:
        """The scale at `t`."""
        exponent = -t if self.falling else t
        return 10.0**exponent if exponent < 308 else math.inf

    def write(self, x: float, span: Interval | None = None) -> str:
        """A number of this scale in its usual notation; `span` is its interval."""
        return write_scale(self.scale, x, span)

    @property
    def scales(self) -> int:
        """The number of distinct scales."""
        return len(np.unique(self.x))

    @property
    def resolution(self) -> float | None:
        """The smallest difference that the questions can show, as a share of the range.

        1/n of the coarsest score; None where n is not known.
        """
        return None if self.n is None else float(1 / self.n.min())

    @property
    def span(self) -> tuple[float, float]:
        """The values that are 0 and 1 on the unit scale."""
        if self.metric.bounded:
            return self.metric.worst, self.metric.best
        low, high = float(self.value.min()), float(self.value.max())
        if low == high:
            high = low + 1.0
        return (low, high) if self.metric.higher_is_better else (high, low)

    @property
    def unit(self) -> Array:
        """Scores on the unit scale: 0 is the worst (or worst observed), 1 the best."""
        return self.to_unit(self.value)

    @property
    def unit_chance(self) -> float | None:
        """The chance level on the unit scale; None where it is fitted."""
        return None if self.chance is None else float(self.to_unit(self.chance))

    def to_unit(self, value: ArrayLike) -> Array:
        """Scores in the metric's units, on the unit scale."""
        zero, one = self.span
        return (np.asarray(value, dtype=np.float64) - zero) / (one - zero)

    def from_unit(self, unit: ArrayLike) -> Array:
        """Scores on the unit scale, in the metric's units."""
        zero, one = self.span
        return zero + np.asarray(unit) * (one - zero)

    @property
    def questions(self) -> Array:
        """The number of questions per score, that implied by its standard error, or infinity."""
        if self.n is not None:
            return self.n
        if self.stderr is None or not self.metric.bounded:
            return np.full(len(self.x), np.inf)
        # A share of exactly 0 or 1 would have no variance.
        zero, one = self.span
        error = np.maximum(self.stderr / abs(one - zero), 1e-6)
        share = np.clip(self.unit, 0.01, 0.99)
        implied = np.maximum(share * (1 - share) / error**2, 1.0)
        return np.where(np.isfinite(implied), implied, np.inf)


def write_scale(scale: str, x: float, span: Interval | None = None) -> str:
    """A number of `scale` in its usual notation: 1.3B parameters, 5.8e21 FLOPs, a loss of 2.31."""
    if lower_is_better(scale):
        return decimal(x, span)
    return scientific(x, span) if scale == "flops" else human(x, span)


def refuse_values(label: str, metric: Metric, scale: str, x: Array, value: Array) -> None:
    """Raises Refusal for scores outside the metric's range, and for fewer than two scales."""
    low, high = metric.range
    outside = (value < low) | (value > high)
    if outside.any():
        percent = high == 1.0 and value.min() >= 0 and value.max() <= 100.0
        raise Refusal(
            f"{label}: a score of {value[int(np.argmax(outside))]:g} lies outside {low:g} to "
            f"{high:g}, the range of {metric.name} ({int(outside.sum())} of {len(value)} scores "
            "do). "
            + ("In percent? Give --range 0,100." if percent else "Correct it, or give --range.")
        )
    if len(np.unique(x)) < 2:
        raise Refusal(
            f"{label}: all {len(x)} scores are at one scale, {scale} = {x[0]:g}. A curve needs two "
            "scales, a verdict eight."
        )


def _check(series: Series) -> None:
    where, metric = series.label, series.metric
    for name in ("value", "n", "stderr", "group", "seed", "run"):
        given = getattr(series, name)
        if given is not None and given.shape != series.x.shape:
            raise Refusal(
                f"{where}: {len(given)} values of {name} for {len(series.x)} of {series.scale}; "
                "give one per row"
            )
    if not (np.isfinite(series.x).all() and (series.x > 0).all()):
        bad = series.x[~(np.isfinite(series.x) & (series.x > 0))][0]
        raise Refusal(f"{where}: {series.scale} = {bad:g} is not a positive number; drop the row")
    if not np.isfinite(series.value).all():
        raise Refusal(f"{where}: a value is missing or infinite; drop the row")
    refuse_values(where, metric, series.scale, series.x, series.value)
    if series.n is not None and not ((series.n >= 1) & (series.n <= MOST_QUESTIONS)).all():
        wrong = series.n[~((series.n >= 1) & (series.n <= MOST_QUESTIONS))][0]
        raise Refusal(
            f"{where}: n must be at least 1 question and at most {MOST_QUESTIONS:g}; got {wrong:g}"
        )
    if series.n is not None and (series.n != np.round(series.n)).any():
        wrong = series.n[series.n != np.round(series.n)][0]
        raise Refusal(
            f"{where}: n must be a whole number of questions; got {wrong:g}. Correct the column, "
            "or give --n."
        )
    if series.stderr is not None and (series.stderr < 0).any():
        raise Refusal(f"{where}: stderr must not be negative; got {np.nanmin(series.stderr):g}")
    if series.chance is None:
        return
    low, high = metric.range
    if not (math.isfinite(series.chance) and low <= series.chance <= high):
        raise Refusal(
            f"{where}: chance {series.chance:g} lies outside {low:g} to {high:g}, the range of "
            f"{metric.name}"
        )
    if series.chance == metric.best:
        raise Refusal(
            f"{where}: chance {series.chance:g} is the best score, so there is no room for a rise"
        )
