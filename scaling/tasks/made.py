"""Task windows that are made once and then read, as text is: files of them in the cache.

    task-windows/<fingerprint>/<number>-<start of SHA-256>.bin    about half a million tokens each

The fingerprint is of all that the windows are a function of, the code that makes them included. So
runs of one seed share them whatever their length and batch, a longer run adds files, and processes
that make the same file at once write the same bytes. A file is whole or not there, and one that
was damaged is made again.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from scaling.data.batches import ALL, Batches
from scaling.data.corpus import Corpus
from scaling.store.records import Refusal, check_part, fingerprint, write_numbered
from scaling.tasks.mix import TaskMix
from scaling.tasks.vocabulary import vocabulary_of
from scaling.tasks.windows import TaskWindows

FILE_TOKENS = 1 << 19  # about a second of work
WAIT_SECONDS = 0.02  # between looks for a file that another process makes


def made_windows(
    mix: TaskMix, corpus: Corpus, sequence_length: int, seed: int, cache: Path
) -> MadeWindows:
    """The training windows of `mix` for a seed, kept in `cache`.

    Raises Refusal for tasks on a corpus without a tokeniser.
    """
    trained = [each for each in mix.tasks if each.weight]
    windows = TaskWindows(
        tuple(each.build() for each in trained),
        tuple(each.weight for each in trained),
        vocabulary_of(corpus),
        sequence_length,
        seed,
    )
    identity = {
        "code": _code(),
        "tasks": mix.identity["tasks"],
        "vocabulary": windows.vocabulary.identity,
        "sequence_length": sequence_length,
        "seed": seed,
    }
    dtype = np.min_scalar_type(corpus.info.vocab_size - 1)
    return MadeWindows(windows, cache / fingerprint(identity), dtype)


@dataclass
class MadeWindows:
    """Task windows in a folder of the cache, each made when it is first asked for."""

    windows: TaskWindows
    folder: Path
    dtype: np.dtype
    # Whether a process is making the files too: then a missing one is waited for.
    others_make: Callable[[], bool] = lambda: False
    _held: tuple[int, np.ndarray] | None = None  # the file that was read last, and its number

    @cached_property
    def per_file(self) -> int:
        """Windows of a file."""
        return max(1, FILE_TOKENS // (self.windows.sequence_length + 1))

    def files_of(self, first: int, count: int) -> range:
        """The numbers of the files that hold `count` windows from the place `first`."""
        return range(first // self.per_file, -(-(first + count) // self.per_file))

    def rows(self, first: int, count: int) -> np.ndarray:
        """As those of `windows`: int32, shape (count, T + 1). Raises Refusal for a full disk."""
        parts = []
        for number in self.files_of(first, count):
            start = number * self.per_file
            inside = slice(max(first - start, 0), first + count - start)
            parts.append(self._file(number)[inside])
        return np.concatenate(parts).astype(np.int32)

    def is_made(self, number: int) -> bool:
        """Whether a file is there, damaged or not."""
        return self._path(number) is not None

    def make(self, number: int) -> np.ndarray:
        """Make a file, and return its windows. Raises Refusal if it cannot be written."""
        made = self.windows.rows(number * self.per_file, self.per_file).astype(self.dtype)
        try:
            write_numbered(self.folder, number, ".bin", made.tobytes())
        except Refusal as error:
            raise Refusal(f"{error} SCALING_CACHE names the folder of the cache.") from error
        return made

    def _file(self, number: int) -> np.ndarray:
        if self._held is None or self._held[0] != number:
            self._held = number, self._read(number)
        return self._held[1]

    def _read(self, number: int) -> np.ndarray:
        while (path := self._path(number)) is None and self.others_make():
            time.sleep(WAIT_SECONDS)
        if path is None:
            return self.make(number)
        try:
            check_part(path)
            return np.fromfile(path, self.dtype).reshape(self.per_file, -1)
        except (OSError, ValueError) as error:
            print(f"{path}: {error}; it is made again", file=sys.stderr)
            return self.make(number)

    def _path(self, number: int) -> Path | None:
        return next(filter(Path.is_file, self.folder.glob(f"{number:09d}-*.bin")), None)


@dataclass(frozen=True)
class MixedBatches:
    """Batches of text with a fixed number of task windows in each."""

    text: Batches  # of the other sequences
    windows: MadeWindows
    sequences: int  # of each batch that are task windows

    def places(self, first: int, count: int) -> tuple[int, int]:
        """The place of the first task window of `count` steps, and how many they have."""
        return first * self.sequences, count * self.sequences

    def span(self, first: int, count: int, rows: slice = ALL) -> np.ndarray:
        """The batches of `count` steps from `first`: int32, shape (count, B, T + 1), or `rows`."""
        text = self.text.span(first, count)
        made = self.windows.rows(*self.places(first, count))
        return np.concatenate([text, made.reshape(count, self.sequences, -1)], axis=1)[:, rows]


def _code() -> str:
    """The SHA-256 of the modules that decide what a window is."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
