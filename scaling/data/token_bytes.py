"""How many bytes of text each token stands for."""

from __future__ import annotations

import json
import re

import numpy as np

from scaling.data.corpus import Corpus
from scaling.data.tokenizer import BYTE_VOCAB, TOKENIZER, plain_tokenizer

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # as SentencePiece writes a byte that has no token
_SPACE = "▁"  # … and a space
_CHUNK = 1 << 24  # tokens counted at once


def token_bytes(part: Corpus) -> np.ndarray | None:
    """The bytes of each token of a single source, float64, (V,); null where only tokens are known.

    An end token has none. The held-out tokens together have the bytes of the held-out text,
    whatever a tokenizer does to a text before it cuts it.
    """
    info = part.info
    if info.holdout_bytes is None:
        return None
    found = _by_name(part)
    found[info.end_token] = 0.0
    stream = part.holdout.stream
    count = np.zeros(len(found), np.int64)
    for first in range(0, len(stream), _CHUNK):
        count += np.bincount(stream[first : first + _CHUNK], minlength=len(found))
    scaled: np.ndarray = found * (info.holdout_bytes / (count @ found))
    return scaled


def _by_name(part: Corpus) -> np.ndarray:
    """The bytes that the name of each token spells."""
    file = part.folder / TOKENIZER
    if not file.exists():
        return np.ones(BYTE_VOCAB)
    text = file.read_text()
    said = json.loads(text)
    # Byte-level tokenizers, GPT-2's and those since, write every byte as a letter of its own.
    is_bytes = '"ByteLevel"' in json.dumps([said.get("pre_tokenizer"), said.get("decoder")])
    found = np.zeros(part.info.vocab_size)
    for name, token in plain_tokenizer(text).get_vocab().items():
        if is_bytes:
            found[token] = len(name)
        else:
            found[token] = 1 if _BYTE.fullmatch(name) else len(name.replace(_SPACE, " ").encode())
    return found
