"""What is wrong with a file of runs, in the file's own words: its columns and its lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.runs.columns import Unclear, candidates
from analysis.runs.delimited import as_written
from analysis.runs.limits import listing, shown
from analysis.runs.numbers import text_of
from analysis.runs.rows import listed, row_called
from scaling.store.records import Refusal, did_you_mean

MOST_SHOWN = 5  # cells of a column
OPTIONS = ("params", "tokens", "loss", "flops")  # quantities with an option --NAME-column
_STEP = re.compile(r"(.*[^a-z])?(global_?)?(step|iteration|iter)s?", re.IGNORECASE)


@dataclass(frozen=True)
class Bad:
    """Rows in which a column has no number that can be used."""

    name: str  # as the file has it
    column: str  # of the table
    quantity: str
    rows: pd.Series  # true where it is bad
    positive: bool

    @property
    def reason(self) -> str:
        """What is wrong with a cell that is not empty."""
        return f"{shown(self.name)} is not a {'positive ' if self.positive else ''}finite number"


def missing_columns(name: str, table: pd.DataFrame, unclear: Sequence[Unclear]) -> str:
    """Every quantity without a column, and those of which several may hold it, with the options."""
    sentences = []
    missing = [each for each in unclear if not each.found]
    if missing:
        wanted = listed([repr(shown(each.name)) for each in missing])
        plural = "s" * (len(missing) > 1)
        text = f"{name} has no column{plural} {wanted}; it has {listing(table.columns)}."
        asked = [e.name for e in missing if e.name != e.quantity or e.quantity not in OPTIONS]
        for column in asked:  # by the user; what we call a column says nothing of another's name
            text += did_you_mean(column, [shown(str(name)) for name in table.columns])
        options = [f"--{e.quantity}-column" for e in missing if e.quantity in OPTIONS]
        quantities = listed([e.quantity for e in missing if e.quantity in OPTIONS])
        if len(options) > 1:
            text += " A run table has a row a run, with its parameters, tokens and loss:"
            text += f" name the columns that hold {quantities} with {listed(options)}."
        elif options:
            text += f" Name the one that holds {quantities} with {options[0]}."
        flops = candidates("flops", [str(each) for each in table.columns])
        if "tokens" in quantities and flops:
            text += f" Or give FLOPs for tokens: --flops-column {shown(flops[0])}."
        sentences.append(text)
    for each in unclear:
        if each.found:
            sentences.append(
                f"{name} has {len(each.found)} columns that may hold {each.quantity}: "
                f"{listing(each.found)}. Name one with --{each.quantity}-column."
            )
    return "\n".join(sentences)


def bad_cells(name: str, table: pd.DataFrame, bad: Sequence[Bad]) -> list[str]:
    """A sentence a column, with the first of its bad cells, and one remedy for all."""
    sentences = []
    for each in bad:
        count, total = int(each.rows.sum()), len(table)
        empty = table[each.column].isna() & each.rows
        if count == total > 1 and empty.all():
            other = f" Name another column with --{each.quantity}-column."
            sentences.append(
                f"{name}: {shown(each.name)} is empty in all {total} rows."
                + (other if each.quantity in OPTIONS else "")
            )
            continue
        at = np.flatnonzero(each.rows.to_numpy())[:MOST_SHOWN]
        cells = _cells(table, each.column, at)
        places = [
            f"{row_called(table, int(i))} ({cell})" for i, cell in zip(at, cells, strict=True)
        ]
        more = f" and {count - len(at)} more" if count > len(at) else ""
        sentences.append(
            f"{name}: {each.reason} in {count} of {total} rows: {', '.join(places)}{more}."
        )
        if empty.sum() > total / 2 and any(_STEP.fullmatch(str(c)) for c in table.columns):
            sentences.append(
                "It looks like the history of a run, a row a step. A run table has a row a run: "
                "take the last evaluation of each run."
            )
    if any("rows: " in each for each in sentences):
        # Who asks for more columns of a table that was read before cannot leave rows of it out.
        first = "file" in table.attrs and "notes" not in table.attrs
        remedy = "leave such rows out with --drop-invalid" if first else "drop these rows"
        sentences.append(f"Correct them, or {remedy}.")
    return [" ".join(sentences)] if len(bad) == 1 else sentences


def left_out(table: pd.DataFrame, bad: Sequence[Bad]) -> pd.Series:
    """Why each row with a bad cell is set aside; "" for the others."""
    why = pd.Series("", index=table.index, dtype=object)
    for each in reversed(bad):
        why[each.rows] = each.reason
        why[each.rows & table[each.column].isna()] = f"no {shown(each.name)}"
    return why


def _cells(table: pd.DataFrame, column: str, at: np.ndarray) -> list[str]:
    """Cells as the file has them: 1e999 was read as infinity, and nan as an empty cell."""
    cells = table[column].iloc[at]
    texts = cells.where(cells.notna(), "").astype(object).map(text_of).to_list()
    if "delimiter" in table.attrs:
        # The file may be another by now, or the column none of its own.
        with suppress(OSError, ValueError, LookupError, Refusal):
            texts = as_written(Path(table.attrs["file"]), column, cells.index)
    return [shown(text.strip()) or "empty" for text in texts]
