"""Arrays with a row a document: in memory, or in a file where there are very many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.store.paths import cache_refused

MANY = 1 << 22  # rows in memory


class Column:
    """An array that grows at its end; beyond MANY rows it is a file, mapped into memory."""

    def __init__(self, dtype: Any, place: Callable[[], Path]) -> None:
        """`place` says where its file may be written, and is asked only if one is needed."""
        self.dtype, self.place = np.dtype(dtype), place
        self.rows = 0
        self.held: list[np.ndarray] = []  # what is in memory
        self.path: Path | None = None

    def add(self, rows: np.ndarray) -> None:
        self.held.append(rows.astype(self.dtype, copy=False))
        self.rows += len(rows)
        if self.path is not None or self.rows > MANY:
            self.file()

    @property
    def array(self) -> np.ndarray:
        """All rows; what is written there, stays in its file."""
        if self.path is not None:
            return np.memmap(self.path, self.dtype, mode="r+") if self.rows else self._empty()
        if len(self.held) != 1:
            self.held = [np.concatenate(self.held) if self.held else self._empty()]
        return self.held[0]

    def file(self) -> Path:
        """The file of its rows, which is made now if there is none."""
        fresh = self.path is None
        self.path = self.path or self.place()
        try:
            with self.path.open("wb" if fresh else "ab") as file:
                for rows in self.held:
                    rows.tofile(file)
        except OSError as error:  # a full disk, of which numpy names no file
            raise cache_refused(self.path, error) from error
        self.held = []
        return self.path

    def _empty(self) -> np.ndarray:
        return np.empty(0, self.dtype)


@dataclass(frozen=True)
class Rows:
    """Some rows of a column, one after another."""

    column: Column
    first: int
    last: int  # the first that is not among them

    @property
    def array(self) -> np.ndarray:
        return self.column.array[self.first : self.last]

    def plain(self) -> dict[str, Any]:
        """Where another process finds them."""
        return {"file": str(self.column.file()), "first": self.first, "last": self.last}


def rows_at(dtype: Any, plain: Mapping[str, Any]) -> np.ndarray:
    """The rows that another process has in a file."""
    dtype = np.dtype(dtype)
    return np.fromfile(
        plain["file"],
        dtype,
        count=plain["last"] - plain["first"],
        offset=plain["first"] * dtype.itemsize,
    )


def all_rows(array: np.ndarray) -> Rows:
    """An array as the rows of a column that needs no file."""
    column = Column(array.dtype, Path)
    column.rows, column.held = len(array), [array]
    return Rows(column, 0, len(array))
