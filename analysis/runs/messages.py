"""How files, columns, rows and cells are named in the messages that a user reads.

Names come from files that nobody has checked: they are cut short, and a terminal can print them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.array import Index
from analysis.text import printable

MOST_ROWS = 6  # rows that a sentence lists


def shown(text: str, most: int = 40) -> str:
    """The first `most` characters, printable."""
    return printable(text if len(text) <= most else text[:most] + "…")


def listing(columns: pd.Index | Sequence[object], most: int = 12) -> str:
    """The first dozen names, and how many more there are."""
    names = [shown(str(column)) for column in columns[:most]]
    return ", ".join(names) + (f" and {len(columns) - most} more" if len(columns) > most else "")


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def name_of(table: pd.DataFrame) -> str:
    """The file that a table was read from."""
    return shown(str(table.attrs.get("file", "the table")), 400)


def row_called(table: pd.DataFrame, at: int) -> str:
    """The row at a position, as its file numbers it: `line 42`; `row 5` of a table without a file,
    whose first row is row 1."""
    return rows_called(table, [at])


def rows_called(table: pd.DataFrame, at: Sequence[int] | Index) -> str:
    """Rows at positions: `lines 5, 17 and 33`, `rows 1, 2, 3, 4, 5, 6 and 9 more`."""
    first = int(table.attrs.get("first_row", 1))
    labels = table.index[list(at)] if table.index.is_unique else pd.Index(list(at))
    numbers = [str(row_number(label, first)) for label in labels]
    if len(numbers) > MOST_ROWS + 1:
        numbers = [*numbers[:MOST_ROWS], f"{len(numbers) - MOST_ROWS} more"]
    return f"{table.attrs.get('row', 'row')}{'s' * (len(at) > 1)} {listed(numbers)}"


def row_number(label: object, first: int = 1) -> int | str:
    """The number of a row in its file from its label; `first` is that of the row labelled 0."""
    return int(label) + first if isinstance(label, int | np.integer) else str(label)


def plain(value: float) -> str:
    """All digits of a number: 2e9, 1234, 1.234."""
    text = f"{value:.15g}"
    if len(text) > 6:
        exponent = np.format_float_scientific(value, trim="-", exp_digits=1).replace("e+", "e")
        text = exponent if len(exponent) < len(text) else text
    return text
