"""What repeating data costs: loss on fresh tokens and on the same tokens again."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.bulk import log_span, mark_beyond
from analysis.figures.doubts import doubts
from analysis.figures.fitted import LABELS, loss_label, rows_of
from analysis.figures.style import (
    DASHED,
    INK,
    Palette,
    figure_of,
    levels,
    log_axis,
    panel,
    points,
    set_caption,
)
from analysis.fit import Fit
from analysis.units import count_of, human

EPOCH = 1.01  # tokens over unique tokens above which some were seen twice, beyond rounding


def repeat_curves(fit: Fit, *, ax: Axes | None = None) -> Figure:
    """Loss against D: runs on fresh tokens filled, on repeated ones hollow, a colour a size.

    Curves are the law's: solid where every token is new (U = D), dashed where the U of the
    repeated runs is all there is. Raises Refusal for a fit without rows.
    """
    table = rows_of(fit)
    palette = Palette(table["params"])
    again = table["tokens"] > EPOCH * table["unique_tokens"]
    with panel(
        ax, 7.5, 5.4, f"Fresh and repeated tokens: {fit.law.name} fitted to {fit.data.n} runs"
    ) as axes:
        fresh, seen = table[~again], table[again]
        points(axes, fresh["tokens"], fresh[fit.law.target], fresh["params"], palette, zorder=4)
        edges = [palette(float(params)) for params in seen["params"]]
        # Wider than the filled points, which would hide beneath them.
        axes.scatter(
            seen["tokens"], seen[fit.law.target], s=46, c="none", edgecolor=edges, linewidth=1.2,
            zorder=3,
        )  # fmt: skip
        unique = levels(seen["unique_tokens"]) if len(seen) else np.array([])
        for params in palette.levels:
            near = np.abs(np.log(table["params"] / params)) < 0.02
            colour = palette(float(params))
            grid = np.geomspace(table["tokens"][near].min(), table["tokens"][near].max(), 80)
            size = np.full_like(grid, params)
            new = {"params": size, "tokens": grid, "unique_tokens": grid}
            axes.plot(grid, fit.predict(new), color=colour, linewidth=1.5)
            mine = table.loc[near & again, "unique_tokens"]
            for some in levels(mine) if len(mine) else ():
                beyond = {name: values[grid >= some] for name, values in new.items()}
                beyond["unique_tokens"] = np.full_like(beyond["tokens"], some)
                axes.plot(
                    beyond["tokens"], fit.predict(beyond), color=colour, linestyle=DASHED,
                    linewidth=1.2,
                )  # fmt: skip
        log_axis(axes.xaxis, LABELS["tokens"], "count")
        log_axis(axes.yaxis, loss_label(fit), "loss")
        curves = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
        low, high = log_span(table[fit.law.target])
        room = (high / low) ** 0.05
        axes.set_ylim(min(low, curves.min()) / room, max(high, curves.max()) * room)
        outside = mark_beyond(axes)
        hollow: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "markersize": 6}
        also = [
            Line2D([], [], color=INK, marker="o", markersize=4, label="fresh"),
            Line2D([], [], color=INK, linestyle=DASHED, label="repeated", **hollow),
        ]
        palette.key(figure_of(axes), axes, "N", LABELS["params"], also=also)
        said = f"n = {fit.data.n} runs"
        if len(seen):
            epochs = seen["tokens"] / seen["unique_tokens"]
            said += f", {len(seen)} of them of {epochs.min():.2g} to {epochs.max():.2g} epochs of "
            some = [human(each) for each in unique]
            said += f"{some[0] if len(some) == 1 else f'{some[0]} to {some[-1]}'} tokens"
        if ax is None:
            set_caption(
                figure_of(axes),
                f"{said}. N = {count_of(fit.data.params_column)}. Curves: the law, fitted to all."
                f"{outside}{doubts(fit)}",
            )
    return figure_of(axes)
