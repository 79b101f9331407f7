"""A run's folder, made ready for training."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from scaling.store.attempt import (
    checkpoint_folders,
    is_published,
    replace_record,
    set_damaged_aside,
    settle,
    unpublish,
)
from scaling.store.claims import Owned, Replaced, claimed
from scaling.store.exclusive import draft
from scaling.store.failpoint import failpoint
from scaling.store.manifest import Manifest, PlannedRun
from scaling.store.records import Refusal
from scaling.store.run_record import damage, read_run
from scaling.store.steps import merge_steps, read_steps


def run_folder(results: Path, run_id: str) -> Path:
    """Where a run of a results folder lies."""
    return results / "runs" / run_id


def make_ready(results: Path, manifest: Manifest, run: PlannedRun) -> None:
    """Give a run's folder a record that asks for this run, unless someone is training it.

    A record that is damaged is made again, from the plan and from what was published.
    """
    folder, wanted = run_folder(results, run.run_id), manifest.planned_record(run)
    if not (folder / "run.json").exists() and draft(folder / "run.json", wanted.plain()):
        return
    with suppress(Refusal):
        record = read_run(folder)
        if not record.ended and record.config == wanted.config:
            return
    with suppress(Owned, Replaced), claimed(folder) as claim:
        if not _judged_otherwise(folder, run):
            set_damaged_aside(folder)
            _forget_other_judgements(folder, run)
        with suppress(Refusal):  # where it was trained before stays known
            wanted = wanted.changed(provenance=read_run(folder).provenance)
        replace_record(folder, claim, wanted)
        failpoint("replanned")
        settle(folder, claim)


def _forget_other_judgements(folder: Path, run: PlannedRun) -> None:
    """Drop what a run that has not ended was judged on its way, if that was on other windows."""
    with suppress(Refusal):
        record = read_run(folder)
        if record.status == "completed" or record.judged_as(run.config):
            return
        for place in (checkpoints.parent for checkpoints in checkpoint_folders(folder)):
            if len(steps := read_steps(place)):
                merge_steps(place, steps.assign(val_loss=math.nan, val_loss_stderr=math.nan))
            for evals in [*place.glob("evals.parquet"), *place.glob("evals/*.parquet")]:
                evals.unlink()


def _judged_otherwise(folder: Path, run: PlannedRun) -> bool:
    """Set the judgement of a run aside that completed and is to be judged again.

    Its checkpoints and what it logged stay, so that nothing of it is trained again. Killed on the
    way, it is done again: the record is as it was, and says so, until all is done.
    """
    with suppress(Refusal):
        record = read_run(folder)
        if record.status == "completed" and not record.judged_as(run.config):
            if is_published(folder) and damage(folder, record):
                return False
            steps = read_steps(folder)
            unpublish(folder)
            merge_steps(folder, steps.assign(val_loss=math.nan, val_loss_stderr=math.nan))
            (folder / "evals.parquet").unlink(missing_ok=True)
            return True
    return False
