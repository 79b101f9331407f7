"""What repeating data costs: loss on fresh tokens and on the same tokens again."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.bulk import log_span, mark_beyond
from analysis.figures.fitted import counted_runs, doubts, loss_label, rows_of
from analysis.fitting.fit import Fit
from analysis.text import human

EPOCH = 1.01  # tokens over unique tokens above which some were seen twice, beyond rounding


def repeats(fit: Fit, ax: Axes | None = None) -> Axes:
    """Loss against D: runs on fresh tokens filled, on repeated ones hollow, a colour per size;
    returns the axes.

    Curves are the law's: solid where every token is new (U = D), dashed where the U of the
    repeated runs is all there is. Raises Refusal for a fit without rows.
    """
    table = rows_of(fit)
    again = table["tokens"] > EPOCH * table["unique_tokens"]
    fresh, seen = table[~again], table[again]
    palette = style.Palette(table["params"])
    title = f"Fresh and repeated tokens: {fit.law.name} fitted to {fit.data.n} runs"
    with style.panel(ax, title, counted_runs(fit), doubts(fit)) as axes:
        hollow: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "markersize": 7}
        for params in palette.levels:
            near = np.abs(np.log(table["params"] / params)) < 0.02
            colour = palette(float(params))
            grid = np.geomspace(table["tokens"][near].min(), table["tokens"][near].max(), 80)
            new = {"params": np.full_like(grid, params), "tokens": grid, "unique_tokens": grid}
            axes.plot(grid, fit.predict(new), color=colour, linewidth=1.5)
            mine = table.loc[near & again, "unique_tokens"]
            for unique in style.levels(mine) if len(mine) else ():
                beyond = {name: values[grid >= unique] for name, values in new.items()}
                beyond["unique_tokens"] = np.full_like(beyond["tokens"], unique)
                curve = fit.predict(beyond)
                axes.plot(beyond["tokens"], curve, "--", color=colour, linewidth=1.2)
            axes.plot(table["tokens"][near & again], table[fit.law.target][near & again],
                      linestyle="", color=colour, zorder=3, **hollow)  # fmt: skip
        style.points(
            axes, fresh["tokens"], fresh[fit.law.target], fresh["params"], palette, zorder=4
        )
        style.log_axis(axes.xaxis, style.quantity("tokens").label, "count")
        style.log_axis(axes.yaxis, loss_label(fit), "loss")
        curves = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
        low, high = log_span(table[fit.law.target])
        axes.set_ylim(style.with_room((min(low, curves.min()), max(high, curves.max()))))
        also = [
            Line2D([], [], color=style.INK, marker="o", markersize=4, label="fresh"),
            Line2D([], [], color=style.INK, linestyle=style.DASHED, label="repeated", **hollow),
        ]
        palette.key(axes, also)
        style.note(axes, mark_beyond(axes))
        if len(seen):
            epochs = seen["tokens"] / seen["unique_tokens"]
            unique = style.levels(seen["unique_tokens"])
            ends = dict.fromkeys(human(each) for each in (unique[0], unique[-1]))
            of = f"{epochs.min():.2g} to {epochs.max():.2g} epochs of {' to '.join(ends)} tokens"
            style.note(axes, f"Repeated: {len(seen)} runs of {of}.")
    return axes
