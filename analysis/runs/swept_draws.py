"""A sweep drawn again with new noise: what its optima and the cost of other values vary by.

Where three or more seeds trained every value, the seeds are drawn jointly over values and points
(`analysis.runs.seeds`), else every loss by itself with the noise of the sweep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.array import Array
from analysis.runs.seeds import DRAWS, paired_means
from analysis.runs.sweep import Best, Measured, measured
from analysis.runs.sweep_curves import Curves, fit_curves, minima, noise_of


@dataclass(frozen=True)
class Point:
    """One N and D of a sweep, with the curve through its best values, and draws of both."""

    best: Best
    window: Array  # ln(value / best) of the values that the curve goes through; empty at an end
    losses: Array  # at each value tried: the means, then draws of them, (1 + draws, values)
    curves: Curves  # through the windows of all points, an entry of its arrays a row of `losses`
    number: int  # of its curve among these
    bottoms: Array  # ln(optimum / best), (1 + draws,), read in two ways: `sweep_curves.minima`

    @property
    def has_optimum(self) -> bool:
        """Whether the curve has its bottom inside the sweep."""
        if not len(self.window):
            return False
        return bool(self.window[0] < self.bottoms[0] < self.window[-1])

    @property
    def log_optimum(self) -> Array:
        """ln of the optimum, then its draws."""
        return np.asarray(np.log(self.best.value) + self.bottoms)

    @property
    def least(self) -> Array:
        """The least loss of the curve, then its draws."""
        return self.curves.at(self.number, self.curves.bottom[self.number])

    def cost(self, values: ArrayLike) -> Array:
        """What a value costs above the least, then its draws; negative where it lies below the
        optimum. `values` is one, or one for each row of `losses`."""
        x = np.broadcast_to(np.log(np.asarray(values, dtype=float) / self.best.value),
                            len(self.losses))  # fmt: skip
        curve, logs = self.number, self.best.logs
        there = self.curves.at(curve, x)
        # Further off the curve does not hold: there losses lie above it as those tried do.
        above = self.losses - np.stack(
            [self.curves.at(curve, np.full_like(x, each)) for each in logs], axis=1
        )
        right = np.clip(np.searchsorted(logs, x), 1, len(logs) - 1)
        part = (x - logs[right - 1]) / (logs[right] - logs[right - 1])
        row = np.arange(len(x))
        off = (1 - part) * above[row, right - 1] + part * above[row, right]
        there = there + np.where((x < self.window[0]) | (x > self.window[-1]), off, 0.0)
        return np.asarray(
            np.sign(x - self.curves.bottom[curve]) * np.maximum(there - self.least, 0.0)
        )


def points(table: pd.DataFrame, column: str, *, seed: int = 0) -> tuple[Point, ...]:
    """The points of a sweep in the order of N, then D, all drawn jointly.

    Without seeds, and where curves leave no residuals, the noise is not known: there are no draws.
    Raises Refusal as `analysis.runs.sweep.sweep` does.
    """
    read = measured(table, column)
    losses = _losses(read, column, seed)
    near = iter(read.windows)
    windows = [next(near).x if each.edge is None else np.empty(0) for each in read.best]
    of_curve = [
        loss[:, _place(best, x)]
        for best, x, loss in zip(read.best, windows, losses, strict=True)
        if len(x)
    ]
    curves = fit_curves(read.windows, of_curve)
    drawn = minima(read.windows, [loss[1:] for loss in of_curve])
    bottoms = [np.append(curves.bottom[k][0], drawn[k]) for k in range(len(drawn))]
    found, number = [], 0
    for best, x, loss in zip(read.best, windows, losses, strict=True):
        of = bottoms[number] if len(x) else np.empty(0)
        found.append(Point(best, x, loss, curves, number, of))
        number += bool(len(x))
    return tuple(found)


def _losses(read: Measured, column: str, seed: int) -> list[Array]:
    """The mean loss at each value tried and draws of them, (1 + draws, values), by point."""
    means = np.concatenate([each.losses for each in read.best])
    ends = np.cumsum([len(each.losses) for each in read.best])[:-1]
    drawn = paired_means(read.rows, ["params", "tokens", column], seed=seed)
    if drawn is None:
        noise = noise_of(read.rows, column, read.windows, read.curves)
        runs = read.rows.groupby(["params", "tokens", column]).size().to_numpy()
        drawn = np.empty((0, len(means)))
        if noise is not None:
            rng = np.random.default_rng(seed)
            sd = noise.sd * np.sqrt(noise.freedom / rng.chisquare(noise.freedom, (DRAWS, 1)))
            drawn = means + sd / np.sqrt(runs) * rng.standard_normal((DRAWS, len(runs)))
    return np.split(np.concatenate([means[None], drawn]), ends, axis=1)


def _place(best: Best, x: Array) -> slice:
    """The place of a window among the values tried."""
    first = int(np.argmin(np.abs(best.logs - x[0])))
    return slice(first, first + len(x))
