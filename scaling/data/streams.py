"""A token stream that lies in files of others: segments of them, one after another.

Nothing is copied. What a corpus holds out, and the documents that it cuts, only divide the stream
into more segments; a file of our own, all of which is one stream, is the trivial case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from scaling.data.chunks import MOST_LOOKS, CheckedFile
from scaling.store.checksums import Damaged


@dataclass(frozen=True)
class Segments:
    """Where the tokens of a stream lie, with the files that hold them put one after another.

    Segment i is what the stream has from `first[i]` to `first[i + 1]`; none is empty, and each lies
    in one file.
    """

    first: np.ndarray  # int64, (segments + 1,): in the stream
    place: np.ndarray  # int64, (segments,): in the files
    inserted: np.ndarray  # bool, (segments,): its last token is an end token that no file has there


def whole(tokens: int) -> Segments:
    """One segment, of a file that is all of a stream."""
    return Segments(np.array([0, tokens]), np.array([0]), np.array([False]))


@dataclass(frozen=True)
class _Pieces:
    """What of rows lies in one segment each, shape (pieces,)."""

    row: np.ndarray
    column: np.ndarray  # of its first token
    file: np.ndarray
    first: np.ndarray  # its first token in the file
    count: np.ndarray  # of tokens, at least one


@dataclass(frozen=True)
class Stream:
    """A stream of tokens, each checked against its corpus before it is handed out."""

    files: tuple[CheckedFile, ...]
    segments: Segments
    end: int  # the token that ends a document
    dtype: np.dtype[np.generic]  # the smallest that holds the vocabulary

    def __len__(self) -> int:
        return int(self.segments.first[-1])

    def __getitem__(self, part: slice) -> np.ndarray:
        """The tokens of a slice without a step, in the smallest type."""
        first, last, _ = part.indices(len(self))
        return self.rows(np.array([first]), max(0, last - first))[0].astype(self.dtype)

    def rows(self, starts: np.ndarray, width: int) -> np.ndarray:
        """The `width` tokens from each of `starts` on: int32, shape (len(starts), width).

        Raises CorpusChanged unless they are those that the corpus was made of, and Damaged for a
        file that is gone, or of another size.
        """
        if not width or not len(starts):
            return np.empty((len(starts), width), np.int32)
        pieces = self._pieces(np.asarray(starts, np.int64), width)
        touched = {number: pieces.file == number for number in np.unique(pieces.file).tolist()}
        for _ in range(MOST_LOOKS):
            for number, mine in touched.items():
                self.files[number].check(pieces.first[mine], pieces.count[mine])
            found = self._copied(pieces, starts, width)
            # A write after the check is one whose result may have been copied.
            written = [n for n in touched if not self.files[n].is_as_checked()]
            if not written:
                return found
        raise Damaged(
            f"[data] {self.files[written[0]].path} is written while it is trained on. Wait until "
            "it is complete, and give `scaling run STUDY` again."
        )

    @cached_property
    def _base(self) -> np.ndarray:
        """Of each file, the tokens of those before it; int64, (files + 1,)."""
        return np.concatenate([[0], np.cumsum([file.tokens for file in self.files])])

    def _pieces(self, starts: np.ndarray, width: int) -> _Pieces:
        at, place = self.segments.first, self.segments.place
        low = np.searchsorted(at, starts, side="right") - 1
        many = np.searchsorted(at, starts + width, side="left") - low
        row = np.repeat(np.arange(len(starts)), many)
        segment = np.arange(len(row)) + np.repeat(low - (np.cumsum(many) - many), many)
        first = np.maximum(at[segment], starts[row])
        last = np.minimum(at[segment + 1] - self.segments.inserted[segment], starts[row] + width)
        held = last > first  # not so of an end token that is all that a row has of a segment
        row, segment, first, last = row[held], segment[held], first[held], last[held]
        start = place[segment] + first - at[segment]
        file = np.searchsorted(self._base, start, side="right") - 1
        return _Pieces(row, first - starts[row], file, start - self._base[file], last - first)

    def _copied(self, pieces: _Pieces, starts: np.ndarray, width: int) -> np.ndarray:
        if len(self.segments.place) == 1 and not self.segments.inserted[0]:
            # Row by row, with no place of every token: 6 bytes a token of memory and not 14.
            windows = sliding_window_view(self.files[0].array(), width)
            return windows[starts + self.segments.place[0]].astype(np.int32)
        found = np.full((len(starts), width), self.end, np.int32)
        arrays = {n: self.files[n].array() for n in np.unique(pieces.file).tolist()}
        columns = zip(
            *(
                each.tolist()
                for each in (pieces.row, pieces.column, pieces.file, pieces.first, pieces.count)
            ),
            strict=True,
        )
        for row, column, file, first, count in columns:
            found[row, column : column + count] = arrays[file][first : first + count]
        return found


@dataclass(frozen=True)
class Documents:
    """Documents that lie one after another in a stream, an end token after each."""

    stream: Stream
    first: np.ndarray  # int64, (documents + 1,): where each begins

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each with its end token, int64."""
        return np.diff(self.first)

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, number: int) -> np.ndarray:
        return self.stream[int(self.first[number]) : int(self.first[number + 1])]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))

    def rows(self, document: np.ndarray, first: np.ndarray, width: int) -> np.ndarray:
        """The `width` tokens from `first` of each document: int32, (len(document), width)."""
        return self.stream.rows(self.first[document] + first, width)
