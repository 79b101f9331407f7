"""Loss against compute: the runs, the least loss of every budget, and what to expect beyond."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.answer import Recommendation
from analysis.decide import WAYS
from analysis.figures.answers import STAR, Answers, draw_asked, draw_ways, limits
from analysis.figures.bulk import mark_beyond
from analysis.figures.doubts import doubts
from analysis.figures.fitted import NEAR, floor_of, floor_text
from analysis.figures.style import (
    INK,
    Palette,
    figure_of,
    legend_above,
    log_axis,
    panel,
    points,
    set_caption,
)
from analysis.recommend import cell


def loss_by_compute(found: Answers, *, ax: Axes | None = None) -> Figure:
    """Loss against C = 6ND: the runs as points, the loss of the recommended run at
    each budget as a line, and the band in which that run's loss should fall.

    Each recommended run asked for is a star with its interval, and its numbers are in the legend.
    """
    with panel(ax, 7.5, 5.4, f"Loss against compute: {found.name}") as axes:
        if not found.runs.empty:
            palette = Palette(found.runs["params"])
            points(axes, found.runs["flops"], found.runs["loss"], found.runs["params"], palette)
        draw_ways(axes, found, "loss", found.ways)
        draw_asked(axes, found, "loss")
        log_axis(axes.xaxis, "training compute C = 6ND, FLOPs", "flops")
        log_axis(axes.yaxis, f"loss, {found.loss_unit}", "loss")
        axes.set_xlim(found.across)
        axes.set_ylim(limits(found, "loss"))
        drawn = _floor(axes, found)
        lines = [
            each
            for each in axes.get_legend_handles_labels()[0]
            if each.get_label() != "recommended"
        ]
        lines += [Line2D([], [], label=_numbers(each), **STAR) for each in found.asked]
        legend_above(axes, lines, columns=1 if found.asked else 2)
        made = figure_of(axes)
        if not found.runs.empty:
            palette.bar(made, [axes], "parameters N of the runs")
        beyond = mark_beyond(axes)
        if ax is None:
            set_caption(made, _caption(found, drawn) + beyond + doubts(found.source))
    return made


def _numbers(each: Recommendation) -> str:
    """The answer as `recommend` prints it."""
    params, tokens, loss = (cell(name, each) for name in ("params N*", "tokens D*", "loss"))
    return f"{each.ask}: N* {params}, D* {tokens}, loss {loss}"


def _floor(axes: Axes, found: Answers) -> bool:
    """The floor of the law as a dotted line, where it is near what is drawn."""
    source = found.source
    floor = floor_of(source)
    low, high = axes.get_ylim()
    least = low * (low / high) ** NEAR
    if not least < floor < high:
        return False
    axes.axhline(floor, color=INK, linestyle=(0, (1, 2)), linewidth=1.2)
    axes.annotate(floor_text(source), (0.01, floor), xytext=(0, 3), fontsize=8.5,
                  xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
    axes.set_ylim(min(low, floor * (low / high) ** 0.05), high)
    return True


def _caption(found: Answers, floor: bool) -> str:
    ways = " and ".join(WAYS[way] for way in found.ways)
    dashed = "" if found.seen is None else ", dashed beyond the compute of the runs"
    said = [
        found.counted,
        f"Line: the loss by the law of the best run at each budget, N* by {ways}{dashed}.",
    ]
    if found.level is not None:
        said.append(f"Band: where the loss of such a run should fall ({found.level:.0%}).")
    if found.asked:
        said.append("Star: the run recommended, with its interval.")
    if floor:
        said.append("Dotted: the loss of endless compute, by the law.")
    return " ".join(said)
