"""Read a file of runs as a table, in bounded time and memory, or refuse it.

CSV (with commas, semicolons, tabs or bars), JSON lines, JSON, Parquet and spreadsheets. Nothing
about a file is trusted: not its size, not its encoding, not that a terminal can print its cells.
"""

from __future__ import annotations

import csv
import hashlib
import stat
import zipfile
from pathlib import Path

import pandas as pd

from analysis.runs.columns import numbers
from analysis.runs.files.csv import load_delimited
from analysis.runs.files.json import load_objects, looks_like_json
from analysis.runs.files.limits import MAX_BYTES, MAX_OBJECT_BYTES, refuse_heavy, refuse_huge
from analysis.runs.files.parquet import load_parquet
from analysis.runs.messages import shown
from scaling.remedies import cannot_read
from scaling.store.records import Refusal

_KINDS = {
    **dict.fromkeys((".parquet", ".pq"), "Parquet"),
    **dict.fromkeys((".xlsx", ".xlsm"), "a spreadsheet"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "JSON"),
}


def load(path: Path) -> pd.DataFrame:
    """The table of a file as it is written, with integer labels in the order of the rows.

    `attrs`: `file`; `sha256`, its digest; `first_row`, which added to a row's label is its number
    in the file; `row`, what such a number counts (line, row or object); and, where the file shows
    it, `decimal`, the decimal mark. Raises Refusal for a file that cannot be read or is too large.
    """
    kind = _KINDS.get(path.suffix.lower())
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe might never end
            raise Refusal(
                f"{path} is not a regular file. Give a CSV or Parquet file, or a results folder."
            )
        keep = "Keep one row per run and the columns that a fit needs."
        refuse_heavy(path, found.st_size, MAX_BYTES, keep)
        if kind is None:
            kind = "JSON" if looks_like_json(path) else "CSV"
        digest = digest_of(path)  # first: of a file that changes meanwhile, neither is believed
        table = _LOADERS[kind](path)
        mark = None if kind == "Parquet" else numbers.mark_of(table)
        if kind == "CSV" and mark == ",":  # 1.500 was read as one and a half
            table = load_delimited(path, dtype=str)
    except Refusal:
        raise
    except OSError as error:
        raise Refusal(cannot_read(path, error)) from error
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, csv.Error,
            MemoryError, RecursionError, zipfile.BadZipFile) as error:  # fmt: skip
        # pandas' and pyarrow's parse errors and UnicodeDecodeError are ValueErrors; pandas follows
        # what a Parquet file says of its own columns, which may be wrong in any of these ways.
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise Refusal(
            f"{path} cannot be read as {kind}: {shown(reason, 200)}. "
            "Save it as UTF-8 CSV with one header line, or as Parquet."
        ) from error
    table.attrs |= {"decimal": mark, "file": str(path), "sha256": digest}
    return table


def digest_of(path: Path) -> str:
    """SHA-256 of a file. Raises Refusal where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refusal(cannot_read(path, error)) from error


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
    "Parquet": load_parquet,
    "a spreadsheet": _load_spreadsheet,
}
