"""Which documents are held out: whole ones, chosen by their content alone.

Documents are read one after another; what is remembered of each is its lot, drawn by the hash of
its content, and its size.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scaling.data.documents import Document, raw
from scaling.store.records import Refusal

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
        order = np.argsort(self.lots, kind="stable")
        held = np.cumsum(self.sizes[order])
        last = np.searchsorted(held, fraction * held[-1])
        return float(self.lots[order[last]])

    def pieces(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents as they were indexed, large ones in pieces."""
        return pieces(documents, self.longest, self.shared)


def index(reads: Sequence[Callable[[], Iterator[Document]]], fraction: float) -> list[Index]:
    """The index of each source; a source is read twice if one of its documents must be cut.

    A document larger than the held-out share could neither be held out nor left in without
    upsetting it, and a single file could not be split at all. One that several sources hold is
    cut alike in all of them, as the smallest of them needs: otherwise it could be held out whole
    in one, and be trained on in pieces in another.
    """
    wholes = []
    for read in reads:
        digest = hashlib.sha256()
        lots, sizes = _lots(digested(read(), digest))
        wholes.append(Index(digest.hexdigest(), fraction * int(sizes.sum()), {}, lots, sizes))
    return [
        _cut_index(replace(whole, shared=_shared(whole, wholes)), read)
        for whole, read in zip(wholes, reads, strict=True)
    ]


def _shared(whole: Index, wholes: list[Index]) -> dict[float, float]:
    """The size beyond which to cut documents that sources of a smaller `longest` hold too."""
    shared: dict[float, float] = {}
    for other in sorted(wholes, key=lambda each: -each.longest):  # the smallest has the last word
        if other.longest < whole.longest:
            large = whole.lots[whole.sizes > other.longest]
            found = large[np.isin(large, other.lots)].tolist()
            shared |= dict.fromkeys(found, other.longest)
    return shared


def _cut_index(whole: Index, read: Callable[[], Iterator[Document]]) -> Index:
    if not whole.shared and whole.sizes.max(initial=0) <= whole.longest:
        return whole
    lots, sizes = _lots(whole.pieces(read()))
    return replace(whole, lots=lots, sizes=sizes)


def held_out(indices: list[Index], fraction: float) -> list[np.ndarray]:
    """For each source, whether each piece is held out: `fraction` of its size.

    The split is fixed by the data, never by the run. Equal texts go to the same side, whichever
    source they are from: what one holds out, no other trains on.
    """
    held = [index.lots <= index.threshold(fraction) for index in indices]
    everywhere = np.concatenate([i.lots[out] for i, out in zip(indices, held, strict=True)])
    return [out | np.isin(i.lots, everywhere) for i, out in zip(indices, held, strict=True)]


def digested(documents: Iterable[Document], digest: hashlib._Hash) -> Iterator[Document]:
    """The documents, each counted into `digest` as it passes."""
    for document in documents:
        content = raw(document)
        digest.update(len(content).to_bytes(8))
        digest.update(content)
        yield document


def verified(documents: Iterable[Document], expected: str) -> Iterator[Document]:
    """The documents. Raises Refusal after the last unless they are those of a digest."""
    digest = hashlib.sha256()
    yield from digested(documents, digest)
    if digest.hexdigest() != expected:
        raise Refusal("[data] source changed while it was read. Run again when it is complete.")


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
    lot = hashlib.sha256(b"holdout")
    lot.update(raw(document))
    return int.from_bytes(lot.digest()[:8]) / 2**64


def _lots(documents: Iterable[Document]) -> tuple[np.ndarray, np.ndarray]:
    lots, sizes = array("d"), array("q")
    for document in documents:
        lots.append(_lot(document))
        sizes.append(len(document))
    return np.array(lots), np.array(sizes)
