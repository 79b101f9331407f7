"""What killed processes left of files that they were writing: .NAME.<32 hex digits> beside NAME.

A writer holds the lock of such a file before it puts anything into it, until the file has its name
(records.replacing). So one that holds something and that nobody locks has no owner any more; unless
that is on another host, whose locks are not seen from here: it must not have changed for long, too.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from scaling.store.records import opened

OLD_SECONDS = 3600.0  # without a change: longer than a writer pauses
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}(\.npz)?")


def leftovers(folder: Path, name: str = "") -> list[Path]:
    """The files of a folder that no living process writes, of `name` or of any.

    None on a file system without locks, where nobody can tell.
    """
    return [path for path in _temporary(folder, name) if _is_left(path)]


def sweep(folder: Path, name: str = "") -> None:
    """Delete the leftovers of a folder."""
    for path in leftovers(folder, name):
        with suppress(OSError):  # not this user's: it is named by `scaling status`
            path.unlink()


def sweep_folders(folder: Path) -> None:
    """Delete the folders .NAME.<32 hex digits> of a folder in which nothing has changed for long.

    Nobody holds a lock of those: age alone tells.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            ours = _TEMPORARY.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            with suppress(OSError):  # its owner deletes it
                if ours and is_old(folder / entry.name):
                    shutil.rmtree(entry.path, ignore_errors=True)


def is_free(path: Path) -> bool:
    """Whether nobody holds a file, of any user; false where there are no locks."""
    try:
        # A shared lock asks for no right to write, on network file systems too.
        with opened(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def is_old(path: Path, seconds: float | None = None) -> bool:
    """Whether a file, or all in a folder, is as it was so long ago (OLD_SECONDS if not given).

    Raises OSError where it is missing.
    """
    changed = max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    return _now(path.parent) - changed >= (OLD_SECONDS if seconds is None else seconds)


def _is_left(path: Path) -> bool:
    # In this order: what is not empty was held before, so that nobody begins to hold it.
    with suppress(OSError):
        return path.stat().st_size > 0 and is_old(path) and is_free(path)
    return False


def _now(folder: Path) -> float:
    """The time by the clock that dates the files of a folder: a server's may be another."""
    try:
        with TemporaryFile(dir=folder, prefix=".") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # which may not be written: then nothing in it is deleted
        return time.time()


def _temporary(folder: Path, name: str) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            ours = entry.name.startswith(f".{name}") and _TEMPORARY.fullmatch(entry.name)
            if ours and entry.is_file(follow_symlinks=False):
                yield folder / entry.name
