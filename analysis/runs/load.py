"""A file of runs as a table, in bounded time and memory, or a Refusal.

CSV (with commas, semicolons, tabs or bars), JSON lines, JSON, Parquet and spreadsheets. What the
file holds is not trusted: neither its size, nor that it is text, nor that a terminal may print it.
"""

from __future__ import annotations

import csv
import stat
import zipfile
from pathlib import Path

import pandas as pd

from analysis.runs import numbers
from analysis.runs.delimited import load_delimited
from analysis.runs.limits import (
    MAX_BYTES,
    MAX_OBJECT_BYTES,
    listing,
    refuse_heavy,
    refuse_huge,
    shown,
)
from analysis.runs.objects import load_objects, looks_like_json
from scaling.store.records import Refusal

__all__ = ["listing", "load", "shown"]

_KINDS = {
    **dict.fromkeys((".parquet", ".pq"), "Parquet"),
    **dict.fromkeys((".xlsx", ".xlsm"), "a spreadsheet"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "JSON"),
}


def load(path: Path) -> pd.DataFrame:
    """The file as it stands, its rows labelled in order from 0.

    `attrs`: `file`, `first_row` (a row's label and this are its number in the file), `row` (what
    such a number counts: line, row or object) and, where known, `decimal` (the decimal mark).
    Raises Refusal for a file that cannot be read, or is too large.
    """
    kind = _KINDS.get(path.suffix.lower())
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, for ever
            raise Refusal(f"{path} is no file. Give a CSV or Parquet file, or a results folder.")
        refuse_heavy(
            path, found.st_size, MAX_BYTES, "Keep a row a run and the columns a fit needs."
        )
        if kind is None:
            kind = "JSON" if looks_like_json(path) else "CSV"
        table = _LOADERS[kind](path)
    except Refusal:
        raise
    except OSError as error:
        raise Refusal(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, csv.Error,
            MemoryError, RecursionError, zipfile.BadZipFile) as error:  # fmt: skip
        # pandas' and pyarrow's parse errors and UnicodeDecodeError are ValueErrors; what a Parquet
        # file says of its own columns, which pandas follows, may be wrong in any of these ways.
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise Refusal(
            f"{path} cannot be read as {kind}: {shown(reason, 200)}. "
            "Save it as UTF-8 CSV with one header line, or as Parquet."
        ) from error
    if kind in ("JSON", "a spreadsheet"):
        table.attrs["decimal"] = numbers.mark_of(table)
    table.attrs["file"] = str(path)
    return table


def _load_parquet(path: Path) -> pd.DataFrame:
    from pyarrow.parquet import read_metadata

    # Compressed: a file of a few kilobytes can hold a billion rows.
    found = read_metadata(path)
    refuse_huge(path, found.num_rows, found.num_columns)
    table = pd.read_parquet(path)
    table = table.reset_index(drop=not any(table.index.names))  # of a frame whose rows were chosen
    table.attrs = {"first_row": 1, "row": "row"}
    return table


def _load_spreadsheet(path: Path) -> pd.DataFrame:
    with zipfile.ZipFile(path) as parts:
        unpacked = sum(part.file_size for part in parts.infolist())
    refuse_heavy(path, unpacked, MAX_OBJECT_BYTES, "Save its sheet as CSV.")
    try:
        table = pd.read_excel(path)
    except ImportError:
        raise Refusal(
            f"{path} is a spreadsheet, which needs the package openpyxl. Install it (pip install "
            "openpyxl), or save the sheet as CSV."
        ) from None
    refuse_huge(path, *table.shape)
    table.columns = [str(name).strip() for name in table.columns]
    table = table.dropna(how="all")
    table.attrs = {"first_row": 2, "row": "row"}
    return table


_LOADERS = {
    "CSV": load_delimited,
    "JSON": load_objects,
    "Parquet": _load_parquet,
    "a spreadsheet": _load_spreadsheet,
}
