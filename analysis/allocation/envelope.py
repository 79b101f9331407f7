"""Approach 1: the lower envelope of the loss against compute, with a curve for each size.

Hoffmann et al. 2022, section 3.1, take the winning size at each compute and fit N* ∝ C^a through
that staircase. A staircase of k even steps is flatter than the line through it by 1/k² (11% for
three), so here the law goes through the crossings alone: where two sizes have equal loss the best
lies between them, and on an even ladder always at the same share of the way, whatever the
exponents of the law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.allocation.power_law import Allocation, power_law
from analysis.array import Array, mean_by
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.runs.replicates import SAME_SIZE, chained, refuse_pooled
from analysis.runs.table import standardise, usable
from analysis.text import counted
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from scipy.interpolate import PchipInterpolator

CELLS = 600  # of the grid in ln C; within a cell the curves' difference is taken as straight
FEWEST_WINNERS = 3  # two crossings, the least for an exponent


@dataclass(frozen=True)
class Envelope:
    """Curves of loss over ln C (6·N·D), the least of them, and where the winner changes."""

    params: Array  # of each curve, rising
    curves: tuple[PchipInterpolator, ...]
    flops: Array  # the grid
    loss: Array  # least over sizes; NaN where no size reaches
    winners: int  # sizes that are best somewhere
    crossings: pd.DataFrame  # flops, params, tokens, loss: optima between two sizes
    at_edge: int  # other changes of winner, where runs of a size begin or end

    def allocation(self, level: float = 0.9) -> Allocation:
        """N* ∝ C^a and D* ∝ C^b through the crossings.

        The intervals are Student's t on the crossings' scatter (three or more). They are coarse: as
        few crossings as there are winning sizes, less one. Simulated with 0.3% noise, 90% intervals
        held the exponent 84 to 93% of the time for 5 to 16 sizes (98% where the runs of a size
        share it, as off one trunk) and 73 to 82% for 40 sizes, where noise picks the winner.
        Raises Refusal where fewer than three sizes win or cross less than twice.
        """
        if self.winners < FEWEST_WINNERS:
            raise Refusal(
                f"{len(self.params)} sizes with several budgets, {self.winners} best at some "
                "compute.",
                f"An exponent takes {FEWEST_WINNERS}: train more sizes on several budgets.",
            )
        if len(self.crossings) < 2:
            raise Refusal(
                f"{counted(len(self.crossings), 'crossing')}; {counted(self.at_edge, 'change')} of "
                "the best size caused only by where runs begin or end.",
                "An exponent takes two: give the sizes overlapping ranges of compute.",
            )
        flops = self.crossings["flops"]
        return Allocation(
            power_law(flops, self.crossings["params"], level),
            power_law(flops, self.crossings["tokens"], level),
        )


def envelope(table: pd.DataFrame) -> Envelope:
    """Every size's losses at the ends of its decays, joined by PCHIP over ln C, and the least.

    A crossing counts where both sizes and all between them reach: equal losses on both sides hold
    the minimum between them. A size that takes over because another's runs begin or end is at the
    edge of what is known, and is no optimum. Raises Refusal for a table in which fewer than two
    sizes have two budgets, and for one of several variants of a study.
    """
    rows = standardise(usable(table).rows)
    refuse_pooled(rows)
    params, curves = _curves(rows)
    if len(curves) < 2:
        raise Refusal(
            f"{len(curves)} sizes have two or more budgets.", "Train several budgets per size."
        )
    first, last = min(c.x[0] for c in curves), max(c.x[-1] for c in curves)
    grid = np.linspace(first, last, CELLS + 1)
    losses = np.array([curve(grid) for curve in curves])
    reached = np.isfinite(losses)
    filled = np.where(reached, losses, np.inf)
    winner = np.where(reached.any(axis=0), np.argmin(filled, axis=0), -1)
    least = np.where(winner >= 0, filled.min(axis=0), np.nan)
    changes = [
        _crossing(params, grid, losses, int(cell), int(winner[cell]), int(winner[cell + 1]))
        for cell in np.flatnonzero(np.diff(winner))
    ]
    inside = [each for each in changes if each is not None]
    found = pd.DataFrame(inside, columns=["flops", "params", "tokens", "loss"])
    winners = len(np.unique(winner[winner >= 0]))
    return Envelope(params, curves, np.exp(grid), least, winners, found, len(changes) - len(inside))


def _curves(rows: pd.DataFrame) -> tuple[Array, tuple[PchipInterpolator, ...]]:
    """The sizes with two or more budgets, and their losses over ln C, seeds averaged."""
    from scipy.interpolate import PchipInterpolator  # takes 0.25 s to import

    n, loss = rows["params"].to_numpy(), rows["loss"].to_numpy()
    flops = FLOPS_PER_PARAM_TOKEN * n * rows["tokens"].to_numpy()
    size = chained(n, SAME_SIZE)
    params, curves = [], []
    for each in range(int(size.max()) + 1):
        mine = np.flatnonzero(size == each)
        point = chained(flops[mine], SAME_SIZE)
        if point.max() > 0:
            x = np.log(mean_by(point, flops[mine]))
            params.append(float(n[mine].mean()))
            curves.append(PchipInterpolator(x, mean_by(point, loss[mine]), extrapolate=False))
    return np.array(params), tuple(curves)


def _crossing(
    params: Array, grid: Array, losses: Array, cell: int, before: int, after: int
) -> tuple[float, float, float, float] | None:
    """Where the winner changes in a cell of the grid; None at the edge of what is available."""
    if before < 0 or after < 0:
        return None
    seen: NDArray[np.bool_] = np.isfinite(losses[:, cell] + losses[:, cell + 1])
    low, high = min(before, after), max(before, after)
    if not np.all(seen[low : high + 1]):
        return None
    gap = losses[after, cell : cell + 2] - losses[before, cell : cell + 2]
    share = gap[0] / (gap[0] - gap[1])
    flops = float(np.exp(grid[cell] + share * (grid[cell + 1] - grid[cell])))
    n = float(np.sqrt(params[before] * params[after]))
    loss = losses[before, cell] + share * (losses[before, cell + 1] - losses[before, cell])
    return flops, n, flops / (FLOPS_PER_PARAM_TOKEN * n), float(loss)
