"""Where a curve crosses a level and how wide its rise is, each with an interval or a reason.

Any attribute of a curve is profiled over the mesh: the least deviance of the curves that have
each value of it. An interval holds the values whose curves are, against what the best leaves, no
further from the table than the true one is from `level` of the tables simulated from the fit.
"Not in range" and "cannot be told" are answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import f as f_ratio

from analysis.emergence.breaks import Scatter, alike
from analysis.emergence.forms import parameters
from analysis.emergence.likelihood import Data, Rows, means
from analysis.emergence.mesh import (
    Mesh,
    carries_ceiling,
    midpoint_limits,
    search,
    width_limits,
    with_ceilings,
)
from analysis.expression import Array

BINS = 24  # of an attribute, by equal widths and by equal counts each
NOT_IN_RANGE = "not in range"
CANNOT_BE_TOLD = "cannot be told"
Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class Estimate:
    """A number that may not exist."""

    value: float | None  # None: see the reason
    interval: Interval | None  # an end None is open: the data do not bound it
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; an open end is null."""
        interval = None if self.interval is None else list(self.interval)
        return {"value": self.value, "interval": interval, "reason": self.reason}


@dataclass(frozen=True, eq=False)
class Profiler:
    """What tables simulated from the fit say about a mesh's curves."""

    data: Data
    mesh: Mesh
    scatter: Scatter
    units: Array  # simulated tables × points
    deviance: Array  # simulated tables × curves
    best: Array  # the least deviance of each, between the curves of the mesh too
    truth: int  # the row they were simulated from
    fitted: int  # parameters of that row
    level: float

    @property
    def asymptotic(self) -> float:
        """The profile's distance by the F distribution, one number being asked for.

        That the shape was chosen as well counts as one parameter more: without it intervals of
        six scores held the truth in 80% at nominal 90% (benchmarks/emergence.py).
        """
        freedom = max(len(self.data.t) - self.fitted - 1, 1)
        return float(f_ratio.ppf(self.level, 1, freedom)) / freedom

    @cached_property
    def excess(self) -> Array:
        """How far each curve is from the table beyond the best, over what the best leaves."""
        best = float(self.mesh.deviance.min())
        return (self.mesh.deviance - best) / max(best, self.scatter.least)

    def interval(self, attribute: Array) -> tuple[float, float, bool, bool]:
        """Least and greatest value allowed, and whether each is the end of the mesh."""
        edges = _edges(attribute, self.mesh.deviance)
        if len(edges) < 3:
            return float(attribute.min()), float(attribute.max()), True, True
        cell = np.clip(np.searchsorted(edges, attribute, side="right") - 1, 0, len(edges) - 2)
        best = self.best
        same = self.deviance[:, cell == cell[self.truth]].min(1)
        strays = (same - best) / np.maximum(best, self.scatter.least)
        # Simulated scores of a curve that is flat at every scale do not stray at all, but the
        # curve is only an estimate: never closer than the asymptotic distance.
        cut = max(float(np.quantile(strays, self.level)), self.asymptotic)
        # Each bin speaks by its best curve.
        order = np.lexsort((self.excess, cell))
        order = order[np.concatenate([[True], np.diff(cell[order]) > 0])]
        place, profile, bins = attribute[order], self.excess[order], cell[order]
        allowed = np.flatnonzero(profile <= max(cut, float(profile.min())))
        first, last = int(allowed[0]), int(allowed[-1])
        low = place[0] if first == 0 else _crossing(place, profile, first, first - 1, cut)
        at_end = last == len(profile) - 1
        high = place[-1] if at_end else _crossing(place, profile, last, last + 1, cut)
        # Strays are those of the truth's whole bin, so a bin that is allowed is so to its ends:
        # up to the crossing only, intervals of smooth curves held .88 at a nominal .90.
        low, high = min(low, edges[bins[first]]), max(high, edges[bins[last] + 1])
        return float(low), float(high), first == 0, at_end


def profiler(
    data: Data,
    mesh: Mesh,
    scatter: Scatter,
    truth: int,
    level: float,
    count: int,
    rng: np.random.Generator,
) -> Profiler:
    """`count` tables simulated about the curve of row `truth`."""
    row, table = mesh.rows[np.array([truth])], data.tables(data.unit[None])
    mean = means(data, row, table, data.t)[0]
    ours = alike(data, mesh, mean, float(mesh.deviance.min()), scatter, count, rng)
    fitted = parameters(data, mesh.rows, truth)
    return Profiler(data, mesh, scatter, ours.units, ours.deviance, ours.best, truth, fitted, level)


def crossing(
    profile: Profiler, rows_at: Array, estimate: float, to_x: Any, falling: bool
) -> Estimate:
    """The scale at which curves reach something: `rows_at` is t of each row of the mesh.

    `estimate` is t of the chosen curve; inf where it never gets there.
    """
    low, high = float(profile.data.t.min()), float(profile.data.t.max())
    ends = midpoint_limits(profile.data)
    clipped = np.clip(np.nan_to_num(rows_at, nan=ends[1], posinf=ends[1], neginf=ends[0]), *ends)
    if math.isnan(estimate):
        return Estimate(None, None, f"{CANNOT_BE_TOLD}: the curve has no floor to rise from")
    a, b, open_low, open_high = profile.interval(clipped)
    a, b = min(a, estimate), max(b, estimate)
    # Beyond where the mesh looks an end is open.
    slack = 0.02 * (ends[1] - ends[0])
    open_low, open_high = open_low and a <= ends[0] + slack, open_high and b >= ends[1] - slack
    bounds = None if open_low else to_x(a), None if open_high else to_x(b)
    interval: Interval = (bounds[1], bounds[0]) if falling else bounds
    if open_low and open_high:
        return Estimate(None, None, f"{CANNOT_BE_TOLD}: the data bound it on neither side")
    if estimate > high:
        return Estimate(None, interval, f"{NOT_IN_RANGE}: beyond the last scale, {to_x(high):.3g}")
    if estimate < low:
        return Estimate(None, interval, f"{NOT_IN_RANGE}: before the first scale, {to_x(low):.3g}")
    return Estimate(to_x(estimate), interval)


def width(profile: Profiler, estimate: float) -> Estimate:
    """Decades from 10% to 90% of the rise; below what the mesh resolves the lower end is 0."""
    rows = profile.mesh.rows
    ends = np.log(width_limits(profile.data))
    logs = np.clip(np.log(np.where(rows.where("floored"), rows.width, np.inf)), *ends)
    low, high, narrowest, widest = profile.interval(logs)
    # Within two steps of the coarse mesh from where it ends, an end is open.
    slack = 2 * (ends[1] - ends[0]) / 11
    narrowest = narrowest and low <= ends[0] + slack
    widest = widest and high >= ends[1] - slack
    if narrowest and widest:
        return Estimate(None, None, f"{CANNOT_BE_TOLD}: any width fits")
    least = 0.0 if narrowest else min(math.exp(low), estimate)
    return Estimate(estimate, (least, None if widest else max(math.exp(high), estimate)))


def whatever_the_ceiling(found: Estimate, profile: Profiler) -> Estimate:
    """The width `found`, down to the narrowest curve that fits as well with a ceiling of its own.

    Few scales do not carry a fitted ceiling, and a sharp rise to a plateau below the best then
    looks like a wide one that is not complete: at 7 scales a rise of a fifth of a decade from .1
    to .9 was called smooth in nine tables of ten.
    """
    data = profile.data
    if not data.bounded or data.ceiling is not None or carries_ceiling(data):
        return found
    best = float(profile.mesh.deviance.min())
    mesh = search(data, data.tables(data.unit[None]), dispersion=best, kinds=with_ceilings())
    fits = mesh.deviance <= best + profile.asymptotic * max(best, profile.scatter.least)
    if found.interval is None or not fits.any():
        return found
    narrowest = float(mesh.rows.width[fits].min())
    low, high = found.interval
    if low is None or narrowest >= low:
        return found
    resolved = narrowest > 1.5 * width_limits(data)[0]
    return Estimate(found.value, (narrowest if resolved else 0.0, high), found.reason)


def reaches_level(rows: Rows, floor: Array, ceiling: Array, level: float) -> Array:
    """t at which each row crosses `level` (unit scale): −inf from the start, inf for never."""
    rise = ceiling - floor
    share = np.where(rise > 1e-12, (level - floor) / np.maximum(rise, 1e-12), np.inf)
    share = np.where(level <= floor, 0.0, share)
    return rows.reaches(share)


def _edges(attribute: Array, deviance: Array) -> Array:
    """Bins fine where good curves are: of equal widths over all, of equal counts over the best."""
    near = attribute[np.argsort(deviance)[: max(len(deviance) // 4, 50)]]
    even = np.linspace(attribute.min(), attribute.max(), BINS + 1)
    dense = np.quantile(near, np.linspace(0, 1, BINS + 1))
    edges = np.unique(np.concatenate([even, dense]))
    span = edges[-1] - edges[0]
    keep = np.concatenate([[True], np.diff(edges) > 1e-4 * max(span, 1e-12)])
    edges = edges[keep]
    if len(edges) > 1:
        edges[-1] = attribute.max()
    return edges


def _crossing(place: Array, profile: Array, inside: int, outside: int, cut: float) -> float:
    """Where the profile passes the cut between two bins; it is a parabola near its least."""
    a, b, at = (math.sqrt(max(each, 0.0)) for each in (profile[inside], profile[outside], cut))
    share = 0.5 if not b > a else min(max((at - a) / (b - a), 0.0), 1.0)
    return float(place[inside] + share * (place[outside] - place[inside]))
