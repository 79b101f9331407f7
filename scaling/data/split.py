"""Which documents are held out: whole ones, chosen by their content alone.

Documents are read one after another; what is remembered of each is its lot, drawn by the hash of
its content, and its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.data.documents import ROWS, Document, key_of
from scaling.store.records import Refusal

_BINS = 1 << 16  # of lots: of a billion documents, each has some fifteen thousand
LEAST = 256  # bytes or tokens of a held-out share, below which …
MOST_CRUMBS = 100_000  # … so many pieces are more than a corpus of any use is cut into
MOST_TIMES = 3  # of the share asked for; pieces that differ come to twice it at most
_BREAKS = (b"\n\n", b"\n", b" ")  # where a large document is best cut, best first


@dataclass(frozen=True)
class Index:
    """What one reading of a source leaves behind."""

    digest: str  # of the documents and where each ends
    longest: float  # documents beyond this size are cut
    shared: Mapping[float, float]  # by lot, those cut beyond a smaller size: another source's
    lots: np.ndarray  # float64 in [0, 1), a piece each
    sizes: np.ndarray  # int64, bytes or tokens

    def threshold(self, fraction: float) -> float:
        """The lot up to which pieces are held out.

        Pieces have a fixed order, and the first of them that make up `fraction` of the size are
        held out. Adding a document can shift the cut but never the order, so documents move to
        one side only.
        """
        weights = np.zeros(_BINS, np.int64)
        for start in range(0, len(self.lots), ROWS):
            sizes = self.sizes[start : start + ROWS]
            # Sums in float64 are exact below 2^53.
            weights += np.bincount(self._bins(start), sizes, _BINS).astype(np.int64)
        held = np.cumsum(weights)
        target = fraction * int(held[-1])
        last = int(np.searchsorted(held, target))
        rows = np.concatenate(
            [
                start + np.flatnonzero(self._bins(start) == last)
                for start in range(0, len(self.lots), ROWS)
            ]
        )
        rows = rows[np.argsort(self.lots[rows], kind="stable")]
        held_in_bin = held[last] - weights[last] + np.cumsum(self.sizes[rows])
        return float(self.lots[rows[np.searchsorted(held_in_bin, target)]])

    def drawn(self, fraction: float) -> np.ndarray:
        """Whether each piece is held out, whatever other sources hold out."""
        drawn: np.ndarray = np.asarray(self.lots) <= self.threshold(fraction)
        return drawn

    def _bins(self, start: int) -> np.ndarray:
        """Of some lots, the parts of [0, 1] in which they lie, so that one part alone is sorted."""
        lots = np.asarray(self.lots[start : start + ROWS])
        return np.minimum((lots * _BINS).astype(np.int64), _BINS - 1)


def refuse_crumbs(name: str, whole: Index, fraction: float) -> None:
    """Raises Refusal for a held-out share so small that documents would be cut to crumbs."""
    if whole.longest >= LEAST:
        return
    cut = int(whole.sizes[whole.sizes > whole.longest].sum())
    if 4 * cut > MOST_CRUMBS * max(1.0, whole.longest):
        raise Refusal(
            f"[data] holdout_fraction = {fraction:g} of {name!r} is {whole.longest:.3g} of "
            f"{int(whole.sizes.sum()):,} bytes or tokens, too little to hold out a piece of. Give "
            "more."
        )


def refuse_excess(name: str, index: Index, out: np.ndarray, fraction: float) -> None:
    """Raises Refusal where far more is held out than was asked for: equal texts go together."""
    held, size = int(index.sizes[out].sum()), int(index.sizes.sum())
    if held > MOST_TIMES * fraction * size:
        if index.longest < LEAST:
            raise Refusal(
                f"[data] source = {name!r} has {size:,} bytes or tokens, too few to hold out "
                f"{fraction:g} of. Give more text."
            )
        raise Refusal(
            f"[data] holdout_fraction = {fraction:g} would hold out {held / size:.0%} of {name!r}, "
            f"{held:,} of {size:,} bytes or tokens: one text is there again and again, and equal "
            "texts stay together. Remove its repeats (drop_duplicates = true removes those that "
            "are whole documents), or give more text."
        )


def shared_cuts(whole: Index, wholes: Sequence[Index]) -> dict[float, float]:
    """The size beyond which to cut documents that sources of a smaller `longest` hold too.

    One that several sources hold is cut alike in all of them, as the smallest of them needs:
    otherwise it could be held out whole in one, and be trained on in pieces in another.
    """
    shared: dict[float, float] = {}
    for other in sorted(wholes, key=lambda each: -each.longest):  # the smallest has the last word
        if other.longest < whole.longest:
            large = whole.lots[whole.sizes > other.longest]
            found = np.zeros(len(large), bool)
            for start in range(0, len(other.lots), ROWS):
                found |= np.isin(large, other.lots[start : start + ROWS])
            shared |= dict.fromkeys(large[found].tolist(), other.longest)
    return shared


def held_out(indices: Sequence[Index], fraction: float) -> list[np.ndarray]:
    """For each source, whether each piece is held out: `fraction` of its size.

    The split is fixed by the data, never by the run. Equal texts go to the same side, whichever
    source they are from: what one holds out, no other trains on.
    """
    held = [index.drawn(fraction) for index in indices]
    if len(indices) > 1:
        drawn = [index.lots[out] for index, out in zip(indices, held, strict=True)]
        everywhere = np.unique(np.concatenate(drawn))
        for index, out in zip(indices, held, strict=True):
            for start in range(0, len(out), ROWS):
                lots = index.lots[start : start + ROWS]
                near = np.searchsorted(everywhere, lots).clip(max=len(everywhere) - 1)
                out[start : start + ROWS] |= everywhere[near] == lots
    return held


def pieces(
    documents: Iterable[Document], longest: float, shared: Mapping[float, float] | None = None
) -> Iterator[Document]:
    """The documents, with those larger than `longest` cut into pieces of at most a quarter of it.

    `shared` has the lots of documents that another size than `longest` holds for.
    """
    for document in documents:
        most = shared.get(_lot(document), longest) if shared else longest
        yield from cut(document, most, max(1, int(most / 4)))


def cut(document: Document, longest: float, limit: int) -> Iterator[Document]:
    """Pieces of about `limit` or less, until at most `longest` is left.

    Text is cut after a blank line, else at a line's end, else at a space, else between two
    characters; tokens anywhere. Pieces of white space alone are left out.
    """
    start = 0
    while len(document) - start > longest:
        end = start + limit
        if isinstance(document, bytes):
            end = _break(document, start + limit // 2, end)
        yield from _unless_blank(document[start:end])
        start = end
    yield from _unless_blank(document[start:])


def _break(text: bytes, first: int, last: int) -> int:
    for mark in _BREAKS:
        if (at := text.rfind(mark, first, last)) >= 0:
            return at + len(mark)
    # The bytes of a character after its first, of which it has up to three, are 0b10xxxxxx.
    near = (*range(last, max(first, last - 4), -1), *range(last + 1, last + 4))
    return next(at for at in near if at >= len(text) or text[at] & 0xC0 != 0x80)


def _unless_blank(piece: Document) -> Iterator[Document]:
    if not (isinstance(piece, bytes) and (not piece or piece.isspace())):
        yield piece


def _lot(document: Document) -> float:
    return int.from_bytes(key_of(document)[:8]) / 2**64
