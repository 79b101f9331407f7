"""Against compute: N*, D* and their ratio with the published laws, and the loss to expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.array import Array
from analysis.figures import style
from analysis.figures.bulk import mark_beyond
from analysis.figures.fitted import doubts, draw_floor
from analysis.figures.named import name_points
from analysis.figures.recommended import (
    COLOURS,
    Quantity,
    Recommended,
    draw_asked,
    draw_ways,
    limits,
)
from analysis.laws.optimum import compute_optimal
from analysis.laws.published import published
from analysis.recommend.landmarks import Landmark
from analysis.recommend.recommendation import Recommendation
from analysis.recommend.summary import CELLS
from analysis.text import decimal, human, scientific, with_interval

RULE_OF_THUMB = 20.0  # what Hoffmann et al. 2022, table A3, comes to by approaches 1 and 2
HOFFMANN, KAPLAN = "Hoffmann et al. 2022", "Kaplan et al. 2020"
NEAR = 0.35  # of the panel's height: how far below all else the floor may lie and be drawn

LABELS: Mapping[Quantity, str] = {
    "params": "compute-optimal parameters N*",
    "tokens": "compute-optimal tokens D*",
    "tokens_per_param": "tokens per parameter D*/N*",
}


def loss_by_compute(found: Recommended, ax: Axes | None = None) -> Axes:
    """Loss against C = 6ND: the runs as points, the loss of the recommended run at each budget as
    a line, and the forecast interval of that run's loss as a band; returns the axes.

    Each recommended run asked for is a star with its interval, and its numbers are in the caption.
    """
    last = (found.asked or found.along)[-1]
    title = f"{found.name}: loss {CELLS['loss'](last)} at {last.question}"
    with style.panel(ax, title, found.counted, doubts(found.source)) as axes:
        style.log_axis(axes.xaxis, style.COMPUTE, "flops")
        style.log_axis(axes.yaxis, f"loss, {found.loss_unit}", "loss")
        axes.set_xlim(style.with_room(found.flops, 0.02))
        axes.set_ylim(limits(found, "loss"))
        draw_ways(axes, found, "flops", "loss", found.ways)
        draw_asked(axes, found, "loss")
        draw_floor(axes, found.source, NEAR)
        lines = style.entries(axes)
        if found.runs.empty:
            style.legend(axes, lines)
        else:
            palette = style.Palette(found.runs["params"])
            style.points(
                axes, found.runs["flops"], found.runs["loss"], found.runs["params"], palette
            )
            palette.key(axes, lines)
        style.note(axes, *map(_numbers, found.asked), mark_beyond(axes))
    return axes


def frontier(
    found: Recommended,
    y: Quantity = "params",
    ax: Axes | None = None,
    *,
    landmarks: Sequence[Landmark] = (),
) -> Axes:
    """What is recommended against C = 6ND, N*, D* or D*/N* (`y`); returns the axes.

    Runs are points, `landmarks` diamonds at their active N. Thin lines are the laws of Kaplan et
    al. 2020 and Hoffmann et al. 2022, solid only where runs of theirs are known.
    """
    known = found.models(landmarks)
    with style.panel(ax, _title(found, y), found.counted, doubts(found.source)) as axes:
        style.log_axis(axes.xaxis, style.COMPUTE, "flops")
        style.log_axis(axes.yaxis, LABELS[y], "count")
        axes.set_xlim(style.with_room(found.flops, 0.02))
        placed = [(e.name, e.flops, _value(y, e.params_active, e.tokens)) for e in known]
        # Published laws and the rule do not set the limits: they may lie far off.
        axes.set_ylim(limits(found, y, [value for _, _, value in placed]))
        draw_ways(axes, found, "flops", y, tuple(dict.fromkeys([*found.ways, *COLOURS])))
        if not found.runs.empty:
            axes.plot(
                found.runs["flops"], found.runs[y], "o", color=style.FAINT, markersize=3.2,
                markeredgewidth=0, zorder=2, label="runs",
            )  # fmt: skip
        _published(axes, found, y)
        if y == "tokens_per_param":
            axes.axhline(
                RULE_OF_THUMB, color=style.FAINT, linewidth=0.9, linestyle=style.DOTTED, zorder=1,
                label=f"{RULE_OF_THUMB:g} tokens per parameter",
            )  # fmt: skip
        draw_asked(axes, found, y)
        style.legend(axes)
        name_points(axes, placed, found.places("flops", y))
        style.note(axes, "Diamonds: published models, by active parameters." if known else "")
    return axes


def frontier_figure(found: Recommended, *, landmarks: Sequence[Landmark] = ()) -> Figure:
    """N* and D* against C side by side, under one legend."""
    with style.figure(*style.PAIR) as made:
        left, right = made.subplots(1, 2)
        frontier(found, "params", left, landmarks=landmarks)
        frontier(found, "tokens", right, landmarks=landmarks)
        style.shared_legend([left, right])
        style.finish(made)
    return made


def _numbers(each: Recommendation) -> str:
    """The answer as `recommend` prints it."""
    params, tokens, loss = (CELLS[name](each) for name in ("params N*", "tokens D*", "loss"))
    return f"{each.question}: N* {params}, D* {tokens}, loss {loss}."


def _title(found: Recommended, y: Quantity) -> str:
    """The last answer asked for, or that at the largest run, or budget of a published law."""
    inside = [each for each in found.along if each.flops <= found.seen.high * 1.001]
    at = (found.asked or inside or found.along)[-1]
    if y == "tokens_per_param":
        said = f"D*/N* = {with_interval(human, at.tokens_per_param, at.span(y))}"
    else:
        exponent = with_interval(decimal, at.params_exponent, at.span("params_exponent"))
        said = f"{style.POWER}, a = {exponent}"
    return f"{found.name}: {said} at {scientific(at.flops)} FLOPs"


def _published(axes: Axes, found: Recommended, y: Quantity) -> None:
    """Thin lines; those that do not enter the panel are in no legend."""
    hoffmann = published("chinchilla-2022")
    kaplan = [published(f"kaplan-2020-{each}") for each in ("params", "tokens")]
    budgets = hoffmann.measured["flops"]
    ends = [end for end in budgets if found.flops.holds(end)]
    grid = np.unique([*np.geomspace(*found.flops, 40), *ends])
    style.note(
        axes,
        f"Thin: published laws; Kaplan's N is {kaplan[0].params_convention}, Hoffmann's all "
        "parameters.",
    )
    if found.source is not hoffmann:
        best = [compute_optimal(hoffmann.law, hoffmann.coefficients, float(c)) for c in grid]
        at = np.array([_value(y, each.params, each.tokens) for each in best])
        _thin(axes, grid, at, style.OTHERS[1], HOFFMANN)
        inside = (grid >= budgets.low) & (grid <= budgets.high)
        axes.plot(grid[inside], at[inside], color=style.OTHERS[1], linewidth=1.0, zorder=2)
    best_of_kaplan = _value(y, *(each.predict({"flops": grid}) for each in kaplan))
    _thin(axes, grid, best_of_kaplan, style.OTHERS[2], KAPLAN)


def _value(y: Quantity, params: Any, tokens: Any) -> Any:
    return {"params": params, "tokens": tokens, "tokens_per_param": tokens / params}[y]


def _thin(axes: Axes, x: Array, y: Array, colour: str, label: str) -> None:
    axes.plot(x, y, color=colour, linestyle=style.DASHED, linewidth=1.0, zorder=2, label=label)
