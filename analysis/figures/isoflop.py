"""Approaches 1 and 2 as they are read: isoFLOP curves with their minima, and the envelope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.envelope import Envelope, envelope
from analysis.expression import Array
from analysis.figures.bulk import log_span, mark_beyond
from analysis.figures.doubts import doubts
from analysis.figures.fitted import loss_label, rows_of
from analysis.figures.style import (
    INK,
    OTHERS,
    OWN,
    Palette,
    figure,
    figure_of,
    legend_above,
    log_axis,
    panel,
    points,
    set_caption,
)
from analysis.fit import Fit, Status
from analysis.isoflop import (
    FEWEST,
    SAME_SIZE,
    Budget,
    Method,
    Minima,
    allocation,
    budgets,
    optima,
    tally,
    without_each_size,
)
from analysis.optimum import compute_optimal
from analysis.outliers import bulk
from analysis.units import count_of, counted, decimal, scientific
from scaling.store.records import Refusal

MARKS: dict[Method, tuple[str, str]] = {"parabola": ("o", OTHERS[0]), "akima": ("s", OTHERS[1])}
EDGE = 0.02  # of compute, left off both ends of a drawn envelope
ABOVE = 1.0  # of the span of the minima: how far above the highest one a panel reaches


def optima_figures(fit: Fit) -> dict[str, Figure]:
    """`isoflop` where a budget has a minimum, `envelope` where it gives an exponent; else none.

    Raises Refusal for a fit without rows.
    """
    rows_of(fit)  # refused without
    rows = bulk(fit).drop(columns="flops", errors="ignore")
    made = {}
    with suppress(Refusal):
        found = {method: optima(rows, method) for method in MARKS}
        if any(table["params"].notna().any() for table in found.values()):
            shown = [each for each in budgets(rows) if len(each.params) >= FEWEST["parabola"]]
            again = {method: without_each_size(rows, method) for method in MARKS}
            made["isoflop"] = isoflop_curves(fit, shown, found, again)
    with suppress(Refusal):
        lower = envelope(rows)
        lower.allocation()
        made["envelope"] = envelope_curves(fit, lower)
    return made


def isoflop_curves(
    fit: Fit,
    shown: Sequence[Budget],
    found: Mapping[Method, pd.DataFrame],
    again: Mapping[Method, Sequence[Minima]],
) -> Figure:
    """Loss against N at each budget with its parabola, and the minima `found` against compute.

    Parabolas end with the sizes; a budget without a minimum inside has points only. `again` are
    the minima with each size left out (`without_each_size`), for the exponents' digits. The right
    panel puts C = 6·N*·D* below both methods' minima, their power laws and the fit's own N*.
    """
    palette = Palette([each.flops for each in shown], "flare")
    title = f"Best size at each of {len(shown)} budgets (approach 2), beside {fit.law.name}"
    with figure(10.0, 5.2, title) as made:
        left, right = made.subplots(1, 2)
        log_axis(left.xaxis, "parameters N", "count")
        log_axis(left.yaxis, loss_label(fit), "loss")
        for budget in shown:
            at = np.full(len(budget.params), budget.flops)
            points(left, budget.params, budget.loss, at, palette)
        least = np.array([each.loss.min() for each in shown])
        _trim(left, least, np.concatenate([each.loss for each in shown]))
        undrawn = sum(not _parabola(left, budget, palette) for budget in shown)
        beyond = mark_beyond(left)
        if undrawn:
            beyond += f" {counted(undrawn, 'parabola')} with a minimum below the axis not drawn."
        spans = []
        for method, (mark, colour) in MARKS.items():
            seen = found[method].dropna(subset="params")
            if seen.empty:
                continue
            flops = seen["flops"]
            spans += list(flops)
            label = method.capitalize()
            if len(seen) > 1:
                law = allocation(found[method], fit.interval.level, again[method]).params
                ends = np.array([flops.min(), flops.max()])
                right.plot(ends, law.at(ends), color=colour, linewidth=1.4)
                # With the digits of the table of approaches, which go by the interval.
                label += f": $N^* \\propto C^{{{decimal(law.exponent, law.interval)}}}$"
            style: dict[str, Any] = {"marker": mark, "linestyle": "", "markeredgecolor": "white"}
            right.plot(flops, seen["params"], color=colour, markersize=5.5, label=label, **style)
        if fit.status is not Status.FAILED:
            grid = np.geomspace(min(spans), max(spans), 40)
            best = [float(compute_optimal(fit.law, fit.coefficients, c).params) for c in grid]
            right.plot(grid, best, color=OWN, linewidth=1.4, zorder=1,
                       label="the fitted law")  # fmt: skip
        log_axis(right.xaxis, "training compute C = 6ND, FLOPs", "flops")
        log_axis(right.yaxis, "best size N* of a budget", "count")
        legend_above(right, right.get_legend_handles_labels()[0], columns=3)
        _budget_key(made, left, palette, shown)
        kept = ", ".join(f"{method} {tally(table).used}" for method, table in found.items())
        set_caption(
            made,
            f"{_points(fit, sum(len(each.params) for each in shown))} at {len(shown)} budgets. "
            f"N = {count_of(fit.data.params_column)}. Left: parabolas in log N within the sizes "
            f"they were fitted to, diamonds at their minima.{beyond} Right: the minima of both "
            f"methods, and power laws through them. Minima inside the sizes: {kept}."
            f"{doubts(fit)}",
        )
    return made


def envelope_curves(fit: Fit, lower: Envelope, *, ax: Axes | None = None) -> Figure:
    """Loss against compute, a monotone curve a size, their envelope and its crossings."""
    palette = Palette(lower.params)
    with panel(ax, 7.5, 5.2, f"Lower envelope (approach 1): {len(lower.params)} sizes") as axes:
        # Runs of one budget differ by a rounding of their compute: not every size reaches its ends.
        shown = slice(*np.searchsorted(lower.flops, lower.flops[[0, -1]] * [1 + EDGE, 1 - EDGE]))
        for params, curve in zip(lower.params, lower.curves, strict=True):
            colour = palette(float(params))
            inside = np.linspace(curve.x[0], curve.x[-1], 200)
            axes.plot(np.exp(inside), curve(inside), color=colour, linewidth=1.1, zorder=2)
            points(axes, np.exp(curve.x), curve.y, np.full(len(curve.x), params), palette)
        axes.plot(lower.flops[shown], lower.loss[shown], color="#c4c4c4", linewidth=5.0, zorder=1)
        every = np.concatenate([curve.y for curve in lower.curves])
        found = lower.crossings
        diamond: dict[str, Any] = {"marker": "D", "linestyle": "", "color": INK, "markersize": 4.5}
        axes.plot(found["flops"], found["loss"], zorder=5, markeredgecolor="white", **diamond)
        log_axis(axes.xaxis, "training compute C = 6ND, FLOPs", "flops")
        log_axis(axes.yaxis, loss_label(fit), "loss")
        _trim(axes, lower.loss[np.isfinite(lower.loss)], every)
        beyond = mark_beyond(axes)
        also = [
            Line2D([], [], color="#c4c4c4", linewidth=5.0, label="lower envelope"),
            Line2D([], [], label="crossing", **diamond),
        ]
        made = figure_of(axes)
        palette.key(made, axes, "N", f"N ({count_of(fit.data.params_column)})", also=also)
        edges = f", not counting {lower.at_edge} where runs begin or end" if lower.at_edge else ""
        if ax is None:
            set_caption(
                made,
                f"{_points(fit, len(every))} of {len(lower.params)} sizes. "
                f"N = {count_of(fit.data.params_column)}. Curves: PCHIP through the runs of one "
                f"size. Diamonds: where the best size changes{edges}.{beyond}{doubts(fit)}",
            )
    return made


def _points(fit: Fit, count: int) -> str:
    """How many points are drawn, and whether some are means of several runs."""
    rows = rows_of(fit)
    places = {name: np.round(np.log(rows[name]) / SAME_SIZE) for name in ("params", "tokens")}
    means = pd.DataFrame(places).duplicated().any()
    return f"n = {count} points" + (", runs of equal N and D averaged," if means else "")


def _parabola(axes: Axes, budget: Budget, palette: Palette) -> bool:
    """The curve of a budget with its minimum, if it has one; False where that lies below the axis,
    pulled there by a point that no valley has."""
    colour = palette(budget.flops)
    best = budget.optimum("parabola")
    if best.reason:
        return True
    if best.loss < axes.get_ylim()[0]:
        return False
    x = np.log(budget.params)
    inside = np.linspace(x[0], x[-1], 100)
    curve = np.polyval(budget.parabola(), inside - x.mean())
    axes.plot(np.exp(inside), curve, color=colour, linewidth=1.3)
    axes.plot(
        best.params, best.loss, marker="D", markersize=5.5, color=colour, markeredgecolor=INK,
        markeredgewidth=0.8, linestyle="", zorder=5,
    )  # fmt: skip
    return True


def _trim(axes: Axes, least: Array, every: Array) -> None:
    """Cut the losses of sizes far off the best, which would flatten every valley."""
    bottom, most = log_span(every)
    low, high = np.clip([least.min(), least.max()], bottom, most)
    top = high + ABOVE * max(high - low, 0.05 * high)
    axes.set_ylim(low * 0.985, min(top, most * 1.01))


def _budget_key(made: Figure, axes: Axes, palette: Palette, shown: Sequence[Budget]) -> None:
    if not palette.few:
        palette.bar(made, [axes], "budget C, FLOPs", "top", kind="flops")
        return
    handles = [
        Line2D([], [], color=palette(each.flops), marker="o", markersize=4,
               label=f"C = {scientific(each.flops)}")
        for each in shown
    ]  # fmt: skip
    legend_above(axes, handles)
