"""A run has one owner, its work is published once, and who lost it finds out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.store import claims as claim
from scaling.store.attempt import attempt, set_status, settle
from scaling.store.checksums import CHECKSUMS, checksums
from scaling.store.claims import (
    Beginning,
    Observer,
    Owned,
    Replaced,
    claimed,
    deaths,
    newest,
    owner,
)
from scaling.store.exclusive import create
from scaling.store.records import FORMAT, Refusal, read_json, sealed, write_json
from scaling.store.run_record import RunRecord, read_run
from scaling.store.sealed import OtherFormat

HOLD = """
import sys, time; from pathlib import Path; from scaling.store.claims import claimed
with claimed(Path(sys.argv[1])): print("held", flush=True); time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of 8 steps."""
    name = "0123456789ab"
    record = RunRecord.made(
        run_id=name,
        trunk_id=name,
        run_kind="trunk",
        study="s",
        status="planned",
        config={"schedule": {"steps": 8}},
    )
    write_json(tmp_path / name / "run.json", record.plain())
    return tmp_path / name


@pytest.fixture
def holder(run: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def elsewhere(run: Path) -> None:
    """Make the newest claim one of another host."""
    change_newest(run, host="elsewhere")


def change_newest(run: Path, **changes: str) -> None:
    found = newest(run)
    assert found is not None
    file = run / "claims" / f"{found.generation:06d}.json"
    write_json(file, {**unsealed(file), **changes})


def unsealed(file: Path) -> dict[str, object]:
    """A claim to be changed."""
    return {**read_json(file), "sha256": None}


def test_of_many_that_claim_a_run_at_once_one_gets_it(run: Path) -> None:
    start, got = threading.Barrier(8), []

    def take() -> None:
        start.wait()
        try:
            with claimed(run) as mine:
                got.append(mine)
                time.sleep(0.5)
        except Owned:
            pass

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert owner(run) is None


def test_a_claim_that_two_others_outran_is_owned_and_no_error(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of them has already cleared away what this one was about to use."""
    create_claim = claim.create_locked

    def late(path: Path, value: object) -> object:
        monkeypatch.setattr(claim, "create_locked", create_claim)
        for _ in range(2):
            with claimed(run):
                pass
        return create_claim(path, value)

    monkeypatch.setattr(claim, "create_locked", late)
    with pytest.raises(Owned, match="faster"), claimed(run):
        pass


def test_a_file_is_created_once_and_whole(tmp_path: Path) -> None:
    assert create(tmp_path / "a.json", {"by": 1})
    assert not create(tmp_path / "a.json", {"by": 2})
    assert read_json(tmp_path / "a.json") == {"by": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_an_owner_that_was_killed_on_this_machine_is_known_to_be_gone_at_once(
    run: Path, holder: subprocess.Popen[str]
) -> None:
    assert owner(run) is not None
    with pytest.raises(Owned, match=f"process {holder.pid} on"), claimed(run):
        pass
    holder.kill()
    holder.wait()
    with claimed(run) as mine:
        assert mine.generation == 2


def test_an_owner_elsewhere_is_gone_when_its_counter_stood_still_on_our_clock(
    run: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(claim.time, "monotonic", lambda: now)
    monkeypatch.setattr(claim.time, "time", lambda: pytest.fail("a wall clock was asked"))
    elsewhere(run)
    holder.send_signal(signal.SIGSTOP)
    observer = Observer()
    assert observer.owner(run) is not None
    now += 3600  # in which this process slept, and saw nothing
    assert observer.owner(run) is not None
    for _ in range(3):
        now += 10
        assert observer.owner(run) is not None
    (run / "claims" / "000001.beat").write_bytes(b"another one ")
    for _ in range(6):
        assert observer.owner(run) is not None
        now += 10
    assert observer.owner(run) is None
    with claimed(run) as mine:
        assert mine.generation == 3  # the second ended the first


def test_a_damaged_claim_holds_the_run_until_it_was_still_for_long(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with claimed(run):
        pass
    for text in ("{", '{"pid": 3}', json.dumps({**vars_of(run), "token": "../../x"})):
        (run / "claims" / "000001.json").write_text(text)
        (run / "claims" / "000001.beat").write_text("7")
        with pytest.raises(Owned, match="unknown"), claimed(run):
            pass
    monkeypatch.setattr(claim, "STALE_SECONDS", 0.0)
    assert Observer().owner(run) is None


def vars_of(run: Path) -> dict[str, object]:
    return unsealed(run / "claims" / "000001.json")


def test_a_claim_in_which_a_bit_flipped_is_damaged(run: Path) -> None:
    with claimed(run):
        file = run / "claims" / "000001.json"
        text = file.read_text()
        for was, flipped in (
            (f'"format": {FORMAT}', f'"format": {FORMAT ^ 4}'),
            (f'"pid": {os.getpid()}', f'"pid": {os.getpid() ^ 1}'),
        ):
            file.write_text(text.replace(was, flipped, 1))
            assert file.read_text() != text
            assert str(newest(run)) == "an unknown process"


def tomorrows(file: Path) -> None:
    write_json(file, sealed({**read_json(file), "format": FORMAT + 1, "note": "of tomorrow"}))


NEW = ("format", "run_id")  # in these


def of_format_2(file: Path) -> None:
    """As the version before wrote it, which said no format in these."""
    found = {name: value for name, value in read_json(file).items() if name not in NEW}
    if "claims" in file.parts:
        del found["sha256"]
        write_json(file, found)
    else:
        write_json(file, sealed(found))


def test_a_claim_of_a_newer_version_is_refused_and_stays(run: Path) -> None:
    with claimed(run):
        pass
    file = run / "claims" / "000001.json"
    tomorrows(file)
    before = file.read_bytes()
    for ask in (newest, Observer().owner, lambda run: attempt(run).__enter__()):
        with pytest.raises(OtherFormat, match=f"000001.json is of format {FORMAT + 1}.*newer"):
            ask(run)
    assert file.read_bytes() == before and [*file.parent.glob("*.json")] == [file]


def published(run: Path) -> Path:
    """The publication of a run, of which run.json does not say yet."""
    with attempt(run) as mine:
        mine.begin()
        write_tables(mine.folder, "")
        mine.publish(8, {"loss": 2.0})
    with claimed(run) as mine:
        set_status(run, mine, "planned")
    return run / "published" / "000000008.json"


def test_a_publication_of_a_newer_version_is_refused_and_stays(run: Path) -> None:
    tomorrows(file := published(run))
    before = file.read_bytes()
    with (
        pytest.raises(OtherFormat, match=f"8.json is of format {FORMAT + 1}.*newer"),
        claimed(run) as mine,
    ):
        settle(run, mine)
    assert file.read_bytes() == before and read_run(run).status == "planned"


def test_claims_and_publications_of_before_they_said_a_format_are_read(run: Path) -> None:
    of_format_2(published(run))
    first = newest(run)
    for file in (run / "claims").glob("*.json"):
        of_format_2(file)
    assert newest(run) == first
    with claimed(run) as mine:
        settle(run, mine)
    assert read_run(run).status == "completed" and mine.generation == 3


def test_one_attempt_is_published_and_who_was_replaced_discards_its_own(run: Path) -> None:
    with attempt(run) as paused:
        paused.begin()
        write_tables(paused.folder, "of the first")
        elsewhere(run)
        assert create(run / "claims" / "000002.json", {**vars_of(run), "released": True})
        with attempt(run) as other:
            other.begin()
            write_tables(other.folder, "of the second")
            for change in (paused.check, lambda: paused.record("failed", reason="mine")):
                with pytest.raises(Replaced, match="replaced by process"):
                    change()
            other.publish(8, {"loss": 2.0})
        with pytest.raises(Replaced):
            paused.publish(8, {"loss": 3.0})
        paused.discard()
    assert read_json(run / "run.json")["result"] == {"loss": 2.0}
    assert (run / "steps.parquet").read_text() == "of the second"


def write_tables(folder: Path, text: str) -> None:
    for name in ("steps.parquet", "evals.parquet"):
        (folder / name).write_text(text)


def test_a_publication_that_lost_by_a_moment_is_none(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with attempt(run) as mine:
        mine.begin()
        write_tables(mine.folder, "")
        monkeypatch.setattr(type(mine), "check", lambda self: None)  # passed, then it was paused
        assert create(run / "published" / "000000008.json", {"attempt": "x"})
        with pytest.raises(Replaced, match="published"):
            mine.publish(8, {"loss": 3.0})


def test_an_owner_paused_on_the_verge_of_a_write_changes_nothing_when_it_wakes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its check has passed and its file is written: the rename alone is left."""
    taken = []

    def taken_over(place: str) -> None:
        if place == "replacing" and not taken:
            taken.append(place)
            elsewhere(run)
            assert create(run / "claims" / "000002.json", {**vars_of(run), "released": True})
            with attempt(run) as other:
                other.record("diverged", reason="of the second")

    monkeypatch.setattr(claim, "failpoint", taken_over)
    with attempt(run) as late:
        before = read_run(run)
        with pytest.raises(Replaced, match="replaced by process"):
            late.record("planned", reason="of the first")
    assert read_run(run) == before.changed(status="diverged", reason="of the second")
    assert [each for each in (run / "claims").iterdir() if each.is_dir()] == []


def test_an_owner_paused_on_the_verge_of_publishing_publishes_nothing_when_it_wakes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its check has passed and its record is written: the link alone is left."""
    link, others = os.link, []

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(claim.os, "link", link)
        elsewhere(run)
        assert create(run / "claims" / "000002.json", {**vars_of(run), "released": True})
        others.append(taking_over.enter_context(attempt(run)))
        others[0].begin()
        link(source, target)

    with ExitStack() as taking_over:
        with attempt(run) as paused:
            paused.begin()
            write_tables(paused.folder, "of the first")
            monkeypatch.setattr(claim.os, "link", late)
            with pytest.raises(Replaced):
                paused.publish(8, {"loss": 3.0})
            paused.discard()
        assert read_json(run / "run.json")["status"] == "planned"
        write_tables(others[0].folder, "of the second")
        others[0].publish(8, {"loss": 2.0})
    assert read_json(run / "run.json")["result"] == {"loss": 2.0}
    assert (run / "steps.parquet").read_text() == "of the second"


def test_a_publication_whose_files_are_nowhere_is_none(run: Path) -> None:
    with attempt(run) as mine:
        mine.begin()
        write_tables(mine.folder, "")
        mine.publish(8, {"loss": 2.0})
    with claimed(run) as mine:
        set_status(run, mine, "planned")
        (run / "steps.parquet").write_text("of another")
        settle(run, mine)
    assert read_json(run / "run.json")["status"] == "planned"
    assert (run / "published" / "000000008.unreadable").exists()


def test_an_owner_that_writes_on_while_it_is_shut_out_changes_nothing(run: Path) -> None:
    with attempt(run) as late:
        stop, written = threading.Event(), []

        def write() -> None:
            with pytest.raises(Replaced):
                while not stop.is_set():
                    claim.replace(run, late.claim, "note", b"of the first")
                    written.append(1)

        thread = threading.Thread(target=write)
        thread.start()
        while not written:
            time.sleep(0.001)
        elsewhere(run)
        assert create(run / "claims" / "000002.json", {**vars_of(run), "released": True})
        with claimed(run) as other:
            claim.replace(run, other, "note", b"of the second")
            thread.join(timeout=10)
            stop.set()
            assert (run / "note").read_bytes() == b"of the second"


@pytest.mark.parametrize("name", [".", "..", "claims", "attempts", "published", "checkpoints"])
def test_a_run_that_is_linked_elsewhere_is_not_written_to(
    run: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    linked, away = (run / name).resolve(), tmp_path_factory.mktemp("away")
    if linked.exists():
        linked.rename(away / "it")
    else:
        (away / "it").mkdir()
    linked.symlink_to(away / "it")
    before = sorted(away.rglob("*"))
    with pytest.raises(Refusal, match="is a link to another place"), claimed(run):
        pass
    assert sorted(away.rglob("*")) == before


def test_a_shorter_publication_does_not_complete_a_run_that_was_extended(run: Path) -> None:
    with attempt(run) as mine:
        mine.begin()
        write_tables(mine.folder, "")
        mine.publish(8, {"loss": 2.0})
    assert read_json(run / "run.json")["status"] == "completed"
    with claimed(run) as mine:
        set_status(run, mine, "planned", config={"schedule": {"steps": 16}})
        settle(run, mine)
    assert read_json(run / "run.json")["status"] == "planned"


OURS = {"attempt": "000001-0123456789ab", "steps": 8, "result": {"loss": 2.5}, "files": {}}


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"attempt": "../../other", "result": {}}'),
        json.dumps(sealed(OURS)).replace("2.5", "2.1"),
        json.dumps(sealed(OURS)).replace("sha256", "sha257"),
    ],
)
def test_a_damaged_publication_is_set_aside(run: Path, text: str) -> None:
    (run / "published").mkdir()
    (run / "published" / "000000008.json").write_text(text)
    with claimed(run) as mine:
        settle(run, mine)
    assert read_json(run / "run.json")["status"] == "planned"
    assert [file.name for file in (run / "published").iterdir()] == ["000000008.unreadable"]


def test_no_attempt_deletes_a_later_one(run: Path) -> None:
    with attempt(run) as early:
        early.begin()
        later = replace(early, claim=replace(early.claim, generation=7))
        later.begin()
        early.discard()
        early.begin()
        assert later.folder.is_dir()


# --- processes that die ------------------------------------------------------------------------

# Begins to train a run from a step, says so if it is told to stop, and dies of what it is told.
BEGIN = """
import os, sys, time; from pathlib import Path
from scaling.store.claims import Beginning, claimed
run, step, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
stops = how == "preempted"
with claimed(run, Beginning(step, "a.log", lambda: stops)) as mine:
    beat = run / "claims" / f"{mine.generation:06d}.beat"
    while stops and not (beat.exists() and b"stopping" in beat.read_bytes()):
        time.sleep(0.01)
    if how != "in order":
        os.kill(os.getpid(), 9)
"""


def begun(run: Path, step: int, how: str) -> None:
    subprocess.run([sys.executable, "-c", BEGIN, str(run), str(step), how])


def died(run: Path, step: int) -> list[int]:
    """The claims whose processes died and got no further, as one sees them that begins there."""
    with claimed(run, Beginning(step)) as mine:
        return [each.generation for each in deaths(run, mine)]


def test_processes_that_die_where_they_began_are_counted(run: Path) -> None:
    for _ in range(2):
        begun(run, 4, "killed")
    assert died(run, 4) == [2, 1]
    begun(run, 4, "killed")
    assert died(run, 4) == [4, 2, 1], "the third ended in order"
    found = newest(run)
    assert found is not None and (found.step, found.log) == (4, "")
    assert died(run, 8) == [], "it got further"


def test_those_are_not_that_came_further_or_were_told_to_stop(run: Path) -> None:
    begun(run, 0, "killed")
    begun(run, 4, "killed")
    assert died(run, 4) == [2], "the first came to step 4"
    for how in ("preempted", "in order"):
        begun(run, 4, how)
    assert died(run, 4) == [2]


def test_one_of_another_machine_or_of_before_a_restart_is_not(run: Path) -> None:
    for change in ({"host": "elsewhere"}, {"boot": "another"}):
        begun(run, 4, "killed")
        change_newest(run, **change)
        lost = newest(run)
        assert lost is not None
        assert create(
            run / "claims" / f"{lost.generation + 1:06d}.json",
            replace(lost, generation=lost.generation + 1, released=True).plain(),
        )
    assert died(run, 4) == []
    begun(run, 4, "killed")
    assert len(died(run, 4)) == 1


def test_a_run_that_is_asked_for_anew_begins_its_count_anew(run: Path) -> None:
    begun(run, 4, "killed")
    with claimed(run):
        pass
    assert died(run, 4) == []


def test_a_damaged_checkpoint_does_not_make_progress_a_death(run: Path) -> None:
    begun(run, 0, "killed")
    begun(run, 4, "killed")
    begun(run, 8, "killed")
    assert died(run, 4) == [3], "of the last alone it is not known that it got further"


@pytest.mark.parametrize("whole", [True, False])
def test_a_publication_of_another_run_is_none(run: Path, whole: bool) -> None:
    """Copied here with its tables: with all that is its run's, or that alone."""
    name = "ba9876543210"
    other = RunRecord.made(**{**read_json(run / "run.json"), "run_id": name, "trunk_id": name})
    write_json(run.with_name(name) / "run.json", other.plain())
    published(run.with_name(name))
    if whole:
        shutil.rmtree(run)
        shutil.copytree(run.with_name(name), run)
        (run / "run.json").unlink()
    else:
        for path in ("steps.parquet", "evals.parquet", "published"):
            copy = shutil.copytree if path == "published" else shutil.copy
            copy(run.with_name(name) / path, run / path)
    record = RunRecord.made(**{**read_json(run.with_name(name) / "run.json"), "run_id": run.name})
    write_json(run / "run.json", record.changed(files=None, result=None).plain())
    with claimed(run) as mine:
        settle(run, mine)
    assert read_run(run).status == "planned"
    assert [file.name for file in (run / "published").iterdir()] == ["000000008.unreadable"]


def test_a_publication_that_says_no_run_is_believed_where_the_record_has_its_files(
    run: Path,
) -> None:
    of_format_2(published(run))
    record = read_run(run)
    for files, status in ((record.files, "completed"), (None, "planned")):
        write_json(run / "run.json", record.changed(files=files).plain())
        with claimed(run) as mine:
            settle(run, mine)
        assert read_run(run).status == status


def test_a_checkpoint_of_another_run_gives_way_to_the_one_that_was_trained(run: Path) -> None:
    def write(folder: Path, run_id: str) -> None:
        (folder / "weights").parent.mkdir(parents=True)
        (folder / "weights").write_text(run_id)
        noted = checksums({"weights": folder / "weights"})
        write_json(folder / CHECKSUMS, {"run_id": run_id, "step": 8, "files": noted})

    with attempt(run) as mine:
        mine.begin()
        write_tables(mine.folder, "")
        write(mine.folder / "checkpoints" / "8", run.name)
        write(run / "checkpoints" / "8", "ba9876543210")
        mine.publish(8, {"loss": 2.0})
    assert (run / "checkpoints" / "8" / "weights").read_text() == run.name
    assert (run / "checkpoints" / "8.unreadable" / "weights").read_text() == "ba9876543210"
