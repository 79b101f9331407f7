"""What a document is: text as UTF-8 bytes or, from a pre-tokenised stream, an array of tokens."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from scaling.store.records import Refusal

Document = bytes | np.ndarray

KEY = 32  # bytes of a document's key
SALT = b"holdout"  # hashed before its content
ROWS = 1 << 20  # documents looked at at once, of which there may be a billion
# What is remembered of a document: the key of its content, its size in bytes or tokens, and
# whether it is a copy that is left out.
REMEMBERED = np.dtype([("key", "u1", KEY), ("size", "<i8"), ("out", "?")])


class SourceMissing(Refusal):
    """The source is not on this machine; with declared sizes a study can still be planned."""


def raw(document: Document) -> bytes:
    """The bytes that identify a document; tokens are the same whatever width they are stored in."""
    return document if isinstance(document, bytes) else document.astype("<u4").tobytes()


def key_of(document: Document) -> bytes:
    """The hash of a document's content, which draws its lot and finds its copies."""
    key = hashlib.sha256(SALT)
    key.update(raw(document))
    return key.digest()


def lots_of(keys: np.ndarray) -> np.ndarray:
    """The lots of documents, float64 in [0, 1], by their keys of shape (n, KEY)."""
    first = np.ascontiguousarray(keys[:, :8]).view(">u8")[:, 0]
    return first.astype(np.float64) / 2.0**64


def remembered(documents: Iterable[Document]) -> Iterator[np.ndarray]:
    """What is remembered of each document, in arrays of REMEMBERED of at most ROWS."""
    every = iter(documents)
    while True:
        keys, sizes = bytearray(), array("q")
        for document in islice(every, ROWS):
            keys += key_of(document)
            sizes.append(len(document))
        if not sizes:
            return
        found = np.zeros(len(sizes), REMEMBERED)
        found["key"] = np.frombuffer(keys, np.uint8).reshape(-1, KEY)
        found["size"] = sizes
        yield found


def as_remembered(documents: Iterable[Document], known: np.ndarray) -> Iterator[Document]:
    """The documents but for those left out. Raises Changed at the first that is another one."""
    keys, number = known["key"].tobytes(), 0
    for document in documents:
        if key_of(document) != keys[KEY * number : KEY * (number + 1)]:
            raise Changed
        if not known["out"][number]:
            yield document
        number += 1
    if number != len(known):
        raise Changed


class Changed(Refusal):
    """A source is not what it was when it was first read."""

    def __init__(self) -> None:
        super().__init__("[data] source changed while it was read. Run again when it is complete.")


def utf8(text: Any, field: str, where: str) -> bytes:
    """A text as UTF-8. Raises Refusal saying `where` for anything that is none."""
    if not isinstance(text, str):
        raise Refusal(
            f"[data] text_field = {field!r}: {where} has {str(text)[:40]!r} there, not a string. "
            "Name the field that holds the text."
        )
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise Refusal(
            f"[data] text_field = {field!r}: {where} is not valid Unicode ({error.reason} at "
            f"character {error.start}). Correct or remove it."
        ) from error
