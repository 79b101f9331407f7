"""Pre-tokenised streams: little-endian tokens in .bin files, cut at the token that ends a document.

A stream without such a token is refused. Cut into blocks it could be held out only in parts of
documents whose other parts are trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scaling.store.records import Refusal
from scaling.study import DataSection

CHUNK = 1 << 24  # tokens looked at once


# What files that others write begin with, by the format's name: its first bytes and the length of
# its header. The first two are of write_datafile in llm.c's dev/data/data_common.py, whose 256
# numbers of 32 bits modded-nanogpt took over; the last is numpy.save's.
_HEADERS = {
    "llm.c and modded-nanogpt (GPT-2 tokens, uint16)": ((20240520).to_bytes(4, "little"), 1024),
    "llm.c (Llama 3 tokens, uint32)": ((20240801).to_bytes(4, "little"), 1024),
    "numpy.save": (b"\x93NUMPY", None),
}


def check(section: DataSection) -> None:
    """Raises Refusal, a line a field, unless the study says what the tokens are."""
    wanted = {
        "token_dtype": '"uint16" or "uint32"',
        "vocab_size": "the number of different tokens, such as 50257",
        "end_token": "the token that ends a document, such as 50256",
    }
    wrong = [
        f"[data] {name} is missing, which a .bin source needs. Give {allowed}."
        for name, allowed in wanted.items()
        if getattr(section, name) is None
    ]
    end, size = section.end_token, section.vocab_size
    if isinstance(end, str):
        wrong.append(
            f"[data] end_token = {end!r}: a .bin source has numbers, not text. "
            f"Give {wanted['end_token']}."
        )
    elif end is not None and size is not None and end >= size:
        wrong.append(
            f"[data] end_token = {end} is not below vocab_size = {size}. Correct one of them."
        )
    if section.tokenizer != "bytes":
        wrong.append(
            f"[data] tokenizer = {section.tokenizer!r} has no use for a .bin source, which is "
            "tokenised already. Remove it."
        )
    if wrong:
        raise Refusal("\n".join(wrong))


def documents(paths: list[Path], section: DataSection) -> Iterator[np.ndarray]:
    """The documents of `paths` without their end tokens, none empty; views of the mapped files.

    A file's end also ends a document. Raises Refusal for a token beyond the vocabulary, a file
    that is cut off inside a token, and one in which no document ends.
    """
    for path in paths:
        yield from _documents(path, section)


def _documents(path: Path, section: DataSection) -> Iterator[np.ndarray]:
    dtype = np.dtype(section.token_dtype).newbyteorder("<")
    size = path.stat().st_size
    if size % dtype.itemsize:
        raise Refusal(
            f"[data] source: {path} has {size} bytes, no whole number of {section.token_dtype} "
            "tokens. Correct token_dtype, or copy the file again."
        )
    if not size:
        return
    try:
        stream = np.memmap(path, dtype=dtype, mode="r")
    except OSError as error:
        raise Refusal(f"[data] source: cannot read {path}: {error.strerror}.") from error
    _refuse_header(path, stream)
    start, ended = 0, False
    for first in range(0, len(stream), CHUNK):
        chunk = stream[first : first + CHUNK]
        if (beyond := np.flatnonzero(chunk >= section.vocab_size)).size:
            raise Refusal(
                f"[data] source: {path} has token {chunk[beyond[0]]} at position "
                f"{first + beyond[0]:,}, but vocab_size = {section.vocab_size}. Correct vocab_size "
                "or token_dtype, or remove the file's header if it has one."
            )
        for end in (first + np.flatnonzero(chunk == section.end_token)).tolist():
            ended = True
            if end > start:
                yield stream[start:end]
            start = end + 1
    if not ended:
        raise Refusal(
            f"[data] end_token = {section.end_token} does not occur in {path}, so that no whole "
            "document can be held out. Name the token that ends a document, or tokenise again "
            "with one."
        )
    if start < len(stream):
        yield stream[start:]


def _refuse_header(path: Path, stream: np.ndarray) -> None:
    """Raises Refusal for a file that begins with a header, which is no tokens."""
    begins = stream[:8].tobytes()
    for name, (magic, length) in _HEADERS.items():
        if begins.startswith(magic):
            remedy = "Write its array with tofile() instead"
            if length is not None:
                remedy = f"Remove it: tail -c +{length + 1} {path.name} > tokens.bin"
            raise Refusal(
                f"[data] source: {path} begins with the header of {name}, whose first number "
                f"would be read as token {stream[0]} at position 0. {remedy}, and name the new "
                "file."
            )
