"""Where a run goes on: the last step that is whole in its rows and in a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from scaling.spec import RunSpec
from scaling.store.attempt import checkpoint_folders
from scaling.store.checksums import Damaged
from scaling.store.records import UNREADABLE, Refusal
from scaling.store.scores import scored_steps
from scaling.store.steps import (
    checkpoint_steps,
    read_step_file,
    read_steps,
    verify_checkpoint,
)
from scaling.training import checkpoint
from scaling.training.processes import here
from scaling.training.step import TrainState


def whole_until(spec: RunSpec, folder: Path) -> int:
    """The last step up to which every row of a run can be read.

    Files that cannot are set aside.
    """
    for file in [*folder.glob("steps.parquet"), *folder.glob("steps/*.parquet")]:
        try:
            read_step_file(file)
        except Refusal as error:
            print(f"{file}: {error}; its steps are trained again", file=sys.stderr)
            file.rename(file.with_suffix(UNREADABLE))
    logged = read_steps(folder)
    whole = set(logged["step"])
    if spec.tasks is not None:  # what was answered at an evaluated step is part of it
        whole -= set(logged["step"][logged["val_loss"].notna()]) - scored_steps(folder)
    step = spec.first_step
    while step + 1 in whole:
        step += 1
    return step


def own_checkpoint(
    spec: RunSpec, run: Path, abstract: TrainState, limit: int
) -> tuple[TrainState, int] | None:
    """A run's last checkpoint up to step `limit`, and its step; those that are damaged are set
    aside. Raises Refusal for one that is whole and cannot be read."""
    folder = run / "checkpoints"

    def whole() -> int | None:
        for step in reversed([step for step in checkpoint_steps(folder) if step <= limit]):
            try:
                verify_checkpoint(folder / str(step), spec.run_id)
                return step
            except Damaged as error:
                print(f"{error}; set aside, trying the one before", file=sys.stderr)
                checkpoint.set_aside(folder, step)
        return None

    step = here().lead("own checkpoint", whole)
    return None if step is None else (checkpoint.read(folder / str(step), abstract), step)


def trunk_checkpoint(
    spec: RunSpec, trunk: Path, abstract: TrainState, limit: int
) -> tuple[TrainState, int] | None:
    """The trunk's last readable one; the folder is another run's, so nothing is set aside."""

    def whole() -> Iterator[str]:
        folders = checkpoint_folders(trunk)
        found = [(step, folder) for folder in folders for step in checkpoint_steps(folder)]
        for step, folder in sorted(found, key=lambda each: -each[0]):
            if step <= limit:
                try:
                    verify_checkpoint(folder / str(step), spec.trunk_id)
                except Refusal as error:
                    print(f"{error}; trying the one before", file=sys.stderr)
                else:
                    yield str(folder / str(step))

    paths = whole()
    while (path := here().lead("trunk checkpoint", lambda: next(paths, None))) is not None:
        try:
            return checkpoint.read(Path(path), abstract), int(Path(path).name)
        except Refusal as error:
            if here().count > 1:  # the others may have read it, and wait for this one
                raise
            print(f"{error}; trying the one before", file=sys.stderr)
    return None
