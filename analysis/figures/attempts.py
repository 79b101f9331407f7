"""Figures of several samples per question: what k of them do, at what price, and the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.emergence.pass_at_k import FLOPS_PER_TOKEN, PassAtK
from analysis.figures import style
from analysis.figures.panels import short

MOST_TASKS = 4  # rows of a figure
BEYOND = 4.0  # times the samples seen that a law is drawn


def solved(
    found: PassAtK, ax: Axes | None = None, against: Literal["samples", "flops"] = "samples"
) -> Axes:
    """pass@k of each scale with its law, against k or, where the scale is parameters, against the
    FLOPs of k samples; returns the axes."""
    palette = style.Palette(found.solved["x"].to_numpy(), found.scale)
    said = style.counted(f"{len(found.solved)} means over questions and runs")
    with style.panel(ax, f"pass@k of {short(found.task)}", said) as axes:
        for scale, rows in found.solved.groupby("x"):
            x = float(str(scale))
            colour, cost = palette(x), FLOPS_PER_TOKEN * x if against == "flops" else 1.0
            axes.plot(cost * rows["k"], rows["value"], "o", color=colour, markersize=3.6)
            if x in found.laws:
                law = found.laws[x]
                seen = np.geomspace(1, law.most, 40)
                beyond = np.geomspace(law.most, BEYOND * law.most, 15)
                axes.plot(cost * seen, law.at(seen), color=colour, linewidth=1.2)
                axes.plot(cost * beyond, law.at(beyond), "--", color=colour, linewidth=1.2)
        axes.set_ylabel("pass@k")
        style.note(axes, "Lines: exp(-a·k^-b) of each scale, dashed beyond the samples seen.")
        if against == "flops":
            style.log_axis(axes.xaxis, "FLOPs per token, all samples", "flops")
            style.note(axes, f"Price: {FLOPS_PER_TOKEN:g}·N·k FLOPs per token of the answer.")
        else:
            style.log_axis(axes.xaxis, "samples k", "count")
            palette.key(axes)
    return axes


def threshold_by_samples(found: PassAtK, ax: Axes | None = None) -> Axes:
    """The threshold against k, with its interval; returns the axes."""
    known = {k: each for k, each in found.thresholds.items() if each.value is not None}
    scale = style.quantity(found.scale)
    with style.panel(ax, f"Threshold of {short(found.task)} by samples") as axes:
        style.log_axis(axes.xaxis, "samples k", "count")
        axes.set_ylabel("threshold")
        if not known:
            axes.text(0.5, 0.5, "no threshold in range", transform=axes.transAxes, ha="center")
            return axes
        for k, each in known.items():
            if each.interval is not None and np.isfinite(each.interval).all():
                axes.plot([k, k], each.interval, color=style.OWN, linewidth=1.6, alpha=0.45)
            axes.plot(k, each.value or 0.0, "o", color=style.INK, markersize=4)
        style.log_axis(axes.yaxis, f"threshold, {scale.label}", scale.kind)
        style.note(axes, "Bars: intervals of the threshold.")
    return axes


def attempts_panels(found: Sequence[PassAtK]) -> Figure:
    """A row per task: pass@k against k, against FLOPs at equal price, and the threshold against k.

    The middle panel is there where the scale is parameters.
    """
    priced = found[0].scale == "params"
    shown = found[:MOST_TASKS]
    columns = 2 + priced
    with style.figure(4.0 * columns + 0.6, 3.5 * len(shown) + 0.6) as made:
        for row, each in zip(made.subplots(len(shown), columns, squeeze=False), shown, strict=True):
            solved(each, row[0])
            row[0].set_ylabel(f"{short(each.task, 30)}, pass@k")
            if priced:
                solved(each, row[1], "flops")
            threshold_by_samples(each, row[-1])
        left = len(found) - len(shown)
        style.note(row[0], f"{left} more tasks are not drawn." if left else "")
        style.finish(made, "What several samples per question do")
    return made
