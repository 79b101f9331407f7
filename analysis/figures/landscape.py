"""The loss over N and D as a map: contours, equal-compute lines, the frontier, known models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.array import Array
from analysis.figures import style
from analysis.figures.fitted import doubts
from analysis.figures.named import name_points
from analysis.figures.recommended import COLOURS, STAR, Quantity, Recommended, draw_ways, ends
from analysis.interval import Interval
from analysis.laws.law import Law
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.recommend.by_law import law_for
from analysis.recommend.landmarks import Landmark

POINTS = 160
CONTOURS = 16
FAR = 1e3  # × N*: as far as the flat bottom is searched
WITHIN = 0.01  # the flat bottom drawn: sizes within 1% of the best loss of their compute
NAMED = 1.5  # contours are named so many times below the upper edge


def landscape(
    found: Recommended, ax: Axes | None = None, *, landmarks: Sequence[Landmark] = ()
) -> Axes:
    """Contours of the law's loss (nats/token) over N and D, at the budgets of `found`; returns the
    axes.

    Diagonals are equal compute; thick lines what is recommended at each, the band around the
    law's, where it answers, the sizes within 1% of its best loss. Stars are the runs asked for,
    with the interval of N* along their budget; `landmarks` are placed by their active N and D;
    runs are small points.
    """
    law = law_for(found.source, found.along[0].question)
    models = found.models(landmarks)
    across = _reach(found, "params", [each.params_active for each in models])
    up = _reach(found, "tokens", [each.tokens for each in models])
    n, d = np.geomspace(*across, POINTS), np.geomspace(*up, POINTS)
    loss = law.predict(found.source.coefficients, {"params": n[None, :], "tokens": d[:, None]})
    title = f"Loss over N and D: {found.name}"
    with style.panel(ax, title, found.counted, doubts(found.source)) as axes:
        # First, since a contour's label makes its gap in the axes as they stand.
        axes.set(xscale="log", yscale="log", xlim=across, ylim=up)
        style.note(
            axes, f"Contours: loss by the law, {found.loss_unit}. Diagonals: equal C, FLOPs."
        )
        _contours(axes, n, d, loss, max(each.loss for each in (*found.along, *found.asked)))
        _diagonals(axes, n, d)
        _flat_bottom(axes, found, law)
        draw_ways(axes, found, "params", "tokens", COLOURS)
        if not found.runs.empty:
            axes.plot(
                found.runs["params"], found.runs["tokens"], "o", color="#555555", markersize=2.8,
                markeredgewidth=0, label="runs", zorder=3,
            )  # fmt: skip
        _asked(axes, found)
        style.log_axis(axes.xaxis, style.quantity("params").label, "count")
        style.log_axis(axes.yaxis, style.quantity("tokens").label, "count")
        axes.set(xlim=across, ylim=up)
        style.legend(axes)
        placed = [(each.name, each.params_active, each.tokens) for each in models]
        name_points(axes, placed, found.places("params", "tokens"))
        style.note(axes, "Diamonds: published models, by active parameters." if models else "")
    return axes


def _reach(found: Recommended, name: Quantity, more: Iterable[float | None]) -> Interval:
    """The ends of an axis that holds the answers, their intervals, the runs and `more`."""
    known = [float(getattr(each, name)) for each in (*found.along, *found.asked)]
    known += [end for each in found.asked for end in ends(each, name)]
    known += [*found.runs[name], *(each for each in more if each is not None)]
    return Interval(min(known) / 2.2, max(known) * 2.2)


def _contours(axes: Axes, n: Array, d: Array, loss: Array, high: float) -> None:
    """Even steps of the loss up to `high`, so that lines are dense where it is steep; named along
    the top."""
    levels = np.asarray(
        MaxNLocator(CONTOURS, steps=[1, 2, 5, 10]).tick_values(float(loss.min()), high)
    )
    levels = levels[(levels > loss.min()) & (levels <= high)]
    drawn = axes.contour(n, d, loss, levels=levels, colors=style.FAINT, linewidths=0.7)
    row = int(np.searchsorted(d, d[-1] / NAMED))
    edge = loss[row]  # falls with N
    places = [
        (float(n[np.argmax(edge <= level)]), float(d[row]))
        for level in levels
        if edge.min() < level < edge[0]
    ]
    if places:
        axes.clabel(drawn, fontsize=7.5, fmt=lambda value: f"{value:.4g}", manual=places)


def _diagonals(axes: Axes, n: Array, d: Array) -> None:
    """Lines of equal compute at whole decades, named along the lower and right edges."""
    low = math.log10(FLOPS_PER_PARAM_TOKEN * n[0] * d[0])
    high = math.log10(FLOPS_PER_PARAM_TOKEN * n[-1] * d[-1])
    for power in range(math.ceil(low), math.floor(high) + 1):
        product = 10.0**power / FLOPS_PER_PARAM_TOKEN
        axes.plot(n, product / n, color="#cccccc", linewidth=0.8, zorder=1)
        at = min(float(n[-1]) / 1.12, product / (float(d[0]) * 1.12))
        if float(n[0]) * 1.6 < at and product / at < float(d[-1]):
            axes.annotate(
                f"$10^{{{power}}}$", (at, product / at), fontsize=7.5, color="#888888",
                ha="right", va="bottom", zorder=2,
            )  # fmt: skip


def _asked(axes: Axes, found: Recommended) -> None:
    for each in found.asked:
        if each.interval is not None:
            low, high = each.interval.params
            n = np.geomspace(max(low, 1.0), min(high, 1e300), 40)
            axes.plot(n, each.params * each.tokens / n, color=style.INK, linewidth=1.6, zorder=6)
        label = "recommended" if each is found.asked[0] else "_"
        axes.plot(each.params, each.tokens, zorder=7, label=label, **STAR)
    if found.asked:
        interval = "" if found.level is None else f", with the {found.level:.0%} interval of N*"
        style.note(axes, f"Star: the run recommended{interval}.")


def _flat_bottom(axes: Axes, found: Recommended, law: Law) -> None:
    """The sizes within WITHIN of the law's best loss of their compute, where the law answers.
    About the runs' own minima it would be another source's band."""
    best = [each for each in found.along if each.by == "law"]
    if len(best) < 2:
        return
    low, high = [], []
    for each in best:
        n = np.geomspace(each.params / FAR, each.params * FAR, 600)
        d = each.flops / FLOPS_PER_PARAM_TOKEN / n
        loss = law.predict(found.source.coefficients, {"params": n, "tokens": d})
        near = np.column_stack([n, d])[loss <= (1 + WITHIN) * each.loss]
        low.append(near[0])
        high.append(near[-1])
    outline = np.array([*low, *reversed(high)]).T
    axes.fill(*outline, color=COLOURS["law"], alpha=0.12, linewidth=0, zorder=2)
    style.note(axes, f"Band: sizes within {WITHIN:.0%} of the law's best loss at their compute.")
