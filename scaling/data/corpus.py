"""A tokenised corpus in its cache folder, and how much of it a run can train on without repeats.

Some of its whole documents are held out; the rest are one token stream a source, cut into
sequences. Of a validation set (scaling/data/sets.py) all are held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from scaling.data.batches import Batches, visible_sequences
from scaling.data.chunks import CheckedFile, checked_file, chunks_of
from scaling.data.streams import Documents, Segments, Stream, whole
from scaling.remedies import is_damage, remedy
from scaling.store.checksums import CHECKSUMS, Damaged, verify
from scaling.store.records import RUN_ID, Refusal, check_seal, read_json, refuse_irregular

UNREAD = "unread-"  # the same, where the sizes are the most that the files can hold
PLACE = "place.json"  # in the folder of a corpus of token files: which index of theirs is read
# What to do about token files that are not what was indexed.
RESTORE = (
    "Restore it, and give `scaling run STUDY --retry failed`; or leave it as it is now: then "
    "`scaling run STUDY` plans other runs, which train anew."
)
MAKE = "Start the study with `scaling run` on a machine that has its text and this cache"
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
    repeated_documents: int | None = None  # exact copies of others, dropped or not; null: unknown
    repeated_size: int | None = None  # their bytes; tokens of a .bin
    other_names: int = 0  # of its files and their folders, that were passed over
    # Shares, of a mixture the largest of its sources'; null where that was not looked at.
    holdout_seen: float | None = None  # of the held-out text, in the training text word for word
    text_lost: float | None = None  # of the text, that the tokeniser has no tokens for

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
        parts = tuple(_named(share.fingerprint, self.folder.parent) for share in self.info.mixture)
        for part in parts:
            if part.info.mixture:
                raise Refusal(f"{self.folder} is a mixture of a mixture. Delete it.")
        return parts

    @cached_property
    def index(self) -> Path | None:
        """The folder of its index, where it is token files that lie elsewhere."""
        note = self.folder / PLACE
        if not note.exists():
            return None
        name = str(_noted(note, self.folder)["index"])
        if not RUN_ID.fullmatch(name):
            raise Refusal(f"{note} names no index. Delete {self.folder}: it is made again.")
        return self.folder / name

    @cached_property
    def files(self) -> tuple[CheckedFile, ...]:
        """The files that hold its tokens; of a mixture, none."""
        if self.info.mixture:
            return ()
        if self.index is None:
            names = ("train.bin", "holdout.bin") if self.info.train_tokens else ("holdout.bin",)
            return tuple(map(self._own, names))
        found, row = [], 0
        for file in _noted(self.index / "files.json", self.folder)["files"]:
            path, dtype, offset = Path(file["path"]), file["dtype"], file["offset"]
            noted = self.index / "digests"
            found.append(checked_file(path, dtype, offset, file["tokens"], noted, row, RESTORE))
            row += chunks_of(file["bytes"])
        return tuple(found)

    @cached_property
    def train(self) -> Stream:
        """The training stream of a single source, of `train_tokens` tokens."""
        if not self.info.train_tokens:
            return self._stream((), whole(0))
        if self.index is None:
            return self._stream(self.files[:1], whole(self.files[0].tokens))
        return self._stream(self.files, _segments(self.index, "train"))

    @cached_property
    def holdout(self) -> Documents:
        """The held-out documents of a single source."""
        if self.index is None:
            held = self.files[-1]
            stream = self._stream((held,), whole(held.tokens))
            held.check_all()  # which windows there are follows from every end token
            ends = np.flatnonzero(held.array() == self.info.end_token) + 1
            return Documents(stream, np.concatenate([[0], ends]))
        segments = _segments(self.index, "holdout")
        return Documents(self._stream(self.files, segments), segments.first)

    def _stream(self, files: tuple[CheckedFile, ...], segments: Segments) -> Stream:
        return Stream(files, segments, self.info.end_token, self._dtype)

    @property
    def _dtype(self) -> np.dtype[np.generic]:
        # The smallest type that holds the vocabulary.
        return np.min_scalar_type(self.info.vocab_size - 1)

    def _own(self, name: str) -> CheckedFile:
        """A file of this folder that is nothing but tokens."""
        path, noted = self.folder / name, self.folder / f"{name}.digests"
        tokens = refuse_irregular(path.stat()).st_size // self._dtype.itemsize
        remedy = made_again(self.folder)
        # Of a corpus that an earlier version made, there are no digests of chunks.
        digests = noted if noted.exists() else None
        return checked_file(path, self._dtype.str, 0, tokens, digests, 0, remedy)

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


def made_again(folder: Path) -> str:
    """What to do about a corpus of the cache that is damaged."""
    return (
        f"Delete {folder}: it is made again from its text. Runs that failed of it are tried again "
        "by `scaling run STUDY --retry failed`."
    )


def _noted(path: Path, folder: Path) -> Any:
    """What a file of a corpus in `folder` notes. Raises Refusal that says how it is made again."""
    try:
        return read_json(path)
    except Refusal as error:
        if not is_damage(error):
            raise
        raise Refusal(error.cause, made_again(folder)) from error


def load(fingerprint: str, cache: Path) -> Corpus:
    """The corpus that `prepare` made in `cache`. Raises Refusal if it is not there or damaged."""
    corpus = _named(fingerprint, cache)
    folder = corpus.folder
    try:
        for part in corpus.parts:
            if len(part.train) != part.info.train_tokens:
                raise Refusal(f"{folder} is not whole. Delete it. {MAKE}.")
            for file in part.files:
                file.look()
    except (OSError, KeyError, TypeError, ValueError) as error:
        how = "is not whole" if is_damage(error) else f"cannot be read ({error})"
        raise Refusal(f"{folder} {how}. {remedy(error, f'Delete it. {MAKE}.')}") from error
    return corpus


def _named(fingerprint: str, cache: Path) -> Corpus:
    """The corpus of that name, of which nothing but what it says of itself is looked at."""
    folder, note = cache / fingerprint, cache / fingerprint / "info.json"
    if not RUN_ID.fullmatch(fingerprint):  # a name out of a run's record, and part of a path
        raise Refusal(f"corpus {fingerprint[:40]!r} is none: its name has 12 hexadecimal digits.")
    if not note.exists():
        raise Refusal(f"corpus {fingerprint} is not in {cache}. {MAKE}.")
    value = _noted(note, folder)
    try:
        check_seal(value)
        info = TypeAdapter(CorpusInfo).validate_python(value)
        if info.fingerprint != fingerprint:
            raise ValueError("it is another's")
        if "sha256" not in value and (folder / CHECKSUMS).exists():  # of an earlier version
            noted = _noted(folder / CHECKSUMS, folder)["files"]
            verify(f"corpus {folder}", {note.name: note}, {note.name: noted[note.name]})
    except Damaged as error:
        what = remedy(error, f"Delete {folder}. {MAKE}.")
        raise Refusal(f"{error}. {what}") from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise Refusal(f"{note} describes no corpus. Delete {folder}. {MAKE}.") from error
    return Corpus(folder, info)


def _segments(index: Path, name: str) -> Segments:
    """The segments of a stream, memory-mapped."""

    def column(kind: str, dtype: str | type[bool]) -> np.ndarray:
        refuse_irregular((path := index / f"{name}.{kind}").stat())
        return np.memmap(path, dtype, "r").view(np.ndarray)

    return Segments(column("first", "<i8"), column("place", "<i8"), column("inserted", bool))
