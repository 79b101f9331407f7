"""Scores over N and D as colour, each in its place, and the line on which a task is half-way up."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

from analysis.emergence.response_surface import ResponseSurface
from analysis.figures import style
from analysis.figures.named import name_points
from analysis.recommend.landmarks import landmarks

RINGS = 5  # of one N and D: more scores are shown by their quantiles
RADIUS = 2.9  # points, of a score alone; each ring adds WIDER
WIDER = 1.3


def score_map(label: str, metric: str, found: ResponseSurface, ax: Axes | None = None) -> Axes:
    """Scores over N and D, and published models for their place; returns the axes.

    Different scores of one N and D are rings about their place, the highest in the middle.
    """
    cells = pd.DataFrame({"x": found.params, "y": found.tokens, "value": found.value})
    counted = style.counted(f"{len(cells)} scores")
    with style.panel(ax, f"{label} over size and data", counted) as axes:
        style.log_axis(axes.xaxis, style.quantity("params").label, "count")
        style.log_axis(axes.yaxis, style.quantity("tokens").label, "count")
        axes.set_xlim(found.params.min() / 1.6, found.params.max() * 1.6)
        axes.set_ylim(found.tokens.min() / 1.6, found.tokens.max() * 1.6)
        bar = style.figure_of(axes).colorbar(_rings(axes, cells), ax=axes, pad=0.015, aspect=30)
        bar.set_label(metric)
        bar.outline.set_visible(False)
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        grid = np.geomspace(left, right, 200)
        half = found.half_way(grid)
        inside = (half >= low) & (half <= high)
        axes.plot(
            grid[inside], half[inside], color=style.OTHERS[0], linestyle=style.DASHED, linewidth=1.4
        )
        known = [
            (each.name, each.params_active, each.tokens)
            for each in landmarks()
            if each.params_active is not None
            and each.tokens is not None
            and axes.viewLim.contains(each.params_active, each.tokens)
            and not _scored(found, each.params_active, each.tokens)
        ]
        name_points(axes, known, zip(found.params, found.tokens, strict=True))
        rings = cells.groupby(["x", "y"]).size().max() > 1
        style.note(
            axes,
            "Rings: different scores of one N and D." if rings else "",
            "Dashed: half-way from chance to the best, where log-odds are a plane in log N and "
            "log D."
            if inside.any()
            else "The line half-way from chance to the best lies outside.",
            "Diamonds: published models, for their place only." if known else "",
        )
    return axes


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
        cmap=style.SIZES, edgecolor="white", linewidth=0.3, zorder=3,
    )  # fmt: skip


def _quantiles(values: np.ndarray) -> np.ndarray:
    """At most RINGS different values, from the highest to the lowest."""
    count = min(len(values), RINGS)
    return np.unique(np.quantile(values, np.linspace(0, 1, count), method="nearest"))[::-1]


def _scored(found: ResponseSurface, params: float, tokens: float) -> bool:
    """Whether a score lies within a tenth of this model, which its name would hide."""
    away = np.hypot(np.log(found.params / params), np.log(found.tokens / tokens))
    return bool((away < 0.1).any())
