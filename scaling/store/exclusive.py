"""Files that exactly one process can create: by a hard link, on network file systems too."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from scaling.remedies import cannot_write
from scaling.store.records import Refusal, hold, json_bytes
from scaling.store.waiting import wait_for_lock

# Of a number in a file's name: one that chance or malice made far too high is counted on from.
MOST_DIGITS = 18


def create(path: Path, value: Any) -> bool:
    """Whether this call made the JSON file `path`: whole at once, and one caller alone."""
    file = create_locked(path, value)
    if file is not None:
        file.close()
    return file is not None


def draft(path: Path, value: Any) -> bool:
    """As `create`, of a file that can be made again: after a power cut it may be empty.

    To wait for the disk takes most of the time in which a large grid is laid out.
    """
    file, aside = _aside(path, json.dumps(value, allow_nan=False).encode())
    try:
        return _link(aside, path)
    finally:
        file.close()
        aside.unlink(missing_ok=True)


def create_locked(path: Path, value: Any) -> BinaryIO | None:
    """The new JSON file `path`, open and locked; none if it is there already."""
    file, aside = _aside(path, json_bytes(value))
    made = False
    try:
        with _refusing(path):
            os.fsync(file.fileno())
        made = _link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
        if not made:
            file.close()
    return file if made else None


def _aside(path: Path, data: bytes) -> tuple[BinaryIO, Path]:
    """A new file beside `path` that holds these bytes, open and locked."""
    aside = path.with_name(f".{path.stem}.{uuid4().hex}")
    with _refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = aside.open("xb")
        try:
            hold(file)
            file.write(data)
            file.flush()
        except BaseException:
            aside.unlink(missing_ok=True)
            file.close()
            raise
        return file, aside


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Raise Refusal for what the system says about writing a file."""
    try:
        yield
    except OSError as error:
        raise Refusal(cannot_write(path, error, "choose another folder with --results")) from error


def _link(aside: Path, path: Path) -> bool:
    """Give a file its name, unless one has it."""
    try:
        return make_link(aside, path)
    except OSError as error:
        raise Refusal(
            f"cannot link {path}: {error.strerror}. Results need a file system with hard links: "
            "choose another folder with --results."
        ) from error


def make_link(aside: Path, path: Path) -> bool:
    """Whether this call gave a file its name: exclusive on network file systems too."""
    try:
        os.link(aside, path)
    except FileExistsError:
        # A network may lose the answer to a link that was made, and ask again.
        with suppress(FileNotFoundError):  # taken away by who took the run over
            return aside.stat().st_nlink == 2
        return False
    return True


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the only process of this machine in a folder that asks for that."""
    file = os.open(folder, os.O_RDONLY)
    try:
        wait_for_lock(file, fcntl.LOCK_EX, folder)
        yield
    finally:
        os.close(file)


def last_number(folder: Path, digits: int) -> int | None:
    """The highest of the numbers, of so many digits or more, that name JSON files of a folder."""
    names = (file.stem for file in folder.glob("*.json"))
    return max(
        (int(name) for name in names if re.fullmatch(rf"[0-9]{{{digits},{MOST_DIGITS}}}", name)),
        default=None,
    )
