"""The loss over N and D as a map: contours, equal-compute lines, the frontier, known models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import law_for
from analysis.caution import Source
from analysis.expression import Array
from analysis.figures.style import (
    FAINT,
    INK,
    OWN,
    figure,
    log_axis,
    place_landmarks,
    set_caption,
)
from analysis.fit import Fit
from analysis.landmarks import Landmark
from analysis.laws import Law
from analysis.optimum import FLOPS_PER_PARAM_TOKEN, compute_optimal
from analysis.recommend import convention
from analysis.runs.columns import TOKEN
from analysis.solve import Ask
from analysis.units import count_of
from scaling.records import Refusal

POINTS = 160
CONTOURS = 12
REACH = 6.0  # nats of N on either side of N* in which the flat bottom is looked for
WITHIN = 0.01  # the flat bottom drawn: sizes within 1% of the best loss of their compute


def landscape(
    source: Source,
    flops: tuple[float, float],
    *,
    landmarks: Sequence[Landmark] = (),
) -> Figure:
    """Contours of the loss (nats/token) over N and D, for compute-optimal runs of `flops`.

    Diagonals are equal compute, the thick line the compute-optimal frontier, the band around it
    the sizes within 1% of the best loss at their compute. `landmarks` that have both numbers are
    placed by their active N and D; runs of a fit are small points. Raises Refusal as `recommend`.
    """
    low, high = flops
    if not 0 < low < high < math.inf:
        raise Refusal(f"flops = {flops} is no range: give two budgets, the smaller one first.")
    law = law_for(source, Ask(flops=low))
    budgets = np.geomspace(low, high, POINTS)
    best = [compute_optimal(law, source.coefficients, float(c)) for c in budgets]
    sizes = np.array([float(each.params) for each in best])
    tokens = np.array([float(each.tokens) for each in best])
    placed = [each for each in landmarks if each.flops is not None and low <= each.flops <= high]
    runs = source.table if isinstance(source, Fit) else pd.DataFrame()
    left, right = _reach(sizes, [each.params_active for each in placed], runs.get("params", []))
    bottom, top = _reach(tokens, [each.tokens for each in placed], runs.get("tokens", []))
    n, d = np.geomspace(left, right, POINTS), np.geomspace(bottom, top, POINTS)
    loss = law.predict(source.coefficients, {"params": n[None, :], "tokens": d[:, None]})
    with figure(7.8, 6.4) as made:
        axes = made.add_subplot()
        # First, since a contour's label makes its gap in the axes as they stand.
        axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
        _contours(axes, n, d, loss)
        _diagonals(axes, n, d)
        _flat_bottom(axes, law, source, budgets, sizes)
        axes.plot(sizes, tokens, color=OWN, linewidth=2.4, label="compute-optimal", zorder=4)
        if not runs.empty:
            axes.plot(runs["params"], runs["tokens"], "o", color=INK, markersize=3, label="runs")
        log_axis(axes.xaxis, "parameters N", "count")
        log_axis(axes.yaxis, "training tokens D", "count")
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="none")
        name = (
            f"fit of {law.name}, n = {source.data.n} runs"
            if isinstance(source, Fit)
            else (f"{source.name}, {source.source}")
        )
        unit = source.data.loss_unit if isinstance(source, Fit) else TOKEN
        missing = [each.name for each in landmarks if each.flops is None and placed]
        set_caption(
            made,
            f"Loss in {unit} by {name}; N = {count_of(convention(source).rstrip('.'))}. "
            "Diagonals: equal C = 6ND, FLOPs. Band: sizes within "
            f"{WITHIN:.0%} of the best loss at their compute."
            + (
                f" Models by their active parameters; not drawn, for want of printed numbers: "
                f"{', '.join(missing)}."
                if missing
                else ""
            ),
        )
        if placed:
            made.draw_without_rendering()  # names are set by the map's final size
        place_landmarks(axes, [(e.name, e.params_active, e.tokens) for e in placed])
    return made


def _reach(*values: Iterable[float | None]) -> tuple[float, float]:
    known = [each for group in values for each in group if each is not None]
    return float(min(known)) / 2.2, float(max(known)) * 2.2


def _contours(axes: Axes, n: Array, d: Array, loss: Array) -> None:
    """Dense near the best: even steps of the logarithm of what is left to gain, rounded."""
    low, high = float(loss.min()), float(np.quantile(loss, 0.98))
    gaps = np.geomspace(0.04 * (high - low), high - low, CONTOURS)
    places = 1 - np.floor(np.log10(gaps)).astype(int)
    levels = [round(low + gap, place) for gap, place in zip(gaps, places, strict=True)]
    drawn = axes.contour(n, d, loss, levels=np.unique(levels), colors=FAINT, linewidths=0.7)
    axes.clabel(drawn, fontsize=7.5, fmt=lambda value: f"{value:.{places[0]}f}".rstrip("0"))


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


def _flat_bottom(axes: Axes, law: Law, source: Source, budgets: Array, sizes: Array) -> None:
    """The band of sizes within WITHIN of the best loss, its ends found along each equal compute."""
    shift = np.linspace(-REACH, REACH, 4001)
    n = sizes[:, None] * np.exp(shift)
    d = budgets[:, None] / FLOPS_PER_PARAM_TOKEN / n
    loss = law.predict(source.coefficients, {"params": n, "tokens": d})
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
        edge, compute / FLOPS_PER_PARAM_TOKEN / edge, color=OWN, alpha=0.16, linewidth=0, zorder=2
    )
