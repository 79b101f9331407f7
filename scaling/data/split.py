"""Which documents are held out: whole ones, chosen by their content alone."""

from __future__ import annotations

import hashlib

_BREAKS = (b"\n\n", b"\n", b" ")  # where a large document is best cut, best first


def cut_large(documents: list[bytes], fraction: float) -> list[bytes]:
    """The documents, with those larger than `fraction` of all bytes cut into pieces.

    Such a document could neither be held out nor left in without upsetting the share, and a
    single file could not be split at all. Pieces are at most a quarter of the share and end at a
    blank line, else at a line's end, else at a space, else anywhere.
    """
    share = fraction * sum(map(len, documents))
    limit = max(1, int(share / 4))
    pieces: list[bytes] = []
    for document in documents:
        start = 0
        while len(document) - start > share:
            first, last = start + limit // 2, start + limit
            ends = (document.rfind(mark, first, last) + len(mark) for mark in _BREAKS)
            end = next((end for end in ends if end > first), last)
            pieces.append(document[start:end])
            start = end
        pieces.append(document[start:])
    return [piece for piece in pieces if piece.strip()]


def split_holdout(documents: list[bytes], fraction: float) -> tuple[list[bytes], list[bytes]]:
    """(training, held-out) documents: whole ones, chosen by the hash of their content.

    The split is fixed by the data, never by the run: documents have a fixed order, and the first
    of them that make up `fraction` of the bytes are held out. Adding a document can shift the
    cut but never the order, so documents move to one side only. Equal texts go to the same side.
    """

    def lot(document: bytes) -> float:
        return int.from_bytes(hashlib.sha256(b"holdout" + document).digest()[:8]) / 2**64

    # The hash cuts by documents; the threshold is raised until the bytes suffice.
    wanted = fraction * sum(map(len, documents))
    held, threshold = 0, 0.0
    for document in sorted(documents, key=lot):
        if held >= wanted:
            break
        held, threshold = held + len(document), lot(document)
    train = [document for document in documents if lot(document) > threshold]
    holdout = [document for document in documents if lot(document) <= threshold]
    return train, holdout
