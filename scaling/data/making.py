"""The folder of the cache in which a corpus is made: kept when that is cut short, and gone on with.

One process holds it at a time, by a lock, and by a beat for hosts that do not see its locks; there
one is gone when its beats stood still, as who claims a run is. Another one that makes the same
corpus waits for it, and then finds it made. Of one that was killed it is kept while somebody may go
on with it: while any of the files that the corpus is made of is as it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import numpy as np

from scaling.data.documents import Changed
from scaling.data.progress import Step, Watch
from scaling.data.verified import Stamps, stamps
from scaling.store import claims
from scaling.store.claims import awake, this_machine
from scaling.store.leftovers import is_free, is_old, sweep
from scaling.store.paths import cache_refused
from scaling.store.records import RUN_ID, Refusal, read_json, replacing, write_json

LOOK_SECONDS = 0.2
LOCK, MADE_OF = "lock", "made_of.json"  # in the folder
BEGINS = ".making."
_MACHINE = "\n".join(this_machine())  # in the lock of who holds the folder
_LONGEST = 4096  # bytes of a lock that are read
_DIGITS = 16  # of a file's SHA-256 in its name: a change that keeps 64 bits is none by chance


class Making:
    """The folder, made and held when it is first needed."""

    def __init__(
        self,
        cache: Path,
        key: str | None,
        watch: Watch,
        files: Sequence[Path] = (),
        seen: Stamps = (),
    ) -> None:
        """`key` says what is made; without one, what is left of it could not be trusted.

        `files` are those it is made of, with their stamps as they were `seen`.
        """
        self.cache = cache
        self.path = cache / f"{BEGINS}{key or uuid4().hex}"
        self.kept = key is not None
        self.has_locks = True
        self.made_of = {"files": [str(file.absolute()) for file in files], "stamps": seen}
        self.watch = watch
        self.lock: int | None = None
        self.ended = threading.Event()
        self.beats: threading.Thread | None = None

    @property
    def folder(self) -> Path:
        """The folder, which no other process has now. Raises Refusal if it cannot be written."""
        if self.lock is None:
            try:
                self._hold()
            except OSError as error:
                raise cache_refused(self.path.parent, error) from error
        return self.path

    def file(self) -> Path:
        """A place in the folder for a file that is of use to this process alone."""
        return self.folder / f"own-{uuid4().hex}"

    def _hold(self) -> None:
        while self.lock is None:
            self.path.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # removed by who had made the corpus
                lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                self._wait(lock)
                if self.has_locks:
                    self._wait_for_another_host(lock)
                if self._is_there(lock):
                    self.lock = lock
                    self._begin_to_beat(lock)
                    for own in self.path.glob("own-*"):  # of one that was killed
                        if is_old(own):
                            shutil.rmtree(own) if own.is_dir() else own.unlink()
                    if self.kept:
                        write_json(self.path / MADE_OF, self.made_of)
                    _sweep(self.cache)
                else:
                    os.close(lock)

    def _wait(self, lock: int) -> None:
        said = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not said:
                    self.watch(Step("waiting for another process that prepares this", 0, None))
                said = True
                time.sleep(LOOK_SECONDS)
            except OSError:  # a file system without locks: a folder of our own
                self.path = self.path.with_name(f"{BEGINS}{uuid4().hex}")
                self.path.mkdir()
                (self.path / LOCK).touch()
                self.kept = self.has_locks = False
                return

    def _wait_for_another_host(self, lock: int) -> None:
        """Wait while one is at work that does not see this lock, and whose own is not seen here."""
        says = os.pread(lock, _LONGEST, 0).decode(errors="replace")
        if says in ("", _MACHINE) or is_old(self.path / LOCK):
            return
        self.watch(Step("waiting for another host that may be preparing this", 0, None))
        seen, since = -1, awake()
        while awake() - since < claims.STALE_SECONDS and self._is_there(lock):
            if (now := os.fstat(lock).st_mtime_ns) != seen:
                seen, since = now, awake()
            time.sleep(LOOK_SECONDS)

    def _begin_to_beat(self, lock: int) -> None:
        if not self.has_locks:  # nobody else comes here
            return
        os.ftruncate(lock, 0)
        os.pwrite(lock, _MACHINE.encode(), 0)
        self.ended = threading.Event()

        def beat() -> None:
            while not self.ended.wait(claims.BEAT_SECONDS):
                with suppress(OSError):
                    os.utime(lock)

        self.beats = threading.Thread(target=beat, daemon=True)
        self.beats.start()

    def _end_beating(self, lock: int) -> None:
        if self.beats is not None:
            self.ended.set()
            self.beats.join()
            with suppress(OSError):
                os.ftruncate(lock, 0)  # nobody has to wait for what has ended in order

    def _is_there(self, lock: int) -> bool:
        if not self.has_locks:
            return True
        with suppress(OSError):
            return os.path.samestat(os.fstat(lock), (self.path / LOCK).stat())
        return False

    def end(self, done: bool) -> None:
        """Let go of the folder, and delete it unless somebody can go on with what it has."""
        if self.lock is None:
            return
        self._end_beating(self.lock)
        if done or not self.kept or {each.name for each in self.path.iterdir()} <= {LOCK, MADE_OF}:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)
        self.lock = None


@contextmanager
def making(
    cache: Path,
    key: str | None,
    watch: Watch,
    files: Sequence[Path] = (),
    seen: Stamps = (),
) -> Iterator[Making]:
    """The folder of what `key` says. Deleted at the end, unless making it was cut short."""
    made = Making(cache, key, watch, files, seen)
    try:
        yield made
    except Changed:
        made.end(done=True)
        raise
    except BaseException:
        made.end(done=False)
        raise
    made.end(done=True)


def half_made(cache: Path) -> list[Path]:
    """The folders of the cache that no process holds, which somebody may go on with."""
    return [folder for folder in cache.glob(f"{BEGINS}*") if is_free(folder / LOCK)]


def _sweep(cache: Path) -> None:
    """Delete what killed processes left in the cache, but what somebody may go on with."""
    for folder in cache.glob(f"{BEGINS}*"):
        with suppress(OSError), (folder / LOCK).open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody takes it up meanwhile
            if is_old(folder) and not _may_go_on(folder):
                shutil.rmtree(folder, ignore_errors=True)
    for folder in (cache, cache / "known", cache / "tokenizers"):
        sweep(folder)


def _may_go_on(folder: Path) -> bool:
    """Whether any file that what is half made is of is as it was, or all are out of reach."""
    if not RUN_ID.fullmatch(folder.name.removeprefix(BEGINS)):  # of a process that had no key
        return False
    with suppress(Refusal, KeyError, TypeError):
        noted = read_json(folder / MADE_OF)
        now = [stamps((Path(file),)) for file in noted["files"]]
        seen = [list(found[0]) for found in now if found is not None]
        return not seen or any(each in noted["stamps"] for each in seen)
    return True  # of an earlier version, which did not say


# --- arrays, each in a file whose name tells whether it is whole ---


def save(folder: Path, name: str, array: np.ndarray) -> Path:
    """Write an array as a file of that name and of its hash, whole or not at all."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    data = content.getbuffer()
    path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:_DIGITS]}.npy"
    # The folder is not made: who held it may have ended, and another have done the work.
    with replacing(path) as file:
        file.write(data)
    return path


def load(path: Path) -> np.ndarray:
    """An array that `save` wrote."""
    array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def saved(folder: Path) -> dict[str, Path]:
    """The arrays that are whole in a folder, by name."""
    found = {}
    for path in folder.glob("*-*.npy"):
        name, _, digest = path.stem.rpartition("-")
        with suppress(OSError):
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS] == digest:
                found[name] = path
    return found
