"""What repeating data costs: loss on fresh tokens and on the same tokens again."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.fitted import LABELS, loss_label, rows_of
from analysis.figures.style import (
    DASHED,
    INK,
    Palette,
    figure,
    levels,
    log_axis,
    points,
    set_caption,
)
from analysis.fit import Fit
from analysis.units import count_of

EPOCH = 1.01  # tokens over unique tokens above which some were seen twice, beyond rounding


def repeat_curves(fit: Fit) -> Figure:
    """Loss against D: runs on fresh tokens filled, on repeated ones hollow, a colour a size.

    Curves are the law's: dashed where every token is new (U = D), solid where the U of the
    repeated runs is all there is. Raises Refusal for a fit without rows.
    """
    table = rows_of(fit)
    palette = Palette(table["params"])
    again = table["tokens"] > EPOCH * table["unique_tokens"]
    with figure(7.5, 5.2) as made:
        axes = made.add_subplot()
        fresh = table[~again]
        points(axes, fresh["tokens"], fresh[fit.law.target], fresh["params"], palette)
        seen = table[again]
        edges = [palette(float(params)) for params in seen["params"]]
        axes.scatter(
            seen["tokens"], seen[fit.law.target], s=30, c="white", edgecolor=edges, zorder=3
        )
        for params in levels(table["params"]):
            mine = table[np.abs(np.log(table["params"] / params)) < 0.02]
            colour = palette(float(params))
            grid = np.geomspace(mine["tokens"].min(), mine["tokens"].max(), 80)
            size = np.full_like(grid, params)
            new = {"params": size, "tokens": grid, "unique_tokens": grid}
            axes.plot(grid, fit.predict(new), color=colour, linestyle=DASHED, linewidth=1.1)
            for unique in levels(mine.loc[again, "unique_tokens"]) if again.any() else ():
                beyond = grid[grid >= unique]
                some = {name: values[grid >= unique] for name, values in new.items()}
                some["unique_tokens"] = np.full_like(beyond, unique)
                axes.plot(beyond, fit.predict(some), color=colour, linewidth=1.5)
        log_axis(axes.xaxis, LABELS["tokens"], "count")
        log_axis(axes.yaxis, loss_label(fit), "loss")
        hollow: dict[str, Any] = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": INK}
        also = [
            Line2D([], [], color=INK, linestyle=DASHED, marker="o", markersize=4, label="fresh"),
            Line2D([], [], color=INK, label="repeated", markersize=5.5, **hollow),
        ]
        palette.key(
            made, [axes], table["params"], "N", LABELS["params"], loc="upper right", also=also
        )
        epochs = (table["tokens"] / table["unique_tokens"])[again]
        span = f", {epochs.min():.2g} to {epochs.max():.2g} epochs" if len(epochs) else ""
        set_caption(
            made,
            f"n = {fit.data.n} runs, {int(again.sum())} on repeated tokens{span}; "
            f"N = {count_of(fit.data.params_column)}. Curves: {fit.law.name}, fitted to all of "
            "them.",
        )
    return made
