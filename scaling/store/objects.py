"""Objects under keys: one small Store behind which a bucket, a folder and memory are the same.

An object is written whole or not at all, and `create` has exactly one winner. A server that fails
or does not answer is asked again with growing waits; what it refuses for good is a Refusal.
"""

from __future__ import annotations

import math
import os
import random
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from uuid import uuid4

from scaling.remedies import cannot_write
from scaling.store.clouds import Handles, handles, is_address, remedy
from scaling.store.exclusive import alone_in
from scaling.store.records import Refusal, hold
from scaling.store.together import batches, together

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta, UpdateVersion

__all__ = ["Missing", "Read", "Stat", "Store", "Unreachable", "is_address", "open_store"]

PATIENCE = 120.0  # seconds for which a server that fails is asked again
SILENCE = 5.0  # seconds of that without a word
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 10.0  # seconds between two tries
READS = 64  # small objects under way at once: a newcomer to ten thousand runs reads them in seconds
_DELETIONS = 16  # requests at once, of a page each where the server takes that
_PAGE = 1000  # objects that a server lists at once, and that one request deletes
_PART = 16 << 20  # bytes of a large file that one request carries
_MOST_PARTS = 9_000  # of an upload; S3 and GCS take 10,000

_Result = TypeVar("_Result")


class Missing(KeyError):
    """No object has that key."""


class Unreachable(Refusal):
    """The server failed, or did not answer, for as long as we are patient."""


@dataclass(frozen=True)
class Stat:
    """One object as a listing tells it."""

    key: str
    bytes: int
    version: str  # changes whenever other content is written; it may when the same is


@dataclass(frozen=True)
class Read:
    """What a key holds; none if there is no such object (any more)."""

    key: str
    data: bytes | None


class Store(Protocol):
    """Objects below one address. Keys are relative to it: names separated by single slashes.

    Every method raises Unreachable when its server fails for `PATIENCE` seconds, another Refusal
    for what it refuses (credentials, permission, no such bucket), and ValueError for a key that
    is none. A call may be made from any thread.
    """

    address: str  # as the user gave it, without a slash at the end

    def read(self, key: str) -> bytes:
        """The whole of a small object. Raises Missing."""

    def create(self, key: str, data: bytes) -> bool:
        """Whether this call made the object, which was not there. Exactly one caller wins.

        An answer that was lost on its way is found out: the call that made the object wins.
        """

    def write(self, key: str, data: bytes) -> None:
        """Make or replace an object, whole. One writer a key: two at once leave either's."""

    def replace(self, key: str, data: bytes, check: Callable[[], None]) -> None:
        """As `write`, by one of several writers, of whom `check` raises for all but one.

        It is called before each try, and what another wrote after that stays. (On S3 a version is
        of the content: one that was changed and changed back counts as unchanged.)
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are missing are no error."""

    def list(self, prefix: str) -> Iterator[Stat]:
        """All objects below a folder (`""`: all), in no promised order."""

    def read_many(self, keys: Iterable[str]) -> Iterator[Read]:
        """Small objects in the order of their keys, several at a time."""

    def upload(self, file: Path, key: str) -> None:
        """Make or replace an object by a file of any size."""

    def download(self, key: str, file: Path) -> None:
        """Replace a file by an object of any size, whole or not at all. Raises Missing."""

    def copy(self, key: str, to: str) -> None:
        """Make or replace an object by another, on the server. Raises Missing."""


def open_store(address: str) -> Store:
    """The store at s3://…, gs://…, az://…, or for tests file:///… and memory://NAME.

    No request is made: probe.py finds out whether runs can be claimed there. Raises Refusal for
    what is no such address, and where obstore is not installed.
    """
    opened = handles(address)
    return ObjectStore(address.rstrip("/"), opened)


class ObjectStore:
    """A Store over obstore, which speaks to S3, Google, Azure, folders and memory."""

    def __init__(self, address: str, opened: Handles) -> None:
        self.address = address
        self._at = opened
        self._told = -math.inf  # when it was last said that the server is waited for

    def read(self, key: str) -> bytes:
        import obstore

        path = self._path(key)
        return self._patiently(key, lambda: bytes(obstore.get(self._at.once, path).bytes()))

    def create(self, key: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        path, token = self._path(key), uuid4().hex
        attributes = {"writer": token} if self._at.folder is None else None

        def attempt() -> bool:
            try:
                obstore.put(self._at.once, path, data, mode="create", attributes=attributes)
            except AlreadyExistsError:
                if attributes is None:  # a folder, whose answers are not lost
                    return False
                # If there is none, it was deleted meanwhile, or another's request was under way
                # (S3's 409): ask again.
                with suppress(FileNotFoundError):
                    return self._writer(path) == token
                raise _Again("it comes and goes") from None
            return True

        return self._into_bucket(key, attempt)

    def write(self, key: str, data: bytes) -> None:
        import obstore

        path = self._path(key)
        self._into_bucket(key, lambda: obstore.put(self._at.once, path, data, use_multipart=False))

    def replace(self, key: str, data: bytes, check: Callable[[], None]) -> None:
        while True:
            seen = self._version(key)
            check()
            if self.create(key, data) if seen is None else self._update(key, data, seen):
                return

    def _update(self, key: str, data: bytes, seen: UpdateVersion) -> bool:
        """Whether this call replaced an object that was as seen."""
        import obstore
        from obstore.exceptions import PreconditionError

        path, token = self._path(key), uuid4().hex
        if self._at.folder is not None:  # obstore has no conditional replacement there
            with alone_in(self._at.folder):
                same = self._version(key) == seen
                if same:
                    self.write(key, data)
                return same

        def attempt() -> bool:
            try:
                obstore.put(self._at.once, path, data, mode=seen, attributes={"writer": token})
            except (PreconditionError, FileNotFoundError):  # changed, or deleted
                with suppress(FileNotFoundError):
                    return self._writer(path) == token
                return False
            return True

        return self._into_bucket(key, attempt)

    def _version(self, key: str) -> UpdateVersion | None:
        import obstore

        path = self._path(key)
        try:
            found = self._patiently(key, lambda: obstore.head(self._at.once, path))
        except Missing:
            return None
        seen: UpdateVersion = {"e_tag": found["e_tag"]}
        if found["version"] is not None:  # Google's generation
            seen["version"] = found["version"]
        return seen

    def _writer(self, path: str) -> object:
        """The token of the request that made an object: ours, where its answer was lost."""
        import obstore

        return obstore.get(self._at.once, path).attributes.get("writer")

    def delete(self, keys: Iterable[str]) -> None:
        import obstore

        def remove(keys: tuple[str, ...]) -> None:
            paths = [self._path(key) for key in keys]

            def attempt() -> None:
                with suppress(FileNotFoundError):
                    obstore.delete(self._at.once, paths)

            self._patiently(keys[0], attempt)

        most = _PAGE if self._at.deletes_many else 1
        deque(together(remove, batches(keys, most), _DELETIONS), maxlen=0)

    def list(self, prefix: str) -> Iterator[Stat]:
        import obstore

        folder = self._path(prefix.rstrip("/")) if prefix.strip("/") else self._at.prefix
        cut = len(self._at.prefix) + 1 if self._at.prefix else 0

        def attempt() -> Sequence[ObjectMeta]:
            return obstore.list(self._at.large, folder or None, chunk_size=_PAGE).collect()

        # Whole before the first is given: not every server goes on where a listing broke off.
        for each in self._patiently(prefix, attempt):
            yield Stat(each["path"][cut:], each["size"], str(each["e_tag"]))

    def read_many(self, keys: Iterable[str]) -> Iterator[Read]:
        return together(self._read_if_there, keys, READS)

    def _read_if_there(self, key: str) -> Read:
        try:
            return Read(key, self.read(key))
        except Missing:
            return Read(key, None)

    def upload(self, file: Path, key: str) -> None:
        import obstore

        path, size = self._path(key), file.stat().st_size
        part = max(_PART, -(-size // _MOST_PARTS))
        self._into_bucket(
            key,
            lambda: obstore.put(self._at.large, path, file, chunk_size=part, max_concurrency=4),
        )

    def download(self, key: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.{uuid4().hex}")
        try:
            with aside.open("xb") as to:
                hold(to)
                self._patiently(key, lambda: self._fetch(key, to.fileno()))
                os.fsync(to.fileno())
            aside.replace(file)
        except OSError as error:
            raise Refusal(cannot_write(file, error)) from error
        finally:
            aside.unlink(missing_ok=True)

    def _fetch(self, key: str, to: int) -> None:
        """Write an object's bytes to an open file: by parts, all of one version."""
        import obstore
        from obstore.exceptions import PreconditionError

        path = self._path(key)
        found = obstore.head(self._at.once, path)
        size, version = found["size"], found["e_tag"]
        os.ftruncate(to, size)

        def part(start: int) -> None:
            end = min(start + _PART, size)
            options: GetOptions = {"range": (start, end), "if_match": version}
            os.pwrite(to, obstore.get(self._at.large, path, options=options).bytes(), start)

        starts = range(0, size, _PART)
        try:
            deque(together(lambda start: self._patiently(key, lambda: part(start)), starts, 4), 0)
        except PreconditionError:
            raise _Again("it changes while it is read") from None

    def copy(self, key: str, to: str) -> None:
        import obstore

        path, new = self._path(key), self._path(to)
        self._patiently(key, lambda: obstore.copy(self._at.large, path, new))

    def _path(self, key: str) -> str:
        if not _KEY.fullmatch(key) or {".", ".."} & set(key.split("/")) or len(key) > _LONGEST_KEY:
            raise ValueError(f"{key!r} is no key of an object: names separated by single slashes")
        return f"{self._at.prefix}/{key}" if self._at.prefix else key

    def _into_bucket(self, key: str, call: Callable[[], _Result]) -> _Result:
        """As `_patiently`, of a call that misses nothing unless it is the bucket."""
        try:
            return self._patiently(key, call)
        except Missing as error:
            raise self._no_bucket() from error

    def _no_bucket(self) -> Refusal:
        return Refusal(
            f"{self.address}: there is no such bucket. Make it, or give the address of another."
        )

    def _patiently(self, key: str, call: Callable[[], _Result]) -> _Result:
        """What a call returns, made again with growing waits while the server is at fault.

        Raises Missing, Unreachable, Refusal for what no waiting helps, and PreconditionError for
        a part of what has changed.
        """
        from obstore.exceptions import BaseError, PreconditionError

        # Since the first failure: a call itself, as an upload, may take longer than the patience.
        began, wait = math.inf, _FIRST_WAIT
        while True:
            try:
                return call()
            except FileNotFoundError as error:
                if re.search(_NO_BUCKET, str(error)):
                    raise self._no_bucket() from error
                if "NoSuchUpload" not in str(error):
                    raise Missing(key) from error
                reason = "an upload was lost, or its answer"
            except PreconditionError:
                raise
            except _Again as error:
                reason = str(error)
            except BaseError as error:
                reason = _first_line(error)
                if re.search(_NO_BUCKET, str(error)):
                    raise self._no_bucket() from error
                if _is_final(error):
                    raise Refusal(
                        f"{self.address}: the server refused {key!r} ({reason}). Check "
                        f"{remedy(self.address)}."
                    ) from error
            began = min(began, time.monotonic())
            waited = time.monotonic() - began
            if waited + wait > PATIENCE:
                raise Unreachable(
                    f"{self.address}: no answer for {key!r} in {PATIENCE:.0f} s ({reason}). Check "
                    f"the network and {remedy(self.address)}, then start again."
                )
            if waited + wait > SILENCE:
                self._tell(reason)
            # Not all at once: many workers wait for one server that has just come back.
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, _LONGEST_WAIT)

    def _tell(self, reason: str) -> None:
        """Say on standard error what is waited for: once an outage, not once a call."""
        now = time.monotonic()
        if now - self._told > PATIENCE:
            print(
                f"{self.address}: no answer yet ({reason}); it is asked again for "
                f"{PATIENCE:.0f} s, Ctrl-C ends that",
                file=sys.stderr,
                flush=True,
            )
        self._told = now


class _Again(Exception):
    """Nothing is wrong but the moment."""


# Parts of a key: no empty one, no control characters, and nothing that a cloud or obstore's
# folders read as something else (a backslash; the end of a name that is being written there).
_KEY = re.compile(r"(?!/)(?:/?[^/\\\x00-\x1f\x7f]+)+(?<!#[0-9])")
_LONGEST_KEY = 800  # characters; of 1,024 bytes with the prefix on S3 and GCS


def _is_final(error: Exception) -> bool:
    """Whether asking again cannot help: the server understood the request and refuses it."""
    from obstore.exceptions import GenericError

    if not isinstance(error, GenericError):
        return True
    status = re.search(r"status code: ([0-9]{3})", str(error))
    return status is not None and status[1].startswith("4") and status[1] not in _PASSING


# As S3 and GCS, and as Azure call it.
_NO_BUCKET = "NoSuchBucket|ContainerNotFound|bucket does not exist|container does not exist"
_PASSING = {"408", "409", "425", "429"}  # timeout, conflict, too early, too many requests


def _first_line(error: Exception) -> str:
    """What obstore says, without its own count of tries and its own limits: ours are others."""
    said = " ".join(str(error).partition("Debug source:")[0].split())
    return re.sub(_TRIES, "", said)[:300]


_TRIES = r" in [0-9.]+[^ ]*s(, after [0-9]+ retries,.*?retry_timeout: ?[^ ]+)?(?= )"
