"""Results at an address such as s3://bucket/runs/quickstart, as `Results` are asked (results.py).

A run is trained in a folder of this machine, with the layout and by the code of a results folder
there, and what is whole of it is carried up (carry.py). So nothing of a run is ever half there.
"""

from __future__ import annotations

import fcntl
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from scaling.store.bucket.carry import Carrier, fetch, pull
from scaling.store.bucket.kept import Kept
from scaling.store.bucket.leases import Lease, Leases, part_of_path
from scaling.store.bucket.states import Found, States, lost_files
from scaling.store.claims import Beginning, Claim, Owned, Replaced, this_machine
from scaling.store.exclusive import create, last_number
from scaling.store.failpoint import failpoint
from scaling.store.leftovers import is_old
from scaling.store.manifest import PLAN, Manifest, PlannedRun
from scaling.store.objects import Missing, Store
from scaling.store.paths import cache_folder
from scaling.store.probe import probe
from scaling.store.ready import make_ready, run_folder
from scaling.store.records import Refusal, fingerprint, read_json, write_bytes
from scaling.store.run_record import RunRecord

WAIT_SECONDS = 120.0  # for another to write plan or table
LOOK_SECONDS = 0.5  # between looks for that, and at others who may be gone
LOCK_DAYS = 1.0  # that the lock of a dead process is kept: it tells that it died
# A look is three listings or more, each paid for: 600 a second of 1,000 workers that wait.
PAUSE_SECONDS = 5.0
CHANGING = "plan"  # the name that whoever replaces plan or tables claims
PRESENT = "present-"  # begins the name that a process claims by being there


@dataclass(frozen=True)
class Presence:
    """This process's hold on the results at an address."""

    leases: Leases
    name: str

    def is_alone(self) -> bool:
        """Whether nobody else is there, which takes as long as one may stand still to tell."""
        self.leases.look()
        others = [name for name in self.leases.names() if name not in (self.name, CHANGING)]
        stamps = {name: self.leases.stamp(name) for name in others}
        while others := [name for name in others if self.leases.living_holder(name)]:
            time.sleep(LOOK_SECONDS)
            self.leases.look()
            if any(self.leases.stamp(name) != stamps[name] for name in others):
                return False
        return True


class Bucket:
    """The results at an address."""

    pause = PAUSE_SECONDS

    def __init__(self, store: Store) -> None:
        self.store = store
        cache = cache_folder() / "buckets"
        # Of this machine alone: hosts may share a cache, and not its locks.
        host, boot = map(part_of_path, this_machine())
        self.scratch = cache / "scratch" / host / (boot or host)
        self.mirror = cache / fingerprint({"address": store.address})
        self.kept = Kept(self.mirror / "kept")
        self.leases = Leases(store, self.scratch)
        self.states = States(store)
        self._stamp: tuple[int, str] | None = None
        self._manifest: Manifest | None = None
        self._changing: Lease | None = None  # by which this process replaces plan and tables

    def __str__(self) -> str:
        return self.store.address

    @property
    def logs(self) -> Path:
        return self.mirror / "logs"

    def look(self) -> None:
        self.leases.look()
        self.states.look()

    def manifest(self) -> Manifest:
        # Who replaces it claims that first, and releases it afterwards.
        stamp = self.leases.stamp(CHANGING)
        if self._manifest is None or stamp != self._stamp:
            try:
                self._manifest = Manifest.parsed(f"{self}/{PLAN}", self.store.read(PLAN))
            except Missing:
                raise Refusal(
                    f"{self} holds no plan. Give the address that `scaling run` printed, which "
                    "ends with the name of the study."
                ) from None
            self._stamp = stamp
        return self._manifest

    def run_ids(self) -> list[str]:
        return self.states.run_ids()

    def record(self, run_id: str) -> RunRecord | None:
        found = self.states.found(run_id)
        return None if found is None else found.state.record

    def unbegun(self, manifest: Manifest, run: PlannedRun) -> RunRecord:
        return manifest.planned_record(run)

    def damage(self, record: RunRecord, read: Collection[str] = ()) -> dict[str, str]:
        wrong: dict[str, str] = {}
        for name in read if record.status == "completed" and record.files else ():
            try:
                self.table(record.run_id, name)
            except Refusal as error:
                wrong[name] = f"{error}; scaling run STUDY --retry failed trains it again"
        return wrong

    def lost(self, record: RunRecord, listed: bool = False) -> list[str]:
        found = self.states.found(record.run_id)
        if not listed or found is None or record.status != "completed":
            return []
        return [f"{self}: run {record.run_id}: {each}" for each in lost_files(self.store, found)]

    def table(self, run_id: str, name: str) -> Path:
        folder = run_folder(self.mirror, run_id)
        for _ in range(3):
            found = self.states.found(run_id)
            if found is None or name not in found.state.files:
                break
            with suppress(Missing):
                return fetch(self.store, found, name, folder)
            self.states.look(run_id)
        raise Refusal(f"{self}: run {run_id} has no {name}.")

    def owner(self, run_id: str) -> Claim | None:
        return self.leases.holder(run_id)

    def living_owner(self, run_id: str) -> Claim | None:
        return self.leases.living_holder(run_id)

    def progress(self, run_id: str) -> Mapping[str, Any]:
        claim = self.leases.newest(run_id)
        return {} if claim is None else self.leases.beat(run_id, claim.generation).progress or {}

    def checkpoints(self, run_id: str) -> set[int]:
        try:
            found = self.states.found(run_id)
        except Refusal:
            return set()
        return set() if found is None else found.checkpoints

    def refuse_unusable(self, runs: Iterable[PlannedRun]) -> None:
        probe(self.store)

    def make_ready(self, manifest: Manifest, run: PlannedRun) -> None:
        with suppress(Refusal):
            record, wanted = self.record(run.run_id), manifest.planned_record(run)
            if record is None or (not record.ended and record.config == wanted.config):
                return
        with (
            suppress(Owned, Replaced),
            self.leases.held(run.run_id) as lease,
            self._brought(lease, run) as (results, carrier),
        ):
            make_ready(results, manifest, run)
            carrier.push()

    @contextmanager
    def at_hand(
        self, manifest: Manifest, run: PlannedRun, stopping: Callable[[], bool], log: str
    ) -> Iterator[tuple[Path, Callable[[], bool]]]:
        begins = Beginning(max(self.checkpoints(run.run_id), default=0), log, stopping)
        folder: Path | None = None

        def progress() -> Mapping[str, Any] | None:
            return None if folder is None else _progress(folder)

        with (
            self.leases.held(run.run_id, begins, progress) as lease,
            self._brought(lease, run) as (results, carrier),
        ):
            folder = carrier.folder
            make_ready(results, manifest, run)
            failpoint("bucket-brought")
            try:
                with carrier.carrying(lambda: _tell_replaced(results, lease)):
                    yield folder, lambda: stopping() or carrier.refused
                carrier.push_last()
                lease.check()  # else what was brought up last is of nobody
            except Replaced:
                carrier.discard()
                raise
            finally:
                self.states.look(run.run_id)
                self.kept.drop_before(run.run_id, self.states.attempt(run.run_id))
                self._keep_log(results, log)

    @contextmanager
    def holding(self) -> Iterator[Presence]:
        self.mirror.mkdir(parents=True, exist_ok=True)  # in which logs are
        name = f"{PRESENT}{uuid4().hex[:12]}"
        with self.leases.held(name):
            try:
                yield Presence(self.leases, name)
            finally:
                failpoint("bucket-leaving")
        with suppress(Refusal):
            self.leases.forget(name)

    @contextmanager
    def working(self) -> Iterator[None]:
        self._clean()
        yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        with ExitStack() as life:
            until = time.monotonic() + WAIT_SECONDS
            while not self._begins_to_change(life):
                if time.monotonic() > until:
                    raise Refusal(
                        f"{self}: another process has been writing its plan or run table for "
                        f"{WAIT_SECONDS:g} s. If it stands still, end it; then give the command "
                        "again."
                    )
                time.sleep(LOOK_SECONDS)
            try:
                yield
            finally:
                self._changing = None
        self.leases.look(CHANGING)

    def _begins_to_change(self, life: ExitStack) -> bool:
        """Whether this process may replace the plan from now on, for a `life`."""
        self.leases.look(CHANGING)
        if self.leases.living_holder(CHANGING) is None:
            with suppress(Owned):
                self._changing = life.enter_context(self.leases.held(CHANGING))
                return True
        return False

    def read(self, name: str) -> bytes | None:
        with suppress(Missing):
            return self.store.read(name)
        return None

    def write(self, name: str, data: bytes) -> str:
        def check() -> None:
            if self._changing is not None:
                self._changing.check()

        try:
            self.store.replace(name, data, check)
        except Replaced as error:
            raise Refusal(
                f"{self}: {name} is not written, for this process stood still and was {error}. "
                "Give the command again."
            ) from error
        if name == PLAN:
            self._manifest = None
        return f"{self}/{name}"

    @contextmanager
    def shared_files(self, name: str) -> Iterator[Path]:
        folder = self.mirror / name
        folder.mkdir(parents=True, exist_ok=True)
        there = {Path(each.key).name for each in self.store.list(name)}
        for each in there:
            self.store.download(f"{name}/{each}", folder / each)
        yield folder
        for file in folder.iterdir():
            if file.name not in there and not file.name.startswith("."):
                key = f"{name}/{file.name}"
                if not self.store.create(key, file.read_bytes()):  # another was first
                    self.store.download(key, file)

    def tidy(self) -> None:
        self.states.write_index()
        self.kept.drop(self.states.attempt)
        for name in self.leases.names():
            if name.startswith(PRESENT) and self.leases.holder(name) is None:
                self.leases.forget(name)  # of a process that was killed

    @contextmanager
    def _brought(self, lease: Lease, run: PlannedRun) -> Iterator[tuple[Path, Carrier]]:
        """A results folder of this process alone, with what a run and its trunk have by now.

        What its carrier could not bring up is kept.
        """
        results = self.scratch / lease.claim.token
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir(parents=True)
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            (results / "logs").symlink_to(self.logs)
            source = self._pull(run.run_id, results)
            folder = run_folder(results, run.run_id)
            carrier = Carrier(self.store, lease, folder, source)
            carrier.behind = self.kept.take(folder, "" if source is None else source.attempt)
            self._bring_claims(folder, lease)
            if run.trunk_id != run.run_id:
                self._pull(run.trunk_id, results, branches_at=run.first_step)
            try:
                yield results, carrier
            finally:
                if carrier.behind and lease.replaced is None:
                    self._keep(carrier)
        finally:
            shutil.rmtree(results, ignore_errors=True)

    def _pull(self, run_id: str, results: Path, branches_at: int | None = None) -> Found | None:
        """Bring a run to a results folder; returns what is whole of it, null where nothing is.

        Of a trunk that a cooldown `branches_at`, only the checkpoint that it starts from.
        """
        for _ in range(10):
            self.states.look(run_id)
            try:
                found = self.states.found(run_id)
            except Refusal:  # damaged: made again from the plan
                return None
            if found is None:
                return None
            folder, wanted = run_folder(results, run_id), list(found.state.files)
            if branches_at is not None:
                at = f"checkpoints/{_last(found, branches_at)}/"
                wanted = [path for path in wanted if path.startswith(at)]
            with suppress(Missing):  # a newer attempt has come
                return pull(self.store, found, folder, wanted)
            shutil.rmtree(folder, ignore_errors=True)
        raise Refusal(f"{self}: the attempts at run {run_id} come and go. Look who trains it.")

    def _bring_claims(self, folder: Path, lease: Lease) -> None:
        """The claims before this one, so that deaths are counted as in a folder."""
        for generation in range(1, lease.claim.generation):
            claim = self.leases.claim(lease.name, generation)
            create(folder / "claims" / f"{generation:06d}.json", claim.plain())
            beat = self.leases.beat(lease.name, generation).as_local()
            write_bytes(folder / "claims" / f"{generation:06d}.beat", beat)

    def _keep(self, carrier: Carrier) -> None:
        run = f"run {carrier.lease.name}"
        try:
            kept = self.kept.put(carrier.folder, carrier.attempt)
            what = (
                f"{run} is kept as it is in {kept}. Correct what is said above, and start a worker "
                "on this machine, which brings it up; any other goes on from what was brought up"
            )
        except OSError as error:
            what = f"{run} cannot be kept ({error}): who takes it goes on from what was brought up"
        print(what, file=sys.stderr)

    def _keep_log(self, results: Path, log: str) -> None:
        with suppress(OSError, Refusal):
            if log and (self.logs / log).stat().st_size:
                aside = shutil.copyfile(self.logs / log, self.scratch / f".{uuid4().hex}.log")
                try:
                    self.store.upload(aside, f"logs/{log}")
                finally:
                    aside.unlink()

    def _clean(self) -> None:
        """Delete what processes of this machine left that died.

        Who only has its name may be of another, or of another container: they left what is old.
        """
        host, boot, seconds = self.scratch.parent, self.scratch.name, LOCK_DAYS * 86400
        ours, of_before = host.parent.glob(f"*/{boot}/*.lock"), host.parent.glob("*.lock")
        for lock in {*ours, *host.glob("*/*.lock"), *of_before}:
            # To be written: NFS gives no exclusive lock of a file that is only read.
            with suppress(OSError), lock.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left = lock.with_suffix("")
                old = all(is_old(each, seconds) for each in (lock, left) if each.exists())
                if old or lock.parent.name == boot:
                    shutil.rmtree(left, ignore_errors=True)
                if old:
                    lock.unlink()
        read = self.mirror / "read"  # of commands of earlier versions
        with suppress(OSError):
            if is_old(read, seconds):
                shutil.rmtree(read)


def _last(found: Found, limit: int) -> int:
    """The last step up to a limit that a run has a checkpoint of; -1 without one."""
    return max((step for step in found.checkpoints if step <= limit), default=-1)


def _progress(folder: Path) -> Mapping[str, Any] | None:
    for file in folder.glob("attempts/*/progress.json"):
        with suppress(Refusal):
            found = read_json(file)
            return found if isinstance(found, dict) else None
    return None


def _tell_replaced(results: Path, lease: Lease) -> None:
    """Let the process that trains find out where it looks that another has taken the run over."""
    folder = run_folder(results, lease.name)
    other = lease.replaced or lease.claim
    following = (last_number(folder / "claims", 6) or 0) + 1
    create(folder / "claims" / f"{following:06d}.json", other.plain())
