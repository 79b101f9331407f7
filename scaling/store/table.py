"""The run table: one row a run that ended, every N and C beside its loss.

It is the contract between training and analysis, so no row of it comes from a file that is not as
it was written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.store.records import Refusal
from scaling.store.run_record import MAX_COUNTS, RESULT_COLUMNS, damage, read_run, run_folders


@dataclass(frozen=True)
class Collected:
    """The run table of a results folder, and what was wrong with the folder."""

    table: pd.DataFrame
    damaged: dict[str, str]  # by run id: why its record or its tables are not to be trusted


def collect(results: Path) -> Collected:
    """The run table of a results folder.

    Runs that failed or diverged keep their row, with their status and a null loss, and so do runs
    whose tables are damaged, as failed; a run whose record cannot be read has no row. Raises
    Refusal for a folder without runs, and for records that disagree on what a column holds.
    """
    rows: list[dict[str, Any]] = []
    damaged: dict[str, str] = {}
    kinds: dict[str, type] = {}  # of each column's values
    for folder in run_folders(results):
        try:
            run = read_run(folder)
        except Refusal as error:
            damaged[folder.name] = str(error)
            continue
        if run["status"] not in ("completed", "diverged", "failed"):
            continue
        for name, value in run["counts"].items():
            if value is None:
                continue
            kind = type(value) if isinstance(value, bool | str) else float
            if kinds.setdefault(name, kind) is not kind:
                raise Refusal(
                    f"{folder / 'run.json'}: counts: {name[:40]!r} = {value!r} is not of the kind "
                    "that other runs have there. Restore it, or delete the run's folder."
                )
        if len(kinds) > MAX_COUNTS:
            raise Refusal(f"the runs of {results} have more than {MAX_COUNTS} columns.")
        if found := damage(folder, run):
            damaged[folder.name] = "; ".join(found.values())
            run |= {"status": "failed", "result": None}
        rows.append(
            {
                "run_id": run["run_id"],
                "trunk_id": run["trunk_id"],
                "study": run["study"],
                "run_kind": run["run_kind"],
                "status": run["status"],
                **run["counts"],
                "loss": math.nan,
                **dict.fromkeys(RESULT_COLUMNS, math.nan),
                **(run["result"] or {}),
            }
        )
    empty = pd.DataFrame(columns=["run_id", "run_kind", "status"])
    return Collected(pd.DataFrame(rows) if rows else empty, damaged)
