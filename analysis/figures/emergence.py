"""Figures of emergence: scores against scale with what was found of them, and what was foretold.

Points are scores as measured; the curve is solid inside the data with its band; the vertical line
is the half-rise with its interval shaded; the grey floor is what guessing scores, and dotted lies
the score of a single question, below which the test set shows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.emergence.attempts import attempts_of, tries
from analysis.emergence.curve import Curve
from analysis.emergence.foresee import Forecast
from analysis.emergence.pairs import CAUTION, STRICT, Foretold, resolution
from analysis.emergence.plane import Plane, plane
from analysis.emergence.scores import read_scores
from analysis.emergence.series import Series
from analysis.emergence.tidy import Ask
from analysis.emergence.verdict import analyse
from analysis.figures.attempts import attempts_panels
from analysis.figures.style import (
    DASHED,
    FAINT,
    INK,
    OTHERS,
    OWN,
    Kind,
    figure,
    log_axis,
    place_landmarks,
    save,
    set_caption,
)
from analysis.landmarks import landmarks

COLUMNS = 3  # small multiples in a row
BESIDE = 0.02  # of an axis: a point's width
NEIGHBOURS = 4  # points' widths
WIDEST = 0.18  # of an axis: more points overlap, or their N could not be told
MOST_PANELS = 24  # on one figure: more are no longer read
PLAIN = 1e-2, 9e3  # beyond, numbers of a scale without a known unit are written as powers of ten
KINDS: dict[str, tuple[Kind, str]] = {
    "params": ("count", "parameters N"),
    "tokens": ("count", "training tokens D"),
    "flops": ("flops", "compute C, FLOPs"),
    "loss": ("loss", "held-out loss, nats/token"),
}
SHADES = {"sharp": OTHERS[0], "smooth": OWN, "none": FAINT, "undetermined": OTHERS[3]}


def draw(
    folder: Path,
    curves: Sequence[Curve],
    forecasts: Sequence[Forecast] = (),
    tables: Sequence[pd.DataFrame] = (),
    foretold: Sequence[Foretold] = (),
) -> list[Path]:
    """Write every figure that the inputs allow into `folder`; returns the files' paths.

    `tables` are the rows of each curve, for the map over N and D. Raises Refusal if a file cannot
    be written.
    """
    figures = {"emergence": small_multiples(curves)}
    for task in dict.fromkeys(each.series.task for each in curves):
        same = [each for each in curves if each.series.task == task]
        same = [each for each in same if attempts_of(each.series.metric.name) is None]
        if len(same) > 1:
            matching = [each for each in foretold if each.task == task]
            figures[f"pair-{_file_name(task)}"] = metric_pair(same, matching)
    for curve, rows in zip(curves, tables, strict=bool(tables)):
        metric = curve.series.metric
        guessing = metric.worst if curve.series.chance is None else curve.series.chance
        over = plane(rows, guessing, metric.best) if metric.bounded else None
        if over is not None:
            figures[f"map-{_file_name(curve.series.label)}"] = plane_map(curve, over)
    several = tries(curves)
    if several:
        label = KINDS.get(several[0].scale, ("loss", several[0].scale))[1]
        figures["attempts"] = attempts_panels(several, label)
    if forecasts:
        figures["forecast"] = forecast_panels(forecasts)
    return [path for name, made in figures.items() for path in save(made, folder / name)]


def draw_results(directory: Path, folder: Path) -> list[Path]:
    """Exact match of a results folder against N, drawn into `folder`."""
    found = read_scores(directory, Ask("params", metrics=(STRICT,)))
    curves = [analyse(each) for each in found.series]
    return draw(folder, curves, tables=found.tables)


def _file_name(label: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in label).split())[:80]


# --- curves --------------------------------------------------------------------------------------


def small_multiples(curves: Sequence[Curve]) -> Figure:
    """A panel a curve: scores, the fitted curve with its band, the half-rise with its interval."""
    shown = curves[:MOST_PANELS]
    with _panels(len(shown)) as (made, grid):
        for axes, curve in zip(grid, shown, strict=True):
            _panel(axes, curve)
            axes.set_title(f"{_short(curve.series.task)}\n{curve.verdict}", fontsize=8.5)
        set_caption(made, _caption(shown) + _not_drawn(len(curves), "curves"))
    return made


@contextmanager
def _panels(count: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of so many panels, a few in a row."""
    wide = min(COLUMNS, count)
    deep = math.ceil(count / wide)
    with figure(3.6 * wide + 0.6, 2.7 * deep + 0.9) as made:
        grid = made.subplots(deep, wide, squeeze=False).ravel()
        for axes in grid[count:]:
            axes.set_visible(False)
        yield made, list(grid[:count])


def _not_drawn(count: int, what: str) -> str:
    left = count - MOST_PANELS
    return f" {left} more {what} are not drawn." if left > 0 else ""


def metric_pair(curves: Sequence[Curve], foretold: Sequence[Foretold] = ()) -> Figure:
    """One task by several metrics, a panel each on the same scale.

    Exact match that a per-token metric foretells is drawn on the panel of exact match.
    """
    with figure(4.3 * len(curves) + 0.4, 4.1) as made:
        row = made.subplots(1, len(curves), squeeze=False)[0]
        for axes, curve in zip(row, curves, strict=True):
            _panel(axes, curve)
            width = curve.width_decades.value
            found = "" if width is None else f", 10-90% in {width:.2g} decades"
            axes.set_title(f"{curve.series.metric.name}: {curve.verdict}{found}")
            for each in foretold:
                if curve.series.metric.name == "exact_match":
                    axes.plot(each.x, each.foretold, "x", color=OTHERS[1], markersize=4.5,
                              label=f"foretold from {each.source}")  # fmt: skip
                    axes.legend(loc="upper left")
        made.suptitle(_short(curves[0].series.task, 60), fontsize=10.5, x=0.012, ha="left")
        beside = f" Crosses: {CAUTION[0].lower()}{CAUTION[1:]}" if foretold else ""
        set_caption(made, _caption(curves) + beside)
    return made


def _panel(axes: Axes, curve: Curve) -> None:
    series = curve.series
    colour = SHADES[curve.verdict]
    axes.plot(series.x, series.value, "o", color=INK, markersize=3.4, alpha=0.55,
              markeredgewidth=0, zorder=3)  # fmt: skip
    grid = np.geomspace(float(series.x.min()), float(series.x.max()), 160)
    low, high = curve.band(grid)
    axes.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(grid, curve.predict(grid), color=colour, linewidth=1.7)
    _scale_axis(axes, series)
    _levels(axes, curve)
    _threshold(axes, curve, colour)
    axes.set_ylabel(_measure(series))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _scale_axis(axes: Axes, series: Series) -> None:
    """The x axis: logarithmic, labelled, progress to the right."""
    plain = series.x.min() >= PLAIN[0] and series.x.max() <= PLAIN[1]
    kind, label = KINDS.get(series.scale, ("loss" if plain else "flops", series.scale))
    log_axis(axes.xaxis, label, kind)
    axes.tick_params(labelsize=8)
    if series.falling and not axes.xaxis_inverted():
        axes.invert_xaxis()


def _levels(axes: Axes, curve: Curve) -> None:
    """What guessing scores, and the score of one question above it."""
    series = curve.series
    if series.chance is not None:
        axes.axhline(series.chance, color=FAINT, linewidth=0.9)
        step = resolution(series.n)
        if step is not None and series.metric.bounded:
            one = step * (series.metric.best - series.metric.worst)
            axes.axhline(series.chance + one, color=FAINT, linewidth=0.9, linestyle=":")


def _threshold(axes: Axes, curve: Curve, colour: str) -> None:
    found = curve.threshold
    if found.value is None:
        axes.text(0.03, 0.95, f"half-rise {found.reason.partition(':')[0]}", color=FAINT,
                  transform=axes.transAxes, fontsize=8, va="top", zorder=5,
                  path_effects=[withStroke(linewidth=2.5, foreground="white")])  # fmt: skip
        return
    left, right = sorted(axes.get_xlim())
    if found.interval is not None:
        ends = [at if end is None else end for end, at in zip(found.interval, (left, right),
                                                              strict=True)]  # fmt: skip
        axes.axvspan(*np.clip(ends, left, right), color=colour, alpha=0.12, linewidth=0)
    if left <= found.value <= right:
        axes.axvline(found.value, color=colour, linewidth=1.1, linestyle=DASHED)


def _caption(curves: Sequence[Curve]) -> str:
    first = curves[0]
    counted = sum(len(each.series.x) for each in curves)
    return (
        f"{counted} scores, a point each. Curve: the form that predicts left-out scales best, with "
        f"its {first.level:.0%} band; dashed line: half-rise, its {first.level:.0%} interval "
        "shaded. Grey: what guessing scores; dotted: one question more."
    )


def _measure(series: Series) -> str:
    """The metric, and which way is up."""
    better = "" if series.metric.higher_is_better else " (less is better)"
    return f"{series.metric.name}{better}"


def _short(text: str, most: int = 44) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


# --- score over N and D --------------------------------------------------------------------------


def plane_map(curve: Curve, found: Plane) -> Figure:
    """Scores over N and D as colour, the line of half-rise, and the models everyone knows."""
    with figure(6.6, 4.9) as made:
        axes = made.subplots()
        log_axis(axes.xaxis, KINDS["params"][1], "count")
        log_axis(axes.yaxis, KINDS["tokens"][1], "count")
        axes.set_xlim(found.params.min() / 1.6, found.params.max() * 1.6)
        axes.set_ylim(found.tokens.min() / 1.6, found.tokens.max() * 1.6)
        across = _side_by_side(axes, found)
        drawn = axes.scatter(across, found.tokens, c=found.value, cmap="viridis", s=34,
                             edgecolor="white", linewidth=0.5, zorder=3)  # fmt: skip
        bar = made.colorbar(drawn, ax=axes, pad=0.015, aspect=30)
        bar.set_label(curve.series.metric.name)
        bar.outline.set_visible(False)
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        grid = np.geomspace(left, right, 200)
        half = found.half_way(grid)
        inside = (half >= low) & (half <= high)
        axes.plot(grid[inside], half[inside], color=OTHERS[0], linestyle=DASHED, linewidth=1.4)
        known = [
            (each.name, each.params_active, each.tokens)
            for each in landmarks()
            if each.params_active is not None
            and each.tokens is not None
            and left < each.params_active < right
            and low < each.tokens < high
            and not _scored(found, each.params_active, each.tokens)
        ]
        place_landmarks(axes, known)
        axes.set_title(_short(curve.series.label, 60))
        diamonds = " Diamonds: published models, for their place only." if known else ""
        crosses = "" if inside.any() else " The line of half-rise lies outside."
        set_caption(
            made,
            f"{len(found.value)} scores, a point each, those of near N and D side by side. Dashed: "
            "half-way between guessing and the best, where log-odds are a plane in log N and log "
            f"D.{crosses}{diamonds}",
        )
    return made


def _side_by_side(axes: Axes, found: Plane) -> NDArray[np.float64]:
    """N of each score, those at one N and D (seeds, mostly) set apart so that each is seen."""
    (left, right), (low, high) = np.log(axes.get_xlim()), np.log(axes.get_ylim())
    step = BESIDE * (right - left)
    places = pd.DataFrame({"x": np.log(found.params)}).sort_values("x", kind="stable")
    # Sizes so near that their seeds would cover each other stand in one row, by size.
    places["column"] = _columns(places["x"], NEIGHBOURS * step)
    places["row"] = np.round(np.log(found.tokens) / (BESIDE * (high - low)))[places.index]
    cell = places.groupby(["column", "row"])["x"]
    rank, count = cell.cumcount(), cell.transform("size")
    apart = np.minimum(step, WIDEST * (right - left) / count)
    beside = cell.transform("mean") + apart * (rank - (count - 1) / 2)
    return np.asarray(np.exp(beside.where(count > 1, places["x"]).sort_index()), np.float64)


def _columns(x: pd.Series, width: float) -> list[int]:
    """The column of each value, rising: none is wider than `width`, however near its neighbours."""
    found: list[int] = []
    column, start = 0, -np.inf
    for each in x:
        if each - start > width:
            column, start = column + 1, each
        found.append(column)
    return found


def _scored(found: Plane, params: float, tokens: float) -> bool:
    """Whether a score lies within a tenth of this model, which its name would hide."""
    away = np.hypot(np.log(found.params / params), np.log(found.tokens / tokens))
    return bool((away < 0.1).any())


# --- forecasts -----------------------------------------------------------------------------------


def forecast_panels(forecasts: Sequence[Forecast]) -> Figure:
    """A panel a forecast: fitted scores, those above the cut, and what was foretold of them."""
    shown = forecasts[:MOST_PANELS]
    with _panels(len(shown)) as (made, grid):
        for axes, each in zip(grid, shown, strict=True):
            _forecast_panel(axes, each)
        set_caption(
            made,
            "Hollow: scores fitted, up to the cut (dotted). Filled: scores of larger models. Blue: "
            f"median forecast and {shown[0].level:.0%} interval of one new model; dashed: "
            "half-rise foretold." + _not_drawn(len(forecasts), "forecasts"),
        )
    return made


def _forecast_panel(axes: Axes, each: Forecast) -> None:
    series = each.series
    above = series.x < each.cut if series.falling else series.x > each.cut
    axes.plot(series.x[~above], series.value[~above], "o", markerfacecolor="none",
              color=FAINT, markersize=3.6, markeredgewidth=0.8)  # fmt: skip
    axes.plot(series.x[above], series.value[above], "o", color=INK, markersize=3.6, zorder=4)
    path = each.track
    axes.fill_between(path.x, path.low, path.high, color=OWN, alpha=0.18, linewidth=0)
    axes.plot(path.x, path.median, color=OWN, linewidth=1.6)
    _scale_axis(axes, series)
    axes.axvline(each.cut, color=FAINT, linestyle=":", linewidth=1.0)
    left, right = sorted(axes.get_xlim())
    if each.emergence is not None and left <= each.emergence <= right:
        axes.axvline(each.emergence, color=OWN, linestyle=DASHED, linewidth=1.0)
    axes.set_title(_short(series.task), fontsize=8.5)
    axes.set_ylabel(_measure(series))
    axes.yaxis.set_major_locator(MaxNLocator(5))
