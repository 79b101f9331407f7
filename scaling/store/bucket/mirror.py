"""The small files of results at an address, on this machine, for commands that only read them.

A file is fetched again where it or its object is another one than when it was fetched; checkpoints
are never fetched. What a command writes there, fits and figures, goes up when it has ended.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path, PurePosixPath

from scaling.store.bucket.bucket import Bucket
from scaling.store.bucket.carry import fetch
from scaling.store.bucket.leases import part_of_path
from scaling.store.claims import this_machine
from scaling.store.manifest import PLAN
from scaling.store.objects import Missing
from scaling.store.ready import run_folder
from scaling.store.records import Refusal, read_json, write_json
from scaling.store.run_record import TABLES
from scaling.store.waiting import taken

FILES = ("study.toml", "runs.parquet", "scores.parquet", PLAN)
FOLDERS = ("fits", "figures")  # what commands read and write there
VERSIONS = ".versions.json"  # of the objects, and what tells that a file is still as fetched


@contextmanager
def mirrored(bucket: Bucket, runs: bool) -> Iterator[Path]:
    """A folder with the small files and all fits at an address; if asked, the steps of all `runs`.

    Raises Refusal where the address holds no study.
    """
    with _folder(bucket) as folder:
        _fetch(bucket, folder)
        if runs:
            _fetch_runs(bucket, folder)
        before = _stamps(folder)
        yield folder
        written = [name for name, stamp in _stamps(folder).items() if before.get(name) != stamp]
        # A fit's file names its draws and rows, which come first.
        for name in sorted(written, key=lambda name: (name.endswith(".json"), name)):
            bucket.store.upload(folder / name, name)


@contextmanager
def _folder(bucket: Bucket) -> Iterator[Path]:
    """A folder that no other command of this host has: the first that is free."""
    host = part_of_path(this_machine()[0])
    bucket.mirror.mkdir(parents=True, exist_ok=True)
    for number in count():
        folder = bucket.mirror / f"read-{host}-{number}"
        with folder.with_name(f"{folder.name}.lock").open("ab") as lock:
            free = True
            with suppress(OSError):  # a file system without locks
                free = taken(lock.fileno(), fcntl.LOCK_EX)
            if free:
                yield folder
                return


def _fetch(bucket: Bucket, folder: Path) -> None:
    known: dict[str, object] = {}
    with suppress(Refusal):
        known = dict(read_json(folder / VERSIONS))
    there = {each.key: each.version for name in FOLDERS for each in bucket.store.list(name)}
    for name in [name for name in there if ".." in PurePosixPath(name).parts]:
        del there[name]  # no file of ours
    for read in bucket.store.read_many(FILES):
        path = folder / read.key
        if read.data is None:
            path.unlink(missing_ok=True)
        elif not path.is_file() or path.read_bytes() != read.data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(read.data)
    if not any((folder / name).is_file() for name in ("runs.parquet", "study.toml")):
        raise Refusal(
            f"{bucket} holds no study and no run table. Give the address that `scaling run` "
            "printed, which ends with the name of the study."
        )
    stamps = _stamps(folder)
    for name, version in there.items():
        if name not in stamps or known.get(name) != [version, *stamps[name]]:
            with suppress(Missing):
                bucket.store.download(name, folder / name)
    for name in stamps.keys() - there.keys():
        (folder / name).unlink()
    stamps = _stamps(folder)
    write_json(folder / VERSIONS, {name: [there[name], *stamps[name]] for name in stamps})


def _fetch_runs(bucket: Bucket, folder: Path) -> None:
    """The records and rows of all runs."""
    bucket.states.look()
    for run_id in bucket.run_ids():
        run = run_folder(folder, run_id)
        for _ in range(5):
            found = bucket.states.found(run_id)
            if found is None:
                break
            rows = [
                path
                for path in found.state.files
                if path in TABLES or path.startswith(("steps/", "evals/"))
            ]
            with suppress(Missing):
                for path in rows:
                    fetch(bucket.store, found, path, run)
                for old in [*run.glob("*.parquet"), *run.glob("*/*.parquet")]:
                    if old.relative_to(run).as_posix() not in rows:
                        old.unlink()
                write_json(run / "run.json", found.state.record.plain())
                break
            bucket.states.look(run_id)


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What tells whether a file was written, by its name."""
    stamps = {}
    for name in FOLDERS:
        for file in (folder / name).rglob("*"):
            if file.is_file():
                found = file.stat()
                stamps[file.relative_to(folder).as_posix()] = found.st_ino, found.st_mtime_ns
    return stamps


def study_of(address: str) -> tuple[str, str]:
    """The study that an address is in, and the path in it: s3://b/runs/tiny/fits/chinchilla.json is
    ("s3://b/runs/tiny", "fits/chinchilla.json")."""
    parts = address.rstrip("/").split("/")
    for at, part in enumerate(parts[3:], 3):
        if part in FOLDERS or (at == len(parts) - 1 and part in FILES):
            return "/".join(parts[:at]), "/".join(parts[at:])
    return address.rstrip("/"), ""
