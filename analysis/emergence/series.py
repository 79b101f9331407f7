"""What is asked about: the scores of one task by one metric against one scale.

Bounded metrics are read as a share of the way from worst to best, so that accuracy, BLEU from
0 to 100 and a Brier score that falls are one thing to the statistics; unbounded ones
(log-probabilities, losses, perplexities) as a share of the range seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.emergence.metrics import Metric, falls
from analysis.expression import Array
from analysis.units import Span, decimal, human, scientific
from scaling.store.records import Refusal


@dataclass(frozen=True, eq=False)
class Series:
    """One task and metric against one scale. Raises Refusal for what cannot be a score."""

    task: str
    metric: Metric
    scale: str  # the column: params, tokens, flops, loss
    x: Array  # the scale of each score, positive
    value: Array  # in the metric's own units
    n: Array | None = None  # questions behind each value
    stderr: Array | None = None  # read only where n is not known
    chance: float | None = None  # the score of guessing; None: fitted
    ceiling: float | None = None  # the best that can be reached; None: fitted, at most the best
    group: Array | None = None  # whose points share their noise: a family, a trunk
    seed: Array | None = None  # replicates; each with a threshold of its own
    run: Array | None = None  # the training run of each score: of one run they are checkpoints
    falling: bool = False  # progress goes with smaller x, as when the scale is a loss

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
        return f"{self.task} / {self.metric.name}"

    @property
    def t(self) -> Array:
        """log10 of the scale, its sign such that progress goes up."""
        return self.to_t(self.x)

    def to_t(self, x: ArrayLike) -> Array:
        """log10 of scales, its sign such that progress goes up."""
        logs: Array = np.log10(np.asarray(x, dtype=np.float64))
        return -logs if self.falling else logs

    def to_x(self, t: float) -> float:
        """The scale at `t`."""
        exponent = -t if self.falling else t
        return 10.0**exponent if exponent < 308 else math.inf

    def write(self, x: float, span: Span | None = None) -> str:
        """A number of this scale as people write it; `span` is its interval."""
        return write_scale(self.scale, x, span)

    @property
    def scales(self) -> int:
        """How many different scales there are."""
        return len(np.unique(self.x))

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
        """Values on the unit scale: 0 is worst (or the worst seen), 1 the best (or best seen)."""
        return self.to_unit(self.value)

    def to_unit(self, value: Array) -> Array:
        zero, one = self.span
        return (np.asarray(value, dtype=np.float64) - zero) / (one - zero)

    def from_unit(self, unit: Array) -> Array:
        zero, one = self.span
        return zero + np.asarray(unit) * (one - zero)

    @property
    def questions(self) -> Array:
        """Questions behind each value, those implied by its standard error, or infinity."""
        if self.n is not None:
            return self.n
        if self.stderr is None or not self.metric.bounded:
            return np.full(len(self.x), np.inf)
        # One answer is added on either side, or a score of exactly 0 would have no variance.
        zero, one = self.span
        error = np.maximum(self.stderr / abs(one - zero), 1e-6)
        share = np.clip(self.unit, 0.01, 0.99)
        implied = np.maximum(share * (1 - share) / error**2, 1.0)
        return np.where(np.isfinite(implied), implied, np.inf)


def write_scale(scale: str, x: float, span: Span | None = None) -> str:
    """A number of `scale` as people write it: 1.3B parameters, 5.8e21 FLOPs, a loss of 2.31."""
    if falls(scale):
        return decimal(x, span)
    return scientific(x, span) if scale == "flops" else human(x, span)


def _check(series: Series) -> None:
    where = series.label
    for name in ("value", "n", "stderr", "group", "seed", "run"):
        given = getattr(series, name)
        if given is not None and given.shape != series.x.shape:
            raise Refusal(
                f"{where}: {len(given)} of {name} beside {len(series.x)} of {series.scale}; "
                "give one a row"
            )
    if not (np.isfinite(series.x).all() and (series.x > 0).all()):
        bad = series.x[~(np.isfinite(series.x) & (series.x > 0))][0]
        raise Refusal(f"{where}: {series.scale} = {bad:g} is not a positive number; drop the row")
    if not np.isfinite(series.value).all():
        raise Refusal(f"{where}: a value is missing or infinite; drop the row")
    if series.scales < 2:
        raise Refusal(
            f"{where}: {series.scales} distinct values of {series.scale}; a curve needs at least "
            "two scales"
        )
    low, high = series.metric.range
    outside = series.value[(series.value < low) | (series.value > high)]
    if len(outside):
        raise Refusal(
            f"{where}: value {outside[0]:g} lies outside {low:g} to {high:g}, the range of "
            f"{series.metric.name}; is it in percent? declare the metric's worst and best value"
        )
    if series.n is not None and not ((series.n >= 1) & np.isfinite(series.n)).all():
        raise Refusal(f"{where}: n must be at least 1 question; got {series.n.min():g}")
    if series.stderr is not None and (series.stderr < 0).any():
        raise Refusal(f"{where}: stderr must not be negative; got {np.nanmin(series.stderr):g}")
    for name in ("chance", "ceiling"):
        level = getattr(series, name)
        if level is not None and not (math.isfinite(level) and low <= level <= high):
            raise Refusal(
                f"{where}: {name} {level:g} lies outside {low:g} to {high:g}, the range of "
                f"{series.metric.name}"
            )
    if series.chance is not None:
        top = series.metric.best if series.ceiling is None else series.ceiling
        if (top - series.chance) * (1 if series.metric.higher_is_better else -1) <= 0:
            raise Refusal(
                f"{where}: chance {series.chance:g} is no worse than the ceiling {top:g}; nothing "
                "could emerge between them"
            )
