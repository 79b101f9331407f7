"""Which rows are at one point: equal N and D, but for how they were counted or rounded.

Tokens are whole batches, so that runs of one D with batches of 96, 160 and 224 sequences differ in
it by less than a batch; sizes read off a figure repeat to about a millionth.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.runs.vocabulary import is_number

Index = NDArray[np.intp]
SAME_SIZE = 1e-3  # relative
SAME_TOKENS = 1e-2  # relative: a batch of a run of a hundred steps
NEAR = {"params": SAME_SIZE, "tokens": SAME_TOKENS, "unique_tokens": SAME_TOKENS}
_NO_COUNT = -1e4  # where the logarithm of a count is: below those of all numbers


def chained(values: ArrayLike, tolerance: float) -> Index:
    """The number of each value's group: in order, a relative gap over `tolerance` starts one."""
    logs = np.log(np.asarray(values, dtype=float))
    order = np.argsort(logs, kind="stable")
    group = np.empty(len(logs), dtype=np.intp)
    group[order] = np.cumsum(np.diff(logs[order], prepend=logs[order[:1]]) > tolerance)
    return group


def cells(rows: pd.DataFrame, columns: list[str]) -> Index:
    """The number of each row's cell: equal in every column, params and tokens up to `NEAR`.

    Counts that lie closer than that all along, as the steps of a log do, must be equal. Without
    any of the columns every row is its own cell.
    """
    known = [column for column in dict.fromkeys(columns) if column in rows]
    if not known or rows.empty:
        return np.arange(len(rows))
    near = [column for column in NEAR if column in known and is_number(rows[column])]
    exact = [column for column in known if column not in near]
    cell: Index = np.zeros(len(rows), dtype=np.intp)
    if exact:
        number = rows.groupby(exact, dropna=False, sort=False).ngroup()
        cell = np.array(number, dtype=np.intp)
    for column in near:
        cell = _parted(cell, rows[column].to_numpy(dtype=float), NEAR[column])
    return cell


def levelled(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with one N and one D for all of a cell: the middle one of those it has."""
    cell = pd.Series(cells(rows, ["params", "tokens"]), index=rows.index)
    middle = rows.groupby(cell)[["params", "tokens"]].quantile(0.5, interpolation="lower")
    return rows.assign(params=cell.map(middle["params"]), tokens=cell.map(middle["tokens"]))


def _parted(cell: Index, values: NDArray[np.float64], tolerance: float) -> Index:
    """`cell` parted further by values that are not the same within the tolerance."""
    logs = np.full(len(values), _NO_COUNT)
    np.log(values, out=logs, where=np.isfinite(values) & (values > 0))
    order = np.lexsort((logs, cell))
    gap = np.diff(logs[order])
    other = np.diff(cell[order]) != 0
    chain = np.append(0, np.cumsum(other | (gap > tolerance)))
    reach = pd.Series(logs[order]).groupby(chain)
    long = (reach.transform("max") - reach.transform("min") > tolerance).to_numpy()
    starts = other | (gap > np.where(long[1:], 0.0, tolerance))
    found = np.empty(len(values), dtype=np.intp)
    found[order] = np.append(0, np.cumsum(starts))
    return found
