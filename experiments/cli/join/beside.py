"""What lies beside a fit: the run table that it was made of, or by now another.

A fit keeps its rows, how they were read and the digest of their file. Of another file, the table is
read in the same way again, so one that was written anew with the same runs is the same table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.fitting.fit import Fit
from analysis.fitting.inputs import prepare
from analysis.runs.files.load import digest_of
from analysis.runs.sweep import chosen, sweep
from analysis.runs.table import OF_FILE, read_runs, usable
from analysis.text import counted
from scaling.store.records import Refusal, read_json

TABLES = ("runs.parquet", "runs.csv")  # of a results folder; a reference study has the second
BITS = 32  # of a number that are compared: CSV and other machines may change the last


@dataclass(frozen=True)
class Beside:
    """What the run table beside a fit says of it; empty where there is nothing to say."""

    another: str = ""  # why it is not the table that was fitted; without the remedy
    grown: str = ""  # how many runs it has that were not fitted

    @property
    def cautions(self) -> tuple[str, ...]:
        """What every answer from the fit repeats."""
        return tuple(f"{said}. Fit again" for said in (self.another, self.grown) if said)


def beside(path: Path, fit: Fit) -> Beside:
    """What the run table beside the fit at `path` says of it."""
    table = next(filter(Path.is_file, _tables(path, fit)), None)
    if table is None:
        return Beside()
    asked = fit.data.asked
    try:
        if asked is not None and asked.get("sha256") == digest_of(table):
            return Beside()  # whichever of its rows were fitted
        rows = _read(table, path, fit)
    except Refusal:
        # Where a fit does not say how its table was read, this may have been another way.
        why = "" if asked is None else f"{table} cannot be read as when the fit was made"
        return Beside(another=why)
    columns = [*fit.law.features, fit.law.target]
    fitted, there = _tally(fit.table, columns), _tally(rows, columns)
    gone, more = (fitted - there).total(), (there - fitted).total()
    if gone:
        return Beside(
            another=f"{gone} of {counted(fit.data.n, 'fitted run')} are not in {table}, beside the "
            "fit: one of the two is of another grid, or of this one before it was trained anew"
        )
    if more and asked is not None:
        return Beside(grown=f"{table} has {counted(more, 'run')} more than when the fit was made")
    return Beside()


def _tables(path: Path, fit: Fit) -> Iterable[Path]:
    """Where the run table of the fit at `path` may lie."""
    results = [path.parent.parent] if path.parent.name == "fits" else []
    if fit.data.asked is None:
        return [folder / name for folder in results for name in TABLES]
    file = str(fit.data.asked["file"])
    names = TABLES if file in TABLES else (file,)
    return [folder / name for folder in (path.parent, *results) for name in names]


def _read(table: Path, path: Path, fit: Fit) -> pd.DataFrame:
    """The rows of the table that the fit would be made of."""
    asked = fit.data.asked
    if asked is None:
        counts = fit.data.params_column if "params" in fit.law.features else None
        rows = read_runs(table, require=(), params_column=counts)
    else:
        rows = read_runs(table, **{name: asked[name] for name in asked if name not in OF_FILE})
    if swept := read_json(path).get("best_of"):
        rows = chosen(rows, sweep(rows, swept["column"], level=swept["level"]), fit.law.target)
    return prepare(fit.law, usable(rows).rows, fit.settings).rows


def _tally(rows: pd.DataFrame, columns: list[str]) -> Counter[tuple[float, ...]]:
    """How many rows have these numbers, to so many bits."""
    mantissa, exponent = np.frexp(rows[columns].to_numpy(dtype=float))
    rounded = np.ldexp(np.round(np.ldexp(mantissa, BITS)), exponent - BITS)
    return Counter(map(tuple, rounded.tolist()))
