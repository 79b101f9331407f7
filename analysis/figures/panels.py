"""Small multiples of scores against scale: panels that fill the page, one way to write ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator

from analysis.emergence.series import Series
from analysis.figures.style import Kind, figure, log_axis

MOST_PANELS = 24  # on one figure: more are no longer read
PLAIN = 1e-2, 9e3  # beyond, numbers of a scale without a known unit are written as powers of ten
MOST_DECIMALS = 4
KINDS: dict[str, tuple[Kind, str]] = {
    "params": ("count", "parameters N"),
    "tokens": ("count", "training tokens D"),
    "flops": ("flops", "compute C, FLOPs"),
    "loss": ("loss", "held-out loss, nats/token"),
}


@contextmanager
def panels(count: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of so many panels, a few in a row; a last row that is not full is stretched."""
    wide = columns_of(count)
    deep = math.ceil(count / wide)
    last = count - wide * (deep - 1)
    with figure(3.6 * wide + 0.6, 2.7 * deep + 0.9) as made:
        cells = made.add_gridspec(deep, wide * last)
        spans = [last] * (count - last) + [wide] * last
        grid = []
        for number, span in enumerate(spans):
            row, place = divmod(number, wide)
            grid.append(made.add_subplot(cells[row, place * span : (place + 1) * span]))
        yield made, grid


def columns_of(count: int) -> int:
    """Panels in a row: three or four, whichever leaves less of the last row empty."""
    if count <= 4:
        return 2 if count == 4 else count
    return min((3, 4), key=lambda wide: (-count % wide, wide))


def left_out(count: int, what: str) -> str:
    """How many panels were not drawn, in words; empty if all were."""
    left = count - MOST_PANELS
    return f" {left} more {what} are not drawn." if left > 0 else ""


def scale_axis(axes: Axes, series: Series) -> None:
    """The x axis: logarithmic, labelled, progress to the right."""
    plain = series.x.min() >= PLAIN[0] and series.x.max() <= PLAIN[1]
    kind, label = KINDS.get(series.scale, ("loss" if plain else "flops", series.scale))
    log_axis(axes.xaxis, label, kind)
    axes.tick_params(labelsize=8)
    if series.falling and not axes.xaxis_inverted():
        axes.invert_xaxis()


def score_axes(grid: Sequence[Axes], shown: Iterable[Series]) -> None:
    """The y axes: labelled by metric, and those of one metric with as many decimals."""
    by_metric: dict[str, list[Axes]] = {}
    for axes, series in zip(grid, shown, strict=True):
        better = "" if series.metric.higher_is_better else " (less is better)"
        axes.set_ylabel(f"{series.metric.name}{better}")
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        by_metric.setdefault(series.metric.name, []).append(axes)
    for same in by_metric.values():
        decimals = max(_decimals(axes.get_yticks()) for axes in same)
        for axes in same:
            axes.yaxis.set_major_formatter(FormatStrFormatter(f"%.{decimals}f"))


def _decimals(ticks: np.ndarray) -> int:
    """How many decimals these ticks need."""
    for decimals in range(MOST_DECIMALS):
        if np.allclose(ticks, np.round(ticks, decimals), rtol=0, atol=1e-9):
            return decimals
    return MOST_DECIMALS


def short(text: str, most: int = 44) -> str:
    """`text`, cut to fit over a panel."""
    return text if len(text) <= most else text[: most - 1] + "…"
