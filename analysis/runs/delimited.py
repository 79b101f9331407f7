"""Text with one line of names and a row a line: CSV, whatever stands between its columns.

A row keeps the number of its line as its label (less `FIRST_LINE`), so that whoever refuses a cell
names the line that an editor shows: past blank lines, and cells of several lines.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.runs import numbers
from analysis.runs.limits import refuse_huge, shown
from scaling.store.records import Refusal

DELIMITERS = (",", ";", "\t", "|")
FIRST_LINE = 2  # of the rows: the names stand above


def load_delimited(path: Path) -> pd.DataFrame:
    """The rows of the file, labelled by line; columns without cells in words stay text.

    `attrs["decimal"]` is the decimal mark, where a column of the file tells it. Raises Refusal for
    one without names, with a name twice, of rows longer than the names, or too large.
    """
    header, delimiter = _header(path)
    seen: set[str] = set()
    for name in header:
        if name in seen:  # pandas would rename the second one and use the first
            raise Refusal(f"{path} has two columns named {shown(name)!r}. Rename or drop one.")
        seen.add(name)
    lines = _lines(path)
    refuse_huge(path, lines, len(header))
    table = _parsed(path, delimiter)
    mark = _mark(table, delimiter)
    if mark == ",":  # 1.500 was taken for a number of the other convention
        table = _parsed(path, delimiter, dtype=str)
    if lines != len(table) + 1:
        _number_lines(path, delimiter, table)
    table = table.dropna(how="all")  # as spreadsheets leave at the end
    table.attrs = {
        "decimal": mark, "delimiter": delimiter, "first_row": FIRST_LINE, "row": "line",
    }  # fmt: skip
    return table


def as_written(path: Path, column: str, labels: Iterable[int]) -> list[str]:
    """Cells of a column as the file has them, where a table has an unknown number alone."""
    header, delimiter = _header(path)
    text = _parsed(
        path, delimiter, dtype=str, keep_default_na=False, na_values=[],
        usecols=[header.index(column)],
    )  # fmt: skip
    if len(text) + 1 != _lines(path):
        _number_lines(path, delimiter, text)
    return [str(text.iloc[:, 0].get(label, "")) for label in labels]


class _Header(NamedTuple):
    names: list[str]
    delimiter: str  # what stands between them


def _header(path: Path) -> _Header:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next((line for line in file if line.strip()), "")
        # A name in quotes may go on in the next lines.
        rest = [first, *(islice(file, 99) if first.count('"') % 2 else ())]
    if not first:
        raise Refusal(f"{path} is empty. Give a CSV with a header line and a row a run.")
    split = {mark: _split(rest, mark) for mark in DELIMITERS if mark in first}
    delimiter = max(split, key=lambda mark: len(split[mark]), default=",")
    names = split.get(delimiter) or next(csv.reader(rest))  # of one column, or a field too large
    return _Header([name.strip() for name in names], delimiter)


def _split(lines: list[str], delimiter: str) -> list[str]:
    try:
        return next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:  # a field of everything, with what is not the delimiter
        return []


def _parsed(path: Path, delimiter: str, **how: Any) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            # With an index column pandas would shift rows longer than the header; without one it
            # cuts them, and warns.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path, sep=delimiter, encoding="utf-8-sig", low_memory=False,
                index_col=False, skipinitialspace=True, **how,
            )  # fmt: skip
    except pd.errors.ParserWarning:
        raise Refusal(
            f"{path} has rows of more cells than its header. Name every column, in one header "
            "line; put a number with a comma between quotes."
        ) from None
    table.columns = table.columns.str.strip()
    return table


def _mark(table: pd.DataFrame, delimiter: str) -> numbers.Mark | None:
    mark = numbers.mark_of(table)
    if mark is not None or delimiter != ";":
        return mark
    # Where the comma is the decimal mark, spreadsheets write a semicolon between columns.
    floats = table.select_dtypes("float")
    fractions = bool((floats % 1 > 0).to_numpy().any())
    return "," if not fractions and numbers.ambiguous(table) else None


def _number_lines(path: Path, delimiter: str, table: pd.DataFrame) -> None:
    """Label the rows by the line each starts at; of a file that csv reads otherwise, not at all."""
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
    """Lines with ends of any kind, those inside quotes too."""
    feeds = returns = 0
    last = b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            feeds, returns = feeds + block.count(b"\n"), returns + block.count(b"\r")
            last = block[-1:]
    return max(feeds, returns) + (last not in (b"\n", b"\r"))
