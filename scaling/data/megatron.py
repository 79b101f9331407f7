"""Megatron's index of a token file: where each sequence lies and which of them make a document.

    "MMIDIDX" and two NULs | version 1 | code of the type | sequences | entries of documents |
    int32 lengths | int64 pointers (bytes) | int64 first sequence of each document, and one more

The layout is that of megatron/core/datasets/indexed_dataset.py. Everything in it follows from the
lengths and the documents; an index that says anything else is refused.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.remedies import cannot_read
from scaling.store.records import Refusal

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
# Codes of types. Megatron writes vocabularies beyond 65,500 as int32; as uint32 they are the same
# tokens, and a negative one is beyond every vocabulary.
DTYPES = {4: "uint32", 8: "uint16"}
BLOCK = 1 << 20  # numbers looked at at once


@dataclass(frozen=True)
class IndexHeader:
    """What an index says it holds, by its size and its last sequence."""

    dtype: str
    sequences: int
    documents: int
    tokens: int


def read_header(path: Path) -> IndexHeader:
    """What an index says it holds. Raises Refusal for one that is none, or is cut short."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begins = file.read(HEADER.size)
            if len(begins) < HEADER.size or not begins.startswith(MAGIC):
                raise _refusal(path, "does not begin as an index of Megatron does")
            _, version, code, sequences, entries = HEADER.unpack(begins)
            if version != 1:
                raise _refusal(path, f"is of version {version}, and version 1 is known")
            if code not in DTYPES:
                raise _refusal(
                    path, f"has tokens of type {code}; 8 (uint16) and 4 (int32) are read"
                )
            needed = HEADER.size + 12 * sequences + 8 * entries
            # After these, data sets of several kinds have a byte for each sequence.
            if size not in (needed, needed + sequences):
                raise _refusal(
                    path,
                    f"has {size} bytes, and {sequences} sequences with {entries} entries of "
                    f"documents take {needed}",
                )
            if sequences < 1 or entries < 2:
                raise _refusal(path, f"has {sequences} sequences in {entries - 1} documents")
            file.seek(HEADER.size + 4 * (sequences - 1))
            (length,) = struct.unpack("<i", file.read(4))
            file.seek(HEADER.size + 12 * sequences - 8)
            (pointer,) = struct.unpack("<q", file.read(8))
    except OSError as error:
        raise Refusal(f"[data] source: {cannot_read(path, error)}") from error
    width = np.dtype(DTYPES[code]).itemsize
    if pointer < 0 or pointer % width or length < 0:
        raise _refusal(path, f"has a last sequence of {length} tokens from byte {pointer} on")
    return IndexHeader(DTYPES[code], sequences, entries - 1, pointer // width + length)


class Index:
    """The documents of an index, memory-mapped."""

    def __init__(self, path: Path) -> None:
        """Raises Refusal as `read_header`."""
        self.path, self.header = path, read_header(path)
        n = self.header.sequences
        self._width = np.dtype(self.header.dtype).itemsize
        self._lengths = self._mapped("<i4", HEADER.size, n)
        self._pointers = self._mapped("<i8", HEADER.size + 4 * n, n)
        self._documents = self._mapped("<i8", HEADER.size + 12 * n, self.header.documents + 1)

    def _mapped(self, dtype: str, offset: int, count: int) -> np.ndarray:
        return np.memmap(self.path, dtype, "r", offset, (count,)).view(np.ndarray)

    def check(self) -> None:
        """Raise Refusal unless its sequences fill the file one after another, as do documents."""
        expected = 0
        for low in range(0, len(self._lengths), BLOCK):
            lengths = self._lengths[low : low + BLOCK].astype(np.int64)
            if (lengths < 0).any():
                at = low + int(np.argmax(lengths < 0))
                raise _refusal(self.path, f"has {self._lengths[at]} tokens in sequence {at}")
            ends = expected + np.cumsum(lengths) * self._width
            wrong = self._pointers[low : low + BLOCK] != ends - lengths * self._width
            if wrong.any():
                at = low + int(np.argmax(wrong))
                raise _refusal(
                    self.path,
                    f"has sequence {at} at byte {self._pointers[at]} and not after the one before",
                )
            expected = int(ends[-1])
            if expected > self.header.tokens * self._width:
                raise _refusal(self.path, f"has sequences beyond byte {expected} of its tokens")
        before = 0
        if self._documents[0] != 0 or self._documents[-1] != self.header.sequences:
            raise _refusal(
                self.path,
                f"has documents from sequence {self._documents[0]} to {self._documents[-1]} of "
                f"{self.header.sequences}",
            )
        for low in range(0, len(self._documents), BLOCK):
            firsts = np.concatenate([[before], self._documents[low : low + BLOCK]])
            if (np.diff(firsts) < 0).any():
                at = low + int(np.argmax(np.diff(firsts) < 0))
                raise _refusal(self.path, f"has document {at} before the one before it")
            before = int(firsts[-1])

    def starts(self, first: int, last: int) -> np.ndarray:
        """Where documents begin whose first token is from `first` to `last` (excluded), in tokens.

        The end of the last of them is one more; int64.
        """
        low, high = (
            bisect_left(self._documents, bisect_left(self._pointers, token * self._width))
            for token in (first, last)
        )
        sequences = np.array(self._documents[low : high + 1])
        inside = np.minimum(sequences, self.header.sequences - 1)
        found = np.array(self._pointers[inside]) // self._width
        found[sequences == self.header.sequences] = self.header.tokens
        return found


def _refusal(path: Path, how: str) -> Refusal:
    return Refusal(
        f"[data] source: {path} {how}. Make the index again, or remove it and give token_dtype if "
        "documents end with an end token."
    )
