"""How rows of a run table are called in what a user reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MOST = 6  # rows that a sentence lists


def row_called(table: pd.DataFrame, at: int) -> str:
    """The row at a position as its file numbers it: `line 42`; `row 5`, the first being 1, of a
    table without a file."""
    return rows_called(table, [at])


def rows_called(table: pd.DataFrame, at: Sequence[int] | NDArray[np.intp]) -> str:
    """Rows by their numbers: `lines 5, 17 and 33`, `rows 1, 2, 3, 4, 5, 6 and 9 more`."""
    first = int(table.attrs.get("first_row", 1))
    labels = table.index[list(at)] if table.index.is_unique else pd.Index(list(at))
    numbers = [_number(label, first) for label in labels]
    if len(numbers) > MOST + 1:
        numbers = [*numbers[:MOST], f"{len(numbers) - MOST} more"]
    return f"{table.attrs.get('row', 'row')}{'s' * (len(at) > 1)} {listed(numbers)}"


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _number(label: object, first: int) -> str:
    return str(int(label) + first) if isinstance(label, int | np.integer) else str(label)
