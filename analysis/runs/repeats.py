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
from analysis.runs.vocabulary import is_label, is_plain

REPEATED = "repeats of other rows"  # why they are left out


def first_told(table: pd.DataFrame) -> NDArray[np.intp]:
    """For each row the position of the first that is equal to it in every column but names, ids,
    times and notes: its own where it repeats none."""
    own = np.arange(len(table))
    told = [at for at, column in enumerate(table.columns) if not is_label(str(column))]
    if not told:
        return own
    cells = pd.DataFrame({at: _hashable(table.iloc[:, at]) for at in told})
    twice = np.flatnonzero(cells.duplicated(keep=False))
    if len(twice):
        group = cells.iloc[twice].groupby(told, dropna=False, sort=False).ngroup().to_numpy()
        own[twice] = twice[np.unique(group, return_index=True)[1][group]]
    return own


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
