"""What a command writes where the user says so: never over a file that is not this program's.

A file is recognised by what it says of itself: an answer by its seal, and so only while it is as it
was written; a figure by its maker's name, and a fit by its law, whoever has changed them since. Any
other is replaced with --overwrite alone, and so is one that the command reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes

from experiments.cli.app import JsonFile, described
from scaling.store.leftovers import sweep
from scaling.store.records import (
    MADE_BY,
    Refusal,
    check_seal,
    read_json,
    sealed,
    write_bytes,
    write_json,
)

OPTIONS = ("--json", "--out")  # that name a file to write
MOST_BYTES = 1 << 30  # of an answer; that of a large table has hundreds of millions


@dataclass(frozen=True)
@described
class Output:
    """Where the result is written, besides the terminal.

    Args:
        to_json: Write the result to this file too, as JSON.
        overwrite: Replace files even if this program did not write them, or if it reads them now.
    """

    to_json: JsonFile = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raise Refusal before any work is done, rather than when there is a result to lose."""
        if self.to_json is not None:
            self.refuse("--json", self.to_json, is_answer)

    def write(self, result: dict[str, Any]) -> None:
        """Write a result to the file of --json, if one was given."""
        if self.to_json is not None:
            self.refuse("--json", self.to_json, is_answer)
            sweep(self.to_json.parent, self.to_json.name)
            write_json(self.to_json, sealed({**result, "written_by": MADE_BY}))

    def draw(self, folder: Path, draw: Callable[[Path], Sequence[Path]]) -> list[Path]:
        """Write all figures that `draw` makes into the folder it is given, or none."""
        with TemporaryDirectory() as aside:
            figures = {folder / made.name: made.read_bytes() for made in draw(Path(aside))}
        for path in figures:
            self.refuse("figure", path, is_figure)
        for path, data in figures.items():
            sweep(folder, path.name)
            write_bytes(path, data)
        return [*figures]

    def refuse(self, given_as: str, path: Path, is_ours: Callable[[Path], bool]) -> None:
        """Raise Refusal for a path that is no file, or whose file the user would lose.

        A link is no file: replaced by one, it would lead nowhere, and what it leads to may be
        another's.
        """
        if path.is_symlink():
            raise Refusal(f"{given_as} {path} is a link. Give the file itself, or another path.")
        if path.exists() and not path.is_file():
            raise Refusal(f"{given_as} {path} is no regular file. Give another path.")
        if self.overwrite or not path.exists() or not path.stat().st_size or is_ours(path):
            return
        raise Refusal(
            f"{given_as} {path} exists, and was not written by this version of this program, or "
            "was changed since. Give a file elsewhere, or replace this one with --overwrite."
        )


TO_TERMINAL = Output()
Outputs = Annotated[Output, OmitArgPrefixes]


def is_answer(path: Path) -> bool:
    """Whether `Output.write` wrote a file, and nobody has changed it since."""
    try:
        value = read_json(path, MOST_BYTES)
        check_seal(value)
        return bool(value["written_by"] == MADE_BY and value["sha256"])
    except (Refusal, LookupError, AttributeError, TypeError, ValueError, RecursionError):
        return False


def is_figure(path: Path) -> bool:
    """Whether a file was a figure of ours, PNG or SVG: each says so at its beginning."""
    with path.open("rb") as file:  # of another program's file, however large, no more is read
        return MADE_BY.encode() in file.read(_HEAD)


_HEAD = 4096  # bytes, in which a figure says what made it


def refuse_overwriting(words: Sequence[str]) -> None:
    """Raise Refusal if OPTIONS name one file, or one that another word of the command names.

    What is only read may be replaced with --overwrite; of two that are written, one is lost.
    """
    parts = [
        part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])
    ]
    written = {at: parts[at] for at, option in enumerate(["", *parts[:-1]]) if option in OPTIONS}
    for (at, target), (other_at, other) in combinations(written.items(), 2):
        if Path(target).resolve() == Path(other).resolve():
            one, two = f"{parts[at - 1]} {target}", f"{parts[other_at - 1]} {other}"
            raise Refusal(f"{one} and {two} are one file, which would be written twice. Give two.")
    read = [] if "--overwrite" in words else [
        each for at, each in enumerate(parts) if at not in written and _is_file(each)
    ]  # fmt: skip
    for at, target in written.items():
        if _is_file(target) and any(Path(each).samefile(target) for each in read):
            raise Refusal(
                f"{parts[at - 1]} {target} is read by this command, which would overwrite it. Give "
                f"another file with {parts[at - 1]}."
            )


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # a condition may be longer than any path
        return False
