"""Whether the best value of a setting carries over as models grow: µP says that its rate does.

The optimum at each size is the bottom of a curve through the losses of a sweep. Two readings: the
slope of the logarithm of the optimum against that of the size, 0 where it carries over; and what
the optimum of the smallest costs at the largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.interval import Interval, central
from analysis.runs.messages import name_of
from analysis.runs.regret import Regret, regret_at
from analysis.runs.swept_draws import points
from scaling.store.records import Refusal

FEWEST = 3  # sizes with an optimum, for a slope


@dataclass(frozen=True)
class Transfer:
    """How the best value of `column` moves along a size."""

    column: str
    along: str
    sizes: tuple[float, ...]  # rising
    optima: tuple[float | None, ...]  # of each; null where it is an end of the sweep or beyond
    slope: float | None  # d ln optimum / d ln size; null with fewer than FEWEST optima
    interval: Interval | None  # of the slope; null where the noise is not known
    regret: Regret | None  # of the smallest's optimum at the largest; null where it has none
    level: float


def transfer(
    table: pd.DataFrame,
    column: str = "learning_rate",
    *,
    along: str = "d_model",
    level: float = 0.9,
    seed: int = 0,
) -> Transfer:
    """How the best of `column` moves along the sizes of a run table, at one number of tokens.

    Intervals are of the noise of runs, drawn as `analysis.runs.swept_draws` says: those of slope
    and regret hold the errors of every optimum that they are made of. Raises Refusal as
    `analysis.runs.sweep.sweep` does, and for a table without the size, with several numbers of
    tokens, or with shapes of one size that differ in N.
    """
    if along not in table:
        raise Refusal(f"{name_of(table)} has no column {along}. Name the one that holds the size.")
    found = points(table, column, seed=seed)
    best = [each.best for each in found]
    if len({each.tokens for each in best}) > 1:
        raise Refusal(
            f"{name_of(table)} has several numbers of tokens, and a best {column} may follow them. "
            f"Select one: --where 'tokens=={best[0].tokens:g}'."
        )
    sizes = np.array([_size(table, each.params, along) for each in best])
    if (np.diff(sizes) <= 0).any():
        raise Refusal(f"{along} does not rise with params in {name_of(table)}. Name another size.")
    has = np.array([each.has_optimum for each in found])
    optima = [float(np.exp(each.log_optimum[0])) if each.has_optimum else None for each in found]
    slope = interval = regret = None
    if has.sum() >= FEWEST:
        logs = np.stack([each.log_optimum for each in found if each.has_optimum], axis=1)
        slopes = _slopes(np.log(sizes[has]), logs)
        slope = float(slopes[0])
        interval = central(slopes[1:], level) if len(slopes) > 1 else None
    if has[0]:
        carried = np.exp(found[0].log_optimum)
        regret = regret_at(found[-1], float(carried[0]), carried[1:], level=level)
    return Transfer(
        column, along, tuple(sizes.tolist()), tuple(optima), slope, interval, regret, level
    )


def transfers(
    table: pd.DataFrame,
    by: str,
    column: str = "learning_rate",
    *,
    along: str = "d_model",
    level: float = 0.9,
    seed: int = 0,
) -> Mapping[str, Transfer]:
    """`transfer` of the rows with each value of `by`, such as `parametrization`."""
    if by not in table:
        raise Refusal(f"{name_of(table)} has no column {by}. Name the one that tells them apart.")
    return {
        str(name): transfer(rows, column, along=along, level=level, seed=seed)
        for name, rows in table.groupby(by)
    }


def _size(table: pd.DataFrame, params: float, along: str) -> float:
    """The size of the rows nearest in N: levelled counts may differ in the last digits."""
    sizes = table["params"].to_numpy(dtype=float)
    return float(table[along].to_numpy(dtype=float)[np.abs(sizes - params).argmin()])


def _slopes(x: Array, y: Array) -> Array:
    """Least squares slopes of each row of y."""
    centred = x - x.mean()
    return np.asarray(y @ centred / (centred @ centred))
