"""A results folder on a file system that its processes share, as `Results` are asked (results.py).

What is known of a run is what its files say now; nothing is kept between two questions but the plan
and how long owners have stood still.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from scaling.store.attempt import attempt_folder, branch_points, cut_checkpoints
from scaling.store.claims import Claim, Observer, half_written_in, newest, owner, refuse_links
from scaling.store.holding import Hold, changing, holding
from scaling.store.leftovers import sweep
from scaling.store.manifest import Manifest, PlannedRun, read_manifest
from scaling.store.ready import make_ready, run_folder
from scaling.store.records import MAX_TABLE, Refusal, read_bytes, read_json, write_bytes
from scaling.store.run_record import RunRecord, damage, has_record, read_run, run_folders


class Folder:
    """The results in a folder."""

    LOGS = "logs"  # the folder in it that workers' logs are in
    pause = 0.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.observer = Observer()
        self._stamp: tuple[int, ...] = ()
        self._manifest: Manifest | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def logs(self) -> Path:
        return self.path / self.LOGS

    def look(self) -> None:
        """Files are looked at when they are asked for."""

    def manifest(self) -> Manifest:
        stamp: tuple[int, ...] = ()
        with suppress(OSError):  # gone: reading it says so
            found = (self.path / "plan.json").stat()
            stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if self._manifest is None or stamp != self._stamp:
            self._manifest, self._stamp = read_manifest(self.path), stamp
        return self._manifest

    def run_ids(self) -> list[str]:
        if not (self.path / "runs").is_dir():
            return []
        return [folder.name for folder in run_folders(self.path)]

    def record(self, run_id: str) -> RunRecord | None:
        folder = self._run(run_id)
        return read_run(folder) if has_record(folder) else None

    def unbegun(self, manifest: Manifest, run: PlannedRun) -> RunRecord:
        return read_run(self._run(run.run_id))

    def damage(self, record: RunRecord, read: Collection[str] = ()) -> dict[str, str]:
        return damage(self._run(record.run_id), record)

    def lost(self, record: RunRecord, listed: bool = False) -> list[str]:
        return [*cut_checkpoints(self._run(record.run_id), record).values()]

    def table(self, run_id: str, name: str) -> Path:
        return self._run(run_id) / name

    def owner(self, run_id: str) -> Claim | None:
        return owner(self._run(run_id))

    def living_owner(self, run_id: str) -> Claim | None:
        return self.observer.owner(self._run(run_id))

    def progress(self, run_id: str) -> Mapping[str, Any]:
        claim = newest(self._run(run_id))
        if claim is not None:
            with suppress(Refusal):
                found = read_json(attempt_folder(self._run(run_id), claim) / "progress.json")
                return found if isinstance(found, dict) else {}
        return {}

    def checkpoints(self, run_id: str) -> set[int]:
        return branch_points(self._run(run_id))

    def refuse_unusable(self, runs: Iterable[PlannedRun]) -> None:
        for run in runs:
            refuse_links(self._run(run.run_id))

    def make_ready(self, manifest: Manifest, run: PlannedRun) -> None:
        make_ready(self.path, manifest, run)

    @contextmanager
    def at_hand(
        self, manifest: Manifest, run: PlannedRun, stopping: Callable[[], bool], log: str
    ) -> Iterator[tuple[Path, Callable[[], bool]]]:
        make_ready(self.path, manifest, run)
        yield self._run(run.run_id), stopping

    def holding(self) -> AbstractContextManager[Hold]:
        return holding(self.path)

    def working(self) -> AbstractContextManager[Hold]:
        return holding(self.path)

    def changing(self) -> AbstractContextManager[None]:
        return changing(self.path)

    def read(self, name: str) -> bytes | None:
        try:
            return read_bytes(self.path / name, MAX_TABLE)
        except Refusal as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def write(self, name: str, data: bytes) -> str:
        write_bytes(self.path / name, data)
        return str(self.path / name)

    @contextmanager
    def shared_files(self, name: str) -> Iterator[Path]:
        yield self.path / name

    def tidy(self) -> None:
        for run_id in self.run_ids():  # a run that ended is claimed by nobody who would
            for folder in half_written_in(self._run(run_id)):
                sweep(folder)

    def _run(self, run_id: str) -> Path:
        return run_folder(self.path, run_id)
