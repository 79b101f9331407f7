"""What a process prints is not its life, and nothing that was read commands the terminal."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from scaling.store.records import printable

TAIL_BYTES = 4096  # that are read of a log, which may be huge
TAIL_LINES = 3
LOGS = "logs"  # the folder of a results folder that workers' logs are in


def nowhere() -> TextIO:
    """What takes the place of a stream that was closed before the process began."""
    return Path(os.devnull).open("w")


class Unbroken:
    """A stream that stops no work: once it cannot take what is printed, it is given nothing more.

    `| head`, a terminal that is closed and a full disk end the output, never the work.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None  # why something could not be printed

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, do: Callable[[], object]) -> None:
        if self.lost is None:
            try:
                do()
            except OSError as error:
                self.lost = error
                # What is left in the stream's buffer goes nowhere, without another error at exit.
                with suppress(OSError), nowhere() as empty:
                    os.dup2(empty.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


class Printable:
    """A stream that is sent lines of printable text alone, in the letters that it has.

    Names, reasons and logs come from files, and a terminal obeys what it is sent. Colours pass, but
    to a terminal alone: the help of options has them.
    """

    def __init__(self, stream: TextIO | Unbroken) -> None:
        self.below = stream  # for what draws on the terminal, such as a progress bar

    def write(self, text: str) -> int:
        parts = COLOUR.split(text) if self.below.isatty() else [text]
        parts[::2] = map(lines_printable, parts[::2])
        self.below.write(spelt("".join(parts), self.below))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


def lines_printable(text: str) -> str:
    """`text` with each of its lines made printable."""
    return "\n".join(map(printable, text.split("\n")))


def spelt(text: str, stream: TextIO | Unbroken) -> str:
    """`text` in the letters that a stream has; others are written as escapes, such as \\xd7."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def drawing_on(stream: Any) -> Any:
    """What draws with codes that a terminal obeys writes to this, and must write no text of others'
    as it is."""
    return stream.below if isinstance(stream, Printable) else stream


def log_tail(results: Path, name: str) -> str:
    """The last lines of a worker's log, as one, or why there are none to read.

    A log may be huge, gone, or something else by now.
    """
    if not name:
        return "it kept no log"
    path = results / LOGS / Path(name).name  # a claim is a file, and names no other folder
    try:
        with open(path, "rb", opener=_unfollowing) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                return f"its log {path} is no file"
            file.seek(max(0, found.st_size - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError as error:
        if not results.is_dir():
            return f"{results} is gone, and its log with it"
        if isinstance(error, FileNotFoundError):
            return f"it has no log: nothing could be written to {path}, or it was deleted"
        return f"its log {path} cannot be read: {error.strerror}"
    said = [line.strip() for line in lines if line.strip()][-TAIL_LINES:]
    return f"log: {' | '.join(said)}" if said else f"its log {path} is empty"


def _unfollowing(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
