"""Rows that tell a run a second time.

A table put together from several exports, or a run logged twice, has rows that are equal but for
a name or a time. They are no replicates: another seed gives another loss. Counted twice they would
make intervals narrower than the runs do.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs.rows import rows_called
from analysis.runs.vocabulary import RUNS, SCALES, SETTINGS, is_label, is_number, is_plain, words

REPEATED = "repeats of other rows"  # why they are left out


def first_told(table: pd.DataFrame) -> NDArray[np.intp]:
    """For each row the position of the first that is equal to it in every column but names, ids,
    times and notes: its own where it repeats none."""
    own = np.arange(len(table))
    labels = {at for at, column in enumerate(table.columns) if is_label(str(column))}
    told = [at for at in range(table.shape[1]) if at not in labels]
    told += [at for at in labels if _numbers_seeds(table, at, told)]
    if not told:
        return own
    cells = pd.DataFrame({at: _hashable(table.iloc[:, at]) for at in told})
    twice = np.flatnonzero(cells.duplicated(keep=False))
    if len(twice):
        group = cells.iloc[twice].groupby(told, dropna=False, sort=False).ngroup().to_numpy()
        own[twice] = twice[np.unique(group, return_index=True)[1][group]]
    return own


def _numbers_seeds(table: pd.DataFrame, at: int, told: list[int]) -> bool:
    """Whether a column such as `run` counts 0, 1, 2 among the rows of each setting, N and D."""
    cells = table.iloc[:, at]
    if not words(str(table.columns[at])) <= RUNS | {"id", "index", "number"}:
        return False
    if not is_number(cells) or not (cells.isin(range(len(table) + 1))).all():
        return False
    chosen = [
        of for of in told
        if words(str(table.columns[of])) & (SETTINGS | SCALES) or not is_number(table.iloc[:, of])
    ]  # fmt: skip
    rows = pd.DataFrame({of: _hashable(table.iloc[:, of]) for of in chosen})
    rows["number"] = cells.to_numpy()
    if not chosen or rows.duplicated().any():
        return False
    most = int(rows.groupby(chosen, dropna=False).size().max())
    return most > 1 and int(cells.max() - cells.min()) < most and cells.min() in (0, 1)


def which_repeat(table: pd.DataFrame, first: NDArray[np.intp]) -> str:
    """Which rows repeat which, in a sentence; empty where none does."""
    again = np.flatnonzero(first != np.arange(len(first)))
    if not len(again):
        return ""
    of = rows_called(table, np.unique(first[again]))
    return f"{rows_called(table, again)} repeat{'s' * (len(again) == 1)} {of}: each run counts once"


def _hashable(cells: pd.Series) -> pd.Series:
    cells = cells.reset_index(drop=True)
    return cells if is_plain(cells) else cells.map(repr)
