"""Which documents of one stream of tokens are among those that another corpus trains on.

Documents are compared by their tokens. One that is longer than every document that is trained on
may be there in pieces, which scaling/data/split.py cuts; the first piece begins where it begins.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scaling.data.corpus import Corpus
from scaling.data.streams import Stream

_CHUNK = 1 << 24  # tokens looked at at once
_BEGINNING = 16  # tokens by which documents are told apart at a glance
_LEAST = 64  # tokens of a piece: fewer may well be the beginning of another text
# A document is cut into pieces of a quarter of its bytes at most (`split.pieces`), so about that of
# its tokens. A text that is trained on whole, and goes on here, is another one.
_PIECES = 3
_TAIL = 8  # last tokens of a piece, which a cut may make others than the text's own
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class _Documents:
    """The documents that end in a part of a stream, none of them empty."""

    tokens: np.ndarray
    first: np.ndarray  # int64
    last: np.ndarray  # int64: the end token

    @property
    def lengths(self) -> np.ndarray:
        return self.last - self.first

    @property
    def beginnings(self) -> np.ndarray:
        """A number for the first tokens of each, uint64."""
        found = np.zeros(len(self.first), np.uint64)
        for place in range(_BEGINNING):
            at = np.minimum(self.first + place, self.last)
            found = (found ^ self.tokens[at].astype(np.uint64)) * _MIX
            found ^= found >> np.uint64(32)
        return found

    def __getitem__(self, number: int) -> np.ndarray:
        return self.tokens[self.first[number] : self.last[number]]


def shared_documents(corpus: Corpus, stream: Stream) -> np.ndarray:
    """The numbers of the documents of a stream that `corpus` trains on, ascending; empty ones do
    not count."""
    every = [document for part in _documents(stream) for document in _each(part)]
    lengths = np.unique([len(document) for document in every])
    beginnings = _beginnings(stream)
    numbers = defaultdict(list)
    for number, document in enumerate(every):
        numbers[_digest(document)].append(number)
    found: set[int] = set()
    longest = 0
    for part in corpus.parts:
        for some in _documents(part.train):
            longest = max(longest, int(some.lengths.max(initial=0)))
            alike = np.isin(some.lengths, lengths) & np.isin(some.beginnings, beginnings)
            for row in np.flatnonzero(alike).tolist():
                found.update(numbers.get(_digest(some[row]), ()))
    long = {
        number: document
        for number, document in enumerate(every)
        if len(document) > longest and number not in found
    }
    return np.array(sorted(found | _in_pieces(corpus, long, beginnings)), np.int64)


def _in_pieces(corpus: Corpus, long: dict[int, np.ndarray], beginnings: np.ndarray) -> set[int]:
    """Which of these documents begin as a piece that was cut does.

    A document whose first piece is held out is trained on in its others.
    """
    found: set[int] = set()
    if not long:
        return found
    for part in corpus.parts:
        for stream in (part.train, part.holdout.stream):
            for some in _documents(stream):
                alike = (some.lengths >= _LEAST) & np.isin(some.beginnings, beginnings)
                for row in np.flatnonzero(alike).tolist():
                    piece = some[row][:-_TAIL]
                    found |= {
                        number
                        for number, document in long.items()
                        if len(document) >= _PIECES * len(piece)
                        and np.array_equal(document[: len(piece)], piece)
                    }
    return found


def _documents(stream: Stream) -> Iterator[_Documents]:
    """The documents of a stream, many at once."""
    rest = stream[:0]
    for first in range(0, len(stream), _CHUNK):
        tokens = np.concatenate([rest, stream[first : first + _CHUNK]])
        last = np.flatnonzero(tokens == stream.end)
        if not len(last):
            rest = tokens
            continue
        begins = np.append(0, last[:-1] + 1)
        held = last > begins
        yield _Documents(tokens, begins[held], last[held])
        rest = tokens[last[-1] + 1 :]


def _each(documents: _Documents) -> Iterator[np.ndarray]:
    return (documents[number] for number in range(len(documents.first)))


def _beginnings(stream: Stream) -> np.ndarray:
    return np.unique(np.concatenate([some.beginnings for some in _documents(stream)]))


def _digest(document: np.ndarray) -> bytes:
    return hashlib.sha256(document.tobytes()).digest()
