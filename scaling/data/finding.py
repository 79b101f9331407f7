"""The files that the name of a source means: a file, all of a folder, or those that a glob matches.

Each file once, by what it is and not by what it is called: a text that counted as fresh under every
name which leads to it would be trained on again and again.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scaling.remedies import cannot_read
from scaling.store.records import Refusal

PSEUDO = ("/proc", "/sys")  # made up by the kernel as they are read, and endless
MOST_FOLDERS = 1_000_000  # that one name leads through; each takes tens of microseconds
ANY_DEPTH = re.compile(r"(?:^|(?<=/))\*\*(?:/+|$)")  # ** alone between slashes, as glob has it

Identity = tuple[int, int] | str


class Listing(NamedTuple):
    """What a source's name leads to, in the order of names: files, if all is well."""

    paths: list[Path]
    again: int  # names that were passed over, since they lead to what others lead to


def listed(name: str) -> Listing:
    """What a source's name leads to, whatever it is.

    Raises Refusal for a name that leads where no text of anybody's is, or too far.
    """
    if (source := Path(name)).is_dir():
        return Listing(sorted(_Way(name).inside(source)), 0)
    if source.is_file():  # also where its name has brackets
        return Listing([source], 0)
    way = _Way(name)
    found = {path for each in way.matching(name) if not (path := Path(each)).is_dir()}
    return Listing(sorted(found), way.circles)


def each_once(name: str, found: Listing) -> Listing:
    """The files that these names lead to, each under the first of its names.

    Raises Refusal for what is no file.
    """
    way = _Way(name)
    for parent in {path.parent for path in found.paths}:
        way.refuse_pseudo(parent)
    for path in found.paths:
        if not path.is_file():
            what = "a link to nothing" if path.is_symlink() and not path.exists() else "no file"
            raise Refusal(f"[data] source = {name!r}: {path} is {what}. Remove or restore it.")
    once = {identity(path): path for path in reversed(found.paths)}
    return Listing(sorted(once.values()), found.again + len(found.paths) - len(once))


def identity(path: Path) -> Identity:
    """What a file or folder is, whatever it is called."""
    found = path.stat()
    # Some network file systems number nothing.
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, and links to folders, but for hidden ones."""
    with os.scandir(folder) as every:
        return sorted(Path(each.path) for each in every if each.name[0] != "." and _is_folder(each))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


class _Way:
    """Where the name of a source leads."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.folders = 0  # so far
        self.circles = 0  # links to folders that were entered already

    def inside(self, folder: Path) -> Iterator[Path]:
        """All that is in a folder but folders, whose files are. Raises Refusal for one that is
        shut."""

        def shut(error: OSError) -> None:
            raise Refusal(f"[data] source: {cannot_read(error.filename, error)}")

        self.refuse_pseudo(folder)
        for parent, folders, files in os.walk(folder, onerror=shut):
            self._count()
            for each in folders:
                self.refuse_pseudo(Path(parent) / each)
            # A link to a folder is not entered, and so must be told of.
            links = [each for each in folders if (Path(parent) / each).is_symlink()]
            yield from (Path(parent) / each for each in (*files, *links))

    def matching(self, pattern: str) -> Iterator[str]:
        """As glob.iglob(pattern, recursive=True), but that ** enters each folder once."""
        depth = ANY_DEPTH.search(pattern)
        if depth is None:
            self.refuse_pseudo(Path(pattern))
            yield from glob.iglob(pattern)  # noqa: PTH207  # Path.glob takes no absolute patterns
            return
        head, rest = pattern[: depth.start()], pattern[depth.end() :]
        rest = rest or ("" if pattern.endswith("/") else "*")  # with a slash, folders alone
        for base in glob.iglob(head) if head else ["."]:  # noqa: PTH207
            for folder in self._within(Path(base)):
                yield from self.matching(f"{glob.escape(str(folder))}/{rest}")

    def _within(self, first: Path) -> Iterator[Path]:
        """A folder and those in it; links come last, so that what is none keeps its own name."""
        self.refuse_pseudo(first)
        entered: set[Identity] = set()
        folders, links = [first], list[Path]()
        while folders or links:
            folder = folders.pop() if folders else links.pop(0)
            try:
                known, inside = identity(folder), _folders(folder)
            except OSError:  # glob passes over what is shut or gone
                continue
            if known in entered:
                self.circles += 1
                continue
            entered.add(known)
            self._count()
            yield folder
            for each in inside:
                self.refuse_pseudo(each)
                (links if each.is_symlink() else folders).append(each)

    def _count(self) -> None:
        self.folders += 1
        if self.folders > MOST_FOLDERS:
            raise Refusal(
                f"[data] source = {self.source!r} leads through more than {MOST_FOLDERS:,} "
                "folders. Narrow it."
            )

    def refuse_pseudo(self, folder: Path) -> None:
        """Raise Refusal for a folder of files that are made up as they are read."""
        real = os.path.realpath(folder)
        for each in PSEUDO:
            if real == each or real.startswith(f"{each}/"):
                raise Refusal(
                    f"[data] source = {self.source!r} leads to {each}, whose files are made up as "
                    "they are read. Narrow it to files of yours."
                )
