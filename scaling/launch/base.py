"""What every launcher shares: a results folder made ready, and its unfinished work as jobs.

A job is one trunk with its branches: one worker trains them in order, so that they share a
compiled program, unless others are idle and take branches off it. Launchers on one folder need
not know of each other: each run has one owner at a time, whoever started it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from scaling.launch.source import source_digest
from scaling.planning.plan import Plan, plan_table
from scaling.spec import RunSpec, planned_run
from scaling.store.claims import refuse_links
from scaling.store.failpoint import failpoint
from scaling.store.manifest import Manifest, PlannedRun, read_manifest, write_manifest
from scaling.store.ready import has_ended, make_ready, run_folder, unfinished
from scaling.store.records import Refusal, write_bytes, write_table
from scaling.store.run_record import Status, read_run
from scaling.store.sealed import OtherFormat


@dataclass(frozen=True)
class Task:
    """One run of a plan, and where it is trained."""

    results: Path
    manifest: Manifest
    run: PlannedRun

    @property
    def folder(self) -> Path:
        return run_folder(self.results, self.run.run_id)

    def ended(self, retry: Collection[Status] = ()) -> bool:
        """As `has_ended`."""
        return has_ended(self.results, self.run, retry)

    def make_ready(self) -> None:
        """As the function of that name."""
        make_ready(self.results, self.manifest, self.run)


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
        return sum(task.run.flops for task in self.tasks)


def manifest_of(results: Path, plan: Plan, study_toml: bytes) -> Manifest:
    """The plan of a study as this folder's manifest. Only reads."""
    specs = (_as_long_as_trained(run_folder(results, spec.run_id), spec) for spec in plan.runs)
    return Manifest.made(
        study=plan.study.name,
        study_sha256=hashlib.sha256(study_toml).hexdigest(),
        source_sha256=source_digest({spec.model.architecture for spec in plan.runs}),
        runs=[planned_run(spec, plan.corpus) for spec in specs],
    )


def _as_long_as_trained(folder: Path, spec: RunSpec) -> RunSpec:
    """A trunk that completed longer than it is asked for stays so: its row says what it has."""
    if spec.run_kind == "trunk" and (folder / "run.json").exists():
        with suppress(Refusal):
            record = read_run(folder)
            if record.status == "completed" and record.steps > spec.schedule.steps:
                return replace(spec, schedule=replace(spec.schedule, steps=record.steps))
    return spec


def prepare(
    results: Path, plan: Plan, study_toml: bytes, retry: Collection[Status] = ()
) -> list[Job]:
    """Write the study, the plan and every new run; returns the jobs still to do, largest first.

    Finished runs are kept. A trunk that a new budget needs longer is planned again and goes on
    from its last checkpoint. Raises OtherFormat for a folder of a newer or older version.
    """
    _refuse_other_format(results)
    manifest = manifest_of(results, plan, study_toml)
    waiting = unfinished(results, manifest, retry)
    for run in waiting:
        refuse_links(run_folder(results, run.run_id))
    write_bytes(results / "study.toml", study_toml)
    failpoint("study-written")
    write_table(results / "plan.csv", plan_table(plan))
    failpoint("plan-written")
    write_manifest(results, manifest)
    failpoint("manifest-written")
    trunks: dict[str, list[Task]] = {}
    for run in waiting:
        make_ready(results, manifest, run)
        failpoint("planned")
        trunks.setdefault(run.trunk_id, []).append(Task(results, manifest, run))
    jobs = [Job(tuple(tasks)) for tasks in trunks.values()]
    return sorted(jobs, key=lambda job: -job.flops)


def _refuse_other_format(results: Path) -> None:
    """Raise OtherFormat for a folder of a newer or older version; a damaged plan is none."""
    try:
        read_manifest(results)
    except OtherFormat:
        raise
    except Refusal:
        return


def worker_command(folders: Sequence[Path]) -> list[str]:
    """What starts a worker that trains these runs in order, whatever the working directory."""
    # -P: neither that directory nor the one of the script is searched for modules.
    start = Path(__file__).with_name("start.py")
    return [sys.executable, "-P", str(start), *map(str, folders)]
