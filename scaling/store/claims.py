"""Which process owns a run: the highest claim, a file that exactly one process can create.

    claims/<generation>.json       who claimed the run, and from which step it trains it
    claims/<generation>.beat       a counter that moves while that process lives; how it ended
    claims/<generation>-<token>/   where its process writes what is to replace a file of the run

A claim ends when its process releases it, when it dies (a lock that dies with it tells others on
its machine at once), or when an observer has seen its counter stand still for long enough and
writes the next claim: a lease, which a frozen process loses like a dead one. An owner that was only
paused then finds itself outnumbered, and its folder gone: what it had been about to put in place
at whatever moment stays where nobody looks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from scaling.remedies import cannot_write
from scaling.store.exclusive import create, create_locked, last_number, make_link
from scaling.store.failpoint import failpoint
from scaling.store.leftovers import sweep
from scaling.store.records import FORMAT, Refusal, check_seal, read_bytes, read_json, sealed
from scaling.store.sealed import OtherFormat, refuse_other_format

BEAT_SECONDS = 2.0
LOOK_SECONDS = 0.1  # until an owner that is asked to stop has said so
# Thirty beats, and as long as a network file system may show old attributes (acregmax of nfs(5)).
STALE_SECONDS = 60.0
# Longer than this between two of its moments an observer slept itself (Ctrl-Z, a suspended machine)
# and has not seen an owner miss its beats.
LONGEST_MOMENT = 10.0

RELEASED = b"released"
STOPPING = b"stopping"  # ends a beat of an owner that was asked to stop
NAME = r"[0-9]{6,}-[0-9a-f]{12}"  # of an attempt's folder: generation and token


# Folders of a run, in which files are written and deleted.
FOLDERS = ("claims", "attempts", "published", "checkpoints", "steps")


class Owned(Exception):
    """Another process holds the run."""


class Replaced(Exception):
    """Another process has taken the run over, or published it."""


@dataclass(frozen=True)
class Claim:
    """What a process writes to own a run."""

    generation: int
    token: str
    host: str
    boot: str  # the running kernel, where the system names it
    pid: int
    started: str  # by the owner's wall clock: for people, never compared
    released: bool = False  # from the start: it ends another's claim and holds nothing itself
    step: int | None = None  # of the checkpoint it trains on from; null if it does not train
    log: str = ""  # the file that its process prints to; empty if that is none

    @property
    def name(self) -> str:
        """The attempt's folder."""
        return f"{self.generation:06d}-{self.token}"

    def plain(self) -> dict[str, Any]:
        """The claim as its file holds it."""
        return sealed({"format": FORMAT, **asdict(self)})

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.host else "an unknown process"


@dataclass(frozen=True)
class Beginning:
    """What a process that is about to train a run says of that in its claim."""

    step: int  # of the checkpoint it goes on from; 0 without one
    log: str = ""  # the file that it prints to; empty if that is none
    stopping: Callable[[], bool] = lambda: False  # whether it was asked to stop


def half_written_in(run: Path) -> tuple[Path, ...]:
    """The folders of a run in which a writer that is killed leaves what nobody else deletes."""
    return run, run / "claims"


def newest(run: Path) -> Claim | None:
    """The highest claim on a run, dead or alive. Raises OtherFormat as `parsed`."""
    generation = last_number(run / "claims", 6)
    return None if generation is None else _read(run, generation)


def _read(run: Path, generation: int) -> Claim:
    path = _claim_file(run, generation)
    try:
        return parsed(path, read_json(path), generation)
    except OtherFormat:
        raise
    except Refusal:
        return parsed(path, None, generation)


def parsed(path: Path | str, value: Any, generation: int) -> Claim:
    """The claim of a generation that these plain values are, found at a path or address.

    One that is damaged is nobody's, held until it was still for long enough. Raises OtherFormat for
    one of a newer version.
    """
    with suppress(AttributeError, TypeError, ValueError):
        check_seal(value)
        refuse_other_format(path, value)
        says = {name: value[name] for name in value if name not in ("format", "sha256")}
        found = Claim(**{**says, "generation": generation})
        if re.fullmatch(NAME, found.name) and isinstance(found.step, int | None):
            return found
    return Claim(generation, "", "", "", 0, "")


def owner(run: Path) -> Claim | None:
    """The claim that holds a run: none if it was released, or its process on this machine died."""
    claim = newest(run)
    return claim if claim is not None and _holds(run, claim) else None


def deaths(run: Path, mine: Claim) -> list[Claim]:
    """Claims whose process died as it trained the run and brought it no further, newest first.

    Those before `mine`, since somebody got further (a later checkpoint) or the run was asked for
    anew. A process that ended in order or was asked to stop before it died is none of them, nor
    one that stood still until its lease ended, nor one of another host or boot: that machine may
    have been lost.
    """
    found, step, frozen = [], mine.step or 0, False
    for generation in range(mine.generation - 1, 0, -1):
        claim = _read(run, generation)
        if claim.released:  # an observer's, which ended the lease of the one before
            frozen = True
            continue
        if claim.step is None or claim.step < step:
            break
        step = claim.step
        beat = _beat(run, claim)
        in_order = beat == RELEASED or beat.endswith(STOPPING)
        if not in_order and not frozen and (claim.host, claim.boot) == this_machine():
            found.append(claim)
        frozen = False
    return found


class Awake:
    """The seconds for which this process was seen to run: a steady clock that stops with it.

    Whoever waits asks it again and again meanwhile.
    """

    def __init__(self) -> None:
        self._seconds, self._asked, self._lock = 0.0, time.monotonic(), threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            now = time.monotonic()
            self._seconds += min(now - self._asked, LONGEST_MOMENT)
            self._asked = now
            return self._seconds


awake = Awake()


class Observer:
    """Ends the claims of owners that stand still while it is awake; wall clocks may jump."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[Claim, bytes]] = {}
        self._still: dict[Path, float] = {}  # seconds that an owner was seen not to move
        self._looked: dict[Path, float] = {}

    def owner(self, run: Path) -> Claim | None:
        """The owner of a run, unless it was still for too long. Call it again and again."""
        held = owner(run)
        if held is None:
            return None
        seen, now = (held, _beat(run, held)), awake()
        waited = now - self._looked.get(run, now)
        self._looked[run] = now
        self._still[run] = self._still[run] + waited if self._seen.get(run) == seen else 0.0
        self._seen[run] = seen
        if self._still[run] < STALE_SECONDS:
            return held
        create(
            _claim_file(run, held.generation + 1),
            new_claim(held.generation + 1, released=True).plain(),
        )
        return owner(run)


@contextmanager
def claimed(run: Path, begins: Beginning | None = None) -> Iterator[Claim]:
    """Hold a run, to train it where `begins` says so, else to ask for it anew.

    Raises Owned if another process does, or Refusal if the folder is read-only.
    """
    refuse_links(run)
    latest = newest(run)
    if latest is not None and _holds(run, latest):
        raise Owned(f"{latest} trains it")
    says = {} if begins is None else {"step": begins.step, "log": begins.log}
    mine = new_claim(1 if latest is None else latest.generation + 1, **says)
    door = _door(run, mine.name)
    try:
        door.mkdir(parents=True)
    except OSError as error:
        raise Refusal(f"cannot write {door}: {error.strerror}.") from error
    lock = None
    try:
        lock = create_locked(_claim_file(run, mine.generation), mine.plain())
    finally:
        if lock is None:
            with suppress(OSError):  # whoever was faster may have been followed by another
                door.rmdir()
    if lock is None:
        raise Owned("another process was faster")
    failpoint("claimed")
    ended = threading.Event()
    stopping = begins.stopping if begins is not None else lambda: False
    beats = threading.Thread(target=_beat_until, args=(run, mine, ended, stopping), daemon=True)
    with lock:
        beats.start()
        try:
            _shut_out(run, mine.generation - 1)
            for folder in half_written_in(run):
                sweep(folder)
            yield mine
        finally:
            ended.set()
            beats.join()
            shutil.rmtree(door, ignore_errors=True)
            _write_beat(run, mine, RELEASED)


def replace(run: Path, claim: Claim, name: str, data: bytes) -> None:
    """Replace a file of a run whole, as its owner. Raises Replaced, having changed nothing."""
    with _on_the_verge(run, claim, name, data) as aside:
        aside.rename(run / name)


def create_owned(run: Path, claim: Claim, name: str, data: bytes) -> bool:
    """Whether this call made a file of a run, whole and as its owner, that was not there.

    Raises Replaced, having changed nothing.
    """
    with _on_the_verge(run, claim, name, data) as aside:
        (run / name).parent.mkdir(exist_ok=True)
        made = make_link(aside, run / name)
        with suppress(OSError):  # so that nothing writes to the file by this name
            aside.unlink()
        return made


@contextmanager
def _on_the_verge(run: Path, claim: Claim, name: str, data: bytes) -> Iterator[Path]:
    """A file in the claim's own folder, to be put in place by one system call.

    Whoever takes the run over removes that folder before it reads anything: so there is no moment
    between a check and the call.
    """
    aside = _door(run, claim.name) / Path(name).name
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        failpoint("replacing")
        yield aside
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # the second on a network file system
            raise Replaced(f"replaced by {newest(run)}") from error
        said = cannot_write(run / name, error, "choose another folder with --results")
        raise Refusal(f"{said} What was written before is intact.") from error


def _shut_out(run: Path, last: int) -> None:
    """Take from the owners up to a generation what they would replace files of the run with."""
    for door in (run / "claims").iterdir():
        if re.fullmatch(NAME, door.name) and int(door.name.partition("-")[0]) <= last:
            for _ in range(10):  # one that is awake may put a file there meanwhile
                shutil.rmtree(door, ignore_errors=True)
                if not door.exists():
                    break
            else:
                raise Refusal(f"cannot remove {door}. Give this user the right to write there.")


def refuse_links(run: Path) -> None:
    """Raise Refusal if a run's folder, the one it is in or one inside is a link.

    What is written and deleted there belongs to the results.
    """
    links = [folder for folder in (run.parent, run) if folder.is_symlink()]
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(run) as entries:
        links += [run / each.name for each in entries if each.name in FOLDERS and each.is_symlink()]
    for folder in links:
        raise Refusal(
            f"{folder} is a link to another place. Put the folder itself there, or remove it; "
            "to keep results elsewhere, name that place with --results."
        )


def new_claim(generation: int, **says: Any) -> Claim:
    """A claim of this process, not written anywhere yet."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return Claim(generation, uuid4().hex[:12], *this_machine(), os.getpid(), started, **says)


@cache
def this_machine() -> tuple[str, str]:
    """This host, and its running kernel where the system names it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return platform.node(), boot


def _holds(run: Path, claim: Claim) -> bool:
    if claim.released or _beat(run, claim) == RELEASED:
        return False
    if (claim.host, claim.boot) != this_machine():
        return True
    try:  # a lock dies with its process
        with _claim_file(run, claim.generation).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held; or a file system without locks, where the counter alone tells
        return True
    return False


def _beat_until(
    run: Path, claim: Claim, ended: threading.Event, stopping: Callable[[], bool]
) -> None:
    count, stops, waited = 0, False, 0.0
    while not ended.wait(LOOK_SECONDS):
        waited += LOOK_SECONDS
        if waited > BEAT_SECONDS or stopping() != stops:
            count, stops, waited = count + 1, stopping(), 0.0
            _write_beat(run, claim, b"%d %s" % (count, STOPPING if stops else b""))


def _write_beat(run: Path, claim: Claim, text: bytes) -> None:
    """In place, so that a full disk stops no heart."""
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(_beat_file(run, claim), flags, 0o666)
        try:
            os.pwrite(file, text.ljust(24), 0)
        finally:
            os.close(file)


def _beat(run: Path, claim: Claim) -> bytes:
    try:
        return read_bytes(_beat_file(run, claim)).strip()
    except Refusal:  # before the first
        return b""


def _door(run: Path, name: str) -> Path:
    return run / "claims" / name


def _claim_file(run: Path, generation: int) -> Path:
    return run / "claims" / f"{generation:06d}.json"


def _beat_file(run: Path, claim: Claim) -> Path:
    return run / "claims" / f"{claim.generation:06d}.beat"
