"""How much of the text a tokenizer.json has no tokens for: unknown words, and what it deletes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scaling.data.tokenizer import Json, Tokenizer
from scaling.store.records import Refusal

LOOKED_AT = 1 << 18  # bytes of text, from all over the sample
# Of the text. More, and the loss is not one of this text; tokenizers of words leave out a percent.
MOST_LOST = 0.1


class Lost(NamedTuple):
    """Shares of the characters that are no white space."""

    unknown: float  # in tokens that stand for any unknown text
    deleted: float  # in no token

    @property
    def all(self) -> float:
        return self.unknown + self.deleted


def lost(tokenizer: Json, texts: Sequence[bytes]) -> Lost:
    """What a tokenizer loses of some of the texts."""
    share = min(1.0, LOOKED_AT / max(1, sum(map(len, texts))))
    some = [text[: max(1, int(len(text) * share))].decode(errors="ignore") for text in texts]
    some = [text for text in some if text.strip()]
    total = unknown = deleted = 0
    for text, encoded in zip(some, tokenizer.with_places(some), strict=True):
        known, other = np.zeros(len(text), bool), np.zeros(len(text), bool)
        for token, (start, end) in encoded:
            (other if token == tokenizer.unknown else known)[start:end] = True
        written = np.array([not each.isspace() for each in text])
        total += int(written.sum())
        unknown += int((other & ~known & written).sum())
        deleted += int((~other & ~known & written).sum())
    return Lost(unknown / max(1, total), deleted / max(1, total))


def lost_of(tokenizer: Tokenizer, name: str, texts: Sequence[bytes]) -> float | None:
    """The share of a source's text that is lost; null where that was not looked at.

    Raises Refusal for a tokenizer that is none for this text.
    """
    if not isinstance(tokenizer, Json):
        return None
    found = lost(tokenizer, texts)
    if found.all > MOST_LOST:
        raise Refusal(
            f"[data] tokenizer = {tokenizer.name!r} has no token for {found.all:.0%} of the text "
            f"of {name!r}: {found.unknown:.0%} is unknown to it, {found.deleted:.0%} it deletes "
            "(white space aside). Give one that was made for such text, or 'bytes' or 'bpe:4096'."
        )
    return found.all
