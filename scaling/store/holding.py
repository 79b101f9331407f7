"""Who works in a results folder: a lock that every launch and worker shares for its life.

A second lock is taken for moments, by one at a time: whoever replaces the plan or the run table.
Both die with their process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from scaling.store.claims import owner
from scaling.store.records import Refusal

WAIT_SECONDS = 120.0  # for another to write plan or table; ten thousand runs take ten
LOOK_SECONDS = 0.05
SHARED, CHANGING = ".in-use.lock", ".changing.lock"


@dataclass(frozen=True)
class Hold:
    """This process's hold on a results folder."""

    results: Path
    file: int  # descriptor of the lock's file

    def is_alone(self) -> bool:
        """Whether no other launch or worker holds the folder; ask it only in `changing`.

        Where the file system has no locks, whether nobody claims any run of it.
        """
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            return not any(map(owner, self.results.glob("runs/*")))
        finally:  # an attempt that failed may have lost the shared lock too: flock(2)
            _share(self.file)


@contextmanager
def holding(results: Path) -> Iterator[Hold]:
    """Hold a results folder, beside others. Raises Refusal where its lock cannot be written."""
    with _opened(results / SHARED) as file:
        _share(file)
        yield Hold(results, file)


@contextmanager
def changing(results: Path) -> Iterator[None]:
    """Be the only one that replaces the plan or the table of a results folder.

    Whoever reads first writes first, so that no table replaces one that saw more runs. Raises
    Refusal where another process does so for longer than WAIT_SECONDS.
    """
    with _opened(results / CHANGING) as file:
        until = time.monotonic() + WAIT_SECONDS
        with suppress(OSError):  # a file system without locks: each writes what it saw
            while not _taken(file):
                if time.monotonic() > until:
                    raise Refusal(
                        f"{results}: another process has been writing its plan or run table for "
                        f"{WAIT_SECONDS:g} s. If it stands still, end it; then give the command "
                        "again."
                    )
                time.sleep(LOOK_SECONDS)
        yield


def _taken(file: int) -> bool:
    """Whether a lock was free and is now this process's. Raises OSError where there are none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise


def _share(file: int) -> None:
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH)


@contextmanager
def _opened(lock: Path) -> Iterator[int]:
    """A lock's file, never through a link: it would be made elsewhere."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise Refusal(
            f"cannot write {lock}: {error.strerror}. Free space, or choose another folder."
        ) from error
    try:
        yield file
    finally:
        os.close(file)
