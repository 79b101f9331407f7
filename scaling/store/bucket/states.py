"""What became of the runs of a bucket: the manifest of each run's newest attempt.

    attempts/<run_id>/<generation>-<token>.json   its record, and which files belong to it
    files/<run_id>/<generation>-<token>/<path>.<the start of its SHA-256>

An attempt belongs to one claim, whose process alone writes it. A file is there before a manifest
names it and never changes, so that a manifest is whole whenever it is read. Who was replaced
writes on where nobody looks: only the newest manifest counts.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass

from pydantic import field_validator

from scaling.store.claims import NAME
from scaling.store.objects import Missing, Store
from scaling.store.records import RUN_ID, json_bytes
from scaling.store.run_record import Checksum, RunRecord
from scaling.store.sealed import Sealed, damaged

INDEX = "attempts.json.gz"  # the manifests as somebody read them all, for whoever comes next
MAX_INDEX = 1 << 30  # bytes; ten thousand runs take 100 MB
_OUTSIDE = {"", ".", ".."}  # parts of a path that may lead out of a folder
# What reading a damaged one may raise.
_DAMAGE = (zlib.error, OSError, EOFError, ValueError, TypeError, AttributeError, RecursionError)
_DIGITS = 16  # of a file's SHA-256 in its name


class State(Sealed):
    """The manifest of an attempt."""

    record: RunRecord  # as run.json has it
    files: dict[str, Checksum]  # by their path in the run's folder

    @field_validator("files")
    @classmethod
    def _lie_in_the_folder(cls, files: dict[str, Checksum]) -> dict[str, Checksum]:
        for path in files:
            if not _OUTSIDE.isdisjoint(path.split("/")):  # an absolute one begins with ""
                raise ValueError(f"{path[:80]!r} is no path in a run's folder")
        return files


@dataclass(frozen=True)
class Found:
    """The state of a run, and the attempt that brought it there."""

    run_id: str
    attempt: str  # generation and token
    state: State

    def key(self, path: str) -> str:
        """Where a file of it is."""
        return file_key(self.run_id, self.attempt, path, self.state.files[path].sha256)

    @property
    def checkpoints(self) -> set[int]:
        """The steps that it has a checkpoint of."""
        found = (_CHECKPOINT.fullmatch(path) for path in self.state.files)
        return {int(each[1]) for each in found if each is not None}


class States:
    """The states of all runs of a bucket as of the last look."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._newest: dict[str, str] = {}  # the attempt's name, by run
        self._read: dict[str, tuple[str, bytes]] = {}  # version and content, by key
        self._parsed: dict[str, tuple[str, Found]] = {}  # version and state, by run
        self._indexed = False

    def look(self, run_id: str = "") -> None:
        """List all attempts, or those at one run, and read what is new."""
        if not self._indexed:
            self._indexed = True
            self._read_index()
        for _ in range(5):  # one may be deleted by the next attempt before it is read
            newest: dict[str, str] = {}
            versions: dict[str, str] = {}
            for each in self.store.list(f"attempts/{run_id}"):
                if found := _ATTEMPT.fullmatch(each.key):
                    newest[found[1]] = max(newest.get(found[1], ""), found[2])
                    versions[each.key] = each.version
            wanted = {attempt_key(*each): each for each in newest.items()}
            new = [key for key in wanted if self._read.get(key, ("",))[0] != versions[key]]
            whole = True
            for read in self.store.read_many(new):
                if read.data is None:
                    whole = False
                else:
                    self._read[read.key] = versions[read.key], read.data
            if whole:
                break
        if not run_id:
            self._newest = newest
            self._read = {key: self._read[key] for key in wanted if key in self._read}
        else:
            self._newest.pop(run_id, None)
            self._newest.update(newest)

    def run_ids(self) -> list[str]:
        """The runs that anything became of."""
        return sorted(self._newest)

    def attempt(self, run_id: str) -> str:
        """The name of the newest attempt at a run; empty before there is one."""
        return self._newest.get(run_id, "")

    def found(self, run_id: str) -> Found | None:
        """The state of a run; null before there is one. Raises Refusal if it is damaged."""
        if run_id not in self._newest:
            return None
        key = attempt_key(run_id, self._newest[run_id])
        version, data = self._read.get(key, ("", b""))
        if self._parsed.get(run_id, ("",))[0] != f"{key} {version}":
            found = Found(run_id, self._newest[run_id], self._state(key, run_id, data))
            self._parsed[run_id] = f"{key} {version}", found
        return self._parsed[run_id][1]

    def _state(self, key: str, run_id: str, data: bytes) -> State:
        where = f"{self.store.address}/{key}"
        state = State.parsed(where, data)
        if state.record.run_id != run_id:
            raise damaged(where, f"it is of run {state.record.run_id}")
        return state

    def write_index(self) -> None:
        """Keep what was read for whoever comes next, who then reads what is new since."""
        kept = {key: [version, data.decode()] for key, (version, data) in self._read.items()}
        self.store.write(INDEX, gzip.compress(json.dumps(kept).encode(), 1))

    def _read_index(self) -> None:
        with suppress(
            Missing, zlib.error, OSError, EOFError, ValueError, TypeError, AttributeError
        ):
            with gzip.open(io.BytesIO(self.store.read(INDEX))) as file:
                kept = json.loads(file.read(MAX_INDEX))
            for key, (version, text) in kept.items():
                self._read[key] = str(version), str(text).encode()


def write_state(store: Store, found: Found) -> None:
    """Make an attempt's manifest say this."""
    store.write(attempt_key(found.run_id, found.attempt), json_bytes(found.state.plain()))


def remove_attempts(store: Store, run_id: str, last: str) -> None:
    """Delete the attempts at a run before the one of that name, and never a later one."""
    for folder in ("attempts", "files"):  # a manifest first: its files are missed by nobody then
        keys = (each.key for each in store.list(f"{folder}/{run_id}"))
        store.delete([key for key in keys if _attempt_of(key) < last])


def remove_unnamed(store: Store, found: Found) -> None:
    """Delete the files of an attempt that its manifest does not name any more."""
    named = {found.key(path) for path in found.state.files}
    keys = (each.key for each in store.list(f"files/{found.run_id}/{found.attempt}"))
    store.delete([key for key in keys if key not in named])


def lost_files(store: Store, found: Found) -> list[str]:
    """What is wrong with the files of an attempt, as far as a listing tells."""
    sizes = {each.key: each.bytes for each in store.list(f"files/{found.run_id}/{found.attempt}")}
    return [
        f"{path} is missing or of another size"
        for path, noted in found.state.files.items()
        if sizes.get(found.key(path)) != noted.bytes
    ]


def attempt_key(run_id: str, attempt: str) -> str:
    return f"attempts/{run_id}/{attempt}.json"


def file_key(run_id: str, attempt: str, path: str, sha256: str) -> str:
    return f"files/{run_id}/{attempt}/{path}.{sha256[:_DIGITS]}"


def _attempt_of(key: str) -> str:
    return key.split("/")[2].removesuffix(".json")


_ATTEMPT = re.compile(rf"attempts/({RUN_ID.pattern})/({NAME})\.json")
_CHECKPOINT = re.compile(r"checkpoints/(0|[1-9][0-9]{0,15})/checksums\.json")
