"""A fit against its runs: the curves through the points, and what the curves leave over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.caution import Source
from analysis.derived import interval_over_draws
from analysis.expression import Array
from analysis.figures.bulk import bulk, log_span, mark_beyond
from analysis.figures.doubts import doubts
from analysis.figures.style import (
    DASHED,
    FAINT,
    INK,
    MANY,
    Kind,
    Palette,
    figure,
    levels,
    log_axis,
    points,
    set_caption,
)
from analysis.fit import Fit
from analysis.optimum import require_params_and_tokens
from analysis.units import count_of, decimal, with_interval
from scaling.store.records import Refusal

Name = Literal["params", "tokens"]

SHOWN_LEVELS = 6  # curves drawn where the runs have more levels than a legend can name
REACH = 3.0  # how far beyond the data the dashed curves run
NEAR = 0.35  # of the panel's height: how far below all else the floor may lie and be drawn
LETTERS = {"params": "N", "tokens": "D", "flops": "C"}
LABELS = {
    "params": "parameters N",
    "tokens": "training tokens D",
    "flops": "compute C, FLOPs",
}


def loss_curves(fit: Fit) -> Figure:
    """Loss against N at each D, and against D at each N: runs as points, the fit as curves.

    Solid inside the runs of that level, dashed outside; the bands of the least and the largest
    level are intervals of the fitted curve from the fit's draws (more of them would hide each
    other), the floor E dotted where it is near. Raises Refusal unless the law predicts from params
    and tokens.
    """
    require_params_and_tokens(fit.law)
    table = rows_of(fit)
    with figure(
        10.0, 5.2, f"Loss against size and data: {fit.law.name} fitted to {fit.data.n} runs"
    ) as made:
        left, right = made.subplots(1, 2, sharey=True)
        curves = [
            *_panel(made, left, fit, table, "params", "tokens"),
            *_panel(made, right, fit, table, "tokens", "params"),
        ]
        right.tick_params(labelleft=True)
        text = "Curves: the fit, solid inside the runs of each level, dashed outside."
        if not fit.draws.empty:
            text += (
                f" Bands, at the least and the largest level: {100 * fit.interval.level:.0f}% "
                "intervals of the fitted curve, from its coefficients alone; they are no forecast "
                "of a run, which scatters about the curve."
            )
        if len(levels(table["tokens"])) > MANY or len(levels(table["params"])) > MANY:
            text += f" Of more than {MANY} levels, curves at the ticks of the bar."
        text += f" {_floor(fit, table, (left, right), curves)}"
        mark_beyond(left)
        said = mark_beyond(right)  # of the same runs
        _caption(made, fit, text + said)
    return made


def rows_of(fit: Fit) -> pd.DataFrame:
    """The rows fitted. Raises Refusal for a fit that holds none, and for losses that no
    logarithmic axis can show."""
    if fit.table.empty:
        raise Refusal(
            f"the fit of {fit.law.name} holds no runs to draw. Fit again from the run table and "
            "draw that."
        )
    least = fit.table[fit.law.target].min()
    if not least > 0:
        raise Refusal(
            f"{fit.law.target} = {least:g} has no place on a logarithmic axis. To draw, fit the "
            f"rows above 0 alone: scaling fit RUNS --where '{fit.law.target}>0'."
        )
    return fit.table


def _panel(
    made: Figure, axes: Axes, fit: Fit, table: pd.DataFrame, x: Name, by: Name
) -> list[Array]:
    """One panel: loss against `x`, a curve at each level of `by`; returns the curves' losses."""
    palette = Palette(table[by], "crest" if by == "params" else "flare")
    points(axes, table[x], table[fit.law.target], table[by], palette)
    shown = palette.levels if palette.few else _some(palette.levels)
    grid = np.geomspace(float(table[x].min()) / REACH, float(table[x].max()) * REACH, 120)
    # Runs nearest to a level (in ratio) are its own; their range is where its curve is solid.
    nearest = np.abs(np.log(table[by].to_numpy()[:, None] / shown)).argmin(axis=1)
    curves = []
    for index, at in enumerate(shown):
        own = table[x][nearest == index]
        colour = palette(float(at))
        everywhere: dict[str, Array] = {x: grid, by: np.full_like(grid, at)}
        curves.append(fit.predict(everywhere))
        axes.plot(grid, curves[-1], color=colour, linestyle=DASHED, linewidth=1.0)
        if len(own):
            inside = np.geomspace(own.min(), own.max(), 60)
            curve = fit.predict({x: inside, by: np.full_like(inside, at)})
            axes.plot(inside, curve, color=colour, linewidth=1.7)
        if not fit.draws.empty and index in (0, len(shown) - 1):
            low, high = _band(fit, everywhere)
            axes.fill_between(grid, low, high, color=colour, alpha=0.18, linewidth=0)
    log_axis(axes.xaxis, LABELS[x], "count")
    log_axis(axes.yaxis, loss_label(fit), "loss")
    axes.set_xlim(grid[0], grid[-1])
    palette.key(made, axes, LETTERS[by], LABELS[by], marked=shown)
    return curves


def _some(distinct: Array) -> Array:
    """SHOWN_LEVELS of the levels, both ends among them, or fewer where those would be near."""
    even = np.geomspace(distinct[0], distinct[-1], SHOWN_LEVELS)
    apart = math.log(even[1] / even[0]) / 2
    found = [float(distinct[0])]
    for each in distinct[np.abs(np.log(distinct[:, None] / even[1:-1])).argmin(axis=0)]:
        if min(math.log(each / found[-1]), math.log(distinct[-1] / each)) > apart:
            found.append(float(each))
    return np.array([*found, distinct[-1]])


def loss_label(fit: Fit) -> str:
    """An axis of what the law predicts: losses, in the fit's own unit, or another quantity."""
    if fit.law.target != "loss":
        return fit.law.target.replace("_", " ")
    return f"loss, {fit.data.loss_unit}"


def _band(fit: Fit, features: dict[str, Array]) -> tuple[Array, Array]:
    """The interval of the fitted curve at the fit's level."""
    low, high = interval_over_draws(
        fit, lambda c: np.log(fit.law.predict(c, features)), fit.interval.level
    )
    return np.exp(low), np.exp(high)


def _floor(
    fit: Fit, table: pd.DataFrame, panels: tuple[Axes, Axes], curves: Sequence[Array]
) -> str:
    """Limits that hold the runs and the curves; the law's floor as a dotted line where it is near
    them, and what to say of it."""
    least, most = log_span(table[fit.law.target])
    low = min(least, *(float(curve.min()) for curve in curves)) * 0.98
    high = 1.1 * most
    floor = floor_of(fit)
    near = floor > low * (low / high) ** NEAR
    panels[0].set_ylim(min(low, floor * 0.98) if near else low, high)  # shared
    if floor <= 0:
        return ""
    said = floor_text(fit)
    if not near:
        return f"The {said} lies below."
    for axes in panels:
        axes.axhline(floor, color=INK, linestyle=(0, (1, 2)), linewidth=1.2)
    panels[0].annotate(
        said, (0.01, floor), xytext=(0, 3), fontsize=8.5,
        xycoords=("axes fraction", "data"), textcoords="offset points",
    )  # fmt: skip
    return f"Dotted: the floor {fit.law.floors[0]}."


def floor_of(source: Source) -> float:
    """The loss that remains at infinite scale, by the law; 0 where it has none."""
    return source.coefficients[source.law.floors[0]] if source.law.floors else 0.0


def floor_text(source: Source) -> str:
    """The law's floor, of which it has one, with its interval, if there is one."""
    (name,) = source.law.floors[:1]
    span = None
    if isinstance(source, Fit) and not source.draws.empty:
        span = source.interval.coefficients[name]
    return f"floor {name} = {with_interval(decimal, source.coefficients[name], span)}"


def residuals(fit: Fit) -> Figure:
    """Observed against fitted loss, or what else the law predicts; below the residual in per cent.

    Works for every law. The residual is 100·ln(observed / fitted), whose root mean square over
    all rows is in the caption.
    """
    table = rows_of(fit)
    by = "params" if "params" in table else fit.law.features[0]
    fitted = np.asarray(fit.predict({name: table[name].to_numpy() for name in fit.law.features}))
    observed = table[fit.law.target].to_numpy(dtype=np.float64)
    percent = 100 * np.log(observed / fitted)
    palette = Palette(table[by])
    title = f"Residuals: {fit.law.name} fitted to {fit.data.n} runs"
    with figure(6.4, 6.4, title) as made:
        grid = made.add_gridspec(2, 1, height_ratios=(2.4, 1))
        above = made.add_subplot(grid[0])
        below = made.add_subplot(grid[1], sharex=above)
        spans = np.array([log_span(fitted), log_span(observed)])
        ends = np.array([0.98 * spans[:, 0].min(), 1.02 * spans[:, 1].max()])
        above.plot(ends, ends, color=FAINT, linewidth=1.0, zorder=1)
        points(above, fitted, observed, table[by], palette)
        below.axhline(0.0, color=FAINT, linewidth=1.0, zorder=1)
        points(below, fitted, percent, table[by], palette)
        inside = bulk(percent)
        largest = 1.15 * float(np.abs(percent[inside]).max()) or 1.0
        below.set_ylim(-largest, largest)
        below.set_ylabel("residual, %")
        kind: Kind = "loss" if fit.law.target == "loss" else "flops"
        log_axis(above.xaxis, "", kind)
        log_axis(above.yaxis, f"observed {loss_label(fit)}", kind)
        above.tick_params(labelbottom=False)
        log_axis(below.xaxis, f"fitted {loss_label(fit)}", kind)
        above.set(xlim=ends, ylim=ends)
        palette.key(made, above, LETTERS.get(by, by), LABELS.get(by, by), line=False)
        mark_beyond(above)
        said = mark_beyond(below)
        error = f"RMSE {_rms(percent):.2g}%"
        if not inside.all():
            error += f" ({_rms(percent[inside]):.2g}% without those beyond the axis)"
        _caption(
            made,
            fit,
            f"Residual: 100·ln(observed/fitted), {error}. Line: observed = fitted.{said}",
        )
    return made


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _caption(made: Figure, fit: Fit, text: str) -> None:
    counted = f" N = {count_of(fit.data.params_column)}." if fit.data.params is not None else ""
    set_caption(made, f"n = {fit.data.n} runs.{counted} {text.strip()}{doubts(fit)}")
