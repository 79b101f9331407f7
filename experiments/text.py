"""Columns and durations for the terminal, which nothing read from a file may command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

# Rows of a table that the terminal shows: several screens, and every study that is shipped.
MOST_ROWS = 200
MOST_NAMES = 5  # of many that a line lists


def printable(text: str) -> str:
    """`text` with what moves the cursor, colours, hides or reverses written out, such as \\x1b.

    Names, reasons and logs come from files, and a terminal obeys what it is sent.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines of which each is made printable."""
    lines = "\n".join(map(printable, text.split("\n")))
    file = file or sys.stdout
    # What the terminal cannot spell is written out too.
    encoding = file.encoding or "utf-8"
    print(lines.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)


def few(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], more: str = "--json FILE") -> str:
    """Left-aligned columns, each as wide as its widest cell.

    Of very many rows the middle is left out, and `more` says what has them all.
    """
    cut = max(0, len(rows) - MOST_ROWS)
    first = (len(rows) - cut) // 2 if cut else len(rows)
    shown = [
        [printable(cell) for cell in row] for row in (header, *rows[:first], *rows[first + cut :])
    ]
    widths = [max(map(len, cells)) for cells in zip(*shown, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    if cut:
        lines.insert(1 + first, f"… {cut:,} more of {len(rows):,} rows; {more} has them all")
    return "\n".join(lines)
