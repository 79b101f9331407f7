"""`scaling status`: where the runs of a results folder are."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from analysis.text import MOST_ROWS, human
from experiments.cli.app import Directory, app
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.text import few, rows_text, say
from scaling.store.records import Refusal
from scaling.store.run_record import Status

if TYPE_CHECKING:
    from scaling.launch.slurm_queue import InQueue
    from scaling.store.manifest import Manifest, PlannedRun
    from scaling.store.results import Results


WATCH_SECONDS = 5.0  # between looks, and requests to Slurm, whose controller all users share


@app.command
def status(directory: Directory, /, *, watch: bool = False, output: Outputs = TO_TERMINAL) -> None:
    """Show which runs of a results folder are done, running, failed or waiting, and why.

    Where workers were asked of Slurm, it is asked for them too.

        scaling status results/quickstart
        scaling status results/quickstart --watch

    Args:
        watch: Look again every few seconds, until every run has ended or no worker is left.
    """
    from scaling.store.results import results_at

    results = results_at(directory)
    seen = looked_at(results)
    if watch:
        seen = _watched(results, seen)
    output.write(asdict(seen))
    say(look_text(results, seen))
    if advised := _next_text(results, seen):
        say(advised)


def _next_text(results: Results, seen: Look) -> str:
    """What comes after a study that is complete; empty for others."""
    if seen.left or any(row["status"] == "failed" for row in seen.runs):
        return ""

    from io import BytesIO

    import pandas as pd

    from experiments.cli.render.run import next_text
    from scaling.store.table import RUN_TABLE
    from scaling.study import study_of

    with suppress(Refusal, LookupError, ValueError, OSError):  # damaged, or of another version
        table = pd.read_parquet(BytesIO(results.read(RUN_TABLE) or b""))
        ended = {row["run_id"]: row["status"] for row in seen.runs}
        if dict(zip(table["run_id"], table["status"], strict=True)) == ended:
            study = study_of(results.read("study.toml") or b"", f"{results}/study.toml")
            return next_text(results, table, study.law or "chinchilla")
    return "Next: the same `scaling run`, which writes the run table"


def look_text(results: Results, seen: Look) -> str:
    """All that a look at a folder found."""
    lines = [status_text(seen.runs)]
    if seen.slurm is not None:
        from experiments.cli.render.slurm import queue_text

        lines.append(queue_text(results, seen.slurm, seen.left))
    if seen.unreadable:
        lines.append(
            f"{len(seen.unreadable)} runs of the plan have no readable record; the same "
            "`scaling run` makes it again from the published files:"
        )
        lines += seen.unreadable.values()
    if seen.orphans:
        lines.append(
            f"{len(seen.orphans)} finished runs belong to an earlier version of the study: "
            f"{few(seen.orphans)}"
        )
    if seen.left_behind:
        lines.append("left by processes that were killed:")
        lines += [f"{path}: {what}" for path, what in seen.left_behind.items()]
    return "\n".join(lines)


def _watched(results: Results, seen: Look) -> Look:
    """Look again and again until all has ended; returns the last look.

    On a terminal each look takes the place of the one before; elsewhere what has changed is a line.
    """
    from rich.console import Console

    from scaling.launch.output import drawing_on

    console, before = Console(file=drawing_on(sys.stdout)), ""
    while seen.left and not (seen.slurm is not None and seen.slurm.gone and not seen.running):
        if console.is_terminal:
            console.clear()
            say(look_text(results, seen))
        elif (line := _brief(seen)) != before:
            say(line)
            before = line
        time.sleep(WATCH_SECONDS)
        seen = looked_at(results)
    if console.is_terminal:
        console.clear()
    return seen


def _brief(seen: Look) -> str:
    """How many runs are in each state, and how many workers are, in one line."""
    parts = [counts_text(seen.runs)]
    if seen.slurm is not None:
        from experiments.cli.render.slurm import tasks_text

        parts.append(tasks_text(seen.slurm))
    return "; ".join(parts)


@dataclass(frozen=True)
class Look:
    """Where the runs of a plan are."""

    runs: list[dict[str, Any]]  # one row per run, by size, seed and tokens
    unreadable: dict[str, str]  # by run id: what is wrong with its record
    orphans: tuple[str, ...]  # finished runs in the folder that are not in the plan
    slurm: InQueue | None = None  # the workers that were asked of Slurm; null where none were
    left_behind: dict[str, str] = field(default_factory=dict)  # by path, and what becomes of it

    @property
    def left(self) -> int:
        """How many runs have not ended."""
        return len(self.unreadable) + sum(
            row["status"] not in ("completed", "diverged", "failed") for row in self.runs
        )

    @property
    def running(self) -> int:
        """How many runs somebody trains now."""
        return sum(row["status"] == "running" and row["owned"] for row in self.runs)


def looked_at(place: Path | Results) -> Look:
    """Every run of the plan of a results folder. Raises Refusal where there is no plan."""
    from scaling.launch.slurm_queue import in_queue
    from scaling.store.results import results_at
    from scaling.store.table import orphans

    results = results_at(place)
    results.look()
    manifest = results.manifest()
    rows, unreadable = [], {}
    for planned in manifest.runs:
        try:
            rows.append(_status(results, manifest, planned))
        except Refusal as error:
            in_place = isinstance(error.__cause__, NotADirectoryError)
            first = " Remove what is in the place of its folder first." if in_place else ""
            unreadable[planned.run_id] = f"{error}{first}"
    rows.sort(key=lambda row: (row["params_non_embedding"], row["seed"], row["tokens"]))
    return Look(
        rows, unreadable, orphans(results, manifest), in_queue(results), _left_behind(results)
    )


def _left_behind(results: Results) -> dict[str, str]:
    """What killed processes left here and in the cache, and what becomes of it."""
    from scaling.data.making import half_made
    from scaling.store.claims import half_written_in
    from scaling.store.folder import Folder
    from scaling.store.leftovers import leftovers
    from scaling.store.paths import cache_folder
    from scaling.store.ready import run_folder

    found: dict[str, str] = {}
    if isinstance(results, Folder):
        runs = (run_folder(results.path, run_id) for run_id in results.run_ids())
        folders = [results.path, *(results.path / name for name in ("fits", "figures"))]
        for folder in (*folders, *(each for run in runs for each in half_written_in(run))):
            for path in leftovers(folder):
                found[str(path)] = "half written; the next to write there removes it if it may"
    with suppress(Refusal):  # a cache that cannot be
        for path in half_made(cache_folder() / "corpora"):
            with suppress(OSError):  # made or deleted meanwhile
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                found[str(path)] = (
                    f"{size / 1e6:,.0f} MB of a corpus; `scaling prepare` of its study goes on "
                    "with it; or, if no host makes it now, delete it"
                )
    return found


def _status(results: Results, manifest: Manifest, planned: PlannedRun) -> dict[str, Any]:
    """Where one run of a plan is, as plain values. Raises Refusal for an unreadable record."""
    from scaling.store.table import JUDGED_OTHERWISE

    record = results.record(planned.run_id) or results.unbegun(manifest, planned)
    progress: Mapping[str, Any] = {}
    status: str = record.status
    reason, loss = record.reason, record.loss
    if damaged := results.damage(record):
        status, reason, loss = "failed", "; ".join(damaged.values()), None
    elif status == "completed" and not record.judged_as(planned.config):
        status, loss = JUDGED_OTHERWISE, None
        reason = "the study now has other held-out text; `scaling run` evaluates the run again"
    elif record.ended and record.steps >= planned.steps and (lost := results.lost(record)):
        reason = f"{lost[0]}; its loss is whole, `scaling run` with --retry failed makes it again"
    elif record.ended and record.steps < planned.steps:
        status, loss, reason = "planned", None, f"it continues from step {record.steps}"
    owned = False
    if status == "running":
        progress, owner = results.progress(planned.run_id), results.owner(planned.run_id)
        owned = owner is not None
        reason = str(owner) if owned else "its worker is gone; `scaling run` continues it"
    return {
        "run_id": planned.run_id,
        "run_kind": planned.run_kind,
        "params_non_embedding": planned.columns["params_non_embedding"],
        "tokens": planned.columns["tokens"],
        "seed": planned.columns["seed"],
        "status": status,
        "owned": owned,  # a worker has it now
        "step": progress.get("step"),
        "steps": planned.steps,
        "loss": loss,
        "reason": reason,
    }


def status_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The state of every run, and how many are in each.

    If there are very many runs, those that are running, diverged or failed come first.
    """
    if len(rows) > MOST_ROWS:
        rows = sorted(rows, key=lambda row: row["status"] in ("planned", "completed"))
    cells = (
        {
            "run": row["run_id"],
            "kind": row["run_kind"],
            "N": human(row["params_non_embedding"]),
            "D": human(row["tokens"]),
            "seed": str(row["seed"]),
            "status": row["status"],
            "step": "" if row["step"] is None else f"{row['step']} of {row['steps']}",
            "loss": "" if row["loss"] is None else f"{row['loss']:.4f}",
            "reason": row["reason"] or "",
        }
        for row in rows
    )
    return f"{rows_text(cells)}\n\n{counts_text(rows)}"


def counts_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many runs are in each state."""
    tally = Counter(row["status"] for row in rows)
    counted = ", ".join(f"{tally[name]} {name}" for name in get_args(Status) if tally[name])
    return counted or "no runs"
