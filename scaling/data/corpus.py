"""A tokenised corpus in its cache folder, and how much of it a run can train on without repeats.

Some of its whole documents are held out; the rest are one token stream a source, cut into
sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from scaling.data.batches import Batches, visible_sequences
from scaling.store.records import RUN_ID, Refusal, read_json

UNREAD = "unread-"  # the same, where the sizes are the most that the files can hold
DECLARED = "declared-"  # what the fingerprint of a corpus begins with that nobody has read


@dataclass(frozen=True)
class Share:
    """One source of several."""

    fingerprint: str  # of its corpus: what it would be alone, but for texts that sources share
    source: str
    per_block: int  # sequences of every block of the mixture
    train_tokens: int
    holdout_tokens: int
    holdout_bytes: int | None


@dataclass(frozen=True)
class CorpusInfo:
    """What the tokenised corpus holds; its fingerprint is part of every run's identity."""

    fingerprint: str
    source: str
    vocab_size: int
    train_documents: int
    train_tokens: int
    holdout_documents: int
    holdout_tokens: int
    holdout_bytes: int | None  # null where only tokens are known
    tokenizer: str = "bytes"  # as the study names it
    end_token: int = 0
    mixture: tuple[Share, ...] = ()  # of several sources

    @property
    def declared(self) -> bool:
        """Whether its sizes are the study's word, so that it can be planned but not trained on."""
        return self.fingerprint.startswith(DECLARED)

    @property
    def unread(self) -> bool:
        """Whether its sizes are bounds, the most tokens that files of their size can hold."""
        return self.fingerprint.startswith(UNREAD)

    @property
    def shares(self) -> tuple[Share, ...]:
        """Its sources, of which there is at least one."""
        return self.mixture or (
            Share(
                self.fingerprint,
                self.source,
                1,
                self.train_tokens,
                self.holdout_tokens,
                self.holdout_bytes,
            ),
        )

    @property
    def per_block(self) -> tuple[int, ...]:
        """Sequences of each source in a block."""
        return tuple(share.per_block for share in self.shares)

    @property
    def bytes_per_token(self) -> float | None:
        """Of the held-out text, its sources by weight; null where only tokens are known."""
        total = 0.0
        for share in self.shares:
            if share.holdout_bytes is None:
                return None
            total += share.per_block * (share.holdout_bytes / share.holdout_tokens)
        return total / sum(self.per_block)


def epoch_tokens(info: CorpusInfo, sequence_length: int, unique_tokens: int | None = None) -> int:
    """The most tokens a run can train on without repeating any; of a mixture, in whole blocks.

    `unique_tokens` is the run's cap. Raises Refusal for a cap that holds no sequence.
    """
    visible = _visible(info, sequence_length, unique_tokens)
    blocks = min(n // each for n, each in zip(visible, info.per_block, strict=True))
    return blocks * sum(info.per_block) * sequence_length


def unique_tokens(
    tokens: int, info: CorpusInfo, sequence_length: int, unique_tokens: int | None = None
) -> int:
    """U, the distinct tokens among `tokens` trained ones, under the run's cap.

    Exact for one source and, for a mixture, at the end of each block.
    """
    visible = _visible(info, sequence_length, unique_tokens)
    block, slots = sum(info.per_block), tokens // sequence_length
    seen = (min(slots * each, n * block) for n, each in zip(visible, info.per_block, strict=True))
    return sum(seen) // block * sequence_length


def _visible(info: CorpusInfo, sequence_length: int, unique_tokens: int | None) -> tuple[int, ...]:
    """Of each source, the sequences. Raises Refusal for a cap that a mixture cannot hold."""
    for share in info.mixture:
        part = (unique_tokens or 0) * share.per_block // sum(info.per_block)
        if part > share.train_tokens:
            raise Refusal(
                f"[data] unique_tokens = {unique_tokens:,}: its part of {share.source!r} is "
                f"{part:,} tokens, which has {'at most ' * info.unread}{share.train_tokens:,}. "
                "Lower it, or change the weights."
            )
    train_tokens = [share.train_tokens for share in info.shares]
    return visible_sequences(train_tokens, info.per_block, sequence_length, unique_tokens)


@dataclass(frozen=True)
class Corpus:
    """A corpus on this machine, memory-mapped."""

    folder: Path
    info: CorpusInfo

    @cached_property
    def parts(self) -> tuple[Corpus, ...]:
        """The corpora of its sources; of a single source, itself."""
        if not self.info.mixture:
            return (self,)
        return tuple(load(share.fingerprint, self.folder.parent) for share in self.info.mixture)

    @cached_property
    def train(self) -> np.ndarray:
        """The training stream of a single source, shape (train_tokens,)."""
        return self._stream("train.bin")

    @cached_property
    def holdout(self) -> list[np.ndarray]:
        """The held-out documents of a single source, one array each."""
        stream = self._stream("holdout.bin")
        ends = np.flatnonzero(stream == self.info.end_token) + 1
        return np.split(stream, ends[:-1])

    def _stream(self, name: str) -> np.ndarray:
        # The smallest type that holds the vocabulary.
        dtype = np.min_scalar_type(self.info.vocab_size - 1)
        return np.memmap(self.folder / name, dtype=dtype, mode="r")

    def batches(
        self,
        sequence_length: int,
        batch_sequences: int,
        seed: int,
        unique_tokens: int | None = None,
    ) -> Batches:
        """The batches of a run; with `unique_tokens` it sees no more than so many."""
        streams = tuple(part.train for part in self.parts)
        return Batches(
            streams, self.info.per_block, sequence_length, batch_sequences, seed, unique_tokens
        )


def load(fingerprint: str, cache: Path) -> Corpus:
    """The corpus that `prepare` made in `cache`. Raises Refusal if it is not there or damaged."""
    folder = cache / fingerprint
    remedy = "Start the study with `scaling run` on a machine that has its text and this cache"
    if not RUN_ID.fullmatch(fingerprint):  # a name out of a run's record, and part of a path
        raise Refusal(f"corpus {fingerprint[:40]!r} is none: its name has 12 hexadecimal digits.")
    if not (folder / "info.json").exists():
        raise Refusal(f"corpus {fingerprint} is not in {cache}. {remedy}.")
    try:
        info = TypeAdapter(CorpusInfo).validate_python(read_json(folder / "info.json"))
    except (TypeError, ValueError) as error:
        raise Refusal(f"{folder / 'info.json'} describes no corpus. Delete {folder}.") from error
    corpus = Corpus(folder, info)
    if any(len(part.train) != part.info.train_tokens for part in corpus.parts):
        raise Refusal(f"{folder} is not whole. Delete it. {remedy}.")
    return corpus
