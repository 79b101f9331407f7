"""Orbax checkpoints of a run, by step: whole and as they were written, or not there.

A checkpoint is made aside and gets its name, the step, by one rename after the SHA-256 of every
file is written beside the data, with the run that it is of; it loses the name by one rename before
anything of it is deleted. So whatever moment a process is killed at, a folder that is named by a
step is complete, and bits that changed since are found before they are read.

Of several processes each writes what its devices hold, and process 0 the rest: it waits for all,
and all wait until the checkpoint has its name.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax
import numpy as np
import orbax.checkpoint as ocp

from scaling.remedies import remedy
from scaling.store import checksums
from scaling.store.checksums import CHECKSUMS
from scaling.store.failpoint import failpoint
from scaling.store.records import UNREADABLE, Refusal, write_json
from scaling.store.steps import STEP, checkpoint_files, checkpoint_steps, verify_checkpoint
from scaling.training.layouts import laid_out, names
from scaling.training.processes import here

# Of a run's checkpoints the last so many are kept, beside its branch points: the one before the
# last is what a damaged last one falls back to.
KEEP_LAST = 2

# A slow disk is no failure. Orbax would give a save 20 minutes, and other threads that make its
# folders 5, by a wall clock that may jump (AsyncOptions.timeout_secs and coordination_timeout of
# orbax-checkpoint 0.12.8). A clock without a battery is set forward by fifty years, which Orbax may
# count three times, and no wait may be longer than 292 (threading.TIMEOUT_MAX), of a clock that is
# set back too: so 222 years, and no other threads.
_PATIENT = ocp.AsyncOptions(timeout_secs=7 * 10**9, create_directories_asynchronously=False)

_number = itertools.count()  # of the checkpoints that were begun

# Orbax narrates every save; a grid of hundreds of runs has its own progress.
logging.getLogger("absl").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Writing:
    """A checkpoint on its way to the disk; the state that it is of may change meanwhile.

    The host holds a copy of the state until it is written.
    """

    target: Path
    run_id: str
    checkpointer: ocp.StandardCheckpointer

    def finish(self, before_naming: Callable[[], None] = lambda: None) -> None:
        """Wait until it is written, note the checksums, and give it its name.

        `before_naming` is called in between, and may raise. Raises Refusal with the system's
        reason if it cannot be written; earlier ones stay.
        """
        try:
            with _refused(self.target):
                self.checkpointer.close()
            here().lead("checkpoint", lambda: self._name(before_naming))
        except Exception:
            self._delete()  # a full disk needs room for the reason
            raise

    def _name(self, before_naming: Callable[[], None]) -> None:
        aside = _aside(self.target)
        with _refused(self.target):
            files = checksums.checksums(checkpoint_files(aside))
            noted = {"run_id": self.run_id, "step": int(self.target.name), "files": files}
            write_json(aside / CHECKSUMS, noted)
        failpoint("checkpoint-written")
        before_naming()
        with _refused(self.target):
            if self.target.exists():
                _discard(self.target)
            aside.rename(self.target)

    def abandon(self) -> None:
        """Wait until nothing is written any more, and delete what was."""
        with suppress(Exception):  # of a checkpoint that nobody wants
            self.checkpointer.close()
        self._delete()

    def _delete(self) -> None:
        if here().leads:
            for begun in self.target.parent.glob(f"{_aside(self.target).name}*"):
                shutil.rmtree(begun, ignore_errors=True)


def begin(folder: Path, step: int, state: Any, run_id: str) -> Writing:
    """Copy `state` to the host and begin to write it as the checkpoint of `step` of a run.

    Returns when it is copied. Raises Refusal as `Writing.finish` does.
    """
    target = folder / str(step)
    checkpointer = ocp.StandardCheckpointer(
        async_options=_PATIENT,
        # Processes wait for each other by this name, which is to be another each time.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=f"{folder.parent.name}-{next(_number)}"
        ),
    )
    try:
        # Arrays are copied before this returns (TransferPriority.SYNCHRONOUS). On a CPU the copy
        # is a view, and while there is one jax gives the memory to no step, donated or not.
        with _refused(target):
            checkpointer.save(_aside(target).absolute(), state, force=True)
    except Exception:
        Writing(target, run_id, checkpointer).abandon()
        raise
    return Writing(target, run_id, checkpointer)


def restore(folder: Path, step: int, abstract: Any, run_id: str) -> Any:
    """The state of `step` of a run, laid out like `abstract` and on the devices that it names.

    Raises Damaged if its files are not those that were written, or another run's; Refusal if they
    are and still cannot be read.
    """
    path = folder / str(step)
    verify_checkpoint(path, run_id)
    return read(path, abstract)


def read(path: Path, abstract: Any) -> Any:
    """The state in a checkpoint that was verified, as `restore`. All processes call it.

    It may have been written on other devices, by other processes and with its layers laid out
    otherwise.
    """
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.metadata(path.absolute()).item_metadata.tree
            if names(stored).keys() == names(abstract).keys():
                return checkpointer.restore(path.absolute(), abstract)
            here = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), stored)
            return laid_out(names(checkpointer.restore(path.absolute(), here)), abstract)
    except Exception as error:  # Orbax and TensorStore raise many types
        raise Refusal(f"cannot read checkpoint {path}: {error}") from error


def last_steps(folder: Path, step: int) -> set[int]:
    """The steps up to `step` whose checkpoints a run keeps wherever its branches start."""
    return set([each for each in checkpoint_steps(folder) if each <= step][-KEEP_LAST:])


def keep(folder: Path, wanted: set[int]) -> None:
    """Delete the checkpoints of all steps but `wanted`, and what killed processes left behind."""
    whole = set(checkpoint_steps(folder))
    for entry in folder.iterdir():
        if not STEP.fullmatch(entry.name):
            if not entry.name.endswith(UNREADABLE):
                shutil.rmtree(entry, ignore_errors=True)
        elif int(entry.name) not in whole:
            print(
                f"checkpoint {entry} has no {CHECKSUMS}, as those of earlier versions; set aside",
                file=sys.stderr,
            )
            set_aside(folder, int(entry.name))
        elif int(entry.name) not in wanted:
            _discard(entry)


def set_aside(folder: Path, step: int) -> Path:
    """Rename a checkpoint that cannot be used, so that it is neither used nor lost."""
    target = folder / f"{step}{UNREADABLE}"
    if target.exists():
        _discard(target)
    return (folder / str(step)).rename(target)


def _aside(target: Path) -> Path:
    """Where a checkpoint is made."""
    return target.with_name(f"{target.name}.saving")


@contextmanager
def _refused(target: Path) -> Iterator[None]:
    """What the system says when a checkpoint cannot be written, as a Refusal."""
    try:
        yield
    except (OSError, ValueError, Refusal) as error:
        raise Refusal(
            f"cannot write checkpoint {target}: {getattr(error, 'strerror', None) or error}. "
            f"{remedy(error)} Run the study with --retry failed: it goes on from the checkpoint "
            "before."
        ) from error


def _discard(path: Path) -> None:
    """Delete a folder; who is killed on the way leaves one that `keep` deletes."""
    doomed = path.with_name(f"{path.name}.{uuid4().hex}.discarded")
    with suppress(FileNotFoundError):
        shutil.rmtree(path.rename(doomed), ignore_errors=True)
