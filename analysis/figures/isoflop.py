"""Approaches 1 and 2 as they are read: isoFLOP curves with their minima, and the envelope."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.allocation.envelope import envelope
from analysis.allocation.isoflop import (
    FEWEST,
    SAME_SIZE,
    Budget,
    Method,
    allocation,
    budgets,
    optima,
    tally,
    without_each_size,
)
from analysis.allocation.power_law import Allocation
from analysis.array import Array
from analysis.figures import style
from analysis.figures.bulk import log_span, mark_beyond
from analysis.figures.fitted import doubts, loss_label, rows_of
from analysis.fitting.fit import Fit, Status
from analysis.fitting.outliers import bulk
from analysis.laws.optimum import compute_optimal
from analysis.text import counted as number_of
from analysis.text import decimal, with_interval
from scaling.store.records import Refusal

MARKS: dict[Method, tuple[str, str]] = {
    "parabola": ("o", style.OTHERS[0]),
    "akima": ("s", style.OTHERS[1]),
}
NAMES: dict[Method, str] = {"parabola": "parabola", "akima": "Akima"}
EDGE = 0.02  # of compute, left off both ends of a drawn envelope
ABOVE = 1.0  # of the span of the minima: how far above the highest one a panel reaches


@dataclass(frozen=True)
class IsoFlop:
    """What approach 2 reads off the runs of a fit."""

    budgets: tuple[Budget, ...]  # those with sizes enough for a parabola
    optima: Mapping[Method, pd.DataFrame]  # as `allocation.isoflop.optima` gives them
    allocations: Mapping[Method, Allocation]  # of the methods with two minima or more

    @property
    def best(self) -> str:
        """How N* grows by the parabola, or by the first method that says it; "" by none."""
        said = (f"{style.POWER}, {_exponent(a)} ({NAMES[m]})" for m, a in self.allocations.items())
        return next(said, "")


def read_isoflop(fit: Fit) -> IsoFlop:
    """Approach 2 by both methods. Raises Refusal where no budget has a minimum inside its sizes."""
    rows = _rows(fit)
    shown = tuple(each for each in budgets(rows) if len(each.params) >= FEWEST["parabola"])
    found = {method: optima(rows, method) for method in MARKS}
    if not any(table["params"].notna().any() for table in found.values()):
        raise Refusal("no budget has its least loss inside its sizes.", "Train more sizes.")
    grown = {}
    for method, table in found.items():
        with suppress(Refusal):
            again = without_each_size(rows, method)
            grown[method] = allocation(table, fit.interval.level, again)
    return IsoFlop(shown, found, grown)


def isoflop(fit: Fit, ax: Axes | None = None) -> Axes:
    """Loss against N at each budget, with its parabola and the minima; returns the axes.

    Parabolas end with the sizes; a budget without a minimum inside has points only. Raises Refusal
    as `read_isoflop` does.
    """
    read = read_isoflop(fit)
    shown = read.budgets
    palette = style.Palette([each.flops for each in shown], "flops")
    kept = tally(read.optima["parabola"]).used
    title = f"Minima at {kept}" + (f": {read.best}" if read.best else "")
    points_said = _counted(fit, sum(len(each.params) for each in shown))
    with style.panel(ax, title, points_said, doubts(fit)) as axes:
        style.log_axis(axes.xaxis, style.quantity("params").label, "count")
        style.log_axis(axes.yaxis, loss_label(fit), "loss")
        for budget in shown:
            at = np.full(len(budget.params), budget.flops)
            style.points(axes, budget.params, budget.loss, at, palette)
        least = np.array([each.loss.min() for each in shown])
        _trim(axes, least, np.concatenate([each.loss for each in shown]))
        low = axes.get_ylim()[0]  # a point that no valley has may pull a minimum below it
        below = sum(each.minimum("parabola").loss < low for each in shown)
        for budget in shown:
            _curves(axes, budget, palette(budget.flops), low)
        palette.key(axes)
        style.note(
            axes,
            "Solid: parabolas in log N, diamonds at their minima. Dotted: Akima's curves.",
            mark_beyond(axes),
            f"{number_of(below, 'parabola')} with a minimum below the axis not drawn."
            if below
            else "",
        )
    return axes


def minima(fit: Fit, ax: Axes | None = None) -> Axes:
    """N* against C = 6·N*·D*: the minima of both methods, their power laws and the fitted law;
    returns the axes. Raises Refusal as `read_isoflop` does.
    """
    read = read_isoflop(fit)
    counted = style.counted(tally(read.optima["parabola"]).used, fit.data.params_column)
    with style.panel(ax, f"Best size: {read.best}", counted, doubts(fit)) as axes:
        seen = {method: table.dropna(subset="params") for method, table in read.optima.items()}
        every = pd.concat(list(seen.values()))["flops"]
        for method, (mark, colour) in MARKS.items():
            label = f"{NAMES[method]}, {tally(read.optima[method]).used}"
            if method in read.allocations:
                grown = read.allocations[method]
                inside = seen[method]["flops"].agg(["min", "max"])
                axes.plot(inside, grown.params(inside), color=colour, linewidth=1.4)
                label = f"{NAMES[method]}: {_exponent(grown)}"
            if len(seen[method]):
                axes.plot(
                    seen[method]["flops"], seen[method]["params"], mark, color=colour,
                    markersize=5.5, markeredgecolor="white", label=label,
                )  # fmt: skip
        if fit.status is not Status.FAILED:
            grid = np.geomspace(every.min(), every.max(), 40)
            best = [float(compute_optimal(fit.law, fit.coefficients, c).params) for c in grid]
            axes.plot(grid, best, color=style.OWN, linewidth=1.4, zorder=1,
                      label=f"fitted law ({fit.law.name})")  # fmt: skip
        style.log_axis(axes.xaxis, style.COMPUTE, "flops")
        style.log_axis(axes.yaxis, "best size N* of a budget", "count")
        style.legend(axes)
    return axes


def envelope_curves(fit: Fit, ax: Axes | None = None) -> Axes:
    """Loss against compute, a monotone curve per size, their lower envelope and its crossings;
    returns the axes. Raises Refusal as `envelope` does."""
    lower = envelope(_rows(fit))
    every = np.concatenate([curve(curve.x) for curve in lower.curves])
    title = f"Lower envelope of {len(lower.params)} sizes"
    with suppress(Refusal):
        title += f": {style.POWER}, {_exponent(lower.allocation(fit.interval.level))}"
    with style.panel(ax, title, _counted(fit, len(every)), doubts(fit)) as axes:
        palette = style.Palette(lower.params)
        # Runs of one budget differ by a rounding of their compute: not every size reaches its ends.
        shown = slice(*np.searchsorted(lower.flops, lower.flops[[0, -1]] * [1 + EDGE, 1 - EDGE]))
        for params, curve in zip(lower.params, lower.curves, strict=True):
            inside = np.linspace(curve.x[0], curve.x[-1], 200)
            axes.plot(np.exp(inside), curve(inside), color=palette(float(params)), linewidth=1.1)
            at = np.full(len(curve.x), params)
            style.points(axes, np.exp(curve.x), curve(curve.x), at, palette)
        axes.plot(lower.flops[shown], lower.loss[shown], color=style.PALE, linewidth=5.0, zorder=1)
        diamond: dict[str, Any] = {
            "marker": "D", "linestyle": "", "color": style.INK, "markerfacecolor": "none",
            "markersize": 6,
        }  # fmt: skip
        axes.plot(lower.crossings["flops"], lower.crossings["loss"], zorder=5, **diamond)
        style.log_axis(axes.xaxis, style.COMPUTE, "flops")
        style.log_axis(axes.yaxis, loss_label(fit), "loss")
        _trim(axes, lower.loss[np.isfinite(lower.loss)], every)
        also = [
            Line2D([], [], color=style.PALE, linewidth=5.0, label="lower envelope"),
            Line2D([], [], label="crossing", **diamond),
        ]
        palette.key(axes, also)
        edges = f", not counting {lower.at_edge} where runs begin or end" if lower.at_edge else ""
        style.note(
            axes,
            "Curves: PCHIP through the runs of one size.",
            f"Crossings: where the best size changes{edges}.",
            mark_beyond(axes),
        )
    return axes


def optima_figures(fit: Fit) -> dict[str, Figure]:
    """`isoflop`, with `minima` at its side, where a budget has a minimum, and `envelope` where it
    gives an exponent; else none. Raises Refusal for a fit without rows."""
    rows, made = _rows(fit), {}
    with suppress(Refusal), style.figure(*style.PAIR) as both:
        left, right = both.subplots(1, 2)
        isoflop(fit, left)
        minima(fit, right)
        style.finish(both)
        made["isoflop"] = both
    with suppress(Refusal):
        envelope(rows).allocation()
        made["envelope"] = style.alone(envelope_curves, fit)
    return made


def _rows(fit: Fit) -> pd.DataFrame:
    """The runs that approaches 1 and 2 read: those near the law, at 6·N·D."""
    rows_of(fit)
    return bulk(fit).drop(columns="flops", errors="ignore")


def _exponent(grown: Allocation) -> str:
    """The exponent of N*, with the digits of the table of approaches, which go by the interval."""
    return f"a = {with_interval(decimal, grown.of_params.exponent, grown.of_params.interval)}"


def _counted(fit: Fit, count: int) -> str:
    """How many points are drawn, and whether some are means of several runs."""
    rows = rows_of(fit)
    places = {name: np.round(np.log(rows[name]) / SAME_SIZE) for name in ("params", "tokens")}
    means = pd.DataFrame(places).duplicated().any()
    what = f"{count} points" + (" (runs of equal N and D averaged)" if means else "")
    return style.counted(what, fit.data.params_column)


def _curves(axes: Axes, budget: Budget, colour: style.Colour, low: float) -> None:
    """The curves of a budget that have a minimum, and that of the parabola unless below `low`."""
    x = np.log(budget.params)
    inside = np.linspace(x[0], x[-1], 100)
    if not budget.minimum("akima").reason:
        from scipy.interpolate import Akima1DInterpolator  # takes 0.25 s to import

        curve = Akima1DInterpolator(x, budget.loss)(inside)
        axes.plot(np.exp(inside), curve, ":", color=colour, linewidth=0.9)
    best = budget.minimum("parabola")
    if not best.reason and best.loss >= low:
        curve = np.polyval(budget.parabola(), inside - x.mean())
        axes.plot(np.exp(inside), curve, color=colour, linewidth=1.3)
        axes.plot(
            best.params, best.loss, marker="D", markersize=5.5, color=colour,
            markeredgecolor=style.INK, markeredgewidth=0.8, linestyle="", zorder=5,
        )  # fmt: skip


def _trim(axes: Axes, least: Array, every: Array) -> None:
    """Cut the losses of sizes far off the best, which would flatten every valley."""
    bottom, most = log_span(every)
    low, high = np.clip([least.min(), least.max()], bottom, most)
    top = high + ABOVE * max(high - low, 0.05 * high)
    axes.set_ylim(low * 0.985, min(top, most * 1.01))
