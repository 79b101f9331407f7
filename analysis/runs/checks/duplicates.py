"""Duplicate rows: the same run a second time.

A table made of several exports, or a run that was logged twice, has rows that are equal but for a
name or a time. They are no replicates, since another seed gives another loss, and counting them
twice would make intervals too narrow.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.array import Index
from analysis.runs.columns.kinds import RUNS, SCALES, SETTINGS, is_label, is_number, is_plain
from analysis.runs.columns.units import words
from analysis.runs.messages import rows_called

REPEATED = "repeats of other rows"  # why they are left out


def first_equal(table: pd.DataFrame) -> Index:
    """For each row the position of the first row that is equal to it in every column but names,
    ids, times and notes: its own position where it is no duplicate."""
    own = np.arange(len(table))
    labels = {at for at, column in enumerate(table.columns) if is_label(str(column))}
    compared = [at for at in range(table.shape[1]) if at not in labels]
    compared += [at for at in labels if _numbers_seeds(table, at, compared)]
    if not compared:
        return own
    cells = pd.DataFrame({at: _hashable(table.iloc[:, at]) for at in compared})
    twice = np.flatnonzero(cells.duplicated(keep=False))
    if len(twice):
        group = cells.iloc[twice].groupby(compared, dropna=False, sort=False).ngroup().to_numpy()
        own[twice] = twice[np.unique(group, return_index=True)[1][group]]
    return own


def _numbers_seeds(table: pd.DataFrame, at: int, others: list[int]) -> bool:
    """Whether a column such as `run` counts 0, 1, 2 among the rows of each setting, N and D."""
    cells = table.iloc[:, at]
    if not words(str(table.columns[at])) <= RUNS | {"id", "index", "number"}:
        return False
    if not is_number(cells) or not (cells.isin(range(len(table) + 1))).all():
        return False
    chosen = [
        of for of in others
        if words(str(table.columns[of])) & (SETTINGS | SCALES) or not is_number(table.iloc[:, of])
    ]  # fmt: skip
    rows = pd.DataFrame({of: _hashable(table.iloc[:, of]) for of in chosen})
    rows["number"] = cells.to_numpy()
    if not chosen or rows.duplicated().any():
        return False
    most = int(rows.groupby(chosen, dropna=False).size().max())
    return most > 1 and int(cells.max() - cells.min()) < most and cells.min() in (0, 1)


def duplicates_named(table: pd.DataFrame, first: Index) -> str:
    """Which rows are duplicates of which, in a sentence; "" where none is."""
    again = np.flatnonzero(first != np.arange(len(first)))
    if not len(again):
        return ""
    of = rows_called(table, np.unique(first[again]))
    return f"{rows_called(table, again)} repeat{'s' * (len(again) == 1)} {of}: each run counts once"


def _hashable(cells: pd.Series) -> pd.Series:
    cells = cells.reset_index(drop=True)
    return cells if is_plain(cells) else cells.map(repr)
