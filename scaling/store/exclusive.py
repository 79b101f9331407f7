"""Files that exactly one process can create: by a hard link, on network file systems too."""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from scaling.store.records import Refusal, write_json


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
    aside = path.with_name(f".{path.stem}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(value, allow_nan=False))
    except OSError as error:
        raise Refusal(
            f"cannot write {path}: {error.strerror}. Free space or choose another folder with "
            "--results."
        ) from error
    return _link(aside, path)


def create_locked(path: Path, value: Any) -> BinaryIO | None:
    """The new JSON file `path`, open and locked; none if it is there already."""
    aside = path.with_name(f".{path.stem}.{uuid4().hex}")
    write_json(aside, value)
    file = aside.open("r+b")
    made = False
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        made = _link(aside, path)
    finally:
        if not made:
            file.close()
    return file if made else None


def _link(aside: Path, path: Path) -> bool:
    """Give a file its name, unless one has it."""
    try:
        return make_link(aside, path)
    except OSError as error:
        raise Refusal(
            f"cannot link {path}: {error.strerror}. Results need a file system with hard links: "
            "choose another folder with --results."
        ) from error
    finally:
        aside.unlink(missing_ok=True)


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


def last_number(folder: Path, digits: int) -> int | None:
    """The highest of the numbers, of so many digits, that name JSON files of a folder."""
    names = (file.stem for file in folder.glob("*.json"))
    return max(
        (int(name) for name in names if re.fullmatch(rf"[0-9]{{{digits}}}", name)), default=None
    )
