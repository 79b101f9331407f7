"""A run between a bucket and a folder of this machine, in which it is trained.

Down: the files that a manifest names, each verified. Up: what is whole in the folder, files first,
then the manifest that names them. What goes up is linked aside first, for the process that trains
replaces and deletes files meanwhile, and never changes one in place.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from uuid import uuid4

from scaling.store.attempt import checkpoint_folders, whole_checkpoints
from scaling.store.bucket.leases import Lease
from scaling.store.bucket.states import (
    Found,
    State,
    file_key,
    remove_attempts,
    remove_unnamed,
    write_state,
)
from scaling.store.checksums import Damaged, checksums, files_in, verify
from scaling.store.claims import Replaced
from scaling.store.failpoint import failpoint
from scaling.store.objects import Missing, Store, Unreachable
from scaling.store.records import Refusal, write_json
from scaling.store.run_record import Checksum, RunRecord, read_run

LOOK_SECONDS = 0.5  # between looks at the folder for what is new
AGAIN_SECONDS = 10.0  # between tries of what the server refuses
REFUSED_SECONDS = 60.0  # in which it may change its mind: S3 refuses who is slow, or whose clock is
_TOGETHER = 8  # files at once


def pull(store: Store, found: Found, folder: Path, paths: Iterable[str]) -> Found:
    """Bring a run's record and these of its files to its folder; returns its state with no others.

    One that is not as it was written is left out and said; what needs it is trained again. Raises
    Missing where the attempt was deleted, because there is a newer one.
    """
    files: dict[str, object] = {}

    def bring(path: str) -> None:
        try:
            fetch(store, found, path, folder)
            files[path] = asdict(found.state.files[path])
        except Damaged as error:
            print(f"{error}; it is left out", file=sys.stderr)

    with ThreadPoolExecutor(_TOGETHER) as pool:
        for _ in pool.map(bring, paths):
            pass
    write_json(folder / "run.json", found.state.record.plain())
    return replace(found, state=State.made(record=found.state.record.plain(), files=files))


def fetch(store: Store, found: Found, path: str, folder: Path) -> Path:
    """A file of a run in its folder, as it was written. Raises Damaged, and Missing as `pull`."""
    target, noted = folder / path, asdict(found.state.files[path])
    what = f"{store.address}: run {found.run_id}"
    if target.is_file():
        with suppress(Damaged):
            verify(what, {path: target}, {path: noted})
            return target
    try:
        store.download(found.key(path), target)
    except Missing:
        # Deleted with its attempt, or alone: then the manifest is still there.
        store.read(f"attempts/{found.run_id}/{found.attempt}.json")
        raise Damaged(f"{what}: {path} is missing") from None
    try:
        verify(what, {path: target}, {path: noted})
    except Damaged:
        target.unlink(missing_ok=True)
        raise
    return target


class Carrier:
    """Takes what a process trains in a folder up to its attempt."""

    def __init__(self, store: Store, lease: Lease, folder: Path, source: Found | None) -> None:
        self.store, self.lease, self.folder = store, lease, folder
        # What it goes on from of an older attempt: only files that were found to be whole there.
        self.source = source
        self.attempt = lease.claim.name
        self.there: Found | None = None  # what is up
        self.behind = False  # whether that is less than what is here: the last push failed
        self.refused = False  # for good, by the server: who trains on trains in vain
        self._noted: dict[tuple[int, ...], Checksum] = {}  # by what tells that a file is the same
        self._seen: object = None

    def push(self) -> Found:
        """Bring the attempt up to date. Raises Replaced, and Refusal where that fails."""
        self.behind = True
        self.lease.check()
        with _linked(self.folder) as (record, files):
            noted = {path: self._checksum(path, file) for path, file in files.items()}
            new = [path for path in noted if not self._is_up(path, noted[path])]
            with ThreadPoolExecutor(_TOGETHER) as pool:
                for _ in pool.map(lambda path: self._bring(path, files[path], noted[path]), new):
                    pass
        failpoint("bucket-uploaded")
        self.lease.check()
        state = State.made(
            record=record.plain(), files={path: asdict(each) for path, each in noted.items()}
        )
        found = Found(self.lease.name, self.attempt, state)
        before, self.there = self.there, found
        write_state(self.store, found)
        failpoint("bucket-stated")
        if before is None or record.ended:
            remove_attempts(self.store, found.run_id, self.attempt)
        if record.ended or (before is not None and not before.state.files.keys() <= noted.keys()):
            remove_unnamed(self.store, found)
        failpoint("bucket-removed")
        self.behind = False
        return found

    def push_last(self) -> None:
        """As `push`, and again for as long as the server may change its mind about a refusal.

        Nobody else will: what is here and not up is lost with this machine.
        """
        until = time.monotonic() + (0.0 if self.refused else REFUSED_SECONDS)
        while True:
            try:
                self.push()
                return
            except Unreachable:  # it was asked again for long enough
                raise
            except (Refusal, OSError) as error:
                if time.monotonic() >= until:
                    raise
                self._say_behind(error)
            time.sleep(AGAIN_SECONDS)

    def discard(self) -> None:
        """Delete what this attempt brought up, if a newer one has what was needed of it."""
        keys = [each.key for each in self.store.list(f"attempts/{self.lease.name}")]
        if any(key.split("/")[2] > f"{self.attempt}.json" for key in keys):
            self.store.delete([key for key in keys if self.attempt in key])
            files = self.store.list(f"files/{self.lease.name}/{self.attempt}")
            self.store.delete([each.key for each in files])

    @contextmanager
    def carrying(self, replaced: Callable[[], None]) -> Iterator[None]:
        """Push whatever is new while the context lasts; `replaced` is called if that is in vain.

        One that is `refused` ends that.
        """
        ended = threading.Event()
        thread = threading.Thread(target=self._carry_until, args=(ended, replaced), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _carry_until(self, ended: threading.Event, replaced: Callable[[], None]) -> None:
        since = tried = math.inf  # when it was refused for the first time, and the last
        while not ended.wait(LOOK_SECONDS):
            if self.lease.replaced is not None:
                replaced()
                return
            now = time.monotonic()
            try:
                if self._is_new() or now - tried >= AGAIN_SECONDS:
                    self.push()
                    since = tried = math.inf
            except Replaced:
                replaced()
                return
            except (Refusal, OSError) as error:  # the next time, or at the end
                self._say_behind(error)
                understood = isinstance(error, Refusal) and not isinstance(error, Unreachable)
                since, tried = (min(since, now), now) if understood else (math.inf, math.inf)
                if now - since >= REFUSED_SECONDS:
                    self.refused = True
                    return

    def _say_behind(self, error: Exception) -> None:
        print(f"run {self.lease.name} is not brought up: {error}", file=sys.stderr)

    def _is_new(self) -> bool:
        """Whether there is another record or checkpoint than at the last call."""
        try:
            record = (self.folder / "run.json").stat()
            steps = {str(each) for at in checkpoint_folders(self.folder) for each in _steps(at)}
        except OSError:
            return False
        seen = record.st_ino, record.st_mtime_ns, steps
        before, self._seen = self._seen, seen
        return seen != before

    def _checksum(self, path: str, file: Path) -> Checksum:
        found = file.stat()
        stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if stamp not in self._noted:
            self._noted[stamp] = Checksum(**checksums({path: file})[path])
        return self._noted[stamp]

    def _is_up(self, path: str, noted: Checksum) -> bool:
        return self.there is not None and self.there.state.files.get(path) == noted

    def _bring(self, path: str, file: Path, noted: Checksum) -> None:
        key = file_key(self.lease.name, self.attempt, path, noted.sha256)
        if self.source is not None and self.source.state.files.get(path) == noted:
            try:
                self.store.copy(self.source.key(path), key)
                return
            except Unreachable:  # an upload would wait as long once more
                raise
            except (Missing, Refusal):  # not every server copies every file: S3 none above 5 GB
                pass
        self.store.upload(file, key)


@contextmanager
def _linked(run: Path) -> Iterator[tuple[RunRecord, dict[str, Path]]]:
    """A run's record and all its whole files, by where they lie once they are settled.

    The files are links of their own, of one moment. The record is read first: files that are
    further than it says harm nothing. Checkpoints before rows, so that none lacks its rows.
    """
    for attempt in range(10):
        aside = run.with_name(f".{run.name}.{uuid4().hex}")
        try:
            record, found = read_run(run), _files(run)
            for path, file in found.items():
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(file, aside / path)
            yield record, {path: aside / path for path in found}
            return
        except FileNotFoundError:  # moved or deleted meanwhile
            if attempt == 9:
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _files(run: Path) -> dict[str, Path]:
    places = [checkpoints.parent for checkpoints in checkpoint_folders(run)]
    found: dict[str, Path] = {}
    steps: dict[str, Path] = {}
    for place in places:  # the newest attempt's come first, where two have the same
        for entry in whole_checkpoints(place / "checkpoints"):
            steps.setdefault(entry.name, entry)
    for name, entry in steps.items():
        found |= {f"checkpoints/{name}/{path}": file for path, file in files_in(entry).items()}
    for place in places:
        # Parts before the table that they are merged into: of a part that is gone, it has the rows.
        for pattern in ("evals/[0-9]*", "steps/[0-9]*", "[a-z]*", "published/[0-9]*"):
            for file in sorted(place.glob(pattern)):
                if file.is_file() and file.name not in ("run.json", "progress.json"):
                    found.setdefault(file.relative_to(place).as_posix(), file)
    return found


def _steps(checkpoints: Path) -> list[str]:
    return [entry.name for entry in whole_checkpoints(checkpoints)]
