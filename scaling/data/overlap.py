"""How much of the held-out text is in the training text too, wherever it stands there.

Equal pieces go to one side. But of a text that repeats itself each repeat is cut at other places,
and then its pieces differ while their words do not. Of large sources a sample is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from scaling.data.reading import Divided, ranges
from scaling.store.records import Refusal

READ = 256 << 20  # bytes of the parts that are read for it, about: seconds
TRAIN, HELD = 64 << 20, 4 << 20  # bytes of either side that are kept of them
LENGTH = 64  # bytes of a window, a dozen words: other texts share few of them
WINDOWS = 1 << 16  # of the held-out text that are looked for
MOST_SEEN = 0.99  # of the held-out text: more, and nothing is held out
_BLOCK = 1 << 20  # bytes whose windows are looked up at once
_FACTOR = 0x9E3779B97F4A7C15  # odd, with bits of no pattern: 2^64 over the golden ratio
_BITS = 24  # of a hash, by which most windows are told to be none of those looked for


@dataclass
class Sample:
    """The beginnings of pieces on both sides."""

    train: list[bytes] = field(default_factory=list)
    held: list[bytes] = field(default_factory=list)


def sample_of(divided: Divided, out: np.ndarray) -> Sample:
    """Of each piece as large a share as lets all of a side fit; of many parts, some all over.

    Of a source that is tokens already, nothing.
    """
    found = Sample()
    if divided.reading.source.tokens:
        return found
    known = list(zip(divided.known(), ranges(divided.ends), strict=True))
    known = known[:: math.ceil(max(1, sum(each.size for each, _ in known)) / READ)]
    sizes = np.concatenate([divided.index.sizes[first:last] for _, (first, last) in known])
    sides = np.concatenate([out[first:last] for _, (first, last) in known])
    shares = [
        min(1.0, most / max(1, int(sizes[sides == side].sum())))
        for side, most in ((False, TRAIN), (True, HELD))
    ]
    for each, (first, last) in known:
        for piece, is_out in zip(each.pieces(iter), out[first:last].tolist(), strict=True):
            assert isinstance(piece, bytes)
            begins = piece[: math.ceil(len(piece) * shares[is_out])]
            (found.held if is_out else found.train).append(begins)
    return found


def seen(sample: Sample) -> float | None:
    """The share of the windows of the held-out text that are in the training text; null of none."""
    held = np.concatenate([np.empty(0, np.uint64), *map(_windows, _blocks(sample.held))])
    if not len(held):
        return None
    held = held[:: math.ceil(len(held) / WINDOWS)]
    sought, times = np.unique(held, return_counts=True)
    may_be = np.zeros(1 << _BITS, bool)
    may_be[sought >> np.uint64(64 - _BITS)] = True
    found = np.zeros(len(sought), bool)
    for block in _blocks(sample.train):
        windows = _windows(block)
        windows = windows[may_be[windows >> np.uint64(64 - _BITS)]]
        at = np.searchsorted(sought, windows).clip(max=len(sought) - 1)
        found[at[sought[at] == windows]] = True
    return float(times[found].sum() / times.sum())


def refuse_seen(name: str, share: float | None) -> None:
    """Raises Refusal where most of the held-out text is trained on too."""
    if share is not None and share > MOST_SEEN:
        raise Refusal(
            f"[data] source = {name!r}: {share:.0%} of the held-out text is in the training text "
            f"too, in the same {LENGTH} bytes or more: it repeats itself, and a loss on it says "
            "how much is learnt by heart. Remove its repeats, or give other text."
        )


def _blocks(texts: Iterable[bytes]) -> Iterator[bytes]:
    """The texts in blocks of about _BLOCK, NUL between them, which is in none."""
    block: list[bytes] = []
    size = 0
    for text in texts:
        for start in range(0, len(text), _BLOCK):
            part = text[start : start + _BLOCK + LENGTH - 1]
            block.append(part)
            size += len(part)
            if size >= _BLOCK:
                yield b"\0".join(block)
                block, size = [], 0
    yield b"\0".join(block)


def _windows(block: bytes) -> np.ndarray:
    """The hash of each window of a block that lies in one text: uint64."""
    if len(block) < LENGTH:
        return np.empty(0, np.uint64)
    content = np.frombuffer(block, np.uint8)
    hashes, length, factor = content.astype(np.uint64) + np.uint64(1), 1, _FACTOR
    while length < LENGTH:  # a window of twice the length is one and the one after it
        hashes = hashes[:-length] * np.uint64(factor) + hashes[length:]
        length, factor = 2 * length, factor * factor % 2**64
    ends = np.concatenate([[0], np.cumsum(content == 0)])
    return (hashes * np.uint64(_FACTOR))[ends[LENGTH:] == ends[:-LENGTH]]
