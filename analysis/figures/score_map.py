"""Scores over N and D as colour, each in its place, and the line on which a task is half-way up."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from analysis.emergence.plane import Plane
from analysis.figures.style import (
    DASHED,
    OTHERS,
    figure,
    log_axis,
    place_landmarks,
    set_caption,
)
from analysis.landmarks import landmarks

RINGS = 5  # of one N and D: more scores are shown by their quantiles
RADIUS = 2.9  # points, of a score alone; each ring adds WIDER
WIDER = 1.3


def score_map(label: str, metric: str, found: Plane) -> Figure:
    """Scores over N and D; those of one N and D are rings about their place."""
    with figure(6.6, 4.9) as made:
        axes = made.subplots()
        log_axis(axes.xaxis, "parameters N", "count")
        log_axis(axes.yaxis, "training tokens D", "count")
        axes.set_xlim(found.params.min() / 1.6, found.params.max() * 1.6)
        axes.set_ylim(found.tokens.min() / 1.6, found.tokens.max() * 1.6)
        cells = pd.DataFrame({"x": found.params, "y": found.tokens, "value": found.value})
        largest = int(cells.groupby(["x", "y"]).size().max())
        bar = made.colorbar(_rings(axes, cells), ax=axes, pad=0.015, aspect=30)
        bar.set_label(metric)
        bar.outline.set_visible(False)
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        grid = np.geomspace(left, right, 200)
        half = found.half_way(grid)
        inside = (half >= low) & (half <= high)
        axes.plot(grid[inside], half[inside], color=OTHERS[0], linestyle=DASHED, linewidth=1.4)
        axes.set_title(label)
        known = [
            (each.name, each.params_active, each.tokens)
            for each in landmarks()
            if each.params_active is not None
            and each.tokens is not None
            and left < each.params_active < right
            and low < each.tokens < high
            and not _scored(found, each.params_active, each.tokens)
        ]
        set_caption(made, _caption(len(cells), largest, bool(inside.any()), bool(known)))
        made.draw_without_rendering()  # laid out, so that names are placed where they will be
        place_landmarks(axes, known, zip(found.params, found.tokens, strict=True))
    return made


def _rings(axes: Axes, cells: pd.DataFrame) -> PathCollection:
    """Each score a disc at its N and D; several of one place are rings, the lowest outermost."""
    rings = pd.concat(
        pd.DataFrame({"x": x, "y": y, "ring": np.arange(len(seen)), "value": seen})
        for (x, y), rows in cells.groupby(["x", "y"])
        for seen in [_quantiles(rows["value"].to_numpy(float))]
    ).sort_values("ring", ascending=False, kind="stable")
    # Discs are drawn in the order of the table: the wide ones lie under the others.
    return axes.scatter(
        rings["x"], rings["y"], c=rings["value"], s=(2 * (RADIUS + WIDER * rings["ring"])) ** 2,
        cmap="viridis", edgecolor="white", linewidth=0.3, zorder=3,
    )  # fmt: skip


def _quantiles(values: np.ndarray) -> np.ndarray:
    """At most RINGS different values, from the highest to the lowest."""
    count = min(len(values), RINGS)
    return np.unique(np.quantile(values, np.linspace(0, 1, count), method="nearest"))[::-1]


def _caption(count: int, largest: int, line: bool, known: bool) -> str:
    said = [f"{count} scores at their N and D"]
    if largest > 1:
        of = "" if largest <= RINGS else f" ({RINGS} quantiles where there are more)"
        said.append(f"different ones of one N and D as rings, the highest in the middle{of}")
    half = (
        "Dashed: half-way from chance to the best, where log-odds are a plane in log N and log D."
        if line
        else "The line half-way from chance to the best lies outside."
    )
    diamonds = " Diamonds: published models, for their place only." if known else ""
    return f"{', '.join(said)}. {half}{diamonds}"


def _scored(found: Plane, params: float, tokens: float) -> bool:
    """Whether a score lies within a tenth of this model, which its name would hide."""
    away = np.hypot(np.log(found.params / params), np.log(found.tokens / tokens))
    return bool((away < 0.1).any())
