"""The run table: one row a run that ended, every N and C beside its loss.

It is the contract between training and analysis, so no row of it comes from a file that is not as
it was written. The plan says which runs and which columns, their records what training found.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.store.failpoint import failpoint
from scaling.store.holding import changing
from scaling.store.manifest import Manifest, PlannedRun, read_manifest
from scaling.store.records import Refusal, write_table
from scaling.store.run_record import RESULT_COLUMNS, RunRecord, damage, read_run, run_folders
from scaling.store.scores import score_table

# The status of a run that completed and has no loss here: it was judged on other held-out windows
# than the plan asks for, and will be judged again.
JUDGED_OTHERWISE = "judged otherwise"
MAX_COLUMNS = 1000  # of a run table; a run of ours has 50


@dataclass(frozen=True)
class Collected:
    """The run table of a results folder, and what was wrong with the folder."""

    table: pd.DataFrame
    damaged: dict[str, str]  # by run id: why its record or its tables are not to be trusted
    sources: dict[str, int]  # how many of the runs which source of the program trained


@dataclass(frozen=True)
class Published:
    """The run table of a study as it is now."""

    path: Path
    table: pd.DataFrame
    orphans: tuple[str, ...]  # ended runs of the folder that the plan does not name
    damaged: dict[str, str]  # by run id: what is not as it was written
    sources: dict[str, int]  # how many of the runs which source of the program trained


def publish_table(results: Path) -> Published:
    """Collect the plan's finished runs into the run table, runs.parquet.

    Runs of an earlier version of the study stay in the folder and out of the table: other rates
    or another corpus make another law. Raises Refusal as `read_manifest` does, and where a table
    cannot be written.
    """
    path = results / "runs.parquet"
    with changing(results):
        manifest = read_manifest(results)
        collected = collect(results, manifest)
        failpoint("table-collected")
        write_table(path, collected.table)
        failpoint("table-written")
        if any(run.config.get("tasks") is not None for run in manifest.runs):
            found = collected.table
            whole = set(found["run_id"][found["status"] == "completed"])
            scores = score_table(results, [run for run in manifest.runs if run.run_id in whole])
            failpoint("scores-collected")
            write_table(results / "scores.parquet", scores)
            failpoint("scores-table-written")
    return Published(
        path,
        collected.table,
        orphans(results, manifest),
        collected.damaged,
        collected.sources,
    )


def collect(results: Path, manifest: Manifest) -> Collected:
    """The run table of a plan's runs that ended, in the plan's order.

    Runs that failed or diverged keep their row, with their status and a null loss, and so do runs
    whose tables are damaged, as failed; a run whose record cannot be read has no row. Raises
    Refusal for runs that disagree on what a column holds.
    """
    _refuse_mixed_columns(manifest)
    rows: list[dict[str, Any]] = []
    damaged: dict[str, str] = {}
    sources: Counter[str] = Counter()
    for run in manifest.runs:
        folder = results / "runs" / run.run_id
        if not (folder / "run.json").exists():
            continue
        try:
            record = read_run(folder)
        except Refusal as error:
            damaged[run.run_id] = str(error)
            continue
        if not record.ended or record.steps < run.steps:
            continue
        if record.steps > run.steps:
            damaged[run.run_id] = (
                f"run {run.run_id} was trained to {record.steps} steps where the plan asks for "
                f"{run.steps}; the same scaling run writes the plan again"
            )
            continue
        if found := damage(folder, record):
            damaged[run.run_id] = "; ".join(found.values())
            record = record.changed(status="failed", result=None)
        status: str = record.status
        if status == "completed" and not record.judged_as(run.config):
            # On other held-out windows another loss: of one table, all are of the same.
            record, status = record.changed(result=None), JUDGED_OTHERWISE
        if record.provenance:
            sources[_sources(record)] += 1
        rows.append(
            {
                "run_id": run.run_id,
                "trunk_id": run.trunk_id,
                "study": manifest.study,
                "run_kind": run.run_kind,
                "status": status,
                **run.columns,
                "loss": math.nan,
                **dict.fromkeys(RESULT_COLUMNS, math.nan),
                **(record.result or {}),
            }
        )
    empty = pd.DataFrame(columns=["run_id", "run_kind", "status"])
    return Collected(pd.DataFrame(rows) if rows else empty, damaged, dict(sources))


def _sources(record: RunRecord) -> str:
    """Which sources of the program trained a run: the first digits of each, in order."""
    seen = [str(session.get("source_sha256") or "unknown")[:12] for session in record.provenance]
    return ", then ".join(dict.fromkeys(seen))


def orphans(results: Path, manifest: Manifest) -> tuple[str, ...]:
    """The runs of a folder that ended and are none of the plan's."""
    found = []
    for folder in run_folders(results) if (results / "runs").is_dir() else ():
        if folder.name not in manifest.by_id:
            with suppress(Refusal):
                if read_run(folder).ended:
                    found.append(folder.name)
    return tuple(found)


def _refuse_mixed_columns(manifest: Manifest) -> None:
    """Raise Refusal where one column would hold text and numbers, or there would be too many."""
    first: dict[str, PlannedRun] = {}
    for run in manifest.runs:
        for name, value in run.columns.items():
            if value is None:
                continue
            other = first.setdefault(name, run)
            if _kind(value) is not _kind(other.columns[name]):
                raise Refusal(
                    f"plan.json: {name[:40]!r} is {value!r} of run {run.run_id} and "
                    f"{other.columns[name]!r} of {other.run_id}. Give `scaling run` the study "
                    "again, which writes it anew."
                )
    if len(first) > MAX_COLUMNS:
        raise Refusal(f"plan.json: the runs have more than {MAX_COLUMNS} columns.")


def _kind(value: object) -> type:
    return type(value) if isinstance(value, bool | str) else float
