"""What is printed on the terminal, made safe: nothing that was read from a file can command it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from analysis.text import printable, text_table
from scaling.launch.output import lines_printable, spelt

MOST_NAMES = 5  # of many that one line lists


@dataclass(frozen=True)
class Part:
    """One section of a result: its text for the terminal, its keys in the JSON file, warnings."""

    text: str
    json: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


def joined(parts: Sequence[Part]) -> Part:
    """Several sections as one: the texts with empty lines between them, the keys together."""
    values = {name: value for each in parts for name, value in each.json.items()}
    warnings = tuple(warning for each in parts for warning in each.warnings)
    return Part("\n\n".join(each.text for each in parts if each.text), values, warnings)


def rows_text(rows: Iterable[Mapping[str, str]], more: str = "--json FILE") -> str:
    """A table of rows, each with its cells by column, as `text_table` makes it; empty without."""
    cells = list(rows)
    return text_table([*cells[0]], [[*row.values()] for row in cells], more) if cells else ""


_SHOWN_AS: dict[str, str] = {}


def show_as(path: str, address: str) -> None:
    """Print an address from now on wherever this path would be printed, its mirror here."""
    _SHOWN_AS[path] = address


def show_as_it_is() -> None:
    """Forget what paths are printed as: the command has ended."""
    _SHOWN_AS.clear()


def show_in_one_line(words: Iterable[str]) -> None:
    """Print these words of a command, and names made of them, with line breaks written out."""
    for word in words:
        for part in (word, Path(word).name, Path(word).stem):
            if "\n" in part.strip():
                show_as(part, printable(part))


def say(text: str, file: TextIO | None = None) -> None:
    """Print `text`, each line of it made printable."""
    for path, address in _SHOWN_AS.items():
        text = text.replace(path, address)
    file = file or sys.stdout
    print(spelt(lines_printable(text), file), file=file, flush=True)


def few(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
