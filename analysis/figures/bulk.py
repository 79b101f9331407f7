"""Axes that show the bulk of the points: one mistyped number must not flatten all the others.

What lies beyond is marked by an arrow at the edge, and counted in the caption.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from numpy.typing import ArrayLike, NDArray

from analysis.interval import Interval

SHARE = 0.05  # of the points may lie beyond an axis, or one
FLAT = 1 / 3  # of an axis: where all others would take less of it, points are left beyond
FEWEST = 8  # points, below which all of them set the axis


def bulk(values: ArrayLike) -> NDArray[np.bool_]:
    """Which values set an axis; `values` are on its scale (logarithms for a logarithmic one).

    All but those without which the others take less than FLAT of the axis.
    """
    known = np.asarray(values, dtype=np.float64)
    kept = np.ones(len(known), dtype=bool)
    if len(known) < FEWEST:
        return kept
    order = np.argsort(-np.abs(known - np.median(known)), kind="stable")
    span = float(np.ptp(known))
    for count in range(1, max(1, math.floor(SHARE * len(known))) + 1):
        rest = float(np.ptp(known[order[count:]]))
        if 0 < rest < FLAT * span:
            kept[order[:count]], span = False, rest
    return kept


def log_span(values: ArrayLike) -> Interval:
    """The least and the largest of the bulk of positive values on a logarithmic axis."""
    known = np.asarray(values, dtype=np.float64)
    some = known[bulk(np.log(known))]
    return Interval(float(some.min()), float(some.max()))


def mark_beyond(axes: Axes) -> str:
    """Draw an arrow at the edge for each scattered point outside the limits, which must be set.

    Returns what a caption says of them; "" where there are none.
    """
    (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    count = 0
    for drawn in [each for each in axes.collections if isinstance(each, PathCollection)]:
        places = np.asarray(drawn.get_offsets(), dtype=np.float64)
        filled = drawn.get_facecolor() if len(drawn.get_facecolor()) else drawn.get_edgecolor()
        colours = np.broadcast_to(np.asarray(filled), (len(places), 4))
        for (x, y), colour in zip(places, colours, strict=True):
            sides = {"<": x < left, ">": x > right, "v": y < low, "^": y > high}
            outside = [marker for marker, beyond in sides.items() if beyond]
            if outside:
                axes.plot(
                    min(max(x, left), right), min(max(y, low), high), marker=outside[-1],
                    color=tuple(colour), markersize=7, markeredgecolor="white",
                    markeredgewidth=0.5, linestyle="", clip_on=False, zorder=8,
                )  # fmt: skip
                count += 1
    if not count:
        return ""
    lie = "point lies" if count == 1 else "points lie"
    return f"{count} {lie} beyond the axis (arrow{'s' * (count > 1)})."
