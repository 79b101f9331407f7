"""A CSV or Parquet file as a table, in bounded time and memory, or a Refusal.

What the file holds is not trusted: neither its size, nor that it is text, nor that a terminal may
print it.
"""

from __future__ import annotations

import csv
import stat
import warnings
from pathlib import Path

import pandas as pd

from scaling.records import Refusal

# A larger file is no run table. At these limits reading takes 2.5 s and .7 GB (measured).
MAX_BYTES = 256 << 20
MAX_CELLS = 20_000_000  # a million rows of twenty columns
MAX_COLUMNS = 10_000  # pandas spends time and memory on each


def load(path: Path) -> pd.DataFrame:
    """The file as it stands. Raises Refusal for one that cannot be read, or is too large."""
    parquet = path.suffix.lower() in (".parquet", ".pq")
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, for ever
            raise Refusal(f"{path} is no file. Give a CSV or Parquet file, or a results folder.")
        if found.st_size > MAX_BYTES:
            raise Refusal(
                f"{path} is {found.st_size / 2**20:.0f} MiB; a run table has at most "
                f"{MAX_BYTES >> 20}. Keep a row a run and the columns a fit needs."
            )
        return _load_parquet(path) if parquet else _load_csv(path)
    except Refusal:
        raise
    except OSError as error:
        raise Refusal(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, csv.Error,
            MemoryError, RecursionError) as error:  # fmt: skip
        # pandas' and pyarrow's parse errors and UnicodeDecodeError are ValueErrors; what a Parquet
        # file says of its own columns, which pandas follows, may be wrong in any of these ways.
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise Refusal(
            f"{path} cannot be read as {'Parquet' if parquet else 'CSV'}: {shown(reason, 200)}. "
            "Save it as UTF-8 CSV with one header line, or as Parquet."
        ) from error


def _load_parquet(path: Path) -> pd.DataFrame:
    from pyarrow.parquet import read_metadata

    # Compressed: a file of a few kilobytes can hold a billion rows.
    found = read_metadata(path)
    _refuse_huge(path, found.num_rows, found.num_columns)
    return pd.read_parquet(path)


def _load_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, skipinitialspace=True), [])
    if not header:
        raise Refusal(f"{path} is empty. Give a CSV with a header line and a row a run.")
    seen: set[str] = set()
    for name in header:
        if name in seen:  # pandas would rename the second one and use the first
            raise Refusal(f"{path} has two columns named {shown(name)!r}. Rename or drop one.")
        seen.add(name)
    other = next(
        (mark for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]), None
    )
    if other is not None:
        raise Refusal(f"{path} has {other!r} between its columns. Save it with commas.")
    _refuse_huge(path, _lines(path), len(header))
    try:
        with warnings.catch_warnings():
            # With an index column pandas would shift rows longer than the header; without one it
            # cuts them, and warns.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                path, encoding="utf-8-sig", low_memory=False, index_col=False, skipinitialspace=True
            )
    except pd.errors.ParserWarning:
        raise Refusal(
            f"{path} has rows of more cells than its header. Name every column, in one header line."
        ) from None


def _lines(path: Path) -> int:
    """Ends of lines of any kind, those inside quotes too."""
    feeds = returns = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            feeds, returns = feeds + block.count(b"\n"), returns + block.count(b"\r")
    return max(feeds, returns)


def _refuse_huge(path: Path, rows: int, columns: int) -> None:
    if columns > MAX_COLUMNS or rows * columns > MAX_CELLS:
        raise Refusal(
            f"{path} has {columns} columns and about {rows} rows; a run table has at most "
            f"{MAX_COLUMNS} columns and {MAX_CELLS} cells. Keep the rows and columns a fit needs."
        )


def shown(text: str, most: int = 40) -> str:
    """Cut short, and without what a terminal would obey."""
    cut = text if len(text) <= most else text[:most] + "…"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)


def listing(columns: pd.Index) -> str:
    names = [shown(str(c)) for c in columns]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
