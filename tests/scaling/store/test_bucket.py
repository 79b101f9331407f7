"""A grid whose results are in a bucket ends with the run table of the undisturbed local grid."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest

from scaling.data.corpus import Corpus
from scaling.launch.prepare import manifest_of, prepare, prepared
from scaling.launch.queue import Queue
from scaling.launch.worker import work, worker_command
from scaling.planning.plan import Plan
from scaling.store import claims
from scaling.store.bucket import carry, leases
from scaling.store.bucket.bucket import Bucket
from scaling.store.bucket.states import Found, State, write_state
from scaling.store.bucket.sync import download
from scaling.store.claims import Owned, Replaced, parsed
from scaling.store.clouds import handles
from scaling.store.folder import Folder
from scaling.store.manifest import Manifest, PlannedRun
from scaling.store.objects import ObjectStore, open_store
from scaling.store.records import FORMAT, Refusal, json_bytes, sealed
from scaling.store.results import results_at, unfinished
from scaling.store.sealed import OtherFormat
from scaling.store.table import publish_table
from scaling.training.flags import worker_environment

CLOCK = ["tokens_per_s"]
# A worker whose patience is short, so that a test's is not long.
IMPATIENT = """
import sys
from scaling.store import claims
from scaling.store.bucket import leases
claims.STALE_SECONDS, leases.BEAT_SECONDS = 3.0, 0.5
from scaling.launch.worker import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def small(plan: Callable[..., Plan], corpus: Corpus) -> Plan:
    """A trunk of 48 steps and its two branches."""
    return plan()


@pytest.fixture(scope="module")
def undisturbed(small: Plan, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The run table of the grid in a folder."""
    results = tmp_path_factory.mktemp("undisturbed")
    prepare(results, small, b"")
    assert work(results, "cheapest-first") == 0
    return publish_table(results).table


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Results that several processes see."""
    return f"file://{tmp_path}/bucket/tiny"


@pytest.fixture
def memory() -> str:
    return f"memory://{uuid4().hex}/runs/tiny"


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """To the bit, but for what is taken from a clock."""
    pd.testing.assert_frame_equal(
        one.drop(columns=CLOCK), other.drop(columns=CLOCK), check_exact=True
    )


def start(address: str, **environment: str) -> subprocess.Popen[str]:
    command = worker_command(results_at(address), "cheapest-first")
    return subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, *command[3:]],
        env={**os.environ, **worker_environment(), "XLA_FLAGS": os.environ["XLA_FLAGS"]}
        | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> int:
    said = process.communicate(timeout=600)[1]
    print(said[-3000:])  # shown by pytest when the test fails
    return process.returncode


def assert_whole(address: str) -> None:
    """Every file of every run is as its manifest says, and nothing else is left."""
    bucket = Bucket(open_store(address))
    bucket.look()
    for run_id in bucket.run_ids():
        found = bucket.states.found(run_id)
        assert found is not None
        named = {found.key(path): each.sha256 for path, each in found.state.files.items()}
        there = {each.key for each in bucket.store.list(f"files/{run_id}")}
        assert there == named.keys()
        for key, sha256 in named.items():
            assert hashlib.sha256(bucket.store.read(key)).hexdigest() == sha256
        (only,) = bucket.store.list(f"attempts/{run_id}")
        assert found.attempt in only.key


# --- who owns what ----------------------------------------------------------------------------


def bucket(address: str) -> Bucket:
    return Bucket(open_store(address))


def test_of_many_that_claim_a_run_at_once_one_gets_it(memory: str) -> None:
    got, over = [], threading.Event()

    def claim(_: int) -> None:
        with suppress(Owned), bucket(memory).leases.held("a" * 12) as lease:
            got.append(lease.claim.generation)
            over.wait(60)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(claim, number) for number in range(8)]
        while sum(each.done() for each in waiting) < 7:
            time.sleep(0.01)
        over.set()
    assert got == [1]


def test_who_stands_still_loses_the_run_and_finds_that_out(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 1000.0)
    observer = bucket(memory).leases
    with bucket(memory).leases.held("a" * 12) as lease:
        observer.look()
        assert observer.living_holder("a" * 12) == lease.claim
        monkeypatch.setattr(claims, "STALE_SECONDS", 0.0)
        observer.look()
        assert observer.living_holder("a" * 12) is None
        with observer.held("a" * 12) as other:
            assert other.claim.generation == 3, "the second ended the first"
        with pytest.raises(Replaced):
            lease.check()


def test_an_owner_is_given_up_for_the_seconds_in_which_its_observer_was_awake(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(leases, "BEAT_SECONDS", 1000.0)
    monkeypatch.setattr(leases, "awake", awake := claims.Awake())
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    observer = bucket(memory).leases
    with bucket(memory).leases.held("a" * 12):
        awake()
        observer.look()
        now += 10_000  # both were stopped, and the owner could not beat
        observer.look()
        assert observer.living_holder("a" * 12) is not None
        for _ in range(60):  # it waits for its next look
            now += 1
            awake()
        observer.look()
        assert observer.living_holder("a" * 12) is None


def test_who_beats_keeps_the_run(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.0)
    monkeypatch.setattr(claims, "STALE_SECONDS", 1.0)
    observer, until = bucket(memory).leases, time.monotonic() + 2.0
    with bucket(memory).leases.held("a" * 12):
        while time.monotonic() < until:
            observer.look()
            assert observer.living_holder("a" * 12) is not None
            time.sleep(0.05)
    observer.look()
    assert observer.living_holder("a" * 12) is None, "released"


def test_a_claim_that_is_damaged_holds_until_it_stood_still(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(memory).create(f"claims/{'a' * 12}/000001.json", b"{")
    observer = bucket(memory).leases
    observer.look()
    assert observer.living_holder("a" * 12) is not None
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.0)
    assert observer.living_holder("a" * 12) is None


def test_a_claim_of_a_newer_version_is_refused_with_its_address_and_older_ones_are_read(
    memory: str,
) -> None:
    store, claim = open_store(memory), claims.new_claim(1)
    of_tomorrow = sealed({**claim.plain(), "format": FORMAT + 1, "note": "of tomorrow"})
    for name, record in (("b" * 12, asdict(claim)), ("a" * 12, of_tomorrow)):
        store.create(f"claims/{name}/000001.json", json_bytes(record))
        seen = bucket(memory).leases
        seen.look()
        if record is not of_tomorrow:
            assert seen.newest(name) == claim
    where = f"{memory}/claims/{'a' * 12}/000001.json"
    with pytest.raises(OtherFormat, match=f"{where} is of format {FORMAT + 1}, which a newer"):
        seen.living_holder("a" * 12)


def test_what_many_owners_say_is_read_at_once_and_again_where_it_changed(memory: str) -> None:
    written = open_store(memory)
    names = [f"{number:012x}" for number in range(5)]

    def say(name: str, step: int) -> None:
        beat = leases.Beat(step, "", {"step": step})
        written.write(leases.beat_key(name, 1), json_bytes(asdict(beat)))

    for name in names:
        claim = replace(claims.new_claim(1), host="of another machine")
        written.write(leases.claim_key(name, 1), json_bytes(claim.plain()))
        say(name, 1)
    written.write(leases.claim_key("f" * 12, 1), b"of whom nobody asks")
    written.write(leases.beat_key("f" * 12, 1), b"")
    store = CountedStore(memory)
    seen = Bucket(store)
    for steps in ([1, 1, 1, 1, 1], [1, 1, 7, 1, 1]):
        for name, step in zip(names, steps, strict=True):
            if step > 1:
                say(name, step)
        seen.look()
        assert [seen.progress(name) for name in names] == [{"step": step} for step in steps]
        assert all(seen.owner(name) for name in names)
    read = [key for key in store.keys if key.startswith(("claims/", "beats/"))]
    once = [key(name, 1) for key in (leases.claim_key, leases.beat_key) for name in names]
    assert sorted(read) == sorted([*once, leases.beat_key(names[2], 1)])
    assert not {*read} & {*store.one_by_one}


def test_a_run_of_a_dead_process_of_this_machine_is_free_at_once(address: str) -> None:
    code = (
        "import sys; from scaling.store.results import results_at\n"
        "with results_at(sys.argv[1]).leases.held('a' * 12): pass"
    )
    command = [sys.executable, "-c", code, address]
    environment = {**os.environ, "SCALING_FAILPOINT": "bucket-claimed"}
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    seen = bucket(address).leases
    seen.look()
    assert seen.newest("a" * 12) is not None and seen.holder("a" * 12) is None


# --- plans ------------------------------------------------------------------------------------


def test_another_study_is_refused_while_a_launch_is_there(
    plan: Callable[..., Plan], small: Plan, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.1)
    more, other = plan(grid={"seeds": [0, 1]}), plan(grid={"seeds": [7]})
    with prepared(results_at(memory), small, b"one"):
        with pytest.raises(Refusal, match="leaves runs of that one out"):
            prepare(results_at(memory), other, b"other")
        prepare(results_at(memory), more, b"more")
        assert len(bucket(memory).manifest().runs) == 6, "it has every run of the first"
    prepare(results_at(memory), other, b"other")
    assert open_store(memory).read("study.toml") == b"other"


def test_a_launch_that_died_does_not_stand_in_the_way(
    plan: Callable[..., Plan], small: Plan, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", 1.0)
    prepare(results_at(memory), small, b"one")
    gone = replace(parsed("", None, 1), token="f" * 12, host="h")
    key = "claims/present-0/000001.json"
    open_store(memory).create(key, json_bytes(gone.plain()))
    prepare(results_at(memory), plan(grid={"seeds": [7]}), b"other")
    assert open_store(memory).read("study.toml") == b"other"


# --- what became of runs ----------------------------------------------------------------------


def stated(address: str, manifest: Manifest, run: PlannedRun, **record: Any) -> Found:
    """The state of a run as an attempt of the next generation writes it."""
    with bucket(address).leases.held(run.run_id) as lease:
        made = manifest.planned_record(run).changed(**record)
        state = State.made(record=made.plain(), files={})
        found = Found(run.run_id, lease.claim.name, state)
        write_state(open_store(address), found)
    return found


def test_the_newest_attempt_says_what_became_of_a_run(small: Plan, memory: str) -> None:
    first, *_ = prepare(results_at(memory), small, b"")
    seen = bucket(memory)
    seen.look()
    assert seen.record(first.run_id) is None
    stated(memory, seen.manifest(), first, status="failed", reason="no")
    stale = stated(memory, seen.manifest(), first, status="running")
    stated(memory, seen.manifest(), first, status="completed", result={"loss": 2.0})
    write_state(seen.store, stale)  # an owner that wakes up late
    seen.look()
    record = seen.record(first.run_id)
    assert record is not None and record.status == "completed"


@pytest.mark.parametrize("harmed", [b"", b"{", b'{"format": 2}', None])
def test_a_manifest_that_is_not_as_it_was_written_says_nothing(
    small: Plan, memory: str, harmed: bytes | None
) -> None:
    first, *_ = prepare(results_at(memory), small, b"")
    seen = bucket(memory)
    found = stated(memory, seen.manifest(), first, status="completed", result={"loss": 2.0})
    key = f"attempts/{first.run_id}/{found.attempt}.json"
    whole = seen.store.read(key)
    seen.store.write(key, whole.replace(b"2.0", b"1.0") if harmed is None else harmed)
    seen.look()
    with pytest.raises(Refusal, match=found.attempt):
        seen.record(first.run_id)
    assert first in unfinished(seen, seen.manifest())
    assert publish_table(seen).damaged.keys() == {first.run_id}


def test_a_manifest_cannot_name_a_file_outside_of_its_run(small: Plan) -> None:
    record = manifest_of(Path("none"), small, b"").planned_record
    run = manifest_of(Path("none"), small, b"").runs[0]
    for path in ("../x", "/x", "a/../../x", "a//x"):
        with pytest.raises(ValueError, match="no path in a run's folder"):
            files = {path: {"bytes": 1, "sha256": "0" * 64}}
            State.made(record=record(run).plain(), files=files)


class CountedStore(ObjectStore):
    """Counts the objects that it reads."""

    def __init__(self, address: str) -> None:
        super().__init__(address, handles(address))
        self.keys: list[str] = []
        self.one_by_one: list[str] = []

    def read(self, key: str) -> bytes:
        self.keys.append(key)
        if threading.current_thread() is threading.main_thread():
            self.one_by_one.append(key)
        return super().read(key)


def test_who_comes_later_reads_only_what_is_new(small: Plan, memory: str) -> None:
    runs = prepare(results_at(memory), small, b"")
    manifest = bucket(memory).manifest()
    for run in runs:
        stated(memory, manifest, run, status="completed", result={"loss": 2.0})
    publish_table(bucket(memory))
    stated(memory, manifest, runs[0], status="completed", result={"loss": 1.0})
    store = CountedStore(memory)
    seen = Bucket(store)
    seen.look()
    assert {record.loss for run in runs if (record := seen.record(run.run_id))} == {1.0, 2.0}
    assert [key for key in store.keys if key.startswith("attempts/")] == [
        each.key for each in store.list(f"attempts/{runs[0].run_id}") if "000002" in each.key
    ]


def test_an_index_that_is_damaged_anywhere_is_only_not_used(small: Plan, memory: str) -> None:
    runs = prepare(results_at(memory), small, b"")
    stated(memory, bucket(memory).manifest(), runs[0], status="completed", result={"loss": 2.0})
    publish_table(bucket(memory))
    store = open_store(memory)
    whole = store.read("attempts.json.gz")
    for at in range(len(whole)):
        store.write("attempts.json.gz", whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        seen = bucket(memory)
        seen.look()
        record = seen.record(runs[0].run_id)
        assert record is not None and record.loss == 2.0


def test_workers_that_lost_a_claim_look_further_afield(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    prepare(tmp_path, plan(grid={"seeds": [0, 1, 2, 3]}), b"")
    queue = Queue(tmp_path, "cheapest-first")

    def taken() -> set[str]:
        return {run.run_id for run in (queue.next() for _ in range(60)) if run is not None}

    assert len(taken()) == 1
    queue.lost = 2
    assert len(taken()) == 4


# --- damage, and what is trained again --------------------------------------------------------


@pytest.mark.slow
def test_a_damaged_table_is_found_when_failed_runs_are_asked_for_again_and_trained_anew(
    small: Plan, undisturbed: pd.DataFrame, memory: str
) -> None:
    prepare(results_at(memory), small, b"")
    assert work(memory, "cheapest-first") == 0
    last = small.runs[-1].run_id
    store = open_store(memory)
    (key,) = [each.key for each in store.list(f"files/{last}") if "/steps.parquet." in each.key]
    store.write(key, store.read(key)[:-8])
    todo = prepare(results_at(memory), small, b"", retry=["failed"])
    assert [run.run_id for run in todo] == [last]
    assert work(memory, "cheapest-first") == 0
    same(publish_table(results_at(memory)).table, undisturbed)
    assert_whole(memory)


@pytest.mark.parametrize("step", ["its last", "where a branch begins"])
def test_what_is_said_of_a_damaged_checkpoint_in_a_bucket_makes_it_again(
    small: Plan, undisturbed: pd.DataFrame, memory: str, tmp_path: Path, step: str
) -> None:
    prepare(results_at(memory), small, b"")
    assert work(memory, "cheapest-first") == 0
    store, trunk = open_store(memory), small.runs[0]
    at = trunk.schedule.steps if step == "its last" else small.runs[1].first_step
    (key, *_) = [
        each.key
        for each in store.list(f"files/{trunk.run_id}")
        if f"/checkpoints/{at}/" in each.key and "/checksums.json." not in each.key
    ]
    data = store.read(key)
    store.write(key, bytes([data[0] ^ 1]) + data[1:])
    said = download(bucket(memory), Folder(tmp_path / "here")).damaged[trunk.run_id]
    assert f"Delete {memory}/{key}, give `scaling run`" in said and "--retry failed" in said
    store.delete([key])
    todo = prepare(results_at(memory), small, b"", retry=["failed"])
    assert [run.run_id for run in todo] == [trunk.run_id]
    assert work(memory, "cheapest-first") == 0
    done = download(bucket(memory), here := Folder(tmp_path / "here"))
    assert done.damaged == {} and trunk.run_id in done.taken
    same(publish_table(here).table, undisturbed)
    assert unfinished(here, here.manifest(), ["failed"]) == []
    assert_whole(memory)


# --- whole grids -----------------------------------------------------------------------------


def test_a_grid_in_a_bucket_ends_as_one_in_a_folder(
    small: Plan, undisturbed: pd.DataFrame, memory: str
) -> None:
    prepare(results_at(memory), small, b"")
    assert work(memory, "cheapest-first") == 0
    published = publish_table(results_at(memory))
    same(published.table, undisturbed)
    assert published.path == f"{memory}/runs.parquet"
    again = results_at(memory)
    with prepared(again, small, b"") as ready:
        assert ready.todo == []
    assert_whole(memory)
    keys = [each.key for each in open_store(memory).list("")]
    assert not [key for key in keys if "present-" in key], "nobody is there any more"


@pytest.mark.slow
def test_a_worker_whose_token_expires_stops_and_the_next_one_goes_on_to_the_same_bits(
    small: Plan,
    undisturbed: pd.DataFrame,
    memory: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(results_at(memory), small, b"")
    upload, carried = ObjectStore.upload, threading.Event()

    def expiring(store: ObjectStore, file: Path, key: str) -> None:
        if "checkpoints/" in key and carried.is_set():
            raise Refusal("the token has expired")
        upload(store, file, key)
        if "checkpoints/" in key:
            carried.set()

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "upload", expiring)
        patch.setattr(carry, "REFUSED_SECONDS", 0.5)
        assert work(memory, "cheapest-first") != 0
    assert "is kept as it is in" in capsys.readouterr().err
    assert work(memory, "cheapest-first") == 0
    same(publish_table(results_at(memory)).table, undisturbed)
    assert_whole(memory)


def test_a_launch_that_is_killed_as_it_leaves_is_known_to_be_gone(address: str) -> None:
    code = (
        "import sys; from scaling.store.results import results_at\n"
        "with results_at(sys.argv[1]).holding(): pass"
    )
    killed = {**os.environ, "SCALING_FAILPOINT": "bucket-leaving"}
    done = subprocess.run([sys.executable, "-c", code, address], env=killed)
    assert done.returncode == -signal.SIGKILL
    with results_at(address).holding() as hold:
        assert hold.is_alone()


@pytest.mark.slow
@pytest.mark.parametrize(
    "places",
    [
        ["bucket-claimed:1", "bucket-uploaded:2"],
        ["bucket-brought:1", "bucket-stated:2"],
        ["bucket-removed:2", "bucket-releasing:1"],
        ["checkpoint-saved:2", "bucket-claimed:2"],
        ["bucket-uploaded:1", "settled-checkpoint:1"],
    ],
)
def test_workers_that_are_killed_are_followed_by_others_to_the_same_bits(
    small: Plan, undisturbed: pd.DataFrame, address: str, places: list[str]
) -> None:
    prepare(results_at(address), small, b"")
    for place in places:
        assert finish(start(address, SCALING_FAILPOINT=place)) == -signal.SIGKILL
    assert finish(start(address)) == 0
    same(publish_table(results_at(address)).table, undisturbed)
    assert_whole(address)


@pytest.mark.slow
def test_two_workers_divide_the_runs_and_one_that_is_stopped_leaves_what_it_has(
    small: Plan, undisturbed: pd.DataFrame, address: str
) -> None:
    results = results_at(address)
    prepare(results, small, b"")
    first = start(address)
    while not results.checkpoints(small.runs[0].run_id):
        results.look()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    assert finish(first) in (75, 0)  # it may have been at its end
    both = [start(address), start(address)]
    assert [finish(each) for each in both] == [0, 0]
    same(publish_table(results_at(address)).table, undisturbed)
    assert_whole(address)


@pytest.mark.slow
def test_a_frozen_owner_that_wakes_up_late_harms_nothing(
    small: Plan, undisturbed: pd.DataFrame, address: str
) -> None:
    results = results_at(address)
    prepare(results, small, b"")
    frozen = start(address)
    while not results.checkpoints(small.runs[0].run_id):
        results.look()
        time.sleep(0.05)
    frozen.send_signal(signal.SIGSTOP)
    assert finish(start(address)) == 0
    frozen.send_signal(signal.SIGCONT)
    assert finish(frozen) == 0
    same(publish_table(results_at(address)).table, undisturbed)
    assert_whole(address)


@pytest.mark.servers
def test_on_s3_workers_that_are_killed_are_followed_by_others(
    small: Plan, undisturbed: pd.DataFrame, s3_server: Any
) -> None:
    address = f"{s3_server.address}/tiny"
    prepare(results_at(address), small, b"")
    for place in ("bucket-claimed:1", "bucket-stated:2"):
        assert finish(start(address, SCALING_FAILPOINT=place)) == -signal.SIGKILL
    both = [start(address), start(address)]
    assert [finish(each) for each in both] == [0, 0]
    same(publish_table(results_at(address)).table, undisturbed)
    assert_whole(address)


@pytest.mark.servers
def test_a_server_that_fails_now_and_then_changes_nothing(
    small: Plan, undisturbed: pd.DataFrame, faulty_s3: Any
) -> None:
    server, proxy = faulty_s3
    address = f"{server.address}/tiny"
    proxy.shares = dict.fromkeys(
        ("lost: 500", "lost: 503", "lost: cut", "done: 500", "done: cut", "slow"), 0.02
    )
    prepare(results_at(address), small, b"")
    both = [start(address), start(address)]
    assert [finish(each) for each in both] == [0, 0]
    same(publish_table(results_at(address)).table, undisturbed)
    proxy.shares = {}
    assert_whole(address)
    assert len(proxy.seen) > 3, "faults befell them"
