"""Figures of emergence: scores against scale with the curve, its band and its threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from analysis.emergence.attempts import tries
from analysis.emergence.curve import Curve
from analysis.emergence.foresee import Forecast
from analysis.emergence.metrics import attempts_of, usual
from analysis.emergence.pairs import CAUTION, STRICT, Predicted, resolution
from analysis.emergence.plane import plane
from analysis.emergence.scores import read_scores
from analysis.emergence.tidy import Ask
from analysis.emergence.verdict import analyse
from analysis.figures.attempts import attempts_panels
from analysis.figures.panels import (
    KINDS,
    MOST_PANELS,
    left_out,
    panels,
    scale_axis,
    score_axes,
    short,
)
from analysis.figures.score_forecast import forecast_panels
from analysis.figures.score_map import score_map
from analysis.figures.style import DASHED, FAINT, INK, OTHERS, OWN, figure, save, set_caption

VISIBLE = 0.015  # of the axis: a line nearer to another is not told from it
# Of groups, the eight with most scores; Okabe & Ito's colours, and marks for those who do not see
# them. Others are grey.
MARKS = (
    (OWN, "o"), (OTHERS[0], "s"), (OTHERS[1], "^"), (OTHERS[2], "D"), (OTHERS[3], "v"),
    ("#56B4E9", "P"), ("#882255", "X"), ("#44AA99", "<"),
)  # fmt: skip
SHADES = {"sharp": OTHERS[0], "smooth": OWN, "none": FAINT, "undetermined": OTHERS[3]}


def draw(
    folder: Path,
    curves: Sequence[Curve],
    forecasts: Sequence[Forecast] = (),
    tables: Sequence[pd.DataFrame] = (),
    predicted: Sequence[Predicted] = (),
    groups: str | None = None,
) -> list[Path]:
    """Write every figure that the inputs allow into `folder`; returns the files' paths.

    `tables` are the rows of each curve, for the map over N and D; `groups` is what a group is
    called, if points are to be coloured by group. Raises Refusal if a file cannot be written.
    """
    figures = {"emergence": small_multiples(curves, groups)}

    def add(name: str, made: Figure) -> None:
        """Two labels may give one file name: the second takes a number."""
        taken = [each for each in figures if each.rpartition("~")[0] == name or each == name]
        figures[f"{name}~{len(taken) + 1}" if taken else name] = made

    for task in dict.fromkeys(each.series.task for each in curves):
        same = [each for each in curves if each.series.task == task]
        same = [each for each in same if attempts_of(each.series.metric.name) is None]
        if len(same) > 1:
            matching = [each for each in predicted if each.task == task]
            add(f"pair-{_file_name(task)}", metric_pair(same, matching))
    for curve, rows in zip(curves, tables, strict=bool(tables)):
        metric = curve.series.metric
        guessing = metric.worst if curve.series.chance is None else curve.series.chance
        over = plane(rows, guessing, metric.best) if metric.bounded else None
        if over is not None:
            label = curve.series.label
            add(f"map-{_file_name(label)}", score_map(short(label, 60), metric.name, over))
    several = tries(curves)
    if several:
        label = KINDS.get(several[0].scale, ("loss", several[0].scale))[1]
        add("attempts", attempts_panels(several, label))
    if forecasts:
        add("forecast", forecast_panels(forecasts))
    return [path for name, made in figures.items() for path in save(made, folder / name)]


def draw_results(directory: Path, folder: Path) -> list[Path]:
    """Exact match of a results folder against N, drawn into `folder`."""
    found = read_scores(directory, Ask("params", metrics=(STRICT,)))
    curves = [analyse(each) for each in found.series]
    return draw(folder, curves, tables=found.tables)


def _file_name(label: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in label).split())[:80]


# --- curves --------------------------------------------------------------------------------------


def small_multiples(curves: Sequence[Curve], groups: str | None = None) -> Figure:
    """A panel a curve: scores, the fitted curve with its band, the threshold with its interval.

    `groups` is what the groups are called, if each is to have a colour.
    """
    shown = curves[:MOST_PANELS]
    marks = _marks(shown) if groups else {}
    with panels(len(shown)) as (made, grid):
        for axes, curve in zip(grid, shown, strict=True):
            _scores(axes, curve, marks)
            _curve(axes, curve, INK if marks else SHADES[curve.verdict])
            axes.set_title(f"{short(curve.series.task)}\n{curve.verdict}", fontsize=8.5)
        score_axes(grid, [each.series for each in shown])
        parts = [
            _lines(axes, curve, INK if marks else SHADES[curve.verdict])
            for axes, curve in zip(grid, shown, strict=True)
        ]
        if marks:
            _key(made, shown, marks, groups or "")
        set_caption(made, _caption(shown, set().union(*parts)) + left_out(len(curves), "curves"))
    return made


def metric_pair(curves: Sequence[Curve], predicted: Sequence[Predicted] = ()) -> Figure:
    """One task by several metrics, a panel each on the same scale.

    Exact match as a per-token metric predicts it is drawn on the panel of exact match.
    """
    with figure(4.3 * len(curves) + 0.4, 4.1) as made:
        row = list(made.subplots(1, len(curves), squeeze=False)[0])
        for axes, curve in zip(row, curves, strict=True):
            _scores(axes, curve, {})
            _curve(axes, curve, SHADES[curve.verdict])
            width = curve.width_decades.value
            found = "" if width is None else f", 10-90% in {width:.2g} decades"
            axes.set_title(f"{curve.series.metric.name}: {curve.verdict}{found}")
            for each in predicted:
                if usual(curve.series.metric.name) == STRICT:
                    axes.plot(each.x, each.predicted, "x", color=OTHERS[1], markersize=4.5,
                              label=f"predicted from {each.source}")  # fmt: skip
                    axes.legend(loc="upper left")
        score_axes(row, [each.series for each in curves])
        parts = [
            _lines(axes, curve, SHADES[curve.verdict])
            for axes, curve in zip(row, curves, strict=True)
        ]
        made.suptitle(short(curves[0].series.task, 60), fontsize=10.5, x=0.012, ha="left")
        crosses = f" Crosses: {CAUTION[0].lower()}{CAUTION[1:]}" if predicted else ""
        set_caption(made, _caption(curves, set().union(*parts)) + crosses)
    return made


Marks = dict[str, tuple[str, str]]  # colour and marker of a group


def _marks(curves: Sequence[Curve]) -> Marks:
    """Colours of the groups with most scores; none if the curves have no groups."""
    counted = Counter(
        str(group)
        for curve in curves
        if curve.series.group is not None
        for group in curve.series.group
    )
    named = sorted(group for group, _ in counted.most_common(len(MARKS)))
    return dict(zip(named, MARKS, strict=False))


def _key(made: Figure, curves: Sequence[Curve], marks: Marks, title: str) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4.5, linestyle="", label=group)
        for group, (colour, marker) in marks.items()
    ]
    groups = {str(g) for c in curves if c.series.group is not None for g in c.series.group}
    others = len(groups - set(marks))
    if others:
        handles.append(
            Line2D([], [], color=FAINT, marker=".", linestyle="", label=f"{others} others")
        )
    made.legend(
        handles=handles, title=title, loc="outside upper left", ncols=min(len(handles), 5),
        alignment="left", title_fontsize=8.5,
    )  # fmt: skip


def _scores(axes: Axes, curve: Curve, marks: Marks) -> None:
    """Each score a point, by group where groups have marks."""
    series = curve.series
    group = np.full(len(series.x), "") if series.group is None else series.group
    plain = ~np.isin(group, list(marks))
    colour, size = (FAINT, 2.8) if marks else (INK, 3.4)
    axes.plot(series.x[plain], series.value[plain], "o", color=colour, markersize=size, alpha=0.55,
              markeredgewidth=0, zorder=3)  # fmt: skip
    for name, (colour, marker) in marks.items():
        own = group == name
        axes.plot(series.x[own], series.value[own], marker, color=colour, markersize=4,
                  alpha=0.8, markeredgewidth=0, zorder=4)  # fmt: skip


def _curve(axes: Axes, curve: Curve, colour: str) -> None:
    series = curve.series
    grid = np.geomspace(float(series.x.min()), float(series.x.max()), 160)
    low, high = curve.band(grid)
    axes.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(grid, curve.predict(grid), color=colour, linewidth=1.7)
    scale_axis(axes, series)


def _lines(axes: Axes, curve: Curve, colour: str) -> set[str]:
    """Chance, one question above it, and the threshold; returns the names of those drawn."""
    series, drawn = curve.series, set()
    if series.chance is not None:
        axes.axhline(series.chance, color=FAINT, linewidth=0.9)
        drawn.add("chance")
        step = resolution(series.n)
        if step is not None and series.metric.bounded:
            one = step * (series.metric.best - series.metric.worst)
            low, high = axes.get_ylim()
            if abs(one) > VISIBLE * (high - low):
                axes.axhline(series.chance + one, color=FAINT, linewidth=0.9, linestyle=":")
                drawn.add("question")
    found = curve.threshold
    if found.value is None:
        axes.text(0.03, 0.95, f"threshold {found.reason.partition(':')[0]}", color=FAINT,
                  transform=axes.transAxes, fontsize=8, va="top", zorder=5,
                  path_effects=[withStroke(linewidth=2.5, foreground="white")])  # fmt: skip
        return drawn
    left, right = sorted(axes.get_xlim())
    if found.interval is not None:
        ends = [at if end is None else end for end, at in zip(found.interval, (left, right),
                                                              strict=True)]  # fmt: skip
        axes.axvspan(*np.clip(ends, left, right), color=colour, alpha=0.12, linewidth=0)
        drawn.add("interval")
    if left <= found.value <= right:
        axes.axvline(found.value, color=colour, linewidth=1.1, linestyle=DASHED)
        drawn.add("threshold")
    return drawn


def _caption(curves: Sequence[Curve], drawn: set[str]) -> str:
    """What the panels show, and nothing that none of them does."""
    first = curves[0]
    counted = sum(len(each.series.x) for each in curves)
    said = [
        f"{counted} scores, a point each. Curve: the form that predicts left-out scales best, with "
        f"its {100 * first.level:g}% band."
    ]
    if "threshold" in drawn:
        said.append("Dashed: threshold, half-way from the curve's lowest to its highest level.")
    if "interval" in drawn:
        said.append(f"Shaded: its {100 * first.level:g}% interval.")
    if "chance" in drawn:
        said.append("Grey line: chance level.")
    if "question" in drawn:
        said.append("Dotted: chance and one question more.")
    return " ".join(said)
