"""A fit against its runs: the curves through the points, and what the curves leave over."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.derived import interval_over_draws
from analysis.expression import Array
from analysis.figures.style import (
    DASHED,
    FAINT,
    INK,
    MANY,
    Palette,
    figure,
    levels,
    log_axis,
    points,
    set_caption,
)
from analysis.fit import Fit
from analysis.optimum import require_params_and_tokens
from analysis.units import Span, count_of, decimal, with_interval
from scaling.records import Refusal

Name = Literal["params", "tokens"]

SHOWN_LEVELS = 6  # curves drawn where the runs have more levels than a legend can name
REACH = 3.0  # how far beyond the data the dashed curves run
LETTERS = {"params": "N", "tokens": "D", "flops": "C"}
LABELS = {
    "params": "parameters N",
    "tokens": "training tokens D",
    "flops": "compute C, FLOPs",
}


def loss_curves(fit: Fit) -> Figure:
    """Loss against N at each D, and against D at each N: runs as points, the fit as curves.

    Solid inside the runs of that level, dashed outside, the band an interval of the fitted
    curve from the fit's draws, the floor E dotted. Raises Refusal unless the law predicts from
    params and tokens.
    """
    require_params_and_tokens(fit.law)
    table = rows_of(fit)
    with figure(10.0, 4.9) as made:
        left, right = made.subplots(1, 2, sharey=True)
        _panel(made, left, fit, table, "params", "tokens")
        _panel(made, right, fit, table, "tokens", "params")
        _floor(fit, table, (left, right))
        right.set_ylabel("")
        right.tick_params(labelleft=True)
        text = f"Fit of {fit.law.name}: solid inside the runs of each level, dashed outside"
        if not fit.draws.empty:
            text += f"; bands and shaded floor: {100 * fit.interval.level:.0f}% intervals"
        if len(levels(table["tokens"])) > MANY or len(levels(table["params"])) > MANY:
            text += f". Curves at {SHOWN_LEVELS} levels where there are more than {MANY}"
        _caption(made, fit, text + ".")
    return made


def rows_of(fit: Fit) -> pd.DataFrame:
    """The rows fitted. Raises Refusal for a fit loaded from a file, which has none."""
    if fit.table.empty:
        raise Refusal(
            f"the fit of {fit.law.name} was loaded from a file and holds no runs to draw. "
            "Fit again from the run table and draw that."
        )
    return fit.table


def _panel(made: Figure, axes: Axes, fit: Fit, table: pd.DataFrame, x: Name, by: Name) -> None:
    """One panel: loss against `x`, a curve at each level of `by`."""
    palette = Palette(table[by], "viridis" if by == "params" else "magma")
    points(axes, table[x], table[fit.law.target], table[by], palette)
    distinct = levels(table[by])
    shown = distinct
    if len(distinct) > MANY:
        even = np.geomspace(distinct[0], distinct[-1], SHOWN_LEVELS)
        shown = distinct[np.unique(np.abs(np.log(distinct[:, None] / even)).argmin(axis=0))]
    grid = np.geomspace(float(table[x].min()) / REACH, float(table[x].max()) * REACH, 120)
    # Runs nearest to a level (in ratio) are its own; their range is where its curve is solid.
    nearest = np.abs(np.log(table[by].to_numpy()[:, None] / shown)).argmin(axis=1)
    for index, at in enumerate(shown):
        own = table[x][nearest == index]
        colour = palette(float(at))
        everywhere: dict[str, Array] = {x: grid, by: np.full_like(grid, at)}
        axes.plot(grid, fit.predict(everywhere), color=colour, linestyle=DASHED, linewidth=1.0)
        if len(own):
            inside = np.geomspace(own.min(), own.max(), 60)
            curve = fit.predict({x: inside, by: np.full_like(inside, at)})
            axes.plot(inside, curve, color=colour, linewidth=1.7)
        if not fit.draws.empty:
            low, high = _band(fit, everywhere)
            axes.fill_between(grid, low, high, color=colour, alpha=0.13, linewidth=0)
    log_axis(axes.xaxis, LABELS[x], "count")
    log_axis(axes.yaxis, loss_label(fit), "loss")
    axes.set_xlim(grid[0], grid[-1])
    palette.key(made, [axes], distinct, LETTERS[by], LABELS[by], loc="above")


def loss_label(fit: Fit) -> str:
    """An axis of losses, in the unit of the fit's own."""
    return f"loss, {fit.data.loss_unit}"


def _band(fit: Fit, features: dict[str, Array]) -> tuple[Array, Array]:
    """The interval of the fitted curve at the fit's level."""
    low, high = interval_over_draws(
        fit, lambda c: np.log(fit.law.predict(c, features)), fit.interval.level
    )
    return np.exp(low), np.exp(high)


def _floor(fit: Fit, table: pd.DataFrame, panels: tuple[Axes, ...]) -> None:
    """The floor E as a dotted line, if it lies near enough to be drawn to scale."""
    loss = table[fit.law.target]
    low, high = 0.94 * float(loss.min()), 1.1 * float(loss.max())
    floor = fit.coefficients.get("E", 0.0)
    shown = floor > low / 3
    span: Span | None = None
    if shown and not fit.draws.empty:
        span = fit.interval.coefficients["E"]
    # An interval that reaches the runs is told in the label; shading would hide what it covers.
    shaded = span if span is not None and span[1] < float(loss.min()) else None
    bottom = floor * 0.95 if shaded is None else max(shaded[0] * 0.97, floor * 0.8)
    for axes in panels:
        axes.set_ylim(min(bottom, low) if shown else low, high)
        if not shown:
            continue
        axes.axhline(floor, color=INK, linestyle=(0, (1, 2)), linewidth=1.2)
        if shaded is not None:
            axes.axhspan(max(shaded[0], bottom), shaded[1], color=INK, alpha=0.07, linewidth=0)
        axes.annotate(
            f"floor E = {with_interval(decimal, floor, span)}",
            (0.01, floor),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8.5,
        )


def residuals(fit: Fit) -> Figure:
    """Observed against fitted loss (nats/token), and the residual in per cent below.

    Works for every law. The residual is 100·ln(observed / fitted), so that its root mean square
    is the caption's RMSE.
    """
    table = rows_of(fit)
    by = "params" if "params" in table else fit.law.features[0]
    fitted = np.asarray(fit.predict({name: table[name].to_numpy() for name in fit.law.features}))
    observed = table[fit.law.target].to_numpy(dtype=np.float64)
    percent = 100 * np.log(observed / fitted)
    palette = Palette(table[by])
    with figure(6.4, 6.0) as made:
        grid = made.add_gridspec(2, 1, height_ratios=(2.4, 1))
        above = made.add_subplot(grid[0])
        below = made.add_subplot(grid[1], sharex=above)
        ends = np.array([min(fitted.min(), observed.min()), max(fitted.max(), observed.max())])
        ends = ends * np.array([0.98, 1.02])
        above.plot(ends, ends, color=FAINT, linewidth=1.0, zorder=1)
        points(above, fitted, observed, table[by], palette)
        below.axhline(0.0, color=FAINT, linewidth=1.0, zorder=1)
        points(below, fitted, percent, table[by], palette)
        largest = 1.15 * float(np.abs(percent).max()) or 1.0
        below.set_ylim(-largest, largest)
        below.set_ylabel("residual, %")
        log_axis(above.xaxis, "", "loss")
        log_axis(above.yaxis, f"observed {loss_label(fit)}", "loss")
        above.tick_params(labelbottom=False)
        log_axis(below.xaxis, f"fitted {loss_label(fit)}", "loss")
        above.set(xlim=ends, ylim=ends)
        palette.key(
            made,
            [above, below],
            table[by],
            LETTERS[by],
            LABELS[by],
            loc="upper left",
            line=False,
        )
        _caption(
            made,
            fit,
            f"Fit of {fit.law.name}; residual = 100·ln(observed/fitted), RMSE "
            f"{100 * fit.rmse_log:.2g}%. Line: observed = fitted.",
        )
    return made


def _caption(made: Figure, fit: Fit, text: str) -> None:
    counted = f"; N = {count_of(fit.data.params_column)}" if fit.data.params is not None else ""
    set_caption(made, f"n = {fit.data.n} runs{counted}. {text}")
