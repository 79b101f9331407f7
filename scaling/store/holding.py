"""Who works in a results folder: a lock that every launch and worker shares for its life.

A second lock is taken for moments, by one at a time: whoever replaces the plan or the run table.
Both die with their process.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scaling.remedies import cannot_write
from scaling.store.claims import owner
from scaling.store.leftovers import sweep, sweep_folders
from scaling.store.records import Refusal
from scaling.store.waiting import taken, wait_for_lock

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
            return taken(self.file, fcntl.LOCK_EX)
        except OSError:
            return not any(map(owner, self.results.glob("runs/*")))
        finally:  # an attempt that failed may have lost the shared lock too: flock(2)
            wait_for_lock(self.file, fcntl.LOCK_SH, self.results / SHARED)


@contextmanager
def holding(results: Path) -> Iterator[Hold]:
    """Hold a results folder, beside others.

    Raises Refusal where its lock cannot be written, or another process keeps it.
    """
    with _opened(results / SHARED) as file:
        wait_for_lock(file, fcntl.LOCK_SH, results / SHARED)
        yield Hold(results, file)


@contextmanager
def changing(results: Path) -> Iterator[None]:
    """Be the only one that replaces the plan or the table of a results folder.

    Whoever reads first writes first, so that no table replaces one that saw more runs. Raises
    Refusal where another process does so for longer than the WAIT_SECONDS of waiting.py.
    """
    with _opened(results / CHANGING) as file:
        wait_for_lock(file, fcntl.LOCK_EX, results / CHANGING)
        sweep(results)
        sweep_folders(results / "runs")  # of a sync that was killed
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A lock's file, never through a link: it would be made elsewhere."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise Refusal(cannot_write(path, error)) from error
    try:
        yield file
    finally:
        os.close(file)
