"""Files of tokens in chunks, each with the digest that it had when its corpus was made.

A chunk is checked before a process first uses it, and again where its file was written since: what
a run reads is what its plan names, and nothing is read that is not used.
"""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from scaling.remedies import cannot_read, remedy
from scaling.store.checksums import Damaged
from scaling.store.records import refuse_irregular

# Bytes. Of a disk, one random read takes about as long as hashing so many; 1 TB has 128 MB of
# digests, and a batch of 512 sequences touches 128 MB of chunks at most. Notes of chunks do not say
# how large they are: a change needs another FORMAT (scaling/data/prepare.py).
CHUNK = 1 << 18
DIGEST = 32  # bytes of a SHA-256
READERS = 8  # threads that read chunks, each of which may wait for a disk elsewhere
MOST_LOOKS = 5  # at a file that is written while it is read
# Two seconds is FAT's granularity, the coarsest of file systems in use; a write within it of one
# before may leave no trace in the times.
RACY_NS = 2_000_000_000


class CorpusChanged(Damaged):
    """A chunk is not what its plan names, nobody knows since when."""


Stamp = tuple[int, ...]


def stamp(found: os.stat_result) -> Stamp:
    """What of a file changes when it is written."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def is_settled(seen: Stamp, when_ns: int) -> bool:
    """Whether a stamp, taken then, tells of every write since."""
    return max(seen[-2:]) + RACY_NS < when_ns


def chunks_of(size: int) -> int:
    """How many chunks a file of so many bytes has; the last may be shorter."""
    return -(-size // CHUNK)


def digests(content: bytes | memoryview) -> bytes:
    """The digests of the chunks of some bytes, one after another."""
    view = memoryview(content)
    parts = (view[first : first + CHUNK] for first in range(0, len(view), CHUNK))
    return b"".join(hashlib.sha256(part).digest() for part in parts)


def write_digests(file: Path, target: Path) -> None:
    """Write the digests of the chunks of a file, one after another."""
    with file.open("rb") as content, target.open("wb") as noted:
        while part := content.read(64 * CHUNK):
            noted.write(digests(part))
        noted.flush()
        os.fsync(noted.fileno())


class CheckedFile:
    """The tokens of a file, to be checked before they are used."""

    def __init__(
        self,
        path: Path,
        dtype: np.dtype[np.generic],
        offset: int,
        tokens: int,
        noted: np.ndarray | None,
        remedy: str,
    ) -> None:
        self.path = path
        self.dtype = dtype
        self.offset = offset  # bytes before the first token
        self.tokens = tokens
        self.bytes = offset + tokens * dtype.itemsize
        self._noted = noted  # uint8, (chunks, DIGEST); null where an earlier version made none
        self._remedy = remedy
        self._good = np.zeros(0 if noted is None else len(noted), bool)
        self._stamp: Stamp = ()
        self._settled = False
        self._mapped: np.ndarray | None = None

    def array(self) -> np.ndarray:
        """All its tokens, memory-mapped and not checked."""
        if self._mapped is None:
            try:
                mapped = np.memmap(self.path, self.dtype, "r", self.offset, (self.tokens,))
            except (OSError, ValueError) as error:
                raise self._unusable(f"cannot be mapped: {error}", error) from error
            self._mapped = mapped.view(np.ndarray)
        return self._mapped

    def check(self, first: np.ndarray, count: np.ndarray) -> None:
        """Check the chunks that hold so many tokens from each of these, and no others.

        Raises CorpusChanged, and Damaged as `look`.
        """
        self.look()
        if self._noted is None or not len(first):
            return
        width = self.dtype.itemsize
        low = (self.offset + first * width) // CHUNK
        many = (self.offset + (first + count) * width - 1) // CHUNK - low + 1
        before = np.cumsum(many) - many  # chunks of the ranges before each
        wanted = np.unique(np.repeat(low - before, many) + np.arange(int(many.sum())))
        if not len(missing := wanted[~self._good[wanted]]):
            return
        try:
            with self.path.open("rb", buffering=0) as file:
                if len(missing) < READERS:
                    found = [self._is_good(file.fileno(), chunk) for chunk in missing.tolist()]
                else:
                    with ThreadPoolExecutor(READERS) as readers:
                        found = list(
                            readers.map(
                                lambda chunk: self._is_good(file.fileno(), chunk), missing.tolist()
                            )
                        )
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror}", error) from error
        if not all(found):
            chunk = int(missing[found.index(False)])
            last = min(self.bytes, (chunk + 1) * CHUNK)
            raise CorpusChanged(
                f"[data] chunk {chunk} (bytes {chunk * CHUNK} to {last}) of {self.path} has "
                f"changed since it was written. {self._remedy}"
            )
        self._good[missing] = True

    def check_all(self) -> None:
        """Check every chunk. Raises as `check`."""
        self.check(np.array([0]), np.array([self.tokens]))

    def is_as_checked(self) -> bool:
        """Whether the file has not been written, nor replaced, since it was last checked."""
        try:
            return stamp(self.path.stat()) == self._stamp
        except OSError:
            return False

    def look(self) -> None:
        """Forget what was checked of the file if it may have been written since.

        Raises Damaged if it is gone or of another size. Nothing is read.
        """
        now = time.time_ns()
        try:
            seen = stamp(refuse_irregular(self.path.stat()))
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror}", error) from error
        if seen[2] != self.bytes:
            raise self._unusable(f"has {seen[2]} of {self.bytes} bytes")
        if seen != self._stamp or not self._settled:
            self._good[:] = False
            self._mapped = None  # another file may have taken its name
            self._stamp, self._settled = seen, is_settled(seen, now)

    def _unusable(self, how: str, error: Exception | None = None) -> Damaged:
        what = self._remedy if error is None else remedy(error, self._remedy)
        return Damaged(f"[data] {self.path} {how}. {what}")

    def _is_good(self, file: int, chunk: int) -> bool:
        assert self._noted is not None
        content = os.pread(file, CHUNK, chunk * CHUNK)
        return hashlib.sha256(content).digest() == self._noted[chunk].tobytes()


def checked_file(
    path: Path, dtype: str, offset: int, tokens: int, noted: Path | None, row: int, remedy: str
) -> CheckedFile:
    """A file whose digests begin at a row of the file `noted`; without one it is not checked.

    It is the same one for whoever asks in this process, so that a chunk is checked once for all the
    runs that it trains. Raises Damaged if its digests are not all there.
    """
    try:
        seen = () if noted is None else stamp(refuse_irregular(noted.stat()))
    except OSError as error:
        raise Damaged(cannot_read(str(noted), error, remedy)) from error
    return _checked(path, dtype, offset, tokens, noted, seen, row, remedy)


@cache
def _checked(
    path: Path,
    dtype: str,
    offset: int,
    tokens: int,
    noted: Path | None,
    seen: Stamp,
    row: int,
    remedy: str,
) -> CheckedFile:
    kind = np.dtype(dtype)
    found = None
    if noted is not None:
        rows = chunks_of(offset + tokens * kind.itemsize)
        found = _digests(noted, seen)[row : row + rows]
        if len(found) != rows:
            raise Damaged(f"{noted} lacks digests. {remedy}")
    return CheckedFile(path, kind, offset, tokens, found, remedy)


@cache  # one mapping for all files: a process may have some 65,000
def _digests(noted: Path, seen: Stamp) -> np.ndarray:
    """The digests in a file as it was seen, uint8, (chunks, DIGEST)."""
    return np.memmap(noted, np.uint8, "r").view(np.ndarray).reshape(-1, DIGEST)
