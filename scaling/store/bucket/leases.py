"""Who owns what in a bucket: the claims of scaling/store/claims.py, as objects.

    claims/<name>/<generation>.json   who claimed it; exactly one caller can make it
    beats/<name>/<generation>         changes while that process lives; how it ended

A name is a run's id, `plan` for whoever replaces plan or tables, or one of a process that is
there. One listing of each folder tells who owns what and who lives; an object is only read where
its version is new. Whoever finds the next generation claimed has lost what it had.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaling.store import claims
from scaling.store.claims import (
    LOOK_SECONDS,
    Beginning,
    Claim,
    Owned,
    Replaced,
    awake,
    new_claim,
    parsed,
    this_machine,
)
from scaling.store.failpoint import failpoint
from scaling.store.objects import Missing, Stat, Store
from scaling.store.records import Refusal, json_bytes

# Six within STALE_SECONDS. A beat is a request that is paid for: of 1,000 workers, 100 a second.
BEAT_SECONDS = 10.0

RELEASED, STOPPING = claims.RELEASED.decode(), claims.STOPPING.decode()


@dataclass(frozen=True)
class Beat:
    """What the owner of something last said."""

    count: int = 0
    says: str = ""  # RELEASED, STOPPING or nothing
    progress: Mapping[str, Any] | None = None  # of the run that it trains

    def as_local(self) -> bytes:
        """As claims.py has it in a file."""
        return self.says.encode() if self.says == RELEASED else f"{self.count} {self.says}".encode()


@dataclass
class _Watched:
    """How long an owner was seen not to move while this process was awake."""

    seen: tuple[int, str]
    looked: float
    still: float = 0.0


class Leases:
    """The claims of a bucket as of the last look, and a way to make one."""

    def __init__(self, store: Store, locks: Path) -> None:
        self.store = store
        self.locks = locks  # a folder of this machine: a lock there dies with its process
        self._newest: dict[str, int] = {}
        self._last: dict[str, Stat] = {}  # the beat of the newest claim, as it was listed
        self._claims: dict[tuple[str, int], Claim] = {}
        self._beats: dict[tuple[str, int], tuple[tuple[int, str], Beat]] = {}
        self._watched: dict[str, _Watched] = {}

    def look(self, name: str = "") -> None:
        """List all claims and beats, or those of one name."""
        newest: dict[str, int] = {}
        for each in self.store.list(f"claims/{name}"):
            if found := _CLAIM.fullmatch(each.key):
                newest[found[1]] = max(newest.get(found[1], 0), int(found[2]))
        last = {}
        for each in self.store.list(f"beats/{name}"):
            if (found := _BEAT.fullmatch(each.key)) and newest.get(found[1]) == int(found[2]):
                last[found[1]] = each
        for known in [name] if name else [*self._newest]:
            self._newest.pop(known, None)
            self._last.pop(known, None)
        self._newest.update(newest)
        self._last.update(last)
        now = awake()
        for each_name in newest:
            stamp = self.stamp(each_name)
            watched = self._watched.get(each_name)
            if watched is None or watched.seen != stamp:
                self._watched[each_name] = _Watched(stamp, now)
            else:
                watched.still += now - watched.looked
                watched.looked = now

    def names(self) -> list[str]:
        """All that was ever claimed."""
        return [*self._newest]

    def stamp(self, name: str) -> tuple[int, str]:
        """Changes with every claim of a name, and every beat."""
        last = self._last.get(name)
        return self._newest.get(name, 0), "" if last is None else last.version

    def newest(self, name: str) -> Claim | None:
        """The highest claim, dead or alive."""
        generation = self._newest.get(name, 0)
        return self.claim(name, generation) if generation else None

    def claim(self, name: str, generation: int) -> Claim:
        """A claim, whatever became of it."""
        if (name, generation) not in self._claims:
            wanted = {claim_key(*each): each for each in [*self._unreleased(), (name, generation)]}
            new = [key for key, each in wanted.items() if each not in self._claims]
            for read in self.store.read_many(new):
                each = wanted[read.key]
                self._claims[each] = _claim_in(self.store, *each, read.data)
        return self._claims[name, generation]

    def beat(self, name: str, generation: int) -> Beat:
        """What the owner of that generation said last."""
        if self._stamp_of(name, generation) != self._beats.get((name, generation), _NEVER)[0]:
            wanted = {beat_key(*each): each for each in [*self._unreleased(), (name, generation)]}
            stamps = {key: self._stamp_of(*each) for key, each in wanted.items()}
            new = [
                key
                for key, each in wanted.items()
                if stamps[key] != self._beats.get(each, _NEVER)[0]
            ]
            for read in self.store.read_many(new):
                self._beats[wanted[read.key]] = stamps[read.key], _beat_in(read.data)
        return self._beats[name, generation][1]

    def _stamp_of(self, name: str, generation: int) -> tuple[int, str]:
        """Changes with every beat of that generation."""
        current = generation == self._newest.get(name)
        return self.stamp(name) if current else (generation, "its last")

    def _unreleased(self) -> list[tuple[str, int]]:
        """All that is held, or was by who died, as a listing tells.

        Whoever asks about one of them asks about the others, and many are read at once.
        """
        return [
            (name, generation)
            for name, generation in self._newest.items()
            if (last := self._last.get(name)) is None or last.bytes
        ]

    def holder(self, name: str) -> Claim | None:
        """Who holds it: nobody if it was released, or its process on this machine died."""
        last = self._last.get(name)
        if last is not None and last.bytes == 0:  # released
            return None
        claim = self.newest(name)
        return None if claim is None or claim.released or self._died(claim) else claim

    def living_holder(self, name: str) -> Claim | None:
        """As `holder`, but none who stood still for too long: that claim is ended."""
        held = self.holder(name)
        watched = self._watched.get(name)
        still = watched.still if watched is not None and watched.seen == self.stamp(name) else 0.0
        if held is None or still < claims.STALE_SECONDS:
            return held
        ends = new_claim(held.generation + 1, released=True)
        self.store.create(claim_key(name, ends.generation), json_bytes(ends.plain()))
        self.look(name)
        return self.holder(name)

    @contextmanager
    def held(
        self,
        name: str,
        begins: Beginning | None = None,
        progress: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> Iterator[Lease]:
        """Hold a name, to train the run where `begins` says so. Raises Owned if another does."""
        self.look(name)
        if (other := self.holder(name)) is not None:
            raise Owned(f"{other} has it")
        says = {} if begins is None else {"step": begins.step, "log": begins.log}
        mine = new_claim(self._newest.get(name, 0) + 1, **says)
        lock = self.locks / f"{mine.token}.lock"
        with _locked(lock):
            if not self.store.create(claim_key(name, mine.generation), json_bytes(mine.plain())):
                raise Owned("another process was faster")
            failpoint("bucket-claimed")
            self._newest[name], self._claims[name, mine.generation] = mine.generation, mine
            self._last.pop(name, None)
            stopping = begins.stopping if begins is not None else lambda: False
            lease = Lease(self.store, name, mine, stopping, progress)
            with lease.beating():
                yield lease

    def forget(self, name: str) -> None:
        """Delete all claims of a name that nobody else will take."""
        for folder in ("claims", "beats"):
            self.store.delete([each.key for each in self.store.list(f"{folder}/{name}")])

    def _died(self, claim: Claim) -> bool:
        """Whether its process was of this machine and is known to have died."""
        if (claim.host, claim.boot) != this_machine():
            return False
        try:  # a lock dies with its process; none is there of who has another cache folder
            with (self.locks / f"{claim.token}.lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


class Lease:
    """This process's hold on a name."""

    def __init__(
        self,
        store: Store,
        name: str,
        claim: Claim,
        stopping: Callable[[], bool],
        progress: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        self.store, self.name, self.claim = store, name, claim
        self.stopping, self.progress = stopping, progress
        self.replaced: Claim | None = None  # by whom, once that was seen

    def check(self) -> None:
        """Raises Replaced unless this process still has what it claimed."""
        if self.replaced is None:
            following = self.claim.generation + 1
            try:
                found = self.store.read(claim_key(self.name, following))
            except Missing:
                return
            self.replaced = _claim_in(self.store, self.name, following, found)
        raise Replaced(f"replaced by {self.replaced}")

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Tell others that this process lives while the context lasts, then release the name."""
        ended = threading.Event()
        beats = threading.Thread(target=self._beat_until, args=(ended,), daemon=True)
        beats.start()
        try:
            yield
        finally:
            ended.set()
            beats.join()
            failpoint("bucket-releasing")
            if self.replaced is None:
                self._say(Beat(0, RELEASED))

    def _beat_until(self, ended: threading.Event) -> None:
        count, stops, waited = 0, False, 0.0
        while not ended.wait(LOOK_SECONDS):
            waited += LOOK_SECONDS
            if waited > BEAT_SECONDS or self.stopping() != stops:
                count, stops, waited = count + 1, self.stopping(), 0.0
                self._say(Beat(count, STOPPING if stops else "", self.progress()))
                with suppress(Refusal):
                    try:
                        self.check()
                    except Replaced:
                        return

    def _say(self, beat: Beat) -> None:
        with suppress(Refusal):  # a server that is away for long ends the lease
            # Released is an empty object, which a listing tells without reading it.
            data = b"" if beat.says == RELEASED else json_bytes(asdict(beat))
            self.store.write(beat_key(self.name, self.claim.generation), data)


def claim_key(name: str, generation: int) -> str:
    return f"claims/{name}/{generation:06d}.json"


def beat_key(name: str, generation: int) -> str:
    return f"beats/{name}/{generation:06d}"


def part_of_path(name: str) -> str:
    """The name of a host or its kernel, as a folder can be named."""
    return re.sub(r"[^\w.-]", "-", name)


def _claim_in(store: Store, name: str, generation: int, data: bytes | None) -> Claim:
    """The claim that an object holds; none is nobody's. Raises OtherFormat as `parsed`."""
    value = None
    with suppress(ValueError, RecursionError):
        value = json.loads(data or b"")
    return parsed(f"{store.address}/{claim_key(name, generation)}", value, generation)


def _beat_in(data: bytes | None) -> Beat:
    """The beat that an object holds; none was written before the first."""
    if data == b"":
        return Beat(says=RELEASED)
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        value = json.loads(data or b"")
        progress = value["progress"] if isinstance(value["progress"], dict) else None
        return Beat(int(value["count"]), str(value["says"]), progress)
    return Beat()


_NEVER: tuple[tuple[int, str], Beat] = (-1, ""), Beat()  # of a beat that was not read
_CLAIM = re.compile(r"claims/([\w-]+)/([0-9]{6,18})\.json")
_BEAT = re.compile(r"beats/([\w-]+)/([0-9]{6,18})")


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """A lock of this process, by which others on this machine see that it lives."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("wb") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)  # who looks whether it is free has it for a moment
        try:
            yield
        finally:
            os.unlink(lock)  # noqa: PTH108
