"""Read CSV: one header line, then one row per line, with any of four delimiters.

A row's label is the number of its line (less `FIRST_LINE`), so that a refusal of a cell can name
the line that an editor shows, also after blank lines and cells of several lines.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.runs.files.limits import refuse_huge
from analysis.runs.messages import shown
from scaling.store.records import Refusal

DELIMITERS = (",", ";", "\t", "|")
FIRST_LINE = 2  # of the rows: the header is line 1


def load_delimited(path: Path, dtype: type | None = None) -> pd.DataFrame:
    """The rows of the file, labelled by line; of `dtype`, else text where any cell is in words.

    Raises Refusal for a file that is empty or too large, for two columns of one name, and for rows
    of more cells than the header.
    """
    header, delimiter = _header(path)
    names = pd.Index(header)
    for name in names[names.duplicated()]:  # pandas would rename the second one and use the first
        raise Refusal(f"{path} has two columns named '{shown(name)}'. Rename or drop one.")
    lines = _lines(path)
    refuse_huge(path, lines, len(header))
    table = _parsed(path, delimiter, lines, dtype=dtype)
    table = table.dropna(how="all")  # as spreadsheets leave at the end
    table.attrs = {"delimiter": delimiter, "first_row": FIRST_LINE, "row": "line"}
    return table


def as_written(path: Path, column: str, labels: Iterable[int]) -> list[str]:
    """Cells of a column as text, as they are in the file: `load_delimited` has NaN for some."""
    header, delimiter = _header(path)
    text = _parsed(
        path, delimiter, _lines(path), dtype=str, keep_default_na=False, na_values=[],
        usecols=[header.index(column)],
    )  # fmt: skip
    return [str(text.iloc[:, 0].get(label, "")) for label in labels]


class _Header(NamedTuple):
    names: list[str]
    delimiter: str  # between them


def _header(path: Path) -> _Header:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next((line for line in file if line.strip()), "")
        # A name in quotes may continue on the next lines.
        rest = [first, *(islice(file, 99) if first.count('"') % 2 else ())]
    if not first:
        raise Refusal(f"{path} is empty. Give a CSV with a header line and one row per run.")
    split = {mark: _split(rest, mark) for mark in DELIMITERS if mark in first}
    delimiter = max(split, key=lambda mark: len(split[mark]), default=",")
    # Of one column there is no delimiter; a field that is too large raises csv.Error here.
    names = split.get(delimiter) or next(csv.reader(rest))
    return _Header([name.strip() for name in names], delimiter)


def _split(lines: list[str], delimiter: str) -> list[str]:
    try:
        return next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:  # with another mark than the delimiter a field can be too large
        return []


def _parsed(path: Path, delimiter: str, lines: int, **how: Any) -> pd.DataFrame:
    """The rows, labelled by line, of a file with so many lines."""
    try:
        with warnings.catch_warnings():
            # With an index column pandas would shift rows that are longer than the header; without
            # one it cuts them and warns.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path, sep=delimiter, encoding="utf-8-sig", low_memory=False,
                index_col=False, skipinitialspace=True, compression=None, **how,
            )  # fmt: skip
    except (pd.errors.ParserWarning, pd.errors.ParserError) as error:
        first = _header(path).names[0]
        if first.startswith(("#", "sep=")):
            raise Refusal(
                f"{path} begins with {shown(first)!r}, not with its header. Remove such lines: the "
                "first one names the columns."
            ) from None
        if isinstance(error, pd.errors.ParserError):
            raise
        raise Refusal(
            f"{path} has rows of more cells than its header. Name every column in one header line, "
            "and put numbers that contain commas in quotes."
        ) from None
    table.columns = table.columns.str.strip()
    if lines != len(table) + 1:
        _number_lines(path, delimiter, table)
    return table


def _number_lines(path: Path, delimiter: str, table: pd.DataFrame) -> None:
    """Label the rows by the line where each starts; not at all if csv finds another number of
    rows than pandas did."""
    starts, last = [], 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            for cells in reader:
                if len(cells) > 1 or any(cell.strip() for cell in cells):
                    starts.append(last + 1)
                last = reader.line_num
    except csv.Error:
        return
    if len(starts) == len(table) + 1:
        table.index = pd.Index(starts[1:]) - FIRST_LINE


def _lines(path: Path) -> int:
    """The number of lines, with line ends of any kind, those inside quotes included."""
    feeds = returns = 0
    last = b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            feeds, returns = feeds + block.count(b"\n"), returns + block.count(b"\r")
            last = block[-1:]
    return max(feeds, returns) + (last not in (b"\n", b"\r"))
