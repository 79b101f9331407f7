"""Small multiples of scores against scale: panels that fill the page, axes that can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.emergence.scores.series import Series
from analysis.figures import style
from analysis.interval import Interval

MOST_PANELS = 24  # on one figure: more are no longer read
PLAIN = 1e-2, 9e3  # beyond, numbers of a scale without a known unit are written as powers of ten
INSIDE = 0.01  # of the axis: so far from its ends an interval that goes on ends in an arrow


@contextmanager
def panels(count: int, wide: int | None = None) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of so many panels, `wide` in a row; a last row that is not full is stretched.

    By default three or four in a row, whichever leaves less of the last row empty.
    """
    usual = 2 if count == 4 else min((3, 4), key=lambda each: (-count % each, each))
    wide = min(count, usual) if wide is None else wide
    deep = math.ceil(count / wide)
    last = count - wide * (deep - 1)
    spans = [last] * (count - last) + [wide] * last
    with style.figure(3.6 * wide + 0.6, 2.7 * deep + 1.2) as made:
        mosaic: Any = np.repeat(np.arange(count), spans).reshape(deep, wide * last).tolist()
        yield made, list(made.subplot_mosaic(mosaic).values())


def left_out(count: int, what: str) -> str:
    """How many panels were not drawn, in words; empty if all were."""
    left = count - MOST_PANELS
    return f"{left} more {what} are not drawn." if left > 0 else ""


def scale_axis(axes: Axes, series: Series) -> None:
    """The x axis: logarithmic, labelled, progress to the right."""
    plain = series.x.min() >= PLAIN[0] and series.x.max() <= PLAIN[1]
    other = style.Quantity(series.scale, series.scale, "loss" if plain else "flops")
    found = style.QUANTITIES.get(series.scale, other)
    style.log_axis(axes.xaxis, found.label, found.kind)
    if series.falling and not axes.xaxis_inverted():
        axes.invert_xaxis()


def score_axes(grid: Sequence[Axes], shown: Iterable[Series]) -> None:
    """The y axes: labelled by metric, and those of one metric with the same limits and ticks."""
    first: dict[str, Axes] = {}
    for axes, series in zip(grid, shown, strict=True):
        better = "" if series.metric.higher_is_better else " (less is better)"
        axes.set_ylabel(f"{series.metric.name}{better}")
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        if first.setdefault(series.metric.name, axes) is not axes:
            axes.sharey(first[series.metric.name])
    for axes in first.values():
        axes.autoscale_view(scalex=False)


def draw_threshold(axes: Axes, at: float, interval: Interval | None, height: float) -> None:
    """A diamond at a threshold and a bar over its interval, with an arrow where that goes on.

    An infinite end is open. The limits of the x axis are kept as they stand.
    """
    colour, ends = style.OTHERS[0], axes.get_xlim()
    left, right = sorted(ends)
    limits = style.with_room((left, right), -INSIDE)
    if interval is not None:
        bar = np.clip(interval, *limits)
        axes.plot(bar, [height] * 2, color=colour, linewidth=1.4, zorder=5)
        for end, limit, marker in zip(bar, limits, "<>", strict=True):
            if end == limit:  # it reaches further than the axis does
                axes.plot(end, height, marker, color=colour, markersize=4.5, zorder=6)
    if left <= at <= right:
        axes.plot(at, height, "D", color=colour, markersize=5, markeredgecolor="white",
                  markeredgewidth=0.6, zorder=6)  # fmt: skip
    axes.set_xlim(ends)


def short(text: str, most: int = 44) -> str:
    """`text`, cut to fit over a panel."""
    return text if len(text) <= most else text[: most - 1] + "…"
