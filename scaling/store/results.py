"""What whoever works with results asks of them, in a folder or in a bucket alike.

Two places answer: `Folder` (folder.py), which processes on one machine or a shared file system
have in common, and `Bucket` (bucket/), for which no file system has to be shared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from scaling.store.bucket.bucket import Bucket
from scaling.store.claims import Claim
from scaling.store.folder import Folder
from scaling.store.manifest import Manifest, PlannedRun
from scaling.store.objects import is_address, open_store
from scaling.store.records import Refusal
from scaling.store.run_record import TABLES, RunRecord, Status
from scaling.store.sealed import OtherFormat


class Held(Protocol):
    """This process's presence at results."""

    def is_alone(self) -> bool:
        """Whether no other launch or worker is there; ask it only in `changing`."""


class Results(Protocol):
    """The results of one study. Printed, they are named as the user named them."""

    @property
    def pause(self) -> float:
        """Seconds between two looks of one process, at least: each may have its price."""

    @property
    def logs(self) -> Path:
        """The folder of this machine that workers' logs are in."""

    def look(self) -> None:
        """Bring what is known of owners and runs up to date."""

    def manifest(self) -> Manifest:
        """The plan as it is now. Raises Refusal as `read_manifest`."""

    def run_ids(self) -> list[str]:
        """Every run that has a record, of this plan or of an earlier one."""

    def record(self, run_id: str) -> RunRecord | None:
        """What became of a run; null if nothing did. Raises Refusal if it is not as written."""

    def unbegun(self, manifest: Manifest, run: PlannedRun) -> RunRecord:
        """The record of a run that has none. Raises Refusal where each should have one."""

    def damage(self, record: RunRecord, read: Collection[str] = ()) -> dict[str, str]:
        """Of the tables of a run that completed, those that are not as published, and why.

        Those to `read` are read to tell; the others only where that costs little.
        """

    def lost(self, record: RunRecord, listed: bool = False) -> list[str]:
        """What is wrong with the files of a run that completed, tables aside: as far as names and
        sizes tell, and at an address only where all of them may be `listed`.

        Its results are whole: what goes on from it, or judges its model, is not.
        """

    def table(self, run_id: str, name: str) -> Path:
        """A table of a run that completed, as a file of this machine. Raises Refusal."""

    def owner(self, run_id: str) -> Claim | None:
        """Who claims a run, and has neither released it nor is known to be dead."""

    def living_owner(self, run_id: str) -> Claim | None:
        """As `owner`, but none who stood still for too long. Ask it again and again."""

    def progress(self, run_id: str) -> Mapping[str, Any]:
        """What a run's process last reported, as progress.json holds it; empty if nothing."""

    def checkpoints(self, run_id: str) -> set[int]:
        """The steps after which a run's state is kept."""

    def refuse_unusable(self, runs: Iterable[PlannedRun]) -> None:
        """Raise Refusal where these runs cannot be written; nothing is changed."""

    def make_ready(self, manifest: Manifest, run: PlannedRun) -> None:
        """Ask for a run, as the plan does, unless someone is training it."""

    def at_hand(
        self, manifest: Manifest, run: PlannedRun, stopping: Callable[[], bool], log: str
    ) -> AbstractContextManager[tuple[Path, Callable[[], bool]]]:
        """The folder in which to train a run while the context lasts, made ready, and whether to
        stop: because of `stopping`, or because what is trained there cannot be brought up.

        Raises Owned, or Refusal, where another process has the run or it cannot be read.
        """

    def holding(self) -> AbstractContextManager[Held]:
        """Be there, beside others. Raises Refusal where nothing can be written."""

    def working(self) -> AbstractContextManager[object]:
        """Be there as a worker, which the runs show that it claims."""

    def changing(self) -> AbstractContextManager[None]:
        """Be the only one that replaces the plan or the tables. Raises Refusal."""

    def read(self, name: str) -> bytes | None:
        """A file of the study; null if there is none. Raises Refusal if it cannot be read."""

    def write(self, name: str, data: bytes) -> str:
        """Replace a file of the study whole; returns where it is. Raises Refusal."""

    def shared_files(self, name: str) -> AbstractContextManager[Path]:
        """A folder of files that all workers share; those that are new when it ends are kept.

        None is replaced: of two that make the same file, one does.
        """

    def tidy(self) -> None:
        """Delete what killed processes left, and keep what was read of all runs where that saves
        the next reader time.

        For whoever has just read all runs, to whom a look at each costs little more.
        """


def results_at(place: str | Path | Results) -> Results:
    """The results at a path or an address. Raises Refusal for an address of no known kind."""
    if isinstance(place, Path):
        return Folder(place)
    if isinstance(place, str):
        return Bucket(open_store(place)) if is_address(place) else Folder(Path(place))
    return place


def study_at(results: str, study: str) -> Results:
    """The results of a study, in the folder or at the address that has one for each study."""
    inside = f"{results.rstrip('/')}/{study}" if is_address(results) else Path(results) / study
    return results_at(inside)


def unfinished(
    place: Path | Results, manifest: Manifest, retry: Collection[Status] = ()
) -> list[PlannedRun]:
    """The runs of a plan that still need training, in its order. Only reads.

    Runs that failed or diverged need none, unless their status is among those to `retry`. Raises
    OtherFormat where a run is of a newer or older version.
    """
    results = results_at(place)
    return [run for run in manifest.runs if not has_ended(results, run, retry)]


def has_ended(results: Results, run: PlannedRun, retry: Collection[Status] = ()) -> bool:
    """Whether a run needs no more work: it ended far enough, and is not to be retried.

    One that was judged on other held-out windows, or asked other questions, is judged again.

    One that completed and is damaged, or has a damaged checkpoint, counts as failed where those are
    retried; one whose record is damaged has not ended.
    """
    try:
        record = results.record(run.run_id)
    except OtherFormat:
        raise
    except Refusal:
        return False
    if record is None:
        return False
    if "failed" in retry and (results.damage(record, TABLES) or results.lost(record, listed=True)):
        return False
    if record.status == "completed" and not record.judged_as(run.config):
        return False
    return record.ended and record.status not in retry and record.steps >= run.steps
