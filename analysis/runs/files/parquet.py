"""Read Parquet, whose bytes may stand for a million times as many: these are counted first.

The footer says how many cells there are and how large they are stored. A text that many cells share
is stored once, so columns of text are looked at as they are stored, before pandas repeats it.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import pandas as pd

from analysis.runs.files.limits import MAX_BYTES, MAX_CELLS, refuse_heavy, refuse_huge
from scaling.store.records import Refusal, check_table

KEEP = "Keep one row per run and the columns that a fit needs."


def load_parquet(path: Path) -> pd.DataFrame:
    """The rows of the file. Raises Refusal for one that holds more than a run table does."""
    # Opened here, since pyarrow takes no name that is not UTF-8.
    with path.open("rb") as file:
        try:
            check_table(file.read())
        except ValueError as error:
            raise Refusal(
                f"{path} is not as this program wrote it: {error}. Give `scaling run` the study "
                "again, which makes it anew; if it is a copy, copy it again."
            ) from error
        file.seek(0)
        _refuse_unfolded(path, file)
        table = pd.read_parquet(file)
    # The index may be that of a frame from which rows were selected.
    table = table.reset_index(drop=not any(table.index.names))
    table.attrs = {"first_row": 1, "row": "row"}
    return table


def _refuse_unfolded(path: Path, file: IO[bytes]) -> None:
    from pyarrow.parquet import ParquetFile

    found = ParquetFile(file).metadata
    refuse_huge(path, found.num_rows, found.num_columns)
    groups = [found.row_group(number) for number in range(found.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    # Lists hold many values a row.
    values = sum(chunk.num_values for chunk in chunks)
    if values > MAX_CELLS:
        refuse_huge(path, -(-values // found.num_columns), found.num_columns)
    stored = sum(chunk.total_uncompressed_size for chunk in chunks)
    refuse_heavy(path, stored, MAX_BYTES, KEEP)
    shared = {
        chunk.path_in_schema
        for chunk in chunks
        if chunk.physical_type == "BYTE_ARRAY"
        and chunk.num_values * chunk.total_uncompressed_size > MAX_BYTES
    }
    if shared:
        refuse_heavy(path, sum(_unfolded(file, each) for each in sorted(shared)), MAX_BYTES, KEEP)


def _unfolded(file: IO[bytes], column: str) -> int:
    """The bytes of all texts of a column, each as often as it is there."""
    import pyarrow.compute as pc
    from pyarrow.parquet import ParquetFile

    total = 0
    for batch in ParquetFile(file, read_dictionary=[column]).iter_batches(columns=[column]):
        cells: Any = batch.column(0)
        while not hasattr(cells, "dictionary"):
            if not hasattr(cells, "flatten") or isinstance(flat := cells.flatten(), list):
                return total + batch.nbytes  # of structs, which share nothing
            cells = flat
        sizes = pc.binary_length(cells.dictionary)
        total += pc.sum(sizes.take(cells.indices.drop_null())).as_py() or 0
    return total
