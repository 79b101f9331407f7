"""The run table: one row a run that ended, every N and C beside its loss.

It is the contract between training and analysis, so no row of it comes from a file that is not as
it was written. The plan says which runs and which columns, their records what training found.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.store.failpoint import failpoint
from scaling.store.manifest import Manifest, PlannedRun
from scaling.store.records import Refusal, check_table, table_bytes
from scaling.store.results import Results, results_at
from scaling.store.run_record import RunRecord, result_columns
from scaling.store.scores import score_table

# The status of a run that completed and has no loss here: it was judged on other held-out windows
# than the plan asks for, and will be judged again.
JUDGED_OTHERWISE = "judged otherwise"
RUN_TABLE = "runs.parquet"
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

    path: str  # or its address
    table: pd.DataFrame
    orphans: tuple[str, ...]  # ended runs of the folder that the plan does not name
    damaged: dict[str, str]  # by run id: what is not as it was written
    sources: dict[str, int]  # how many of the runs which source of the program trained


def publish_table(place: Path | Results) -> Published:
    """Collect the plan's finished runs into the run table, runs.parquet.

    Runs of an earlier version of the study stay in the folder and out of the table: other rates
    or another corpus make another law. Raises Refusal as `read_manifest` does, and where a table
    cannot be written.
    """
    results = results_at(place)
    with results.changing():
        return _published(results)


def publish_missing(place: Path | Results) -> None:
    """As `publish_table`, unless the table has every run of the plan as its record says it ended.

    For workers that no launch waits for: of a thousand that end at once, one writes it. Raises
    Refusal as `publish_table` does.
    """
    results = results_at(place)
    # Of two tables written while this worker waited, the second was begun after its runs had ended.
    for _ in range(2):
        seen = results.read(RUN_TABLE)
        if _has_all(results, seen):
            return
        with results.changing():
            # Others have waited for this place too. Only this is asked while they wait.
            if results.read(RUN_TABLE) == seen:
                _published(results)
                return


def _has_all(results: Results, table: bytes | None) -> bool:
    """Whether a run table, as the bytes of its file, has what the records of all runs say."""
    if table is None:
        return False
    results.look()
    try:
        check_table(table)
        columns = pd.read_parquet(BytesIO(table), columns=["run_id", "status", "loss"])
    except (ValueError, OSError):  # damaged, or of no runs: those have no losses
        return False
    ids, statuses, losses = (columns[name].tolist() for name in columns)
    held = dict(zip(ids, zip(statuses, losses, strict=True), strict=True))
    for run in results.manifest().runs:
        with suppress(Refusal):  # a damaged record has no row
            record = results.record(run.run_id)
            if record is None:
                return False
            status, loss = held.get(run.run_id, ("", math.nan))
            if status != record.status or (record.loss is not None and loss != record.loss):
                return False
    return True


def _published(results: Results) -> Published:
    """The run table, written; called by whoever is alone in `changing`."""
    results.look()
    manifest = results.manifest()
    collected = collect(results, manifest)
    failpoint("table-collected")
    path = results.write(RUN_TABLE, table_bytes(RUN_TABLE, collected.table))
    failpoint("table-written")
    if _has_scores(manifest):
        found = collected.table
        whole = set(found["run_id"][found["status"] == "completed"])
        scores = score_table(results, [run for run in manifest.runs if run.run_id in whole])
        failpoint("scores-collected")
        results.write("scores.parquet", table_bytes("scores.parquet", scores))
        failpoint("scores-table-written")
    results.tidy()
    return Published(
        path,
        collected.table,
        orphans(results, manifest),
        collected.damaged,
        collected.sources,
    )


def collect(place: Path | Results, manifest: Manifest) -> Collected:
    """The run table of a plan's runs that ended, in the plan's order.

    Runs that failed or diverged keep their row, with their status and a null loss, and so do runs
    whose tables are damaged, as failed; a run whose record cannot be read has no row. Raises
    Refusal for runs that disagree on what a column holds.
    """
    _refuse_mixed_columns(manifest)
    results = results_at(place)
    read = ["evals.parquet"] if _has_scores(manifest) else []
    rows: list[dict[str, Any]] = []
    damaged: dict[str, str] = {}
    sources: Counter[str] = Counter()
    for run in manifest.runs:
        try:
            record = results.record(run.run_id)
        except Refusal as error:
            damaged[run.run_id] = str(error)
            continue
        if record is None or not record.ended or record.steps < run.steps:
            continue
        if record.steps > run.steps:
            damaged[run.run_id] = (
                f"run {run.run_id} was trained to {record.steps} steps where the plan asks for "
                f"{run.steps}; the same scaling run writes the plan again"
            )
            continue
        if found := results.damage(record, read):
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
                **dict.fromkeys(result_columns(run.config), math.nan),
                **(record.result or {}),
            }
        )
    empty = pd.DataFrame(columns=["run_id", "run_kind", "status"])
    return Collected(pd.DataFrame(rows) if rows else empty, damaged, dict(sources))


def _has_scores(manifest: Manifest) -> bool:
    return any(run.config.get("tasks") is not None for run in manifest.runs)


def _sources(record: RunRecord) -> str:
    """Which sources of the program trained a run: the first digits of each, in order."""
    seen = [str(session.get("source_sha256") or "unknown")[:12] for session in record.provenance]
    return ", then ".join(dict.fromkeys(seen))


def orphans(place: Path | Results, manifest: Manifest) -> tuple[str, ...]:
    """The runs of a folder that ended and are none of the plan's."""
    results = results_at(place)
    found = []
    for run_id in results.run_ids():
        if run_id not in manifest.by_id:
            with suppress(Refusal):
                record = results.record(run_id)
                if record is not None and record.ended:
                    found.append(run_id)
    return tuple(found)


def _refuse_mixed_columns(manifest: Manifest) -> None:
    """Raise Refusal where one column would hold text and numbers, or there would be too many."""
    first: dict[str, PlannedRun] = {}
    last: dict[str, type] = {}  # of the cells of a column, which mostly are of one
    for run in manifest.runs:
        for name, value in run.columns.items():
            if value is None or type(value) is last.get(name):
                continue
            last[name] = type(value)
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
