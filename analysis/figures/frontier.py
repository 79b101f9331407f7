"""N* and D* against compute: what a source recommends, beside the published laws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.answers import (
    COLOURS,
    Answers,
    Quantity,
    draw_asked,
    draw_ways,
    drawn_at,
    limits,
    of_runs,
)
from analysis.figures.doubts import doubts
from analysis.figures.style import (
    FAINT,
    OTHERS,
    figure,
    figure_of,
    legend_above,
    log_axis,
    panel,
    place_landmarks,
    set_caption,
)
from analysis.frontiers import KAPLAN_2020
from analysis.landmarks import Landmark
from analysis.optimum import compute_optimal
from analysis.published import published

PUBLISHED = ("Hoffmann et al. 2022", KAPLAN_2020.name)
RULE_OF_THUMB = 20.0  # what Hoffmann et al. 2022, table A3, comes to by approaches 1 and 2

_VALUES: Mapping[Quantity, Callable[[Any, Any], Any]] = {
    "params": lambda params, tokens: params,
    "tokens": lambda params, tokens: tokens,
    "tokens_per_param": lambda params, tokens: tokens / params,
}


def frontier(found: Answers, *, landmarks: Sequence[Landmark] = ()) -> Figure:
    """Compute-optimal N* and D* against C = 6ND, the runs as points and `landmarks` by their
    active N; beside them the laws of Kaplan et al. 2020 and Hoffmann et al. 2022 as published."""
    known = _within(found, landmarks)
    with figure(10.0, 5.4, f"Compute-optimal N* and D*: {found.name}") as made:
        left, right = made.subplots(1, 2)
        _panel(left, found, "params", "compute-optimal parameters N*", known)
        _panel(right, found, "tokens", "compute-optimal tokens D*", known)
        drawn = _handles(left)
        legend_above(left, [each for each in drawn if _name(each) not in PUBLISHED], columns=3)
        legend_above(right, [each for each in drawn if _name(each) in PUBLISHED])
        set_caption(made, _caption(found, known))
        _name_models(made, {"params": left, "tokens": right}, found, known)
    return made


def tokens_per_param(
    found: Answers, *, landmarks: Sequence[Landmark] = (), ax: Axes | None = None
) -> Figure:
    """D*/N* against C = 6ND: `frontier`'s two answers as one, the ratio people quote."""
    known = _within(found, landmarks)
    with panel(ax, 7.5, 5.4, f"Tokens per parameter: {found.name}") as axes:
        axes.axhline(
            RULE_OF_THUMB, color=FAINT, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1,
            label=f"{RULE_OF_THUMB:g} tokens per parameter",
        )  # fmt: skip
        _panel(axes, found, "tokens_per_param", "tokens per parameter D*/N*", known)
        legend_above(axes, _handles(axes), columns=3)
        if ax is None:
            set_caption(figure_of(axes), _caption(found, known))
        _name_models(figure_of(axes), {"tokens_per_param": axes}, found, known)
    return figure_of(axes)


def _within(found: Answers, landmarks: Sequence[Landmark]) -> list[Landmark]:
    """Models like those that the law is of, at the budgets drawn."""
    low, high = found.flops
    return [e for e in landmarks if e.decoder and e.flops is not None and low <= e.flops <= high]


def _panel(
    axes: Axes, found: Answers, name: Quantity, label: str, known: Sequence[Landmark]
) -> None:
    draw_ways(axes, found, name, tuple(dict.fromkeys([*found.ways, *COLOURS])))
    _published(axes, found, name)
    if not found.runs.empty:
        axes.plot(
            found.compute, of_runs(found.runs, name), "o", color=FAINT, markersize=3.2,
            markeredgewidth=0, zorder=2, label="runs",
        )  # fmt: skip
    draw_asked(axes, found, name)
    log_axis(axes.xaxis, "training compute C = 6ND, FLOPs", "flops")
    log_axis(axes.yaxis, label, "count")
    axes.set_xlim(found.across)
    # The published laws and the rule do not set the limits: far from their data they lie far off.
    axes.set_ylim(limits(found, name, [y for _, _, y in _placed(known, name)]))


def _placed(known: Sequence[Landmark], name: Quantity) -> list[tuple[str, float, float]]:
    return [
        (each.name, each.flops, float(_VALUES[name](each.params_active, each.tokens)))
        for each in known
        if each.flops is not None
    ]


def _name_models(
    made: Figure, panels: Mapping[Quantity, Axes], found: Answers, known: Sequence[Landmark]
) -> None:
    if known:
        made.draw_without_rendering()  # names are set by the panels' final sizes
    for name, axes in panels.items():
        place_landmarks(axes, _placed(known, name), drawn_at(found, "flops", name))


def _name(each: Artist) -> str:
    return str(each.get_label())


def _handles(axes: Axes) -> list[Artist]:
    """What a legend names: all but lines that do not enter the panel, whose limits must be set."""
    return [each for each in axes.get_legend_handles_labels()[0] if _enters(each, axes)]


def _enters(each: Artist, axes: Axes) -> bool:
    if not isinstance(each, Line2D):
        return True
    path = each.get_path().transformed(each.get_transform())
    return bool(path.intersects_bbox(axes.bbox, filled=False))


def _published(axes: Axes, found: Answers, name: Quantity) -> None:
    """Thin, since most of what is drawn of them lies outside their own data."""
    grid, value = np.geomspace(*found.flops, 40), _VALUES[name]
    hoffmann = published("chinchilla-2022")
    style: dict[str, Any] = {"linewidth": 1.0, "zorder": 2}
    if found.source is not hoffmann:
        best = [compute_optimal(hoffmann.law, hoffmann.coefficients, float(c)) for c in grid]
        at = [float(value(each.params, each.tokens)) for each in best]
        axes.plot(grid, at, color=OTHERS[1], label=PUBLISHED[0], **style)
    at = value(KAPLAN_2020.params(grid), KAPLAN_2020.tokens(grid))
    axes.plot(grid, at, color=OTHERS[2], label=PUBLISHED[1], **style)


def _caption(found: Answers, known: Sequence[Landmark]) -> str:
    said = [found.counted]
    if found.seen is not None:
        said.append("Thick: solid within the compute of the runs, dashed beyond.")
    if found.level is not None:
        said.append(f"Band: {found.level:.0%} interval of the size and tokens recommended.")
    if found.asked:
        said.append("Star: the run recommended, with its interval.")
    said.append(
        "Thin: laws as published, beyond their data too; Kaplan's N is "
        f"{KAPLAN_2020.params_convention}, Hoffmann's is all parameters."
    )
    if known:
        said.append("Diamonds: published models, by active parameters.")
    return " ".join(said) + doubts(found.source)
