"""What every launcher shares: a results folder made ready, and its unfinished work as jobs.

A job is one trunk with its branches: one worker trains them in order, so that they share a
compiled program, unless others are idle and take branches off it. Launchers on one folder need
not know of each other: each run has one owner at a time, whoever started it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from scaling.data.corpus import CorpusInfo
from scaling.launch.worker import ENDED
from scaling.planning.plan import Plan, plan_table
from scaling.spec import LABELS, RunSpec, planned, run_columns, spent_flops
from scaling.store.attempt import replace_record, set_damaged_aside, settle, steps_of
from scaling.store.claims import Owned, Replaced, claimed, draft, refuse_links
from scaling.store.failpoint import failpoint
from scaling.store.records import Refusal, write_bytes, write_table
from scaling.store.run_record import Status, damage, read_run
from scaling.store.scores import score_table
from scaling.store.table import collect


@dataclass(frozen=True)
class Task:
    """One run of a study, and where it is trained."""

    folder: Path
    spec: RunSpec
    study: str
    corpus: CorpusInfo

    def ended(self, retry: Collection[Status] = ()) -> bool:
        """Whether the run needs no more training: it ended far enough, and not to be retried.

        One that completed and is damaged counts as failed where those are retried.
        """
        if not (self.folder / "run.json").exists():
            return False
        try:
            run = read_run(self.folder)
            steps = steps_of(run)
        except (Refusal, KeyError, TypeError, ValueError):  # damaged: `make_ready` mends it
            return False
        if "failed" in retry and damage(self.folder, run):
            return False
        return (
            run["status"] in ENDED
            and run["status"] not in retry
            and steps >= self.spec.schedule.steps
        )

    def make_ready(self) -> None:
        """Give the folder a run.json that asks for this run, unless someone is training it."""
        wanted = planned(self.spec, self.study, run_columns(self.spec, self.corpus))
        path = self.folder / "run.json"
        if not path.exists() and draft(path, wanted):
            return
        with suppress(Refusal):
            run = read_run(self.folder)
            config = json.loads(json.dumps(wanted["config"]))
            if run["status"] not in ENDED and run["config"] == config:
                return
        with suppress(Owned, Replaced), claimed(self.folder) as claim:
            set_damaged_aside(self.folder)
            with suppress(Refusal):  # where it was trained before stays known
                wanted["provenance"] = read_run(self.folder)["provenance"]
            replace_record(self.folder, claim, wanted)
            failpoint("replanned")
            settle(self.folder, claim)


@dataclass(frozen=True)
class Job:
    """Runs for one worker, in order."""

    tasks: tuple[Task, ...]

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(task.folder for task in self.tasks)

    @property
    def flops(self) -> float:
        """Exact, to train all of them from scratch."""
        return sum(spent_flops(task.spec) for task in self.tasks)


def unfinished(results: Path, plan: Plan, retry: Collection[Status] = ()) -> list[Task]:
    """The runs of a plan that still need training, in its order. Only reads.

    Runs that failed or diverged need none, unless their status is among those to `retry`.
    """
    tasks = (
        Task(results / "runs" / spec.run_id, spec, plan.study.name, plan.corpus)
        for spec in plan.runs
    )
    return [task for task in tasks if not task.ended(retry)]


def prepare(
    results: Path, plan: Plan, study_toml: bytes, retry: Collection[Status] = ()
) -> list[Job]:
    """Write the study, the plan and every new run; returns the jobs still to do, largest first.

    Finished runs are kept. A trunk that a new budget needs longer is planned again and goes on
    from its last checkpoint.
    """
    waiting = unfinished(results, plan, retry)
    for task in waiting:
        refuse_links(task.folder)
    write_bytes(results / "study.toml", study_toml)
    failpoint("study-written")
    write_table(results / "plan.csv", plan_table(plan))
    failpoint("plan-written")
    trunks: dict[str, list[Task]] = {}
    for task in waiting:
        task.make_ready()
        failpoint("planned")
        trunks.setdefault(task.spec.trunk_id, []).append(task)
    jobs = [Job(tuple(tasks)) for tasks in trunks.values()]
    return sorted(jobs, key=lambda job: -job.flops)


def worker_command(folders: Sequence[Path]) -> list[str]:
    """What starts a worker that trains these runs in order, whatever the working directory."""
    # -P: neither that directory nor the one of the script is searched for modules.
    start = Path(__file__).with_name("start.py")
    return [sys.executable, "-P", str(start), *map(str, folders)]


@dataclass(frozen=True)
class Published:
    """The run table of a study as it is now."""

    path: Path
    table: pd.DataFrame
    orphans: int  # finished runs of the folder that the study no longer names
    damaged: dict[str, str]  # by run id, orphans' too: what is not as it was written


def publish_table(results: Path, plan: Plan) -> Published:
    """Collect the plan's finished runs into the run table, runs.parquet.

    Runs of an earlier version of the study stay in the folder and out of the table: other rates
    or another corpus make another law.
    """
    path = results / "runs.parquet"
    with _one_at_a_time(results / ".table.lock"):
        collected = collect(results)
        found = collected.table
        planned = {run.run_id: run for run in plan.runs}
        mine = found["run_id"].isin(planned)
        # Labels are the study's, which may have changed since a run was finished.
        for label in LABELS:
            found[label] = [getattr(planned.get(name), label, None) for name in found["run_id"]]
        failpoint("table-collected")
        write_table(path, found[mine])
        failpoint("table-written")
        if plan.study.tasks is not None:
            whole = found["run_id"][mine & (found["status"] == "completed")]
            scores = score_table(results, set(whole))
            failpoint("scores-collected")
            write_table(results / "scores.parquet", scores)
            failpoint("scores-table-written")
    return Published(path, found[mine], int((~mine).sum()), collected.damaged)


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Whoever collected first writes first, so that no table replaces one that saw more runs."""
    with _open(lock) as file:
        with suppress(OSError):  # a file system without locks: each writes what it saw
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open(lock: Path) -> BinaryIO:
    """A lock's file, never through a link: it would be made elsewhere."""
    try:
        return os.fdopen(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "wb")
    except OSError as error:
        raise Refusal(f"cannot write {lock}: {error.strerror}.") from error
