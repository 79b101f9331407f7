"""An interval, how draws or a mixture give one, and Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from analysis.array import Array


class Interval(NamedTuple):
    """From `low` to `high`, ends included. An end may be infinite, or NaN where it is not known."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """`high` − `low`."""
        return self.high - self.low

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside."""
        return self.low <= value <= self.high

    def meets(self, other: Interval) -> bool:
        """Whether a value lies inside both."""
        return self.low <= other.high and other.low <= self.high

    def times(self, by: float) -> Interval:
        """Both ends multiplied by a positive number."""
        return Interval(self.low * by, self.high * by)


def percentiles(values: Array, level: float) -> tuple[Array, Array]:
    """The central interval over the first axis of `values`, draws.

    An infinite value is an extreme one, so an end may be infinite; NaN where none is a number.
    """
    huge = 1e300  # interpolating next to inf would give NaN
    known = np.nan_to_num(values, nan=np.nan, posinf=huge, neginf=-huge)
    empty = np.isnan(known).all(axis=0)
    ends = np.nanquantile(np.where(empty, 0.0, known), [(1 - level) / 2, (1 + level) / 2], axis=0)
    ends = np.where(np.abs(ends) > huge**0.5, np.copysign(np.inf, ends), ends)
    low, high = np.where(empty, np.nan, ends)
    return low, high


def central(values: Array, level: float) -> Interval:
    """`percentiles` of one quantity, whose draws are `values`."""
    low, high = percentiles(values.reshape(-1, 1), level)
    return Interval(low.item(), high.item())


def student(freedom: float, level: float) -> float:
    """Half the width, in standard deviations, of Student's central interval of that level."""
    from scipy.special import stdtrit  # takes 0.15 s to import

    return float(stdtrit(freedom, (1 + level) / 2))


def mixture(
    middles: Sequence[float], spans: Sequence[Interval], weight: float, level: float
) -> Interval:
    """The central interval of a mixture: what the first says has `weight`, the second the rest.

    Each is normal to either side of its middle, as wide as its own central interval (`spans`) at
    `level`. An end is infinite where one of infinite width has more weight than lies beyond it.
    """
    reach = NormalDist().inv_cdf((1 + level) / 2)
    parts = [
        _TwoSided(share, middle, max(middle - low, 0.0) / reach, max(high - middle, 0.0) / reach)
        for share, middle, (low, high) in zip((weight, 1 - weight), middles, spans, strict=True)
    ]
    return Interval(_quantile(parts, (1 - level) / 2), _quantile(parts, (1 + level) / 2))


class _TwoSided(NamedTuple):
    """A part of a mixture: normal to either side of its middle, each with its own sd."""

    weight: float
    middle: float
    sd_below: float
    sd_above: float

    def below(self, x: float) -> float:
        """The weight that lies below `x`."""
        off = x - self.middle
        sd = self.sd_below if off < 0 else self.sd_above
        if sd == 0:
            return self.weight * (0.5 + 0.5 * math.copysign(1, off) if off else 0.5)
        return self.weight * (0.5 if math.isinf(sd) else NormalDist().cdf(off / sd))


def _quantile(parts: Sequence[_TwoSided], share: float) -> float:
    """Where `share` of the weight lies below, by bisection; infinite where it never does."""
    sds = [sd for part in parts for sd in (part.sd_below, part.sd_above) if math.isfinite(sd)]
    far = 10 * max(sds, default=0.0)
    low = min(part.middle for part in parts) - far
    high = max(part.middle for part in parts) + far

    def below(x: float) -> float:
        return sum(part.below(x) for part in parts)

    if below(low) > share:
        return -math.inf
    if below(high) < share:
        return math.inf
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if below(middle) < share else (low, middle)
    return high
