"""Files that a user named: a pipe is waited for and not without a word, and none is endless."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

from scaling.store import waiting
from scaling.store.records import unblocking


def read_once(path: Path, most: int) -> bytes:
    """What a file or a pipe holds: so many bytes at most, and one more if there are more.

    A pipe is read until its writer closes it, however long that takes. Raises OSError.
    """
    # In a thread: nothing else can speak while this one opens a pipe that nobody writes to.
    what = f"{path} has not ended yet, as a pipe does when its writer closes it"
    note = threading.Timer(waiting.SILENCE, waiting.say_waiting, [what])
    note.daemon = True
    note.start()
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    finally:
        note.cancel()


def read_file(path: Path, most: int) -> bytes:
    """What a regular file holds, as that of an input which is read again, by other processes too.

    Raises OSError; ValueError with the reason for a pipe, a device and a file of more than so many
    bytes.
    """
    if "\0" in str(path):
        raise ValueError("NUL in its name")
    with open(path, "rb", opener=unblocking) as file:  # Path.open has no opener
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("no regular file, which it must be, since it is read more than once")
        if found.st_size > most:
            raise ValueError(f"{found.st_size:,} bytes; {most:,} are allowed")
        return file.read(most)
