"""Orbax checkpoints of a run, by step."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from scaling.records import Refusal, checkpoint_steps

# Orbax narrates every save; a grid of hundreds of runs has its own progress.
logging.getLogger("absl").setLevel(logging.ERROR)


def save(folder: Path, step: int, state: Any) -> None:
    """Commit `state` as the checkpoint of `step`: written aside, then renamed.

    Raises Refusal with the system's reason if it cannot be written; earlier ones stay.
    """
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((folder / str(step)).absolute(), state, force=True)
    except (OSError, ValueError) as error:
        raise Refusal(
            f"cannot write checkpoint {folder / str(step)}: {error}. Free space and run the study "
            "again: it goes on from the checkpoint before."
        ) from error


def restore(folder: Path, step: int, abstract: Any) -> Any:
    """The state of `step`, on the devices that `abstract` names. Raises Refusal if unreadable."""
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore((folder / str(step)).absolute(), abstract)
    except Exception as error:  # Orbax and TensorStore raise many types for a damaged file
        raise Refusal(f"cannot read checkpoint {folder / str(step)}: {error}") from error


def keep(folder: Path, wanted: set[int]) -> None:
    """Delete the checkpoints of all steps but `wanted`."""
    for step in checkpoint_steps(folder):
        if step not in wanted:
            shutil.rmtree(folder / str(step))


def set_aside(folder: Path, step: int) -> Path:
    """Rename a checkpoint that cannot be read, so that it is neither used nor lost."""
    target = folder / f"{step}.unreadable"
    shutil.rmtree(target, ignore_errors=True)
    return (folder / str(step)).rename(target)
