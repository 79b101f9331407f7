"""Batches as a pure function of (seed, step).

The sequences of each source's token stream are visited in a keyed permutation, a new one each
epoch, and sources take turns in a keyed permutation of each block of sequences, so that resuming
is arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Protocol

import numpy as np

from scaling.store.records import Refusal

_FEISTEL_ROUNDS = 6  # 4 suffice for a pseudo-random permutation (Luby & Rackoff 1988)
# Sequences after which the sources' weights have been met exactly, and have to start again.
MAX_BLOCK = 1000


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014), on uint64 arrays."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(index: np.ndarray, size: int, seed: int, epoch: np.ndarray) -> np.ndarray:
    """Where each `index` < `size` goes in the permutation keyed by (seed, epoch).

    A Feistel network on the next even power of two, walked until it lands below `size`
    (cycle walking, Black & Rogaway 2002): no table, so a trillion sequences cost no memory.
    `epoch` has the shape of `index`. Returns int64 of the same shape.
    """
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    key = _mix(
        _mix(np.asarray(epoch, np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        ^ np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
    )

    def once(x: np.ndarray, key: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & low
        for turn in range(_FEISTEL_ROUNDS):
            tweak = np.uint64((turn * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF)
            left, right = right, left ^ (_mix(right ^ key ^ tweak) & low)
        return (left << half) | right

    with np.errstate(over="ignore"):
        out = once(np.asarray(index, np.uint64), key)
        while (outside := out >= np.uint64(size)).any():
            out[outside] = once(out[outside], key[outside])
    return out.astype(np.int64)


def proportions(weights: Sequence[float]) -> tuple[int, ...]:
    """How many sequences of each block are from each source: the weights as typed, exactly.

    Raises Refusal for weights that no block of 1000 sequences meets.
    """
    parts = [Fraction(str(weight)) for weight in weights]
    shares = [part / sum(parts) for part in parts]
    block = lcm(*(share.denominator for share in shares))
    if block > MAX_BLOCK:
        raise Refusal(
            f"[data] sources: weights {', '.join(map(str, weights))} are met exactly only every "
            f"{block:,} sequences; at most {MAX_BLOCK:,} are allowed. Round them to three digits "
            "that sum to 1, such as 0.67, 0.15 and 0.18."
        )
    return tuple(int(share * block) for share in shares)


def visible_sequences(
    train_tokens: Sequence[int],
    per_block: Sequence[int],
    sequence_length: int,
    unique_tokens: int | None,
) -> tuple[int, ...]:
    """How many sequences of each source a run may see: all, or its part of a cap.

    Each sequence also needs the token after its last. Raises Refusal for a cap without a whole
    sequence for every source.
    """
    every = [(tokens - 1) // sequence_length for tokens in train_tokens]
    if unique_tokens is None:
        return tuple(every)
    cap = unique_tokens // sequence_length
    parts = [cap * each // sum(per_block) for each in per_block]
    if not all(parts):
        raise Refusal(
            f"[data] unique_tokens = {unique_tokens:,} holds no whole sequence of "
            f"{sequence_length:,} tokens of {'the' if len(parts) == 1 else 'every'} source. "
            "Raise it."
        )
    return tuple(map(min, every, parts))


def _key(seed: int, purpose: int = 0, source: int = 0) -> int:
    """A key of `permute` for each purpose; seeds of runs are below 2**32."""
    return purpose << 56 | source << 32 | seed


class Tokens(Protocol):
    """A stream of tokens."""

    def __len__(self) -> int: ...

    def rows(self, starts: np.ndarray, width: int) -> np.ndarray:
        """The `width` tokens from each of `starts` on: int32, shape (len(starts), width)."""


ALL = slice(None)  # rows of a batch
_TURNS, _CAP = 1, 2  # purposes; 0 is the order of a source's sequences


@dataclass(frozen=True)
class Batches:
    """The batches of one run: a pure function of the step.

    With `unique_tokens` the run sees only the first so many sequences of a permutation that does
    not depend on its seed, so that what a smaller cap shows is part of what a larger one does.
    """

    streams: tuple[Tokens, ...]  # one a source
    per_block: tuple[int, ...]  # sequences of each in a block
    sequence_length: int
    batch_sequences: int
    seed: int
    unique_tokens: int | None = None

    @cached_property
    def _visible(self) -> tuple[int, ...]:
        tokens = [len(stream) for stream in self.streams]
        return visible_sequences(tokens, self.per_block, self.sequence_length, self.unique_tokens)

    def at(self, step: int) -> np.ndarray:
        """The batch of `step` (from 0): int32, shape (batch_sequences, sequence_length + 1)."""
        return self.span(step, 1)[0]

    def span(self, first: int, count: int, rows: slice = ALL) -> np.ndarray:
        """The batches of `count` steps from `first`: int32, shape (count, B, T + 1).

        Or these `rows` of each; of other rows nothing is read.
        """
        B, T = self.batch_sequences, self.sequence_length
        slots = (first + np.arange(count))[:, None] * B + np.arange(B)[rows]
        source, visit = self.turns(slots.ravel())
        if len(self.streams) == 1:
            found = self.streams[0].rows(self._sequence(0, visit) * T, T + 1)
            return found.reshape(*slots.shape, T + 1)
        found = np.empty((slots.size, T + 1), np.int32)
        for number, stream in enumerate(self.streams):
            mine = source == number
            start = self._sequence(number, visit[mine]) * T
            found[mine] = stream.rows(start, T + 1)
        return found.reshape(*slots.shape, T + 1)

    def turns(self, slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each sequence of the run: which source it is from, and which visit there it is."""
        if len(self.streams) == 1:
            return np.zeros_like(slot), slot
        first = np.concatenate([[0], np.cumsum(self.per_block)])
        block, place = np.divmod(slot, first[-1])
        place = permute(place, int(first[-1]), _key(self.seed, _TURNS), block)
        source = np.searchsorted(first, place, side="right") - 1
        return source, block * np.take(self.per_block, source) + place - first[source]

    def _sequence(self, source: int, visit: np.ndarray) -> np.ndarray:
        """Which sequence of a source each visit is to."""
        size = self._visible[source]
        epoch, index = np.divmod(visit, size)
        index = permute(index, size, _key(self.seed, source=source), epoch)
        whole = (len(self.streams[source]) - 1) // self.sequence_length
        if size == whole:
            return index
        return permute(index, whole, _key(0, _CAP, source), np.zeros_like(index))
