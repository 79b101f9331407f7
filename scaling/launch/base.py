"""A results folder made ready for workers: its study, its plan, and what is to be tried again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from scaling.launch.source import source_digest
from scaling.planning.plan import Plan, plan_table
from scaling.spec import RunSpec, planned_run
from scaling.store.claims import refuse_links
from scaling.store.failpoint import failpoint
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
) -> list[PlannedRun]:
    """Write the study, the plan and every new run; returns the runs still to train.

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
    for run in waiting:
        make_ready(results, manifest, run)
        failpoint("planned")
    return waiting


def _refuse_other_format(results: Path) -> None:
    """Raise OtherFormat for a folder of a newer or older version; a damaged plan is none."""
    try:
        read_manifest(results)
    except OtherFormat:
        raise
    except Refusal:
        return
