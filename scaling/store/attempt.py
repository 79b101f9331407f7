"""One attempt at a run: its own folder, published once.

    attempts/<generation>-<token>/    steps, checkpoints and progress of the process with that claim
    published/<steps>.json            the attempt that brought the run to so many steps

One exclusive creation publishes an attempt; only then do its files move to where readers look. So
an owner that lost its run without noticing, paused or cut off, harms nothing: it finds its claim
outnumbered or the run published, and discards what it wrote.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaling.remedies import cannot_write
from scaling.store.checksums import Damaged, checksums, verify
from scaling.store.claims import (
    NAME,
    Beginning,
    Claim,
    Replaced,
    claimed,
    create_owned,
    newest,
    replace,
)
from scaling.store.exclusive import last_number
from scaling.store.failpoint import failpoint
from scaling.store.records import (
    FORMAT,
    UNREADABLE,
    Refusal,
    check_seal,
    json_bytes,
    read_json,
    sealed,
)
from scaling.store.run_record import TABLES, RunRecord, damage, read_run, run_of
from scaling.store.sealed import OtherFormat, refuse_other_format
from scaling.store.steps import checkpoint_steps, verify_checkpoint

TAKEN_BACK = ".former"  # ends the name of a publication that was taken back


@contextmanager
def attempt(run: Path, begins: Beginning | None = None) -> Iterator[Attempt]:
    """Hold a run. Raises Owned if another process does, or Refusal if it cannot be written."""
    with claimed(run, begins) as claim:
        yield Attempt(run, claim)


@dataclass(frozen=True)
class Attempt:
    """This process's hold on a run."""

    run: Path
    claim: Claim

    @property
    def folder(self) -> Path:
        return attempt_folder(self.run, self.claim)

    def check(self) -> None:
        """Raises Replaced unless this process still owns the run."""
        latest = newest(self.run)
        if latest is None:
            raise Replaced("the run's folder is gone")
        if latest.generation > self.claim.generation:
            raise Replaced(f"replaced by {latest}")

    def begin(self) -> None:
        """Make this attempt's folder, with the furthest that any attempt before it came.

        Files are linked, never moved: an owner that is only paused may still write in its folder.
        """
        aside = self.folder.with_name(f".{self.claim.name}")
        try:
            for _ in range(3):
                shutil.rmtree(aside, ignore_errors=True)
                with suppress(FileNotFoundError):  # its owner, alive after all, deletes old ones
                    _link_progress(_furthest(self.run), aside)
                    break
                self.check()
            failpoint("attempt-linked")
            aside.rename(self.folder)
        except OSError as error:
            raise Refusal(cannot_write(self.folder, error)) from error
        failpoint("attempt-begun")
        remove_attempts(self.run, self.claim.generation - 1)

    def record(self, status: str, **changes: Any) -> None:
        """Write a status, and whatever else is given, to run.json. Raises Replaced."""
        self.check()
        set_status(self.run, self.claim, status, **changes)

    def publish(self, steps: int, result: dict[str, Any]) -> None:
        """Make this attempt the one that counts for so many steps. Raises Replaced."""
        self.check()
        failpoint("publish")
        record = {
            **{"format": FORMAT, "run_id": run_of(self.run), "attempt": self.claim.name},
            **{"steps": steps, "result": result},
            "files": checksums({name: self.folder / name for name in TABLES}),
        }
        name = f"published/{steps:09d}.json"
        if not create_owned(self.run, self.claim, name, json_bytes(sealed(record))):
            settle(self.run, self.claim)  # who published it may have lost the run, or its life
            raise Replaced("another attempt was published")
        failpoint("published")
        settle(self.run, self.claim)

    def forget(self) -> None:
        """Delete all that was trained and not published, by this attempt and those before it.

        Raises Replaced.
        """
        self.check()
        remove_attempts(self.run, self.claim.generation)
        last = last_number(self.run / "published", 9) or 0
        # A run that came from a bucket has what it goes on from in its own folder.
        for checkpoint in whole_checkpoints(self.run / "checkpoints"):
            if int(checkpoint.name.removesuffix(UNREADABLE)) > last:
                shutil.rmtree(checkpoint, ignore_errors=True)
        for name in ("steps", "evals"):
            shutil.rmtree(self.run / name, ignore_errors=True)
        for name in TABLES if not last else ():
            (self.run / name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete what this attempt wrote."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # others are there
            self.folder.parent.rmdir()


def set_status(run: Path, claim: Claim, status: str, **changes: Any) -> None:
    """Replace the status, and whatever else is given, in a run.json. Raises Replaced."""
    replace_record(run, claim, read_run(run).changed(status=status, **changes))


def replace_record(run: Path, claim: Claim, record: RunRecord) -> None:
    """Replace a run.json whole. Raises Replaced."""
    replace(run, claim, "run.json", json_bytes(record.plain()))


def settle(run: Path, claim: Claim) -> None:
    """Move the files of the published attempt to where readers look, then say so in run.json.

    Whoever comes next finishes what a killed process began; doing it twice or at once is the same.
    Raises Replaced.
    """
    published = _published(run)
    if published is None:
        return
    attempt = run / "attempts" / published["attempt"]
    for checkpoint in sorted(whole_checkpoints(attempt / "checkpoints"), reverse=True):
        own = run / "checkpoints" / checkpoint.name
        if checkpoint.suffix == UNREADABLE:  # the run's own is the same, damaged
            _move(own.with_name(checkpoint.stem), own)
        elif own.is_dir():
            with suppress(Damaged):
                verify_checkpoint(own, run_of(run), read=False)
                continue  # it is the same one
            _set_checkpoint_aside(own)
        _move(checkpoint, own)
        failpoint("settled-checkpoint")
    for name in ("evals.parquet", "steps.parquet"):
        _move(attempt / name, run / name)
        failpoint("settled-table")
    shutil.rmtree(run / "steps", ignore_errors=True)  # of before there were attempts
    remove_attempts(run, int(published["attempt"].partition("-")[0]))
    failpoint("attempts-removed")
    record = read_run(run)
    if record.status != "completed" and record.steps <= published["steps"]:
        found = {"result": published["result"], "files": published["files"]}
        set_status(run, claim, "completed", reason=None, **found)
    failpoint("settled-run")


# What a record holds.
_PUBLICATION = {"format", "run_id", "attempt", "steps", "result", "files", "sha256"}


def _published(run: Path) -> dict[str, Any] | None:
    """The record of the longest publication; one that is damaged, of another run or of nothing is
    set aside.

    Raises OtherFormat for one of a newer version.
    """
    while (steps := last_number(run / "published", 9)) is not None:
        path = run / "published" / f"{steps:09d}.json"
        try:
            found = read_json(path)
            check_seal(found)
            refuse_other_format(path, found)
            whole = set(found) <= _PUBLICATION and isinstance(found["result"], dict)
            whole = whole and re.fullmatch(NAME, found["attempt"]) is not None
            if whole and _is_of(run, found) and _is_there(run, found):
                return {**found, "steps": steps}
        except OtherFormat:
            raise
        except (Refusal, AttributeError, KeyError, TypeError, ValueError, RecursionError):
            pass
        _move(path, path.with_suffix(UNREADABLE))
    return None


def _is_of(run: Path, published: dict[str, Any]) -> bool:
    """Whether a publication is of this run: by its own word or, of before it said so, by the run's
    record, which has the same files.
    """
    if "run_id" in published:
        return bool(published["run_id"] == run_of(run))
    files = read_run(run).files
    return files is not None and published["files"] == {
        name: asdict(noted) for name, noted in files.items()
    }


def _is_there(run: Path, published: dict[str, Any]) -> bool:
    """Whether what was published is in its attempt's folder still, or in place."""
    if (run / "attempts" / published["attempt"]).is_dir():
        return True
    with suppress(Damaged):
        verify(f"run {run.name}", {name: run / name for name in TABLES}, published["files"])
        return True
    return False


def set_damaged_aside(run: Path) -> None:
    """Rename what of a run that completed is not as it was written, so that it is made again.

    A record alone is made again from the publication; for tables, or the checkpoint of its last
    step, the run is trained again.
    """
    try:
        record = read_run(run)
    except OtherFormat:
        raise
    except Refusal:
        _move(run / "run.json", run / f"run{UNREADABLE}")
        return
    lost = cut_checkpoints(run, record)
    for step in lost:
        _set_checkpoint_aside(run / "checkpoints" / str(step))
    if (damaged := damage(run, record)) or record.steps in lost:
        published = run / "published" / f"{last_number(run / 'published', 9) or 0:09d}.json"
        for path in (*(run / name for name in damaged), published):
            _move(path, path.with_suffix(UNREADABLE))


def _set_checkpoint_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}{UNREADABLE}")
    shutil.rmtree(aside, ignore_errors=True)
    _move(path, aside)


def cut_checkpoints(run: Path, record: RunRecord) -> dict[int, str]:
    """Of the checkpoints of a run that completed, by step, those that are another run's, or of
    which a file is missing or of another size, and why.

    The files are not read: that would take as long as to copy them.
    """
    found: dict[int, str] = {}
    steps = checkpoint_steps(run / "checkpoints") if record.status == "completed" else ()
    for step in steps:
        path = run / "checkpoints" / str(step)
        try:
            verify_checkpoint(path, record.run_id, read=False)
        except Refusal as error:
            found[step] = str(error)
    return found


def is_published(run: Path) -> bool:
    """Whether an attempt at a run is published."""
    return last_number(run / "published", 9) is not None


def unpublish(run: Path) -> None:
    """Take back what was published of a run, which is to be published again."""
    while (steps := last_number(run / "published", 9)) is not None:
        path = run / "published" / f"{steps:09d}.json"
        _move(path, path.with_suffix(TAKEN_BACK))


def checkpoint_folders(run: Path) -> list[Path]:
    """Where checkpoints of a run lie: the newest attempt's first, the settled ones last."""
    attempts = sorted((run / "attempts").glob("[0-9]*-*"), reverse=True)
    return [folder / "checkpoints" for folder in (*attempts, run)]


def branch_points(run: Path) -> set[int]:
    """The steps after which a run's state is on disk."""
    return {step for each in checkpoint_folders(run) for step in checkpoint_steps(each)}


def attempt_folder(run: Path, claim: Claim) -> Path:
    """Where the process with that claim works."""
    return run / "attempts" / claim.name


def last_checkpoint(run: Path) -> int:
    """The last step that a run, or any attempt at it, has a checkpoint of; 0 without one."""
    return max(branch_points(run), default=0)


def _furthest(run: Path) -> Path:
    """The attempt, or the run's own folder, with the last checkpoint."""

    def last(checkpoints: Path) -> int:
        return max(checkpoint_steps(checkpoints), default=-1)

    return max(checkpoint_folders(run), key=last).parent


def _link_progress(source: Path, target: Path) -> None:
    """Give `target` the steps and checkpoints of `source` that were written to their end."""
    target.mkdir(parents=True)
    for name in ("steps", "checkpoints", "evals"):
        (target / name).mkdir()
    for entry in whole_checkpoints(source / "checkpoints"):
        _link(entry, target / "checkpoints" / entry.name)
    tables = [*source.glob("steps.parquet"), *source.glob("steps/[0-9]*.parquet")]
    tables += [*source.glob("evals.parquet"), *source.glob("evals/[0-9]*.parquet")]
    for rows in tables:
        _link(rows, target / rows.relative_to(source))


def whole_checkpoints(checkpoints: Path) -> list[Path]:
    """Finished checkpoints, and those set aside."""
    finished = [checkpoints / str(step) for step in checkpoint_steps(checkpoints)]
    return [*finished, *checkpoints.glob(f"*{UNREADABLE}")]


def _link(source: Path, target: Path) -> None:
    """Hard links to a file, or to all files of a folder."""
    if source.is_dir():
        target.mkdir()
        for entry in source.iterdir():
            _link(entry, target / entry.name)
    else:
        os.link(source, target)


def _move(source: Path, target: Path) -> None:
    """Rename, unless somebody has, or the target is a folder that is full already."""
    target.parent.mkdir(exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise


def remove_attempts(run: Path, last: int) -> None:
    """Delete attempts up to a generation, never a later one's, which may be at work."""
    for entry in (run / "attempts").glob("*"):
        name = entry.name.removeprefix(".")
        if re.fullmatch(NAME, name) and int(name.partition("-")[0]) <= last:
            shutil.rmtree(entry, ignore_errors=True)
    with suppress(OSError):
        (run / "attempts").rmdir()
