"""What every launcher shares: a results folder made ready, and its unfinished work as jobs.

A job is one trunk with its branches, trained in order by one worker, so that they share one
compiled program and a branch never waits for another process.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from scaling.plan import Plan, plan_table
from scaling.records import Refusal, collect, read_run, write_bytes, write_table
from scaling.run import LABELS, RunSpec, run_columns, spent_flops
from scaling.worker import owned, plan_run, read_spec


@dataclass(frozen=True)
class Job:
    """Runs for one worker, in order."""

    folders: tuple[Path, ...]
    flops: float  # exact, to train all of them from scratch


@contextmanager
def only_launcher(results: Path) -> Iterator[None]:
    """Hold a results folder for one launcher. Raises Refusal if another holds it."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        file = (results / ".launcher.lock").open("w")
    except OSError as error:
        raise Refusal(
            f"cannot write {results}: {error.strerror}. Choose another folder with --results."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal(
                f"{results} is being trained by another `scaling run`. Wait for it, or choose "
                "another folder with --results."
            ) from None
        yield


def unfinished(results: Path, plan: Plan) -> list[RunSpec]:
    """The runs of a plan that still need training, in its order. Only reads."""
    return [spec for spec in plan.runs if not _finished(results / "runs" / spec.run_id, spec)]


def prepare(results: Path, plan: Plan, study_toml: bytes) -> list[Job]:
    """Write the study, the plan and every new run; returns the jobs still to do, largest first.

    Finished runs are kept. A trunk that a new budget needs longer is planned again and goes on
    from its last checkpoint.
    """
    write_bytes(results / "study.toml", study_toml)
    write_table(results / "plan.csv", plan_table(plan))
    trunks: dict[str, list[RunSpec]] = {}
    for spec in unfinished(results, plan):
        folder = results / "runs" / spec.run_id
        folder.mkdir(parents=True, exist_ok=True)
        # A worker that outlived its launcher keeps its run; whoever comes later waits for it.
        with owned(folder) as free:
            if free:
                plan_run(folder, spec, plan.study.name, run_columns(spec, plan.corpus))
        trunks.setdefault(spec.trunk_id, []).append(spec)
    jobs = [
        Job(
            tuple(results / "runs" / spec.run_id for spec in specs),
            sum(spent_flops(spec) for spec in specs),
        )
        for specs in trunks.values()
    ]
    return sorted(jobs, key=lambda job: -job.flops)


def _finished(folder: Path, spec: RunSpec) -> bool:
    """Whether a run needs no more training: completed far enough, or known to diverge."""
    if not (folder / "run.json").exists():
        return False
    status = read_run(folder)["status"]
    return (
        status in ("completed", "diverged")
        and read_spec(folder).schedule.steps >= spec.schedule.steps
    )


@dataclass(frozen=True)
class Published:
    """The run table of a study as it is now."""

    path: Path
    table: pd.DataFrame
    orphans: int  # finished runs of the folder that the study no longer names


def publish_table(results: Path, plan: Plan) -> Published:
    """Collect the plan's finished runs into the run table, runs.parquet.

    Runs of an earlier version of the study stay in the folder and out of the table: other rates
    or another corpus make another law.
    """
    path = results / "runs.parquet"
    found = collect(results)
    planned = {run.run_id: run for run in plan.runs}
    mine = found["run_id"].isin(planned)
    # Labels are the study's, which may have changed since a run was finished.
    for label in LABELS:
        found[label] = [getattr(planned.get(name), label, None) for name in found["run_id"]]
    write_table(path, found[mine])
    return Published(path, found[mine], int((~mine).sum()))
