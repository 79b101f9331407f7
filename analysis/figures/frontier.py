"""N* and D* against compute: a fit's own law with its band, beside the published ones."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answer import interval_of, law_for
from analysis.expression import Array
from analysis.figures.fitted import rows_of
from analysis.figures.style import (
    DASHED,
    OTHERS,
    OWN,
    Palette,
    figure,
    log_axis,
    points,
    set_caption,
)
from analysis.fit import Fit
from analysis.frontiers import KAPLAN_2020
from analysis.optimum import FLOPS_PER_PARAM_TOKEN, compute_optimal
from analysis.published import published
from analysis.solve import Ask

DECADES_BELOW = 0.5
DECADES_BEYOND = 2.0  # as far as the warnings of `recommend` stay short of "far"
POINTS = 40


def frontier(fit: Fit) -> Figure:
    """Compute-optimal N* and D* against C = 6ND, with bands from the fit's draws.

    Solid inside the compute of the runs (shaded; the runs as points), dashed outside; beside
    them Kaplan et al. 2020's and Hoffmann et al. 2022's published laws. Raises Refusal as
    `recommend` does.
    """
    law_for(fit, Ask(flops=1.0))  # refuses a failed fit
    table = rows_of(fit)
    sizes, tokens = (table[name].to_numpy(dtype=np.float64) for name in ("params", "tokens"))
    flops = FLOPS_PER_PARAM_TOKEN * sizes * tokens
    low, high = float(flops.min()), float(flops.max())
    grid = np.geomspace(low / 10**DECADES_BELOW, high * 10**DECADES_BEYOND, POINTS)
    grid = np.sort(np.append(grid, [low, high]))  # the solid part ends where the runs end
    best = [compute_optimal(fit.law, fit.coefficients, float(c)) for c in grid]
    spans = [interval_of(fit, Ask(flops=float(c)), fit.interval.level)[0] for c in grid]
    palette = Palette(sizes)
    with figure(10.0, 4.9) as made:
        left, right = made.subplots(1, 2)
        for axes, name, label in (
            (left, "params", "compute-optimal parameters N*"),
            (right, "tokens", "compute-optimal tokens D*"),
        ):
            axes.axvspan(low, high, color="#f1f1f1", zorder=0, linewidth=0)
            ends = [getattr(span, name) for span in spans if span is not None]
            if len(ends) == len(grid):
                axes.fill_between(grid, *np.transpose(ends), color=OWN, alpha=0.2, linewidth=0)
            own = np.array([float(getattr(each, name)) for each in best])
            inside = (grid >= low) & (grid <= high)
            axes.plot(grid, own, color=OWN, linewidth=1.3, linestyle=DASHED)
            axes.plot(grid[inside], own[inside], color=OWN, linewidth=2.2, label="this fit")
            _rivals(axes, grid, name)
            points(axes, flops, table[name], sizes, palette, zorder=1.5)
            log_axis(axes.xaxis, "training compute C = 6ND, FLOPs", "flops")
            log_axis(axes.yaxis, label, "count")
            axes.set_xlim(grid[0], grid[-1])
        left.legend(loc="upper left")
        palette.bar(made, [right], "parameters N of the runs")
        banded = all(span is not None for span in spans)
        set_caption(
            made,
            f"n = {fit.data.n} runs (points); N = {fit.data.params_column}. This fit of "
            f"{fit.law.name}: solid within the runs' compute (shaded), dashed outside"
            + (f"; band: {100 * fit.interval.level:.0f}% interval." if banded else ".")
            + f" Published laws as printed: Kaplan's N is {KAPLAN_2020.params_convention}, "
            "Hoffmann's counts all parameters; their tokens are subwords.",
        )
    return made


def _rivals(axes: Axes, grid: Array, name: str) -> None:
    hoffmann = published("chinchilla-2022")
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
