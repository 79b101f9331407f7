"""Batches as a pure function of (seed, step).

`Batches.at(step)` visits the sequences of a token stream in a keyed permutation, a new one each
epoch, so that resuming is arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FEISTEL_ROUNDS = 6  # 4 suffice for a pseudo-random permutation (Luby & Rackoff 1988)


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


@dataclass(frozen=True)
class Batches:
    """The batches of one run: a pure function of the step."""

    stream: np.ndarray
    sequence_length: int
    batch_sequences: int
    seed: int

    @property
    def n_sequences(self) -> int:
        """Whole sequences in an epoch; each also needs the token after its last."""
        return (len(self.stream) - 1) // self.sequence_length

    def at(self, step: int) -> np.ndarray:
        """The batch of `step` (from 0): int32, shape (batch_sequences, sequence_length + 1)."""
        return self.span(step, 1)[0]

    def span(self, first: int, count: int) -> np.ndarray:
        """The batches of `count` steps from `first`: int32, shape (count, B, T + 1)."""
        B, T = self.batch_sequences, self.sequence_length
        epoch, index = np.divmod(first * B + np.arange(count * B), self.n_sequences)
        start = permute(index, self.n_sequences, self.seed, epoch) * T
        tokens = self.stream[start[:, None] + np.arange(T + 1)]
        return tokens.astype(np.int32).reshape(count, B, T + 1)


def unique_tokens(tokens: int, train_tokens: int, sequence_length: int) -> int:
    """U, the distinct tokens among `tokens` trained ones: the whole epoch, if it was finished."""
    return min(tokens, (train_tokens - 1) // sequence_length * sequence_length)
