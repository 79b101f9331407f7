"""A results folder made ready for workers: its study, its plan, and what is to be tried again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from scaling.launch.source import source_digest
from scaling.planning.plan import Plan, plan_table
from scaling.spec import RunSpec, planned_run
from scaling.store.claims import refuse_links
from scaling.store.failpoint import failpoint
from scaling.store.holding import changing, holding
from scaling.store.manifest import Manifest, PlannedRun, read_manifest, write_manifest
from scaling.store.ready import make_ready, run_folder, unfinished
from scaling.store.records import Refusal, write_bytes, write_table
from scaling.store.run_record import Status, read_run
from scaling.store.sealed import OtherFormat


def manifest_of(results: Path, plan: Plan, study_toml: bytes) -> Manifest:
    """The plan of a study as this folder's manifest. Only reads."""
    specs = (_as_long_as_trained(run_folder(results, spec.run_id), spec) for spec in plan.runs)
    return Manifest.made(
        study=plan.study.name,
        study_sha256=hashlib.sha256(study_toml).hexdigest(),
        source_sha256=source_digest({spec.architecture for spec in plan.runs}),
        runs=[planned_run(spec, plan.corpus) for spec in specs],
    )


def _as_long_as_trained(folder: Path, spec: RunSpec) -> RunSpec:
    """A trunk that ended longer than it is asked for stays so: its row says what it has."""
    if spec.run_kind == "trunk" and (folder / "run.json").exists():
        with suppress(Refusal):
            record = read_run(folder)
            if record.ended and record.steps > spec.schedule.steps:
                return replace(spec, schedule=replace(spec.schedule, steps=record.steps))
    return spec


@dataclass(frozen=True)
class Prepared:
    """A results folder that is ready for workers."""

    todo: list[PlannedRun]  # the runs still to train, in the plan's order
    notes: tuple[str, ...]  # what of the plan that was there before is replaced, a line each


@contextmanager
def prepared(
    results: Path, plan: Plan, study_toml: bytes, retry: Collection[Status] = ()
) -> Iterator[Prepared]:
    """Write the study, the plan and every new run, and hold the folder as long as it is trained in.

    Finished runs are kept. A trunk that a new budget needs longer is planned again and goes on
    from its last checkpoint. Raises OtherFormat for a folder of a newer or older version, and
    Refusal where others train another plan in it than this one, or one that this one adds to.
    """
    _plan_before(results)  # refused before anything is touched
    manifest = manifest_of(results, plan, study_toml)
    for run in unfinished(results, manifest, retry):
        refuse_links(run_folder(results, run.run_id))
    with ExitStack() as life:
        with changing(results):
            # Not before: of two that wait to begin, neither is training yet.
            hold = life.enter_context(holding(results))
            before = _plan_before(results)
            if before is not None and not hold.is_alone():
                _refuse_beside(results, before, manifest)
            write_bytes(results / "study.toml", study_toml)
            failpoint("study-written")
            write_table(results / "plan.csv", plan_table(plan))
            failpoint("plan-written")
            write_manifest(results, manifest)
            failpoint("manifest-written")
        waiting = unfinished(results, manifest, retry)
        for run in waiting:
            make_ready(results, manifest, run)
            failpoint("planned")
        yield Prepared(waiting, _notes(before, manifest))


def prepare(
    results: Path, plan: Plan, study_toml: bytes, retry: Collection[Status] = ()
) -> list[PlannedRun]:
    """As `prepared`, for whoever trains in this very process; returns the runs still to train."""
    with prepared(results, plan, study_toml, retry) as ready:
        return ready.todo


def _plan_before(results: Path) -> Manifest | None:
    """The plan of a folder as it is; null where there is none, or one that is damaged.

    Raises OtherFormat for a folder of a newer or older version.
    """
    try:
        return read_manifest(results)
    except OtherFormat:
        raise
    except Refusal:
        return None


def _refuse_beside(results: Path, present: Manifest, wanted: Manifest) -> None:
    """Raise Refusal unless a plan may take the place of one that others are training."""
    if wanted.source_sha256 != present.source_sha256:
        raise Refusal(
            f"{results} is being trained by source {present.source_sha256[:12]} of this program, "
            f"and this is source {wanted.source_sha256[:12]}. Stop the others, or wait until "
            "they have ended; then give the command again."
        )
    if not wanted.extends(present):
        raise Refusal(
            f"{results} is being trained for study {present.study_sha256[:12]}, and this is study "
            f"{wanted.study_sha256[:12]}, which leaves runs of that one out. Keep all its runs "
            f"and only add to them, or stop the others first; {results}/study.toml is the study "
            "that they train."
        )


def _notes(before: Manifest | None, now: Manifest) -> tuple[str, ...]:
    """What of a plan is replaced, where it is another's."""
    notes = []
    if before is not None and before.source_sha256 != now.source_sha256:
        notes.append(
            f"the program has changed since this folder was planned: source "
            f"{before.source_sha256[:12]} is replaced by {now.source_sha256[:12]}"
        )
    if before is not None and before.study_sha256 != now.study_sha256:
        notes.append(
            f"the study has changed since this folder was planned: {before.study_sha256[:12]} is "
            f"replaced by {now.study_sha256[:12]}"
        )
    return tuple(notes)
