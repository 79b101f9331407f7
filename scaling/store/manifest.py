"""What one plan is on disk: plan.json, every run of a study with all that follows from it.

Whoever works in a results folder reads it: a worker what to train, the status what to count
against, the run table its columns. It is sealed, and replaced whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from scaling.store.records import Refusal, write_bytes
from scaling.store.run_record import (
    RESULT_COLUMNS,
    RunId,
    RunKind,
    RunRecord,
    is_judged_alike,
    read_run,
    run_folders,
)
from scaling.store.sealed import STRICT, OtherFormat, Sealed

PLAN = "plan.json"
MAX_BYTES = 512 << 20  # ten thousand runs take 30 MB
# What the run table has of every run beside the columns that follow from its configuration.
TABLE_COLUMNS = ("run_id", "trunk_id", "study", "run_kind", "status", *RESULT_COLUMNS)

# Of those, what every run has, and is a number.
COUNTED = (
    *("seed", "params_total", "params_non_embedding", "tokens"),
    *("flops_6nd", "flops", "learning_rate"),
)

# A larger whole number fits no column of the run table.
Cell = str | bool | Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | None


class PlannedRun(BaseModel):
    """One run of a plan."""

    model_config = STRICT

    run_id: RunId
    trunk_id: RunId  # the run whose trajectory it continues; its own id if none
    run_kind: RunKind
    first_step: int  # where it takes over from its trunk; 0 if it does not
    steps: int  # at its end, the trunk's included
    flops: float  # exact, to train it from where it takes over
    config: dict[str, Any]  # its RunSpec as plain values: everything that determines the result
    columns: dict[str, Cell]  # of the run table, that follow from the configuration; labels too


class Manifest(Sealed):
    """The runs of one plan, trunks before their branches."""

    study: str
    study_sha256: str  # of the bytes of the study file
    source_sha256: str  # of the program that is to train it
    corpora: Mapping[RunId, str] = Field(default_factory=dict)  # by name, digests of the tokens
    runs: tuple[PlannedRun, ...]

    @model_validator(mode="after")
    def _is_consistent(self) -> Manifest:
        if len(self.by_id) < len(self.runs):
            raise ValueError("it has a run twice")
        for run in self.runs:
            if run.trunk_id not in self.by_id:
                raise ValueError(f"{run.run_id} goes on from {run.trunk_id}, which it has not")
            for name in COUNTED:
                if isinstance(run.columns.get(name), str | bool | None):
                    raise ValueError(f"{run.run_id}: column {name} is no number")
            if clash := sorted({*TABLE_COLUMNS} & {*run.columns}):
                raise ValueError(f"{run.run_id} has a column {clash[0]}")
        return self

    @cached_property
    def by_id(self) -> dict[str, PlannedRun]:
        """Its runs by their ids."""
        return {run.run_id: run for run in self.runs}

    def extends(self, other: Manifest) -> bool:
        """Whether it has every run of another plan, each as long or longer and judged alike."""
        return all(
            (mine := self.by_id.get(run.run_id)) is not None
            and mine.steps >= run.steps
            and is_judged_alike(mine.config, run.config)
            for run in other.runs
        )

    def planned_record(self, run: PlannedRun) -> RunRecord:
        """The record of one of its runs before anything was trained."""
        return RunRecord.made(
            run_id=run.run_id,
            trunk_id=run.trunk_id,
            run_kind=run.run_kind,
            study=self.study,
            status="planned",
            config=run.config,
        )

    def as_file(self) -> bytes:
        """What plan.json holds."""
        return self.model_dump_json().encode() + b"\n"


def write_manifest(results: Path, manifest: Manifest) -> None:
    """Replace the manifest of a results folder. Raises Refusal if it cannot be written."""
    write_bytes(results / PLAN, manifest.as_file())


def read_manifest(results: Path) -> Manifest:
    """The manifest of a results folder.

    Raises OtherFormat for a folder of a newer or older version, and Refusal where the manifest is
    missing or not as it was written.
    """
    path = results / PLAN
    if not path.exists():
        refuse_other_formats(results)
        raise Refusal(
            f"{results} holds no plan. Give the folder that `scaling run` wrote, such as "
            "results/quickstart; if it is one, the same `scaling run` writes its plan again."
        )
    return Manifest.read(path, MAX_BYTES)


def refuse_other_formats(results: Path) -> None:
    """Raise OtherFormat if a results folder holds a run of a newer or older version."""
    if (results / "runs").is_dir():
        for folder in run_folders(results):
            try:
                read_run(folder)
            except OtherFormat:
                raise
            except Refusal:  # damaged: it is made again
                continue
