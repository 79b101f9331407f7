"""What is wrong with a table of runs, as sentences that name its columns, lines and cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.arguments import LEAST, MOST
from analysis.runs.columns.names import Column, Unclear, candidates
from analysis.runs.columns.numbers import text_of
from analysis.runs.files.csv import as_written
from analysis.runs.messages import listed, listing, row_called, shown
from scaling.store.records import Refusal, did_you_mean

MOST_SHOWN = 5  # cells of a column
OPTIONS = ("params", "tokens", "loss", "flops")  # quantities with an option --NAME-column
_STEP = re.compile(r"(.*[^a-z])?(global_?)?(step|iteration|iter)s?", re.IGNORECASE)


@dataclass(frozen=True)
class BadCells:
    """The cells of a column that are no usable numbers."""

    name: str  # as the file has it
    column: Column  # of the table
    rows: pd.Series  # true where the cell is bad
    positive: bool
    beyond: bool = False  # all that they are is too large or too small

    @property
    def reason(self) -> str:
        """What is wrong with cells that are not empty."""
        if self.beyond:
            return f"{shown(self.name)} is beyond {LEAST:g} to {MOST:g}, where no measurement lies,"
        return f"{shown(self.name)} is not a {'positive ' if self.positive else ''}finite number"


def missing_columns(name: str, table: pd.DataFrame, unclear: Sequence[Unclear]) -> list[str]:
    """Which quantities have no column, or several candidates, with the options to give."""
    sentences = []
    missing = [each for each in unclear if not each.found]
    if missing:
        wanted = listed([f"'{shown(each.name)}'" for each in missing])
        plural = "s" * (len(missing) > 1)
        text = f"{name} has no column{plural} {wanted}; it has {listing(table.columns)}."
        asked = [e.name for e in missing if e.name != e.quantity or e.quantity not in OPTIONS]
        for column in asked:  # by the user: only such a name can be a misspelt one
            text += did_you_mean(column, [shown(str(name)) for name in table.columns])
        named = [e.quantity for e in missing if e.quantity in OPTIONS]
        options = listed([f"--{quantity}-column" for quantity in named])
        options += f" (in Python: {listed([f'{quantity}_column=…' for quantity in named])})"
        if len(table.columns) == 1 and len(str(table.columns[0]).split()) > 1:
            return [f"{text} That is one column: put a comma between names and between cells."]
        if len(named) > 1:
            text += " A run table has one row per run, with its parameters, tokens and loss:"
            text += f" name the columns that hold {listed(named)} with {options}."
        elif named:
            text += f" Name the column that holds {named[0]} with {options}."
        flops = candidates("flops", [str(each) for each in table.columns])
        if "tokens" in named and flops:
            text += f" Or give FLOPs instead of tokens: --flops-column {shown(flops[0])}."
        sentences.append(text)
    sentences += [
        f"{name} has {len(each.found)} columns that may hold {each.quantity}: "
        f"{listing(each.found)}. Name one with --{each.quantity}-column."
        for each in unclear
        if each.found
    ]
    return sentences


def bad_cells(name: str, table: pd.DataFrame, bad: Sequence[BadCells]) -> list[str]:
    """One sentence per column, with the first of its bad cells, and one remedy for all."""
    sentences = []
    correctable = False
    for each in bad:
        count, total = int(each.rows.sum()), len(table)
        empty = table[each.column.name].isna() & each.rows
        if count == total > 1 and empty.all():
            other = f" Name another column with --{each.column.quantity}-column."
            sentences.append(
                f"{name}: {shown(each.name)} is empty in all {total} rows."
                + (other if each.column.quantity in OPTIONS else "")
            )
            continue
        correctable = True
        at = np.flatnonzero(each.rows)[:MOST_SHOWN].tolist()
        cells = _cells(table, each.column.name, at)
        places = [f"{row_called(table, i)} ({cell})" for i, cell in zip(at, cells, strict=True)]
        more = f" and {count - len(at)} more" if count > len(at) else ""
        sentences.append(
            f"{name}: {each.reason} in {count} of {total} rows: {', '.join(places)}{more}."
        )
        if empty.sum() > total / 2 and any(_STEP.fullmatch(str(c)) for c in table.columns):
            sentences.append(
                "The table looks like the history of a run, with one row per step. A run table has "
                "one row per run: take the last evaluation of each."
            )
    if correctable:
        # Of a table that was read before no rows can be left out by an option.
        first = "file" in table.attrs and "notes" not in table.attrs
        option = "--drop-invalid (in Python: drop_invalid=True)"
        remedy = f"leave such rows out with {option}" if first else "drop these rows"
        sentences.append(f"Correct them, or {remedy}.")
    return [" ".join(sentences)] if len(bad) == 1 else sentences


def left_out(table: pd.DataFrame, bad: Sequence[BadCells]) -> pd.Series:
    """Why each row with a bad cell is left out; "" for the others."""
    why = pd.Series("", index=table.index, dtype=object)
    for each in reversed(bad):
        why[each.rows] = each.reason
        why[each.rows & table[each.column.name].isna()] = f"no {shown(each.name)}"
    return why


def _cells(table: pd.DataFrame, column: str, at: list[int]) -> list[str]:
    """Cells as the file has them; pandas read 1e999 as infinity, and nan as an empty cell."""
    cells = table[column].iloc[at]
    texts = cells.where(cells.notna(), "").astype(object).map(text_of).to_list()
    if "delimiter" in table.attrs:
        # The file may have changed since, or have no such column.
        with suppress(OSError, ValueError, LookupError, Refusal):
            texts = as_written(Path(table.attrs["file"]), column, cells.index)
    return [shown(text.strip()) or "empty" for text in texts]
