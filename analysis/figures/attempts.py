"""Figures of several attempts: what k tries do, and what they cost beside a larger model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.emergence.attempts import FLOPS_PER_TOKEN, Tries
from analysis.figures.style import DASHED, INK, OWN, Palette, figure, log_axis, set_caption

MOST_TASKS = 4  # rows of a figure
BEYOND = 4.0  # times the attempts seen that a law is drawn


def attempts_panels(found: Sequence[Tries], label: str) -> Figure:
    """A row a task: pass@k against k, against FLOPs at equal price, and the threshold against k.

    `label` names the scale. The middle panel is there where the scale is parameters.
    """
    priced = found[0].scale == "params"
    wide = 3 if priced else 2
    shown = found[:MOST_TASKS]
    with figure(4.0 * wide + 0.6, 3.3 * len(shown) + 0.6) as made:
        grid = made.subplots(len(shown), wide, squeeze=False)
        for row, each in zip(grid, shown, strict=True):
            palette = Palette(each.solved["x"].to_numpy())
            _by_attempts(row[0], each, palette)
            row[0].set_title(each.task)
            if priced:
                _by_price(row[1], each, palette)
            _threshold(row[-1], each, label)
            palette.bar(made, [row[-1]], label)
        left = len(found) - len(shown)
        more = f" {left} more tasks are not drawn." if left else ""
        price = f" {FLOPS_PER_TOKEN:g}·N·k FLOPs a token of the answer." if priced else ""
        set_caption(
            made,
            "Points: pass@k, means over questions and runs. Lines: exp(-a·k^-b) of each scale, "
            f"dashed beyond the attempts seen.{price} Bars: intervals of the threshold.{more}",
        )
    return made


def _by_attempts(axes: Axes, found: Tries, palette: Palette) -> None:
    for x, rows in found.solved.groupby("x"):
        colour = palette(float(str(x)))
        axes.plot(rows["k"], rows["value"], "o", color=colour, markersize=3.6)
        if float(str(x)) in found.laws:
            _law(axes, found, float(str(x)), 1.0, palette)
    log_axis(axes.xaxis, "attempts k", "count")
    axes.set_ylabel("pass@k")


def _by_price(axes: Axes, found: Tries, palette: Palette) -> None:
    for x, rows in found.solved.groupby("x"):
        params = float(str(x))
        cost = FLOPS_PER_TOKEN * params
        axes.plot(cost * rows["k"], rows["value"], "o", color=palette(params), markersize=3.6)
        if params in found.laws:
            _law(axes, found, params, cost, palette)
    log_axis(axes.xaxis, "FLOPs a token, all attempts", "flops")
    axes.set_ylabel("pass@k")


def _law(axes: Axes, found: Tries, x: float, cost: float, palette: Palette) -> None:
    """The law of one scale, against attempts times `cost`."""
    law = found.laws[x]
    seen, beyond = np.geomspace(1, law.most, 40), np.geomspace(law.most, BEYOND * law.most, 15)
    axes.plot(cost * seen, law.at(seen), color=palette(x), linewidth=1.2)
    axes.plot(cost * beyond, law.at(beyond), color=palette(x), linewidth=1.2, linestyle=DASHED)


def _threshold(axes: Axes, found: Tries, label: str) -> None:
    known = {k: each for k, each in found.thresholds.items() if each.value is not None}
    log_axis(axes.xaxis, "attempts k", "count")
    axes.set_ylabel("threshold")
    if not known:
        axes.text(0.5, 0.5, "no threshold in range", transform=axes.transAxes, ha="center")
        return
    for k, each in known.items():
        low, high = each.interval or (None, None)
        if low is not None and high is not None:
            axes.plot([k, k], [low, high], color=OWN, linewidth=1.6, alpha=0.45)
    axes.plot(list(known), [each.value or 0.0 for each in known.values()], "o", color=INK,
              markersize=4)  # fmt: skip
    log_axis(axes.yaxis, f"threshold, {label}", "count" if found.scale != "flops" else "flops")
