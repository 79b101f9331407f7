"""Intervals of a threshold and of the width of a rise, by profile deviance.

Any attribute of a curve is profiled over the mesh: for each value, the least deviance of the curves
that have it. An interval holds the values whose curves are no further from the table, relative to
what the best curve leaves, than the true curve is from `level` of the tables simulated from the
fit. "Not in range" and "not identified" are answers too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.stats import f as f_ratio

from analysis.array import Array
from analysis.emergence.response.deviance import Curves, Indices
from analysis.emergence.response.dispersion import Bootstrap, Fit
from analysis.emergence.response.estimate import NOT_IDENTIFIED, NOT_IN_RANGE, Estimate
from analysis.emergence.response.search import (
    all_kinds,
    midpoint_limits,
    search,
    width_limits,
    with_ceilings,
)
from analysis.emergence.response.selection import parameters
from analysis.emergence.scores.series import Series
from analysis.interval import Interval

BINS = 24  # of an attribute, by equal widths and by equal counts each


class Profiled(NamedTuple):
    """The values of an attribute that the data allow."""

    low: float
    high: float
    low_is_last: bool  # the end is that of the mesh: the data may allow values beyond
    high_is_last: bool


@dataclass(frozen=True, eq=False)
class Profile:
    """The curves of a mesh, and what tables simulated from one of them say about the others."""

    fit: Fit
    samples: Bootstrap
    truth: int  # the curve that they were simulated from
    level: float

    @property
    def left(self) -> float:
        """The deviance of the best curve from the table."""
        return float(self.fit.mesh.deviance.min())

    @property
    def asymptotic(self) -> float:
        """The distance of an interval's ends by the F distribution, for one number.

        The choice of the shape counts as one parameter more: without it, intervals from six scores
        held the truth in 80% at a nominal 90% (benchmarks/emergence.py).
        """
        fitted = parameters(self.fit.data, self.fit.mesh.curves, self.truth)
        freedom = max(len(self.fit.data.t) - fitted - 1, 1)
        return float(f_ratio.ppf(self.level, 1, freedom)) / freedom

    @cached_property
    def distance(self) -> Array:
        """How much further each curve is from the table than the best, over what the best leaves.

        It is the square of a number of standard errors, up to a factor.
        """
        return (self.fit.mesh.deviance - self.left) / max(self.left, self.fit.dispersion.least)

    def values(self, attribute: Array) -> Profiled:
        """The values of `attribute` (one per curve) that the data allow at the level."""
        edges = _edges(attribute, self.fit.mesh.deviance)
        if len(edges) < 3:
            return Profiled(float(attribute.min()), float(attribute.max()), True, True)
        bins = np.clip(np.searchsorted(edges, attribute, side="right") - 1, 0, len(edges) - 2)
        cut = self._cut(bins == bins[self.truth])
        order = np.lexsort((self.distance, bins))  # the nearest curve of each bin that has any
        best = order[np.unique(bins[order], return_index=True)[1]]
        value, distance = attribute[best], self.distance[best]
        allowed = np.flatnonzero(distance <= max(cut, float(distance.min())))
        first, last = int(allowed[0]), int(allowed[-1])
        low, high = float(value[first]), float(value[last])
        if first > 0:
            low = _crossing(value, distance, first, first - 1, cut)
        if last < len(best) - 1:
            high = _crossing(value, distance, last, last + 1, cut)
        # The cut is that of the true curve's whole bin, so an allowed bin is allowed to its ends:
        # with the crossing alone, intervals of smooth curves held .88 at a nominal .90.
        low, high = min(low, edges[bins[best[first]]]), max(high, edges[bins[best[last]] + 1])
        return Profiled(float(low), float(high), first == 0, last == len(best) - 1)

    def _cut(self, same: Indices) -> float:
        """The distance within which `level` of the simulated tables have the truth.

        `same` flags the curves of the truth's own bin. Simulated scores of a curve that is flat at
        every scale do not scatter at all, but the curve is only an estimate: the distance is never
        less than the asymptotic one.
        """
        best = self.samples.best
        of_truth = self.samples.deviance[:, same].min(1)
        distance = (of_truth - best) / np.maximum(best, self.fit.dispersion.least)
        return max(float(np.quantile(distance, self.level)), self.asymptotic)


def threshold_of(profile: Profile, reached: Array, series: Series) -> Estimate:
    """The scale at which curves reach a level. `reached` is the t of each curve of the mesh, inf
    for a curve that never reaches it and NaN for one without a floor.
    """
    to_x = series.to_x
    estimate = float(reached[profile.truth])
    low, high = float(profile.fit.data.t.min()), float(profile.fit.data.t.max())
    if math.isnan(estimate):
        return Estimate(None, None, f"{NOT_IDENTIFIED}: the curve has no floor to rise from")
    ends = midpoint_limits(profile.fit.data)
    clipped = np.clip(np.nan_to_num(reached, nan=ends[1], posinf=ends[1], neginf=ends[0]), *ends)
    found = profile.values(clipped)
    a, b = min(found.low, estimate), max(found.high, estimate)
    # Beyond the limits of the search an end is open.
    slack = 0.02 * (ends[1] - ends[0])
    open_low = found.low_is_last and a <= ends[0] + slack
    open_high = found.high_is_last and b >= ends[1] - slack
    if open_low and open_high:
        return Estimate(None, None, f"{NOT_IDENTIFIED}: the data bound it on neither side")
    least, most = -math.inf if open_low else to_x(a), math.inf if open_high else to_x(b)
    if series.falling:
        least, most = -math.inf if open_high else to_x(b), math.inf if open_low else to_x(a)
    interval = Interval(least, most)
    if estimate > high:
        return Estimate(None, interval, f"{NOT_IN_RANGE}: beyond the last scale, {to_x(high):.3g}")
    if estimate < low:
        return Estimate(None, interval, f"{NOT_IN_RANGE}: before the first scale, {to_x(low):.3g}")
    return Estimate(to_x(estimate), interval)


def width_of(profile: Profile) -> Estimate:
    """Decades from 10% to 90% of the rise; the lower end is 0 below what the mesh resolves."""
    curves = profile.fit.mesh.curves
    estimate = float(curves.width[profile.truth])
    ends = np.log(width_limits(profile.fit.data))
    logs = np.clip(np.log(np.where(curves.where("floored"), curves.width, np.inf)), *ends)
    found = profile.values(logs)
    # An end within two steps of the coarse mesh from its limit is open.
    slack = 2 * (ends[1] - ends[0]) / 11
    narrowest = found.low_is_last and found.low <= ends[0] + slack
    widest = found.high_is_last and found.high >= ends[1] - slack
    floored = bool(curves.where("floored")[profile.truth])
    why = f"{NOT_IDENTIFIED}: {'any width fits' if floored else 'the curve has no floor'}"
    if narrowest and widest:
        return Estimate(None, None, why)
    least = 0.0 if narrowest else min(math.exp(found.low), estimate)
    most = math.inf if widest else max(math.exp(found.high), estimate)
    interval = _with_any_ceiling(Interval(least, most), profile)
    return Estimate(estimate, interval) if floored else Estimate(None, interval, why)


def _with_any_ceiling(width: Interval, profile: Profile) -> Interval:
    """`width` extended to the narrowest curve that fits with a ceiling of its own.

    Few scales do not support a fitted ceiling, and a sharp rise to a plateau below the best score
    then looks like a wide, incomplete rise: at 7 scales a rise of a fifth of a decade from .1 to .9
    was called smooth in nine tables of ten.
    """
    data = profile.fit.data
    if not data.bounded or any(kind.free for kind in all_kinds(data)):
        return width
    best = profile.left
    mesh = search(data, data.observed, left=best, kinds=with_ceilings())
    fits = mesh.deviance <= best + profile.asymptotic * max(best, profile.fit.dispersion.least)
    narrowest = float(mesh.curves.width[fits].min(initial=math.inf))
    if narrowest >= width.low:
        return width
    resolved = narrowest > 1.5 * width_limits(data)[0]
    return width._replace(low=narrowest if resolved else 0.0)


def reaches_level(curves: Curves, level: float) -> Array:
    """t at which each curve crosses `level` (unit scale): −inf from the start, inf for never."""
    floor, rise = curves.floor, curves.ceiling - curves.floor
    share = np.where(rise > 1e-12, (level - floor) / np.maximum(rise, 1e-12), np.inf)
    share = np.where(level <= floor, 0.0, share)
    return curves.reaches(share)


def _edges(attribute: Array, deviance: Array) -> Array:
    """Edges of bins: of equal widths over all curves, of equal counts over the best quarter."""
    near = attribute[np.argsort(deviance, kind="stable")[: max(len(deviance) // 4, 50)]]
    even = np.linspace(attribute.min(), attribute.max(), BINS + 1)
    dense = np.quantile(near, np.linspace(0, 1, BINS + 1))
    edges = np.unique(np.concatenate([even, dense]))
    least = 1e-4 * max(edges[-1] - edges[0], 1e-12)
    edges = edges[np.diff(edges, prepend=-np.inf) > least]
    # Many curves lie at an edge, but for rounding: they are above it, on every processor.
    edges -= 1e-5 * least
    if len(edges) > 1:
        edges[-1] = attribute.max()
    return edges


def _crossing(value: Array, distance: Array, inside: int, outside: int, cut: float) -> float:
    """Where the profile passes the cut between two bins; near its least it is a parabola."""
    a, b, at = (math.sqrt(max(each, 0.0)) for each in (distance[inside], distance[outside], cut))
    share = 0.5 if not b > a else min(max((at - a) / (b - a), 0.0), 1.0)
    return float(value[inside] + share * (value[outside] - value[inside]))
