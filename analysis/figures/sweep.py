"""Loss against a swept setting at each N and D, and where its optimum lies as N grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.runs.sweep import Best, Sweep
from analysis.text import human

APART = 0.035  # of an e-fold of N: what the bars of two D stand apart
MARKERS = "os^DvPX<"  # of D; beyond so many no legend names them


def sweep_losses(
    swept: Sweep,
    ax: Axes | None = None,
    *,
    params_column: str = "params",
    loss_unit: str = "nats/token",
) -> Axes:
    """Loss at each value tried, a curve at each N and D; returns the axes.

    Colours are N, line styles D (or D/N). The best value of a curve is a large mark, hollow where
    it is an end of the sweep.
    """
    cells, name = _cells(swept), swept.column.replace("_", " ")
    palette = style.Palette(cells["params"])
    first, last = (
        f"{_best(each):.2g} at N = {human(each.params)}"
        for each in (swept.cells[0], swept.cells[-1])
    )
    counted = style.counted(f"{len(cells)} (N, D)", params_column)
    with style.panel(ax, f"Best {name}: {first}, {last}", counted) as axes:
        rows = cells.explode(["tried", "losses"]).astype({"tried": float, "losses": float})
        colours = {each: palette(each) for each in cells["params"]}
        sns.lineplot(
            rows, x="tried", y="losses", hue="params", palette=colours, style="data",
            markers=["o"] * cells["data"].nunique(), markersize=3.5, markeredgewidth=0,
            estimator=None, legend=False, ax=axes,
        )  # fmt: skip
        for each, level in zip(swept.cells, cells["level"], strict=True):
            axes.plot(each.value, each.loss, markersize=7, **_mark(each, level, palette))
        style.log_axis(axes.xaxis, f"{name} tried", "flops")
        style.log_axis(axes.yaxis, f"loss, {loss_unit}", "loss")
        palette.key(axes)
        hollow = f"; hollow: at an end of the sweep, only a bound ({len(swept.bounds)})"
        style.note(axes, f"Large marks: the best tried{hollow if swept.bounds else ''}.")
    return axes


def sweep_optima(swept: Sweep, ax: Axes | None = None, *, params_column: str = "params") -> Axes:
    """The best value against N, with its interval; returns the axes.

    Colours are N, markers D (or D/N), those of one N side by side. A best that is an end of its
    sweep is hollow.
    """
    cells, name = _cells(swept), swept.column.replace("_", " ")
    palette, data = style.Palette(cells["params"]), cells["data"].unique()
    counted = style.counted(f"{len(cells)} (N, D)", params_column)
    with style.panel(ax, f"Best {name} by size", counted) as axes:
        named = 1 < len(data) <= len(MARKERS)
        sns.lineplot(
            cells, x="across", y="best", style="data", color=style.FAINT, linewidth=0.9, zorder=2,
            markers=[MARKERS[k % len(MARKERS)] for k in range(len(data))], estimator=None,
            legend="full" if named else False, ax=axes,
        )  # fmt: skip
        for each, level, at in zip(swept.cells, cells["level"], cells["across"], strict=True):
            if each.interval is not None:
                axes.plot([at] * 2, each.interval, color=palette(each.params), linewidth=1.2)
            axes.plot(at, _best(each), markersize=5.5, **_mark(each, level, palette))
        style.log_axis(axes.xaxis, style.quantity("params").label, "count")
        style.log_axis(axes.yaxis, f"best {name} at each N and D", "flops")
        if named:
            style.legend(axes, axes.get_legend_handles_labels()[0])
            style.note(axes, "Bests of one N stand side by side.")
        elif len(data) > 1:
            style.note(axes, f"Line styles: {data[0]} to {data[-1]}.")
        bars = "" if swept.noise is None else f", with {swept.level:.0%} intervals"
        style.note(axes, f"Best: the bottom of a curve through its neighbours{bars}.")
    return axes


def sweep_figure(swept: Sweep, params_column: str, loss_unit: str) -> Figure:
    """`sweep_losses` and `sweep_optima` side by side."""
    with style.figure(9.6, 5.2) as made:
        left, right = made.subplots(1, 2)
        sweep_losses(swept, left, params_column=params_column, loss_unit=loss_unit)
        sweep_optima(swept, right, params_column=params_column)
        style.finish(made)
    return made


def _cells(swept: Sweep) -> pd.DataFrame:
    """A row per N and D: the fields of `Best`, how its D is called, and where it stands along N.

    Cells of one N differ by D, or by D/N where that has fewer values; they stand side by side,
    since the intervals of one size overlap.
    """
    cells = pd.DataFrame([vars(each) for each in swept.cells])
    cells["best"] = [_best(each) for each in swept.cells]
    ratios = cells["tokens"] / cells["params"]
    by_ratio = len(style.levels(ratios)) < len(style.levels(cells["tokens"]))
    letter, values = ("D/N", ratios) if by_ratio else ("D", cells["tokens"])
    levels = style.levels(values)
    cells["level"] = np.abs(np.log(values.to_numpy()[:, None] / levels)).argmin(axis=1)
    cells["data"] = [f"{letter} = {human(levels[each])}" for each in cells["level"]]
    step = APART if len(levels) <= len(MARKERS) else 0.0
    cells["across"] = cells["params"] * np.exp(step * (cells["level"] - (len(levels) - 1) / 2))
    return cells


def _best(each: Best) -> float:
    return each.value if each.optimum is None else each.optimum


def _mark(each: Best, level: int, palette: style.Palette) -> dict[str, Any]:
    """The mark of the best of a cell, hollow where it is only a bound."""
    colour = palette(each.params)
    return {
        "linestyle": "", "marker": MARKERS[level % len(MARKERS)], "markeredgecolor": colour,
        "markerfacecolor": "white" if each.optimum is None else colour, "zorder": 4,
    }  # fmt: skip
