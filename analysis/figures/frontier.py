"""N* and D* against compute: a fit's own law with its band, beside the published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import Interval, interval_of, law_for
from analysis.caution import Source
from analysis.expression import Array
from analysis.figures.fitted import rows_of
from analysis.figures.style import (
    DASHED,
    OTHERS,
    OWN,
    Palette,
    figure,
    log_axis,
    place_landmarks,
    points,
    set_caption,
)
from analysis.fit import Fit
from analysis.frontiers import KAPLAN_2020
from analysis.landmarks import Landmark
from analysis.optimum import FLOPS_PER_PARAM_TOKEN, compute_optimal
from analysis.published import Published, published
from analysis.recommend import convention
from analysis.solve import Ask
from scaling.records import Refusal

DECADES_BELOW = 0.5
DECADES_BEYOND = 2.0  # as far as the warnings of `recommend` stay short of "far"
POINTS = 40


def frontier(
    source: Source,
    *,
    flops: tuple[float, float] | None = None,
    landmarks: Sequence[Landmark] = (),
) -> Figure:
    """Compute-optimal N* and D* against C = 6ND, with bands from the draws of a fit.

    Of a fit: solid inside the compute of its runs (shaded; the runs as points), dashed outside,
    over `flops` or two decades beyond. Of a published law: over `flops`. Beside them Kaplan et
    al. 2020's and Hoffmann et al. 2022's published laws, and `landmarks` by their active N.
    Raises Refusal as `recommend` does, and for a published law without `flops`.
    """
    law_for(source, Ask(flops=1.0))  # refuses a failed fit
    runs = rows_of(source) if isinstance(source, Fit) else pd.DataFrame()
    compute = FLOPS_PER_PARAM_TOKEN * runs["params"] * runs["tokens"] if len(runs) else None
    seen = None if compute is None else (float(compute.min()), float(compute.max()))
    grid = _grid(flops, seen)
    best = [compute_optimal(source.law, source.coefficients, float(c)) for c in grid]
    spans = [_span(source, float(c)) for c in grid]
    known = [each for each in landmarks if each.flops and grid[0] <= each.flops <= grid[-1]]
    with figure(10.0, 4.9) as made:
        left, right = made.subplots(1, 2)
        for axes, name, label in (
            (left, "params", "compute-optimal parameters N*"),
            (right, "tokens", "compute-optimal tokens D*"),
        ):
            ends = [getattr(span, name) for span in spans if span is not None]
            if len(ends) == len(grid):
                axes.fill_between(grid, *np.transpose(ends), color=OWN, alpha=0.2, linewidth=0)
            own = np.array([float(getattr(each, name)) for each in best])
            _own(axes, grid, own, seen, "this fit" if seen else source_name(source))
            _rivals(axes, grid, name, source)
            if compute is not None:
                palette = Palette(runs["params"])
                points(axes, compute, runs[name], runs["params"], palette, zorder=1.5)
            log_axis(axes.xaxis, "training compute C = 6ND, FLOPs", "flops")
            log_axis(axes.yaxis, label, "count")
            axes.set_xlim(grid[0], grid[-1])
            column = "params_active" if name == "params" else "tokens"
            place_landmarks(axes, [(e.name, e.flops, getattr(e, column)) for e in known])
        left.legend(loc="upper left")
        if compute is not None:
            palette.bar(made, [right], "parameters N of the runs")
        set_caption(made, _caption(source, seen is not None, None not in spans, bool(known)))
    return made


def source_name(source: Source) -> str:
    """How a caption or a legend calls the source."""
    return source.name if isinstance(source, Published) else f"fit of {source.law.name}"


def _grid(flops: tuple[float, float] | None, seen: tuple[float, float] | None) -> Array:
    if flops is None:
        if seen is None:
            raise Refusal("flops is not given: a published law has no runs to take a range from.")
        flops = seen[0] / 10**DECADES_BELOW, seen[1] * 10**DECADES_BEYOND
    if not 0 < flops[0] < flops[1] < math.inf:
        raise Refusal(f"flops = {flops} is no range: give two budgets, the smaller one first.")
    grid = np.geomspace(*flops, POINTS)
    # The solid part ends where the runs end.
    inside = [c for c in seen or () if flops[0] < c < flops[1]]
    return np.sort(np.append(grid, inside))


def _span(source: Source, flops: float) -> Interval | None:
    if not isinstance(source, Fit):
        return None
    return interval_of(source, Ask(flops=flops), source.interval.level)[0]


def _own(axes: Axes, grid: Array, own: Array, seen: tuple[float, float] | None, label: str) -> None:
    if seen is None:
        axes.plot(grid, own, color=OWN, linewidth=2.2, label=label)
        return
    axes.axvspan(*seen, color="#f1f1f1", zorder=0, linewidth=0)
    inside = (grid >= seen[0]) & (grid <= seen[1])
    axes.plot(grid, own, color=OWN, linewidth=1.3, linestyle=DASHED)
    axes.plot(grid[inside], own[inside], color=OWN, linewidth=2.2, label=label)


def _caption(source: Source, runs: bool, banded: bool, landmarks: bool) -> str:
    counted = f"N = {convention(source).rstrip('.')}"
    if isinstance(source, Fit) and runs:
        text = (
            f"n = {source.data.n} runs (points); {counted}. This fit of {source.law.name}: solid "
            "within the runs' compute (shaded), dashed outside"
        )
        text += f"; band: {100 * source.interval.level:.0f}% interval." if banded else "."
    else:
        text = f"{source_name(source)}; {counted}."
    text += (
        f" Published laws as printed: Kaplan's N is {KAPLAN_2020.params_convention}, Hoffmann's "
        "counts all parameters; their tokens are subwords."
    )
    return text + (" Diamonds: known models, by active parameters." if landmarks else "")


def _rivals(axes: Axes, grid: Array, name: str, source: Source) -> None:
    hoffmann = published("chinchilla-2022")
    if source is not hoffmann:
        best = [compute_optimal(hoffmann.law, hoffmann.coefficients, float(c)) for c in grid]
        axes.plot(
            grid,
            [float(getattr(each, name)) for each in best],
            color=OTHERS[0],
            linewidth=1.3,
            linestyle=(0, (5, 1.5)),
            label="Hoffmann et al. 2022",
        )
    axes.plot(
        grid,
        getattr(KAPLAN_2020, name)(grid),
        color=OTHERS[1],
        linewidth=1.3,
        linestyle=(0, (5, 1.5, 1, 1.5)),
        label=KAPLAN_2020.name,
    )
