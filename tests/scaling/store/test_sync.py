"""Results move from a folder to a bucket and back, and nothing is lost on the way."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pytest

from scaling.launch.prepare import prepare
from scaling.planning.plan import Plan
from scaling.store import claims
from scaling.store.attempt import attempt, branch_points
from scaling.store.bucket import bucket as bucket_module
from scaling.store.bucket import carry, sync
from scaling.store.bucket.bucket import Bucket
from scaling.store.bucket.carry import Carrier
from scaling.store.bucket.kept import Kept
from scaling.store.bucket.states import Found
from scaling.store.bucket.sync import download, upload
from scaling.store.checksums import CHECKSUMS, files_in
from scaling.store.claims import Beginning, Replaced, claimed
from scaling.store.folder import Folder
from scaling.store.manifest import Manifest, PlannedRun, write_manifest
from scaling.store.objects import Unreachable, open_store
from scaling.store.ready import run_folder
from scaling.store.records import Refusal, write_json
from scaling.store.table import publish_table


def trained(results: Path, run: PlannedRun, step: int | None = None) -> None:
    """What training to its end, or to a step, leaves of a run."""
    with attempt(run_folder(results, run.run_id), Beginning(0)) as mine:
        mine.begin()
        at = mine.folder / "checkpoints" / str(step or run.steps)
        at.mkdir(parents=True)
        (at / "weights").write_bytes(run.run_id.encode() * 100)
        write_json(at / CHECKSUMS, {"files": {}})
        if step is not None:
            (mine.folder / "steps" / f"{1:09d}-ff.parquet").write_bytes(b"rows")
            mine.record("planned", reason="stopped")
            return
        for name in ("steps.parquet", "evals.parquet"):
            (mine.folder / name).write_bytes(f"{name} of {run.run_id}".encode())
        mine.publish(run.steps, {"loss": 2.5})


@pytest.fixture
def folder(plan: Callable[..., Plan], tmp_path: Path) -> Folder:
    """A trunk that is done, a branch that is done, and one that was stopped at step 30."""
    results = tmp_path / "here"
    trunk, short, long = prepare(results, plan(), b"study")
    trained(results, trunk)
    trained(results, short)
    trained(results, long, step=30)
    (results / "fits").mkdir()
    (results / "fits" / "chinchilla.json").write_text("{}")
    return Folder(results)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket/tiny"


def bucket(address: str) -> Bucket:
    return Bucket(open_store(address))


def runs(results: Path) -> dict[str, bytes]:
    """Every file of every run, but who claimed it, and where in the run an attempt left it."""
    found = {}
    for path, file in files_in(results / "runs").items():
        run, _, rest = path.partition("/")
        if rest.startswith("attempts/"):
            rest = rest.split("/", 2)[2]
        if not rest.startswith("claims/"):
            found[f"{run}/{rest}"] = file.read_bytes()
    return found


def test_results_return_as_they_were(folder: Folder, address: str, tmp_path: Path) -> None:
    done = upload(folder, bucket(address))
    assert len(done.taken) == 3 and done.files == ["fits/chinchilla.json"]
    back = Folder(tmp_path / "back")
    assert len(download(bucket(address), back).taken) == 3
    assert runs(back.path) == runs(folder.path)
    assert (back.path / "study.toml").read_bytes() == b"study"
    tables = [publish_table(place).table for place in (folder, bucket(address), back)]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    pd.testing.assert_frame_equal(tables[0], tables[2], check_exact=True)


def test_it_shows_how_many_runs_of_how_many_it_has_seen_to(
    folder: Folder, address: str, tmp_path: Path
) -> None:
    shown: list[tuple[int, int]] = []
    upload(folder, bucket(address), lambda *counts: shown.append(counts))
    assert shown == [(0, 3), (1, 3), (2, 3), (3, 3)]
    download(bucket(address), Folder(tmp_path / "back"), lambda *counts: shown.append(counts))
    assert shown[4:] == shown[:4]


def test_given_again_it_takes_what_is_new_and_replaces_nothing_that_is_further(
    folder: Folder, address: str, tmp_path: Path
) -> None:
    upload(folder, bucket(address))
    assert upload(folder, bucket(address)).taken == []
    back = Folder(tmp_path / "back")
    download(bucket(address), back)
    long = back.manifest().runs[2]
    trained(back.path, long)  # here it gets further
    assert upload(back, bucket(address)).taken == [long.run_id]
    assert len(upload(folder, bucket(address)).kept) == 3, "where it is less far"
    assert download(bucket(address), folder).taken == [long.run_id]
    assert runs(folder.path) == runs(back.path)


def test_one_that_was_killed_is_given_again(
    folder: Folder, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(name: str) -> None:
        raise KeyboardInterrupt(name)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="synced-run"):
        patch.setattr(sync, "failpoint", killed)
        upload(folder, bucket(address))
    assert len(upload(folder, bucket(address)).taken) == 2
    back = Folder(tmp_path / "back")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="synced-files"):
        patch.setattr(sync, "failpoint", killed)
        download(bucket(address), back)
    assert len(download(bucket(address), back).taken) == 3
    assert runs(back.path) == runs(folder.path)


def test_what_a_killed_sync_left_goes_by_age_for_another_host_may_be_at_work(
    folder: Folder, address: str
) -> None:
    left, living = (folder.path / "runs" / f".{'a' * 12}.{each * 32}" for each in "bc")
    user = folder.path / "runs" / ".notes.of-the-user"
    for each in (left, living, user):
        each.mkdir()
        (each / "weights").write_bytes(b"half")
    for path in (left / "weights", left, living, user / "weights", user):
        os.utime(path, (0, 0))
    upload(folder, bucket(address))
    assert (left.exists(), living.exists(), user.exists()) == (False, True, True)


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_an_object_that_is_not_as_it_was_written_is_found(
    folder: Folder, address: str, tmp_path: Path, harm: str
) -> None:
    upload(folder, bucket(address))
    store = open_store(address)
    (key,) = [
        each.key
        for each in store.list("files")
        if "weights" in each.key and folder.manifest().runs[0].run_id in each.key
    ]
    whole = store.read(key)
    harmed = {"flipped": bytes([whole[0] ^ 1]) + whole[1:], "cut": whole[:-1], "gone": b""}[harm]
    store.delete([key]) if harm == "gone" else store.write(key, harmed)
    done = download(bucket(address), Folder(tmp_path / "back"))
    assert len(done.taken) == 2
    assert "weights" in done.damaged[folder.manifest().runs[0].run_id]


def test_nothing_is_taken_from_where_somebody_trains(folder: Folder, address: str) -> None:
    with folder.holding(), pytest.raises(Refusal, match="is being trained"):
        upload(folder, bucket(address))
    other = bucket(address)
    upload(folder, other)
    with other.leases.held("present-1"), pytest.raises(Refusal, match="is being trained"):
        upload(folder, bucket(address))


def test_another_study_is_not_mixed_in(
    folder: Folder, address: str, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    upload(folder, bucket(address))
    prepare(tmp_path / "other", plan(grid={"seeds": [7]}), b"other")
    with pytest.raises(Refusal, match="each has runs that the other leaves out"):
        upload(Folder(tmp_path / "other"), bucket(address))


def test_runs_that_read_other_tokens_are_not_mixed_in(
    folder: Folder, address: str, tmp_path: Path
) -> None:
    upload(folder, bucket(address))
    back = Folder(tmp_path / "back")
    download(bucket(address), back)
    said = back.manifest()
    (name,) = said.corpora
    other = {name: "0" * 64}
    write_manifest(
        back.path,
        Manifest.made(
            study=said.study,
            study_sha256=said.study_sha256,
            source_sha256=said.source_sha256,
            corpora=other,
            runs=said.runs,
        ),
    )
    back = Folder(back.path)
    for sync_both in (
        lambda: upload(back, bucket(address)),
        lambda: download(bucket(address), back),
    ):
        with pytest.raises(Refusal, match=f"corpus {name} with tokens of digest .*another place"):
            sync_both()


def test_a_run_that_is_claimed_here_is_left_alone(
    folder: Folder, address: str, tmp_path: Path
) -> None:
    upload(folder, bucket(address))
    back = Folder(tmp_path / "back")
    run = folder.manifest().runs[0]
    with claimed(run_folder(back.path, run.run_id)):
        done = download(bucket(address), back)
    assert [*done.damaged] == [run.run_id] and "Stop it" in done.damaged[run.run_id]


def test_runs_that_somebody_begins_to_train_meanwhile_are_left_and_said(
    folder: Folder, address: str, tmp_path: Path
) -> None:
    trunk, short, long = (run.run_id for run in folder.manifest().runs)
    other = bucket(address)
    with ExitStack() as life:

        def claim(done: int, of: int) -> None:
            if not done:
                life.enter_context(other.leases.held(long))

        done = upload(folder, bucket(address), claim)
    assert {*done.taken} == {trunk, short} and [*done.damaged] == [long]
    assert f"run {long}: process " in done.damaged[long] and "Stop it" in done.damaged[long]
    upload(folder, bucket(address))
    store, back = open_store(address), Folder(tmp_path / "back")

    def come_anew(done: int, of: int) -> None:
        if not done:  # its attempt gives way to a newer one
            store.delete([each.key for at in ("attempts", "files") for each in store.list(at)])

    done = download(bucket(address), back, come_anew)
    assert not done.taken and {*done.damaged} == {trunk, short, long}
    assert "Give the command again" in done.damaged[long]


def test_an_owner_who_is_replaced_as_it_takes_a_run_leaves_it(
    folder: Folder, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise Replaced("replaced by process 7 on node")

    with monkeypatch.context() as patch:
        patch.setattr(Carrier, "push", lost)
        done = upload(folder, bucket(address))
    assert len(done.damaged) == 3 and not done.taken
    upload(folder, bucket(address))
    monkeypatch.setattr(sync, "replace_record", lost)
    done = download(bucket(address), Folder(tmp_path / "back"))
    assert len(done.damaged) == 3 and "process 7" in str(done.damaged)


@pytest.mark.parametrize("name", sync.STUDY[:2])
def test_a_place_without_all_files_of_its_plan_is_refused(
    folder: Folder, address: str, tmp_path: Path, name: str
) -> None:
    upload(folder, bucket(address))
    open_store(address).delete([name])
    (folder.path / name).unlink()
    for take in (
        lambda: download(bucket(address), Folder(tmp_path / "back")),
        lambda: upload(folder, bucket(f"{address}-other")),
    ):
        with pytest.raises(Refusal, match=f"{name} is missing. Give `scaling run`"):
            take()


# --- by the process that trains ---------------------------------------------------------------


def test_an_owner_that_was_replaced_leaves_what_the_next_one_needs_and_no_more(
    folder: Folder, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder.manifest().runs[2]
    store, source = open_store(address), run_folder(folder.path, run.run_id)
    first, second = bucket(address), bucket(address)
    with first.leases.held(run.run_id) as lease:
        stale = Carrier(store, lease, source, None)
        brought = stale.push()
        monkeypatch.setattr(claims, "STALE_SECONDS", 0.0)
        second.look()
        assert second.living_owner(run.run_id) is None
        with pytest.raises(Replaced):
            stale.push()
        stale.discard()  # nobody has it yet
        with second.at_hand(folder.manifest(), run, lambda: False, "") as (taken, _):
            assert runs(taken.parents[1]) == {
                path: data for path, data in runs(folder.path).items() if run.run_id in path
            }
        stale.discard()
    second.look()
    found = second.states.found(run.run_id)
    assert found is not None and found.attempt > brought.attempt
    assert found.state.files == brought.state.files
    assert {each.key for each in store.list(f"files/{run.run_id}")} == {
        found.key(path) for path in found.state.files
    }


def test_a_branch_is_brought_the_one_checkpoint_of_its_trunk_that_it_starts_from(
    plan: Callable[..., Plan], tmp_path: Path, address: str
) -> None:
    trunk, short, _ = prepare(tmp_path / "here", plan(), b"study")
    here = Folder(tmp_path / "here")
    for step in (short.first_step, trunk.steps):
        trained(here.path, trunk, step)
    upload(here, bucket(address))
    with bucket(address).at_hand(here.manifest(), short, lambda: False, "") as (taken, _):
        beside = {path for path in files_in(taken.parent) if path.startswith(trunk.run_id)}
    at = f"{trunk.run_id}/checkpoints/{short.first_step}"
    assert beside == {f"{trunk.run_id}/run.json", f"{at}/weights", f"{at}/{CHECKSUMS}"}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache in which no other test's workers are."""
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "own cache"))


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("part", [None, 0])
def test_what_a_process_of_this_machine_left_that_died_is_deleted(
    address: str, monkeypatch: pytest.MonkeyPatch, part: int | None
) -> None:
    machine = [*claims.this_machine()]
    if part is not None:  # another container of this kernel
        machine[part] = "other"
    with monkeypatch.context() as patch:
        patch.setattr(bucket_module, "this_machine", lambda: tuple(machine))
        left = bucket(address).scratch / ("e" * 12)
    left.mkdir(parents=True)
    left.with_suffix(".lock").touch()
    with bucket(address).working():
        assert not left.exists()


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("place", ["another boot", "where earlier versions trained"])
def test_what_only_has_the_name_of_this_machine_goes_when_it_is_old(
    address: str, place: str
) -> None:
    mine = bucket(address).scratch
    folder = mine.with_name("other") if place == "another boot" else mine.parents[1]
    left = folder / ("e" * 12)
    lock, beat = left.with_suffix(".lock"), left / "beat"
    left.mkdir(parents=True)
    for old in ((), (left, lock), (left, lock, beat)):  # what is trained for days has an old lock
        lock.touch()
        beat.touch()
        for each in old:
            os.utime(each, (0, 0))
        with bucket(address).working():
            is_there = len(old) < 3
            assert left.exists() is is_there and lock.exists() is is_there


@pytest.mark.usefixtures("own_cache")
def test_what_commands_of_earlier_versions_had_read_goes_when_it_is_old(address: str) -> None:
    read = bucket(address).mirror / "read"
    read.mkdir(parents=True)
    with bucket(address).working():
        assert read.exists()
    os.utime(read, (0, 0))
    with bucket(address).working():
        assert not read.exists()


@pytest.mark.usefixtures("own_cache")
def test_what_a_process_of_another_machine_trains_in_a_shared_cache_stays(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bucket_module, "this_machine", lambda: ("other", "boot"))
        theirs = bucket(address).scratch / ("e" * 12)
    theirs.mkdir(parents=True)
    theirs.with_suffix(".lock").touch()  # whose lock is not seen from here
    with bucket(address).working():
        assert theirs.exists()


@pytest.mark.usefixtures("own_cache")
def test_an_exclusive_lock_is_asked_for_a_file_that_is_open_to_be_written(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_on_nfs(file: BinaryIO, kind: int) -> None:
        if kind & fcntl.LOCK_EX and not file.writable():
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(bucket_module.fcntl, "flock", as_on_nfs)
    left = bucket(address).scratch / ("e" * 12)
    left.mkdir(parents=True)
    left.with_suffix(".lock").touch()
    with bucket(address).working():
        assert not left.exists()


def refused(*_: object) -> None:
    raise Refusal("the token has expired")


def until(holds: Callable[[], bool]) -> None:
    latest = time.monotonic() + 30
    while not holds() and time.monotonic() < latest:
        time.sleep(0.01)


def cut_off(
    place: Bucket, folder: Folder, run: PlannedRun, monkeypatch: Any, step: int = 40
) -> None:
    """Train a run to a step, of which nothing can be brought up."""
    monkeypatch.setattr(carry, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(carry, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(carry, "REFUSED_SECONDS", 0.05)
    with (
        monkeypatch.context() as patch,
        pytest.raises(Refusal, match="has expired"),
        place.at_hand(folder.manifest(), run, lambda: False, "") as (taken, to_stop),
    ):
        patch.setattr(place.store, "upload", refused)
        assert not to_stop()
        trained(taken.parents[1], run, step)
        until(to_stop)
        assert to_stop(), "what it trains on would be lost"


def test_a_run_that_the_server_refuses_stops_and_the_next_worker_here_goes_on_from_its_end(
    folder: Folder, address: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    upload(folder, bucket(address))
    run = folder.manifest().runs[2]
    cut_off(bucket(address), folder, run, monkeypatch)
    assert f"run {run.run_id} is kept as it is in " in capsys.readouterr().err
    second = bucket(address)
    with second.at_hand(folder.manifest(), run, lambda: False, "") as (taken, to_stop):
        assert branch_points(taken) == {30, 40}
    second.look()
    assert second.checkpoints(run.run_id) == {30, 40} and not to_stop()
    assert not [*second.kept.folder.glob("*/*")]


def test_what_the_server_refuses_for_a_moment_is_tried_again_and_the_run_goes_on(
    folder: Folder, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(folder, bucket(address))
    run, place = folder.manifest().runs[2], bucket(address)
    taken_up, times = place.store.upload, []

    def refused_thrice(file: Path, key: str) -> None:
        times.append(key)
        if len(times) <= 3:
            raise Refusal("RequestTimeout")
        taken_up(file, key)

    for name in ("LOOK_SECONDS", "AGAIN_SECONDS"):
        monkeypatch.setattr(carry, name, 0.01)
    monkeypatch.setattr(carry, "_TOGETHER", 1)
    monkeypatch.setattr(place.store, "upload", refused_thrice)
    with place.at_hand(folder.manifest(), run, lambda: False, "") as (taken, to_stop):
        trained(taken.parents[1], run, step=40)

        def is_up() -> bool:
            place.look()
            return 40 in place.checkpoints(run.run_id)

        until(is_up)
        assert is_up() and not to_stop()


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_brought_up_last_is_tried_again_as_long_as_anything_else(
    folder: Folder,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    times: int,
) -> None:
    upload(folder, bucket(address))
    run, place = folder.manifest().runs[2], bucket(address)
    push, tried = Carrier.push, []

    def refused_at_first(carrier: Carrier) -> Found:
        tried.append(carrier)
        if len(tried) <= times:
            raise Refusal("RequestTimeout")
        return push(carrier)

    monkeypatch.setattr(carry, "LOOK_SECONDS", 1000.0)  # only what is last is brought up
    monkeypatch.setattr(carry, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(Carrier, "push", refused_at_first)
    with place.at_hand(folder.manifest(), run, lambda: False, "") as (taken, _):
        trained(taken.parents[1], run, step=40)
    assert place.checkpoints(run.run_id) == {30, 40} and not [*place.kept.folder.glob("*/*")]
    said = capsys.readouterr().err.splitlines()
    assert said == [f"run {run.run_id} is not brought up: RequestTimeout"] * times


def full(*_: object) -> None:
    raise OSError("full")


@pytest.mark.parametrize(
    ("can_keep", "words"),
    [(True, "start a worker on this machine, which brings it up"), (False, "be kept (full): who")],
)
def test_a_server_that_refuses_what_is_last_is_said_with_what_to_do(
    folder: Folder,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    can_keep: bool,
    words: str,
) -> None:
    upload(folder, bucket(address))
    run, place = folder.manifest().runs[2], bucket(address)
    monkeypatch.setattr(carry, "LOOK_SECONDS", 1000.0)
    monkeypatch.setattr(carry, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(carry, "REFUSED_SECONDS", 0.05)
    if not can_keep:
        monkeypatch.setattr(Kept, "put", full)
    with (
        pytest.raises(Refusal, match="has expired"),
        place.at_hand(folder.manifest(), run, lambda: False, "") as (taken, _),
    ):
        monkeypatch.setattr(place.store, "upload", refused)
        trained(taken.parents[1], run, step=40)
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_an_outage_is_waited_out_once_a_file(
    folder: Folder, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise Unreachable("no answer in 120 s")

    upload(folder, bucket(address))
    place = bucket(address)
    monkeypatch.setattr(place.store, "copy", unreachable)
    monkeypatch.setattr(place.store, "upload", lambda *_: pytest.fail("it was tried once more"))
    with (
        pytest.raises(Unreachable),
        place.at_hand(folder.manifest(), folder.manifest().runs[2], lambda: False, ""),
    ):
        pass


def test_what_was_kept_stays_until_a_later_attempt_is_up(
    folder: Folder, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As by `kill -9`: nothing is tidied that who comes next would need."""

    def killed(*_: object) -> None:
        raise Killed

    upload(folder, bucket(address))
    run = folder.manifest().runs[2]
    cut_off(bucket(address), folder, run, monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Bucket, "_keep", killed)
        patch.setattr(Carrier, "push", killed)
        with bucket(address).at_hand(folder.manifest(), run, lambda: False, "") as (taken, _):
            assert branch_points(taken) == {30, 40}
    cut_off(bucket(address), folder, run, monkeypatch, step=44)
    (kept,) = bucket(address).kept.folder.glob("*/*")  # of the last alone
    assert kept.name.startswith("000004")
    with bucket(address).at_hand(folder.manifest(), run, lambda: False, "") as (taken, _):
        assert branch_points(taken) == {30, 40, 44}
    assert not kept.exists()


def test_what_was_kept_gives_way_to_a_later_attempt(
    folder: Folder, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(folder, bucket(address))
    run = folder.manifest().runs[2]
    first, other = bucket(address), bucket(address)
    other.mirror = other.mirror.with_name("elsewhere")
    other.kept = Kept(other.mirror / "kept")
    cut_off(first, folder, run, monkeypatch)
    with other.at_hand(folder.manifest(), run, lambda: False, "") as (taken, _):
        assert branch_points(taken) == {30}
        trained(taken.parents[1], run, step=44)
    with first.at_hand(folder.manifest(), run, lambda: False, "") as (taken, _):
        assert branch_points(taken) == {30, 44}
    assert not [*first.kept.folder.glob("*/*")]
    (first.kept.folder / run.run_id / "000001-of-before").mkdir()
    first.tidy()
    assert not [*first.kept.folder.glob("*/*")]


def test_a_file_that_the_server_does_not_copy_is_uploaded(
    folder: Folder, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(folder, bucket(address))
    run, place = folder.manifest().runs[2], bucket(address)
    monkeypatch.setattr(place.store, "copy", refused)
    with place.at_hand(folder.manifest(), run, lambda: False, ""):
        pass
    found = place.states.found(run.run_id)
    assert found is not None and found.attempt.startswith("000002") and found.checkpoints == {30}
    assert {each.key for each in place.store.list(f"files/{run.run_id}")} == {
        found.key(path) for path in found.state.files
    }
