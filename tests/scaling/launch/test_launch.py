"""A launch trains what is not done, whatever happens to its workers."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scaling.data.corpus import Corpus
from scaling.launch import local
from scaling.launch.base import Job, prepare
from scaling.planning.plan import Plan
from scaling.store.attempt import attempt
from scaling.store.checksums import CHECKSUMS
from scaling.store.claims import claimed, owner
from scaling.store.records import Refusal, read_json, write_json
from scaling.store.run_record import read_run
from scaling.store.table import publish_table


def statuses(jobs: list[Job]) -> list[list[str]]:
    return [[read_json(f / "run.json")["status"] for f in job.folders] for job in jobs]


def state(results: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file of every run, with its time and content."""
    files = (file for file in (results / "runs").rglob("*") if file.is_file())
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_a_results_folder_that_cannot_be_written_is_refused(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="choose another folder"):
        prepare(tmp_path / "file", plan(), b"")


def test_a_job_is_a_trunk_and_then_its_branches_the_costliest_first(
    plan: Callable[..., Plan], corpus: Corpus, tmp_path: Path
) -> None:
    made = plan(grid={"seeds": [0, 1], "replicate_seeds": [2]})
    jobs = prepare(tmp_path, made, b"the study")
    assert (tmp_path / "study.toml").read_bytes() == b"the study"
    assert [job.flops for job in jobs] == sorted((job.flops for job in jobs), reverse=True)
    for job in jobs:
        records = [read_json(folder / "run.json") for folder in job.folders]
        assert [run["run_kind"] for run in records] == ["trunk", *["cooldown"] * (len(records) - 1)]
        assert {run["trunk_id"] for run in records} == {job.folders[0].name}
    assert sum(len(job.folders) for job in jobs) == len(made.runs)


def test_labels_of_finished_runs_are_those_of_the_study_as_it_is_now(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    made = plan()
    for job in prepare(tmp_path, made, b""):
        for folder in job.folders:
            with attempt(folder) as mine:
                mine.record("completed", result={"loss": 1.0})
    relabelled = replace(made, runs=tuple(replace(run, budget_flops=1e9) for run in made.runs))
    assert publish_table(tmp_path).table["budget_flops"].isna().all()
    assert prepare(tmp_path, relabelled, b"") == []
    assert set(publish_table(tmp_path).table["budget_flops"]) == {1e9}


def finish(folder: Path) -> None:
    """Publish a run as if it had been trained."""
    with attempt(folder) as mine:
        mine.begin()
        for name in ("steps.parquet", "evals.parquet"):
            (mine.folder / name).write_bytes(b"a table of " + name.encode())
        mine.publish(read_json(folder / "run.json")["config"]["schedule"]["steps"], {"loss": 2.5})


def test_damaged_tables_of_a_finished_run_are_reported_and_it_is_trained_again_when_asked(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    made = plan()
    (job,) = prepare(tmp_path, made, b"")
    for folder in job.folders:
        finish(folder)
    damaged = job.folders[1]
    (damaged / "evals.parquet").write_bytes(b"a table of evels.parquet")
    published = publish_table(tmp_path)
    assert set(published.damaged) == {damaged.name}
    assert "evals.parquet has changed since it was written" in published.damaged[damaged.name]
    row = published.table.set_index("run_id").loc[damaged.name]
    assert row["status"] == "failed" and pd.isna(row["loss"])
    assert prepare(tmp_path, made, b"") == []
    (again,) = prepare(tmp_path, made, b"", retry=["failed"])
    assert again.folders == (damaged,)
    assert (damaged / "evals.unreadable").read_bytes() == b"a table of evels.parquet"
    assert read_json(damaged / "run.json")["status"] == "planned"


def test_a_damaged_record_of_a_finished_run_is_made_again_from_its_publication(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    made = plan()
    (job,) = prepare(tmp_path, made, b"")
    finish(job.folders[0])
    path = job.folders[0] / "run.json"
    written = path.read_text()
    path.write_text(written.replace("2.5", "2.7"))
    assert set(publish_table(tmp_path).damaged) == {job.folders[0].name}
    prepare(tmp_path, made, b"")
    assert path.read_text() == written and "2.7" in path.with_suffix(".unreadable").read_text()


def test_to_lay_out_a_grid_the_disk_is_waited_for_three_times_however_many_runs_it_has(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    jobs = prepare(tmp_path, plan(grid={"seeds": [0, 1, 2]}), b"")
    assert len(waits) == 3 and statuses(jobs) == [["planned"] * 3] * 3
    (jobs[0].folders[1] / "run.json").write_text("")  # as a power cut may leave it
    assert statuses(prepare(tmp_path, plan(grid={"seeds": [0, 1, 2]}), b"")) == statuses(jobs)


@pytest.mark.parametrize("place", ["runs", "runs/{run}", "runs/{run}/attempts"])
def test_nothing_is_written_through_a_link(
    plan: Callable[..., Plan], tmp_path: Path, place: str
) -> None:
    made, away = plan(), tmp_path / "away"
    away.mkdir()
    link = tmp_path / "results" / place.format(run=made.runs[0].run_id)
    link.parent.mkdir(parents=True)
    link.symlink_to(away)
    with pytest.raises(Refusal, match="is a link to another place"):
        prepare(tmp_path / "results", made, b"")
    assert list(away.iterdir()) == [] and not (tmp_path / "results" / "study.toml").exists()


@pytest.mark.slow
def test_dead_workers_and_divergence_do_not_stop_the_grid_and_a_finished_study_stays(
    plan: Callable[..., Plan], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = {"training.learning_rate_factor": [1.0, 2.0, 1e30]}
    made = plan(grid={"tokens": [1536]}, sweep=sweep)
    jobs = prepare(tmp_path, made, b"")
    started: list[Any] = []
    snapshots: list[local.Snapshot] = []
    start = local._start
    monkeypatch.setattr(local, "_start", lambda runs: started.append(start(runs)) or started[-1])

    def watch(snapshot: local.Snapshot) -> None:
        snapshots.append(snapshot)
        if len(snapshots) == 1:
            os.kill(started[0].process.pid, signal.SIGKILL)
            os.kill(started[1].process.pid, signal.SIGTERM)  # preempted: it is started again

    assert local.run_jobs(jobs, workers=2, watch=watch) == {}
    assert statuses(jobs) == [["failed"] * 2, ["completed"] * 2, ["diverged"] * 2]
    for folder in jobs[0].folders:
        assert "its worker died: signal 9" in read_json(folder / "run.json")["reason"]
    assert "at step" in read_json(jobs[2].folders[0] / "run.json")["reason"]
    assert (snapshots[-1].runs_done, snapshots[-1].runs) == (6, 6)
    assert snapshots[-1].flops_done == pytest.approx(snapshots[-1].flops)

    table = pd.read_parquet(publish_table(tmp_path).path)
    assert (table["loss"].notna() == (table["status"] == "completed")).all()
    assert len(table) == 6

    # What failed is tried again where that is asked for, and nothing that completed.
    assert prepare(tmp_path, made, b"") == []
    again = prepare(tmp_path, made, b"", retry=["failed"])
    assert [job.folders for job in again] == [jobs[0].folders]
    assert local.run_jobs(again, workers=2, watch=lambda _: None) == {}
    assert statuses(again) == [["completed"] * 2]

    before = state(tmp_path)
    assert prepare(tmp_path, made, b"") == []
    assert local.run_jobs([], workers=2, watch=lambda _: None) == {}
    assert state(tmp_path) == before


def test_a_launch_ends_when_its_time_is_up(plan: Callable[..., Plan], tmp_path: Path) -> None:
    jobs = prepare(tmp_path, plan(), b"")
    with pytest.raises(local.TimeUp):
        local.run_jobs(jobs, workers=1, watch=lambda _: None, max_seconds=0.0)
    assert statuses(jobs) == [["planned"] * 3]
    assert owner(jobs[0].folders[0]) is None


def test_a_branch_goes_to_an_idle_worker_once_its_branch_point_is_there(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    (job,) = prepare(tmp_path, plan(), b"")
    launch = local._Launch([job], workers=2)
    trunk, short, long = launch.groups[0]
    assert launch._next() == [trunk, short, long]
    with claimed(trunk.folder) as mine:
        launch._look()
        assert launch._next() == []
        point = trunk.folder / "attempts" / mine.name / "checkpoints" / "40"
        write_json(point / CHECKSUMS, {})
        assert launch._next() == [long]
    with claimed(long.folder):
        launch._look()
        assert launch._next() == []


@pytest.fixture
def no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python itself ends with exit code 1 after a traceback, as for a package that is missing."""
    code = "#!/bin/sh\necho no module named scaling >&2; exit 1\n"
    (tmp_path / "python").write_text(code)
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


@pytest.mark.usefixtures("no_package")
def test_a_run_whose_folder_cannot_be_written_is_given_up_and_the_launch_ends(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    (job,) = prepare(tmp_path, plan(), b"")
    (job.folders[0] / "claims").write_text("no folder")
    looks = itertools.count()
    given_up = local.run_jobs(
        [job], workers=1, watch=lambda _: None if next(looks) < 40 else pytest.fail("endless")
    )
    assert list(given_up) == [job.folders[0].name]
    assert "cannot write" in given_up[job.folders[0].name]
    assert "no module named scaling" in given_up[job.folders[0].name]
    assert statuses([job]) == [["planned", "failed", "failed"]]


@pytest.mark.usefixtures("no_package")
def test_a_worker_that_crashes_gives_its_runs_a_reason(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    (job,) = prepare(tmp_path, plan(), b"")
    assert local.run_jobs([job], workers=1, watch=lambda _: None) == {}
    assert statuses([job]) == [["failed"] * 3]
    reason = read_json(job.folders[0] / "run.json")["reason"]
    assert "exit code 1" in reason and "no module named scaling" in reason


CLAIM_AND_DIE = """
import os, sys
from pathlib import Path
from scaling.store.claims import claimed
with claimed(Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_worker_that_is_killed_fails_at_most_the_run_that_it_held(
    plan: Callable[..., Plan], tmp_path: Path, taken_over: bool
) -> None:
    (job,) = prepare(tmp_path, plan(), b"")
    runs = local._Launch([job], workers=1).groups[0]
    process = subprocess.Popen([sys.executable, "-c", CLAIM_AND_DIE, str(runs[0].folder)])
    assert process.wait() == -signal.SIGKILL
    (runs[0].folder / "worker.log").write_text("")
    with claimed(runs[0].folder) if taken_over else nullcontext():
        local._bury(local._Worker(runs, process, BytesIO()))
    assert statuses([job]) == [["planned" if taken_over else "failed", "planned", "planned"]]


def test_branches_do_not_wait_for_a_trunk_that_was_given_up(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = prepare(tmp_path, plan(), b"")
    launch = local._Launch([job], workers=1)
    runs = launch.groups[0]
    process = subprocess.Popen([sys.executable, "-c", CLAIM_AND_DIE, str(runs[0].folder)])
    process.wait()
    (runs[0].folder / "worker.log").write_text("")

    def full(folder: Path) -> None:
        raise Refusal("No space left on device")

    monkeypatch.setattr(local, "claimed", full)
    launch.active = [local._Worker(runs, process, BytesIO())]
    launch._reap()
    assert launch._next() == [] and all(run.done for run in runs)
    trunk, *branches = (launch.given_up[folder.name] for folder in job.folders)
    assert "No space left" in trunk
    assert branches == [f"its trunk {job.folders[0].name} was given up"] * 2


def test_a_finished_trunk_is_planned_again_when_a_budget_needs_it_longer(
    plan: Callable[..., Plan], corpus: Corpus, tmp_path: Path
) -> None:
    (job,) = prepare(tmp_path, plan(), b"")
    for folder in job.folders:
        write_json(folder / "run.json", read_run(folder).changed(status="completed").plain())
    assert prepare(tmp_path, plan(), b"") == []
    assert prepare(tmp_path, plan(grid={"tokens": [1536]}), b"") == []
    (longer,) = prepare(tmp_path, plan(grid={"tokens": [1536, 3072, 4096]}), b"")
    assert longer.folders[0] == job.folders[0]
    assert len(longer.folders) == 2 and longer.folders[1] not in job.folders
