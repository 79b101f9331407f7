"""One plan owns a results folder: who adds to it joins, who would change it waits or is refused."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pandas as pd
import pytest

from analysis.runs.table import read_runs
from scaling.launch.prepare import prepare, prepared
from scaling.launch.worker import work
from scaling.planning.plan import Plan
from scaling.spec import read_spec
from scaling.store.claims import claimed
from scaling.store.holding import changing, holding
from scaling.store.manifest import read_manifest
from scaling.store.ready import make_ready, run_folder
from scaling.store.records import FORMAT, Refusal, read_json, refuse_newer, sealed, write_json
from scaling.store.results import results_at
from scaling.store.run_record import read_run
from scaling.store.sealed import OtherFormat
from scaling.store.table import publish_table

PlanOf = Callable[..., Plan]
FEW = {"grid": {"tokens": [1536]}}
MORE = {"grid": {"tokens": [1536, 3072, 4096]}}
OTHER = {"training": {"learning_rate": 0.03}}

HOLD = """
import sys, time; from pathlib import Path; from scaling.store.holding import holding
with holding(Path(sys.argv[1])): print("held", flush=True); time.sleep(60)
"""


def ids(results: Path) -> list[str]:
    return [run.run_id for run in read_manifest(results).runs]


def test_the_same_study_joins_and_one_that_adds_budgets_takes_its_place(
    plan: PlanOf, tmp_path: Path
) -> None:
    prepare(tmp_path, plan(), b"the first")
    with holding(tmp_path):
        with prepared(tmp_path, plan(), b"the first") as ready:
            assert ready.notes == ()
        with prepared(tmp_path, plan(**MORE), b"with more") as ready:
            (note,) = ready.notes
        assert "the study has changed" in note
        assert ids(tmp_path) == [run.run_id for run in plan(**MORE).runs]
        assert (tmp_path / "study.toml").read_bytes() == b"with more"


@pytest.mark.parametrize("edited", [FEW, OTHER])
def test_another_study_is_refused_while_the_first_is_trained_and_taken_afterwards(
    plan: PlanOf, tmp_path: Path, edited: dict[str, object]
) -> None:
    prepare(tmp_path, plan(), b"the first")
    before = ids(tmp_path)
    with holding(tmp_path), pytest.raises(Refusal) as refused:
        prepare(tmp_path, plan(**edited), b"the second")
    # echo -n 'the first' | sha256sum, and so of the second
    assert "study 6fa2c9ea02d6" in str(refused.value) and "066085a464c8" in str(refused.value)
    assert ids(tmp_path) == before and (tmp_path / "study.toml").read_bytes() == b"the first"
    prepare(tmp_path, plan(**edited), b"the second")
    assert ids(tmp_path) == [run.run_id for run in plan(**edited).runs]


def test_another_program_is_refused_while_the_first_trains_and_replaces_it_afterwards(
    plan: PlanOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, plan(), b"")
    monkeypatch.setattr("scaling.launch.prepare.source_digest", lambda names: "f" * 64)
    with holding(tmp_path), pytest.raises(Refusal, match="this is source ffffffffffff"):
        prepare(tmp_path, plan(), b"")
    with prepared(tmp_path, plan(), b"") as ready:
        (note,) = ready.notes
    assert "the program has changed" in note and "is replaced by ffffffffffff" in note


def test_a_table_of_two_programs_says_so(plan: PlanOf, tmp_path: Path) -> None:
    for number, run in enumerate(prepare(tmp_path, plan(), b"")):
        folder = run_folder(tmp_path, run.run_id)
        sessions = [{"source_sha256": "a" * 64}, {"source_sha256": "b" * 64}][number > 0 :]
        record = read_run(folder).changed(status="failed", provenance=sessions)
        write_json(folder / "run.json", record.plain())
    assert publish_table(tmp_path).sources == {
        "aaaaaaaaaaaa, then bbbbbbbbbbbb": 1,
        "bbbbbbbbbbbb": 2,
    }


def test_where_there_are_no_locks_claims_on_runs_decide(
    plan: PlanOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, "No locks available")

    first, *_ = prepare(tmp_path, plan(), b"")
    monkeypatch.setattr(fcntl, "flock", none)
    with claimed(run_folder(tmp_path, first.run_id)), pytest.raises(Refusal, match="leaves runs"):
        prepare(tmp_path, plan(**OTHER), b"other")
    prepare(tmp_path, plan(**OTHER), b"other")


def test_a_hold_dies_with_its_process(plan: PlanOf, tmp_path: Path) -> None:
    prepare(tmp_path, plan(), b"")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(Refusal):
        prepare(tmp_path, plan(**OTHER), b"")
    process.kill()
    process.communicate()
    prepare(tmp_path, plan(**OTHER), b"")


def test_of_two_that_begin_at_once_with_an_edited_study_both_go_on(
    plan: PlanOf, tmp_path: Path
) -> None:
    prepare(tmp_path, plan(), b"the first")
    edited, began = plan(**OTHER), threading.Event()

    def late() -> None:
        began.set()
        prepare(tmp_path, edited, b"the second")

    with changing(tmp_path):  # the other waits here, and trains nothing yet
        waiting = threading.Thread(target=late)
        waiting.start()
        began.wait()
        time.sleep(0.05)
        with holding(tmp_path) as mine:
            assert mine.is_alone()
    waiting.join()
    prepare(tmp_path, edited, b"the second")


def test_a_branch_that_waits_is_not_trained_at_a_rate_to_which_a_bit_flipped(
    plan: PlanOf, tmp_path: Path
) -> None:
    branch = prepare(tmp_path, plan(), b"")[-1]
    path = run_folder(tmp_path, branch.run_id) / "run.json"
    written = path.read_text()
    assert '"peak": 0.02' in written
    path.write_text(written.replace('"peak": 0.02', '"peak": 0.03'))
    with pytest.raises(Refusal, match="it has changed since it was written"):
        read_spec(path.parent)
    make_ready(tmp_path, read_manifest(tmp_path), branch)
    assert read_run(path.parent).config == branch.config


def test_a_damaged_plan_is_made_again_while_others_train(plan: PlanOf, tmp_path: Path) -> None:
    prepare(tmp_path, plan(), b"the first")
    written = (tmp_path / "plan.json").read_bytes()
    (tmp_path / "plan.json").write_bytes(written[:-40])
    with holding(tmp_path):
        prepare(tmp_path, plan(), b"the first")
    assert (tmp_path / "plan.json").read_bytes() == written


def test_runs_that_ended_and_are_no_longer_named_are_kept_and_named(
    plan: PlanOf, tmp_path: Path
) -> None:
    for run in prepare(tmp_path, plan(), b""):
        folder = run_folder(tmp_path, run.run_id)
        write_json(folder / "run.json", read_run(folder).changed(status="completed").plain())
    before = set(ids(tmp_path))
    prepare(tmp_path, plan(**FEW), b"")
    published = publish_table(tmp_path)
    assert set(published.orphans) == before - set(ids(tmp_path)) != set()


def test_a_completed_trunk_that_is_asked_for_shorter_keeps_the_length_that_it_has(
    plan: PlanOf, tmp_path: Path
) -> None:
    for run in prepare(tmp_path, plan(), b""):
        folder = run_folder(tmp_path, run.run_id)
        record = read_run(folder).changed(status="completed", result={"loss": 2.5})
        write_json(folder / "run.json", record.plain())
    table = publish_table(tmp_path).table.set_index("run_id")
    assert prepare(tmp_path, plan(**FEW), b"") == []
    published = publish_table(tmp_path)
    assert published.damaged == {}
    shorter = published.table.set_index("run_id")
    assert shorter["tokens"].tolist() == table.loc[shorter.index, "tokens"].tolist()


def files(results: Path) -> dict[Path, tuple[int, bytes]]:
    found = [file for file in results.rglob("*") if file.is_file()]
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in found}


def newer(path: Path) -> None:
    write_json(path, sealed({**read_json(path), "format": FORMAT + 1, "note": "of tomorrow"}))


@pytest.mark.parametrize("what", ["plan.json", "runs/*/run.json"])
def test_nothing_of_a_newer_version_is_touched(plan: PlanOf, tmp_path: Path, what: str) -> None:
    prepare(tmp_path, plan(), b"")
    newer(next(tmp_path.glob(what)))
    before = files(tmp_path)
    with pytest.raises(OtherFormat, match=f"is of format {FORMAT + 1}, which a newer version"):
        prepare(tmp_path, plan(), b"", retry=["failed"])
    assert files(tmp_path) == before


def test_a_folder_of_format_2_is_read_and_gone_on_with(plan: PlanOf, tmp_path: Path) -> None:
    prepare(tmp_path, plan(), b"")
    for path in (tmp_path / "plan.json", *tmp_path.glob("runs/*/run.json")):
        record = {**read_json(path), "format": 2}
        record.pop("corpora", None)
        write_json(path, sealed(record))
    before = read_manifest(tmp_path)
    assert before.corpora == {} and before.runs
    assert len(prepare(tmp_path, plan(), b"")) == len(before.runs)
    assert read_json(tmp_path / "plan.json")["format"] == FORMAT


def test_nothing_of_the_first_version_is_touched(plan: PlanOf, tmp_path: Path) -> None:
    made = plan()
    for run in made.runs:
        old = {"run_id": run.run_id, "status": "completed", "counts": {}, "config": {}}
        write_json(run_folder(tmp_path, run.run_id) / "run.json", old)
    before = files(tmp_path)
    with pytest.raises(OtherFormat, match="of format 1, which an earlier version"):
        prepare(tmp_path, made, b"")
    assert files(tmp_path) == before


def test_the_table_of_a_newer_folder_is_read_by_its_name_alone(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    prepare(tmp_path, plan(), b"")
    table = pd.DataFrame({"params": [1e6, 2e6], "tokens": [1e8, 2e8], "loss": [3.0, 2.9]})
    table.to_parquet(tmp_path / "runs.parquet")
    plan_file = tmp_path / "plan.json"
    assert len(read_runs(tmp_path)) == 2
    plan_file.write_text(
        plan_file.read_text().replace(f'"format":{FORMAT}', f'"format":{FORMAT + 1}', 1)
    )
    with pytest.raises(Refusal, match=f"is of format {FORMAT + 1}, which a newer version"):
        read_runs(tmp_path)
    assert len(read_runs(tmp_path / "runs.parquet")) == 2


def test_a_worker_follows_no_plan_of_another_study(plan: PlanOf, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    prepare(one, plan(), b"the first")
    prepare(other, plan(**OTHER), b"the second")
    shutil.copy(other / "plan.json", one / "plan.json")
    with pytest.raises(Refusal, match=r"its plan is of study 066085a464c8, and"):
        work(one, "cheapest-first")


@pytest.mark.parametrize("name", ["plan.json", "study.toml", "runs.parquet"])
@pytest.mark.parametrize("endless", [True, False])
def test_what_never_ends_in_the_place_of_a_file_is_refused(
    plan: PlanOf, tmp_path: Path, name: str, endless: bool
) -> None:
    prepare(tmp_path, plan(), b"")
    (tmp_path / name).unlink(missing_ok=True)
    if endless:
        (tmp_path / name).symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / name)
    with pytest.raises(Refusal, match=f"{name}: it is no regular file, but a folder, a pipe"):
        results_at(tmp_path).read(name)
    refuse_newer(tmp_path)
