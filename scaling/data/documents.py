"""What a document is: text as UTF-8 bytes or, from a pre-tokenised stream, an array of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.store.records import Refusal

Document = bytes | np.ndarray


class SourceMissing(Refusal):
    """The source is not on this machine; with declared sizes a study can still be planned."""


def raw(document: Document) -> bytes:
    """The bytes that identify a document; tokens are the same whatever width they are stored in."""
    return document if isinstance(document, bytes) else document.astype("<u4").tobytes()


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
