"""The loss over N and D as a map: contours, equal-compute lines, the frontier, known models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.answer import law_for
from analysis.expression import Array
from analysis.figures.answers import COLOURS, STAR, Answers, drawn_at, ends, line_label
from analysis.figures.doubts import doubts
from analysis.figures.style import (
    DASHED,
    FAINT,
    INK,
    figure_of,
    legend_above,
    log_axis,
    panel,
    place_landmarks,
    set_caption,
)
from analysis.landmarks import Landmark
from analysis.laws import Law
from analysis.optimum import FLOPS_PER_PARAM_TOKEN

POINTS = 160
CONTOURS = 16
REACH = 6.0  # nats of N on either side of N* in which the flat bottom is looked for
WITHIN = 0.01  # the flat bottom drawn: sizes within 1% of the best loss of their compute
NAMED = 1.5  # contours are named so many times below the upper edge


def landscape(
    found: Answers, *, landmarks: Sequence[Landmark] = (), ax: Axes | None = None
) -> Figure:
    """Contours of the law's loss (nats/token) over N and D, at the budgets of `found`.

    Diagonals are equal compute; thick lines what is recommended at each, the band around the
    law's, where it answers, the sizes within 1% of its best loss. Stars are the runs asked for,
    with the interval of N* along their budget; `landmarks` are placed by their active N and D;
    runs are small points.
    """
    low, high = found.flops
    law = law_for(found.source, found.along[0].ask)
    placed = [
        each
        for each in landmarks
        if each.decoder and each.flops is not None and low <= each.flops <= high
    ]
    every = [*found.along, *found.asked]
    left, right = _reach(
        [each.params for each in every],
        [end for each in found.asked for end in ends(each, "params")],
        [each.params_active for each in placed],
        found.runs.get("params", []),
    )
    bottom, top = _reach(
        [each.tokens for each in every],
        [end for each in found.asked for end in ends(each, "tokens")],
        [each.tokens for each in placed],
        found.runs.get("tokens", []),
    )
    n, d = np.geomspace(left, right, POINTS), np.geomspace(bottom, top, POINTS)
    loss = law.predict(found.source.coefficients, {"params": n[None, :], "tokens": d[:, None]})
    with panel(ax, 7.8, 6.8, f"Loss over N and D: {found.name}") as axes:
        # First, since a contour's label makes its gap in the axes as they stand.
        axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
        _contours(axes, n, d, loss, max(each.loss for each in every))
        _diagonals(axes, n, d)
        _flat_bottom(axes, law, found)
        _ways(axes, found)
        if not found.runs.empty:
            axes.plot(
                found.runs["params"], found.runs["tokens"], "o", color="#555555", markersize=2.8,
                markeredgewidth=0, label="runs", zorder=3,
            )  # fmt: skip
        _asked(axes, found)
        log_axis(axes.xaxis, "parameters N", "count")
        log_axis(axes.yaxis, "training tokens D", "count")
        axes.set(xlim=(left, right), ylim=(bottom, top))
        legend_above(axes, axes.get_legend_handles_labels()[0])
        if ax is None:
            set_caption(figure_of(axes), _caption(found, placed))
        if placed:
            figure_of(axes).draw_without_rendering()  # names are set by the map's final size
        models = [(each.name, each.params_active, each.tokens) for each in placed]
        place_landmarks(axes, models, drawn_at(found, "params", "tokens"))
    return figure_of(axes)


def _caption(found: Answers, placed: Sequence[Landmark]) -> str:
    said = [
        found.counted,
        f"Contours: loss by the law, {found.loss_unit}. Diagonals: equal C, FLOPs.",
    ]
    if "law" in found.ways:
        said.append(f"Band: sizes within {WITHIN:.0%} of the law's best loss at their compute.")
    if found.asked:
        level = "" if found.level is None else f", with the {found.level:.0%} interval of N*"
        said.append(f"Star: the run recommended{level}.")
    if placed:
        said.append("Diamonds: published models, by active parameters.")
    return " ".join(said) + doubts(found.source)


def _reach(*values: Iterable[float | None]) -> tuple[float, float]:
    known = [each for group in values for each in group if each is not None]
    return float(min(known)) / 2.2, float(max(known)) * 2.2


def _contours(axes: Axes, n: Array, d: Array, loss: Array, high: float) -> None:
    """Even steps of the loss up to `high`, so that lines are dense where it is steep; named along
    the top."""
    levels = np.asarray(
        MaxNLocator(CONTOURS, steps=[1, 2, 5, 10]).tick_values(float(loss.min()), high)
    )
    levels = levels[(levels > loss.min()) & (levels <= high)]
    drawn = axes.contour(n, d, loss, levels=levels, colors=FAINT, linewidths=0.7)
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


def _ways(axes: Axes, found: Answers) -> None:
    """What each way recommends, solid inside the runs' compute."""
    seen = found.seen or found.flops
    for way, colour in COLOURS.items():
        said = found.by(way)
        inside = [each for each in said if seen[0] * 0.999 <= each.flops <= seen[1] * 1.001]
        for drawn, style in ((said, DASHED), (inside, "-")):
            axes.plot(
                [each.params for each in drawn], [each.tokens for each in drawn], color=colour,
                linestyle=style, linewidth=2.2 if style == "-" else 1.3, zorder=4,
                label=line_label(found, way) if style == "-" and drawn else "_",
            )  # fmt: skip


def _asked(axes: Axes, found: Answers) -> None:
    for each in found.asked:
        if each.interval is not None:
            low, high = each.interval.params
            n = np.geomspace(max(low, 1.0), min(high, 1e300), 40)
            product = each.params * each.tokens
            axes.plot(n, product / n, color=INK, linewidth=1.6, zorder=6)
        label = "recommended" if each is found.asked[0] else "_"
        axes.plot(each.params, each.tokens, zorder=7, label=label, **STAR)


def _flat_bottom(axes: Axes, law: Law, found: Answers) -> None:
    """The band of sizes within WITHIN of the law's best loss where the law answers, its ends found
    along each equal compute. About the runs' own minima it would be another source's band."""
    best = [each for each in found.along if each.by == "law"]
    if not best:
        return
    budgets, sizes = (np.array([getattr(e, name) for e in best]) for name in ("flops", "params"))
    shift = np.linspace(-REACH, REACH, 4001)
    n = sizes[:, None] * np.exp(shift)
    d = budgets[:, None] / FLOPS_PER_PARAM_TOKEN / n
    loss = law.predict(found.source.coefficients, {"params": n, "tokens": d})
    middle = len(shift) // 2
    near = loss <= loss[:, middle, None] * (1 + WITHIN)
    # The first size on each side that is not near; the far end where all are.
    left = middle - np.argmin(near[:, middle::-1], axis=1) + 1
    right = middle + np.argmin(near[:, middle:], axis=1) - 1
    left = np.where(near[:, :middle].all(axis=1), 0, left)
    right = np.where(near[:, middle:].all(axis=1), len(shift) - 1, right)
    rows = np.arange(len(budgets))
    edge = np.concatenate([n[rows, left], n[rows, right][::-1]])
    compute = np.concatenate([budgets, budgets[::-1]])
    axes.fill(
        edge, compute / FLOPS_PER_PARAM_TOKEN / edge, color=COLOURS["law"], alpha=0.12,
        linewidth=0, zorder=2,
    )  # fmt: skip
