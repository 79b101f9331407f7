"""How large a file of runs may be."""

from __future__ import annotations

from pathlib import Path

from scaling.store.records import Refusal

# A larger file is no run table. At these limits reading takes 5 s and .8 GB (measured).
MAX_BYTES = 256 << 20
MAX_CELLS = 20_000_000  # a million rows of twenty columns
MAX_ROWS = 5_000_000  # of few columns; each row has a label too
MAX_COLUMNS = 10_000  # pandas spends time and memory on each
# JSON and spreadsheets become Python objects first, which take ten times their text in memory.
MAX_OBJECT_BYTES = 64 << 20


def refuse_huge(path: Path, rows: int, columns: int) -> None:
    """Raises Refusal for more rows and columns than a run table has."""
    if columns > MAX_COLUMNS or rows > MAX_ROWS or rows * columns > MAX_CELLS:
        raise Refusal(
            f"{path} has {columns} columns and about {rows} rows; a run table has at most "
            f"{MAX_COLUMNS} columns, {MAX_ROWS} rows and {MAX_CELLS} cells. Keep the rows and "
            "columns a fit needs."
        )


def refuse_heavy(path: Path, size: int, most: int, remedy: str) -> None:
    """Raises Refusal for a file of more bytes than `most`."""
    if size > most:
        raise Refusal(
            f"{path} has {size / 2**20:.0f} MiB; a run table has at most {most >> 20}. {remedy}"
        )
