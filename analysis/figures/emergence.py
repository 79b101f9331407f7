"""Figures of emergence: scores against scale with the curve, its band and its threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from analysis.emergence.exact_match import STRICT, Predicted
from analysis.emergence.forecast.forecast import Forecast
from analysis.emergence.inference.analyse import Curve, analyse
from analysis.emergence.pass_at_k import pass_at_k_by_task
from analysis.emergence.response_surface import fit_response_surface
from analysis.emergence.scores.metrics import canonical, samples_of
from analysis.emergence.scores.query import ScoreQuery
from analysis.emergence.scores.read import read_scores
from analysis.emergence.scores.series import Series
from analysis.figures import style
from analysis.figures.attempts import attempts_panels
from analysis.figures.panels import (
    MOST_PANELS,
    draw_threshold,
    left_out,
    panels,
    scale_axis,
    score_axes,
    short,
)
from analysis.figures.score_map import score_map

VISIBLE = 0.015  # of the axis: lines nearer to each other look like one
MARKERS = "os^DvPX<"  # of groups, for those who do not see colours; others have a small dot


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
        same = [each for each in same if samples_of(each.series.metric.name) is None]
        if len(same) > 1:
            matching = [each for each in predicted if each.task == task]
            add(f"pair-{_file_name(task)}", metric_pair(same, matching))
    for curve, rows in zip(curves, tables, strict=bool(tables)):
        metric = curve.series.metric
        guessing = metric.worst if curve.series.chance is None else curve.series.chance
        over = fit_response_surface(rows, guessing, metric.best) if metric.bounded else None
        if over is not None:
            label = curve.series.label
            made = style.alone(score_map, short(label, 60), metric.name, over, size=(6.6, 4.9))
            add(f"map-{_file_name(label)}", made)
    several = pass_at_k_by_task(curves)
    if several:
        add("attempts", attempts_panels(several))
    if forecasts:
        add("forecast", forecast_panels(forecasts))
    return [path for name, made in figures.items() for path in style.save(made, folder / name)]


def draw_results(directory: Path, folder: Path) -> list[Path]:
    """Exact match of a results folder against N, drawn into `folder`."""
    found = read_scores(directory, ScoreQuery("params", metrics=(STRICT,)))
    curves = [analyse(each) for each in found.series]
    return draw(folder, curves, tables=found.tables)


def _file_name(label: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in label).split())[:80]


# --- curves --------------------------------------------------------------------------------------


def emergence_curve(curve: Curve, ax: Axes | None = None, *, groups: Sequence[str] = ()) -> Axes:
    """Scores against scale, the fitted curve with its band, and the threshold with its interval;
    returns the axes. Scores of each of `groups` have a colour, those of other groups the last."""
    series, level = curve.series, f"{100 * curve.level:g}%"
    colour = style.INK if groups else style.OWN
    said = style.counted(f"{len(series.x)} scores")
    with style.panel(ax, f"{short(series.label)}: {curve.verdict}", said) as axes:
        _scores(axes, series, groups)
        grid = np.geomspace(float(series.x.min()), float(series.x.max()), 160)
        axes.fill_between(grid, *curve.band(grid), color=colour, alpha=0.2, linewidth=0)
        axes.plot(grid, curve.predict(grid), color=colour, linewidth=1.7)
        best = "the form that predicts left-out scales best"
        style.note(axes, f"Curve: {best}, with the {level} band of its mean.")
        scale_axis(axes, series)
        score_axes([axes], [series])
        _chance(axes, series)
        found = curve.threshold
        if found.value is None:
            axes.text(0.03, 0.95, f"threshold {found.reason.partition(':')[0]}", color=style.FAINT,
                      transform=axes.transAxes, fontsize=8, va="top", zorder=5,
                      path_effects=[withStroke(linewidth=2.5, foreground="white")])  # fmt: skip
        else:
            height = float(curve.predict(np.array([found.value]))[0])
            draw_threshold(axes, found.value, found.interval, height)
            style.note(
                axes, f"Diamond: the threshold, half-way up the curve, with its {level} interval."
            )
    return axes


def small_multiples(curves: Sequence[Curve], groups: str | None = None) -> Figure:
    """`emergence_curve` of each, a few in a row.

    `groups` is what the groups are called, if each is to have a colour.
    """
    shown = curves[:MOST_PANELS]
    named = _groups(shown) if groups else []
    metrics = list(dict.fromkeys(each.series.metric.name for each in shown))
    tasks = {each.series.task for each in shown}
    # Tasks in rows and metrics in columns, where every task has every metric.
    full = 1 < len(metrics) <= 4 and len(shown) == len(metrics) * len(tasks)
    with panels(len(shown), len(metrics) if full else None) as (made, grid):
        for axes, curve in zip(grid, shown, strict=True):
            emergence_curve(curve, axes, groups=named)
            axes.set_title(f"{short(curve.series.task)}: {curve.verdict}")
        score_axes(grid, [each.series for each in shown])
        if named:
            made.legend(
                *grid[0].get_legend_handles_labels(), title=groups, loc="outside right upper",
                alignment="left",
            )  # fmt: skip
        verdicts = Counter(each.verdict for each in curves)
        said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
        style.note(grid[0], left_out(len(curves), "curves"))
        total = sum(len(each.series.x) for each in shown)
        style.finish(made, f"Scores against scale: {said}", style.counted(f"{total} scores"))
    return made


def metric_pair(curves: Sequence[Curve], predicted: Sequence[Predicted] = ()) -> Figure:
    """One task by several metrics, a panel each on the same scale.

    Exact match as a per-token metric predicts it is drawn on the panel of exact match.
    """
    with style.figure(4.3 * len(curves) + 0.4, 4.3) as made:
        row = list(made.subplots(1, len(curves), squeeze=False)[0])
        for axes, curve in zip(row, curves, strict=True):
            emergence_curve(curve, axes)
            width = curve.width_decades.value
            found = "" if width is None else f", 10–90% in {width:.2g} decades"
            axes.set_title(f"{curve.series.metric.name}: {curve.verdict}{found}")
            if canonical(curve.series.metric.name) == STRICT:
                for each in predicted:
                    axes.plot(each.x, each.predicted, "x", color=style.OTHERS[1], markersize=4.5)
                    crosses = f"Crosses: predicted from means of {each.source}, so approximate."
                    style.note(axes, crosses)
        score_axes(row, [each.series for each in curves])
        total = sum(len(each.series.x) for each in curves)
        style.finish(made, short(curves[0].series.task, 60), style.counted(f"{total} scores"))
    return made


def _groups(curves: Sequence[Curve]) -> list[str]:
    """The groups with most scores, by name, and at last how many others there are, if any."""
    every = [each.series.group for each in curves if each.series.group is not None]
    count = Counter(str(group) for groups in every for group in groups)
    others = len(count) - len(MARKERS)
    named = sorted(group for group, _ in count.most_common(len(MARKERS)))
    return named + ([f"{others} others"] if others > 0 else [])


def _scores(axes: Axes, series: Series, groups: Sequence[str]) -> None:
    """Each score a point, in the colour and marker of its group."""
    point: dict[str, Any] = {"x": series.x, "y": series.value, "linewidth": 0, "zorder": 3}
    if series.group is None or not groups:
        sns.scatterplot(**point, color=style.INK, s=13, alpha=0.45, ax=axes)
        return
    own = np.where(np.isin(series.group, groups), series.group, groups[-1])
    colours = [*style.QUALITATIVE, style.FAINT][: len(groups)]
    sns.scatterplot(
        **point, hue=own, hue_order=groups, palette=colours, style=own, style_order=groups,
        markers=[*MARKERS, "."][: len(groups)], s=16, alpha=0.8, ax=axes,
    )  # fmt: skip
    axes.legend().remove()  # small_multiples has one for all panels


def _chance(axes: Axes, series: Series) -> None:
    """The chance level, and one question above it where the two can be seen apart."""
    if series.chance is None:
        return
    axes.axhline(series.chance, color=style.FAINT, linewidth=0.9)
    style.note(axes, "Grey line: chance level.")
    step = series.resolution
    if step is None or not series.metric.bounded:
        return
    one = step * (series.metric.best - series.metric.worst)
    low, high = axes.get_ylim()
    if abs(one) > VISIBLE * (high - low):
        axes.axhline(series.chance + one, color=style.FAINT, linewidth=0.9, linestyle=style.DOTTED)
        style.note(axes, "Dotted: chance + 1/n, one question more.")


# --- forecasts -----------------------------------------------------------------------------------


def score_forecast(each: Forecast, ax: Axes | None = None) -> Axes:
    """Scores fitted and scores above the cutoff, the fit and the forecast; returns the axes."""
    series, path, level = each.series, each.track, f"{100 * each.level:g}%"
    above = series.to_t(series.x) > series.to_t(each.cutoff)
    with style.panel(
        ax, f"Forecast of {short(series.label)}", style.counted(f"{each.n} scores")
    ) as axes:
        axes.plot(series.x[~above], series.value[~above], "o", markerfacecolor="none",
                  color=style.FAINT, markersize=3.6, markeredgewidth=0.8)  # fmt: skip
        axes.plot(
            series.x[above], series.value[above], "o", color=style.INK, markersize=3.6, zorder=4
        )
        t, cut = series.to_t(path.x), float(series.to_t(each.cutoff))
        for part, alpha, line in (
            (t <= cut + 1e-9, 0.1, "-"),
            (t >= cut - 1e-9, 0.2, style.DASHED),
        ):
            axes.fill_between(path.x[part], path.low[part], path.high[part], color=style.OWN,
                              alpha=alpha, linewidth=0)  # fmt: skip
            axes.plot(
                path.x[part], path.median[part], color=style.OWN, linewidth=1.6, linestyle=line
            )
        scale_axis(axes, series)
        score_axes([axes], [series])
        axes.axvline(each.cutoff, color=style.FAINT, linestyle=style.DOTTED, linewidth=1.0)
        style.note(
            axes,
            "Hollow: scores fitted, up to the cutoff (dotted).",
            "Filled: scores of larger models." if each.judged else "",
            f"Blue: median and {level} interval of one new model, solid fitted, dashed forecast.",
        )
        at = _threshold(each)
        if at is not None:
            draw_threshold(axes, at, each.threshold.interval, each.half_way)
            half_way = "half-way from chance to the best possible score"
            style.note(axes, f"Diamond: the forecast is {half_way}, with its {level} interval.")
    return axes


def forecast_panels(forecasts: Sequence[Forecast]) -> Figure:
    """`score_forecast` of each, a few in a row."""
    shown = forecasts[:MOST_PANELS]
    with panels(len(shown)) as (made, grid):
        for axes, each in zip(grid, shown, strict=True):
            score_forecast(each, axes)
            axes.set_title(short(each.series.task))
        score_axes(grid, [each.series for each in shown])
        risen = [each for each in shown if _threshold(each) is not None and each.reached]
        off = [each for each in shown if each.missed]
        style.note(
            grid[-1],
            _about(risen, "A score of half-way has been seen already"),
            _about(off, "Doubtful: the forecast misses the score at the largest scale fitted"),
            left_out(len(forecasts), "forecasts"),
        )
        total = sum(each.n for each in shown)
        style.finish(
            made, "Scores forecast beyond the cutoff", style.counted(f"{total} scores fitted")
        )
    return made


def _threshold(each: Forecast) -> float | None:
    """Where the forecast passes half-way, if that lies between the cutoff and the last scale."""
    at, to_t = each.threshold_ahead, each.series.to_t
    return at if at is not None and to_t(at) <= to_t(each.track.x).max() else None


def _about(some: Sequence[Forecast], what: str) -> str:
    """A sentence of some forecasts by their tasks; empty for none."""
    if not some:
        return ""
    return f"{what} ({', '.join(short(each.series.task, 24) for each in some)})."
