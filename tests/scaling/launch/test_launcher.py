"""A launch keeps workers at a folder until all has ended, whatever happens to them."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pandas as pd
import pytest

from scaling.launch import pool
from scaling.launch.launcher import TimeUp
from scaling.launch.launcher import launch as launch_engine
from scaling.launch.local import Local, Worker
from scaling.launch.output import LOGS
from scaling.launch.pool import Pool
from scaling.launch.prepare import prepare
from scaling.launch.queue import Order
from scaling.launch.watch import Snapshot, WatchedRuns
from scaling.planning.plan import Plan
from scaling.store import claims
from scaling.store.claims import newest, owner
from scaling.store.ready import run_folder
from scaling.store.run_record import read_run
from scaling.store.table import publish_table
from scaling.training.flags import Slot

ONE, TWO = [Slot()], [Slot(), Slot()]
# A worker whose patience is short, so that a test's is not long.
IMPATIENT = """
import sys
from scaling.store import claims
claims.STALE_SECONDS = 2.0
from scaling.launch.worker import main
sys.exit(main(sys.argv[1:]))
"""


class Recorded(Local):
    """Knows the workers that it started; they take a run over that stood still for 2 seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Worker] = []

    def start(self, command: Sequence[str], log: Path, slot: Slot) -> Worker:
        python, _, _, *arguments = command
        self.started.append(super().start([python, "-c", IMPATIENT, *arguments], log, slot))
        return self.started[-1]


class Never(Local):
    """Its workers end at once and say why."""

    def start(self, command: Sequence[str], log: Path, slot: Slot) -> Worker:
        return super().start(["sh", "-c", "echo no module named scaling; exit 1"], log, slot)


def nothing(seen: Snapshot) -> None:
    """Shows nothing."""


def launch(
    local: Local,
    results: Path,
    slots: Sequence[Slot],
    order: Order,
    show: Callable[[Snapshot], None],
    max_seconds: float = math.inf,
) -> list[str]:
    """A launch of a pool; where runs are left, what its workers said last."""
    watch = WatchedRuns(results)
    engine = Pool(local, watch, order, slots)
    launch_engine(engine, watch, show, max_seconds)
    return engine.last_words() if watch.left else []


def folders(results: Path, plan: Plan) -> list[Path]:
    prepare(results, plan, b"")
    return [run_folder(results, run.run_id) for run in plan.runs]


def statuses(folders: Sequence[Path]) -> list[str]:
    return [read_run(folder).status for folder in folders]


def state(results: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file of every run, with its time and content."""
    files = (file for file in (results / "runs").rglob("*") if file.is_file())
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


@pytest.mark.slow
def test_dead_and_preempted_workers_are_followed_by_others_and_a_finished_study_stays(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    sweep = {"training.learning_rate": [0.02, 0.04, 1000.0]}
    made = plan(grid={"tokens": [1536]}, sweep=sweep)
    runs, local, snapshots = folders(tmp_path, made), Recorded(), list[Snapshot]()

    def show(seen: Snapshot) -> None:
        snapshots.append(seen)
        if len(snapshots) == 1:
            local.started[0].kill()
            local.started[1].terminate()

    assert launch(local, tmp_path, TWO, "cheapest-first", show) == []
    assert len(local.started) == 4
    assert statuses(runs) == ["completed"] * 4 + ["diverged"] * 2
    assert "at step" in (read_run(runs[4]).reason or "")
    assert (snapshots[-1].runs_done, snapshots[-1].runs) == (6, 6)
    assert snapshots[-1].flops_done == pytest.approx(snapshots[-1].flops)
    (log, *_) = sorted((tmp_path / LOGS).iterdir())
    assert f"process {local.started[0].pid} ended by signal 9" in log.read_text()

    table = pd.read_parquet(publish_table(tmp_path).path)
    assert (table["loss"].notna() == (table["status"] == "completed")).all()
    assert len(table) == 6

    before = state(tmp_path)
    assert prepare(tmp_path, made, b"") == []
    assert launch(local, tmp_path, TWO, "cheapest-first", nothing) == []
    assert state(tmp_path) == before and len(local.started) == 4


def test_a_launch_ends_when_its_time_is_up(plan: Callable[..., Plan], tmp_path: Path) -> None:
    runs = folders(tmp_path, plan())
    with pytest.raises(TimeUp):
        launch(Local(), tmp_path, ONE, "cheapest-first", nothing, max_seconds=0.0)
    assert statuses(runs) == ["planned"] * 3
    assert owner(runs[0]) is None


def test_workers_that_cannot_go_on_are_not_started_for_ever(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    runs = folders(tmp_path, plan())
    assert (
        launch(Never(), tmp_path, TWO, "cheapest-first", nothing)
        == ["log: " + " | ".join(["no module named scaling"] * 3)] * 2
    )
    assert statuses(runs) == ["planned"] * 3


@pytest.mark.slow
def test_a_log_that_cannot_be_written_stops_nothing(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    runs = folders(tmp_path, plan(grid={"tokens": [1536]}))
    (tmp_path / LOGS).write_text("no folder")
    assert launch(Local(), tmp_path, ONE, "cheapest-first", nothing) == []
    assert statuses(runs) == ["completed"] * 2


@pytest.mark.slow
def test_a_frozen_workers_run_is_taken_over_and_the_launch_ends(
    plan: Callable[..., Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pool, "END_SECONDS", 2.0)
    runs, local = folders(tmp_path, plan(grid={"tokens": [6144]})), Recorded()
    frozen: list[Worker] = []

    def show(seen: Snapshot) -> None:
        has = {claim.pid for run in runs if (claim := owner(run)) is not None}
        if not frozen and (mine := [each for each in local.started if each.pid in has]):
            frozen.extend(mine)
            mine[0].send_signal(signal.SIGSTOP)

    assert launch(local, tmp_path, TWO, "cheapest-first", show) == []
    assert statuses(runs) == ["completed"] * 2
    last = newest(runs[0])
    assert last is not None and last.generation == 3, "the second ended the first"
    assert f"process {frozen[0].pid} did not end and is killed" in capfd.readouterr().err
    assert frozen[0].poll() == -signal.SIGKILL


@pytest.mark.slow
def test_an_interrupt_is_over_in_bounded_time_and_says_who_is_waited_for(
    plan: Callable[..., Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pool, "STOP_SECONDS", 2.0)
    runs, local = folders(tmp_path, plan()), Recorded()

    def show(seen: Snapshot) -> None:
        if owner(runs[0]) is not None:
            local.started[0].send_signal(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        launch(local, tmp_path, ONE, "cheapest-first", show)
    said = capfd.readouterr().err
    pid = local.started[0].pid
    assert f"waiting at most 2 s for checkpoints of process {pid}. " in said
    assert local.started[0].poll() == -signal.SIGKILL
    assert statuses(runs)[1:] == ["planned"] * 2 and owner(runs[0]) is None


def test_a_second_interrupt_waits_no_more(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders(tmp_path, plan())
    killed = []

    class Deaf(Never):
        def start(self, command: Sequence[str], log: Path, slot: Slot) -> Worker:
            return Local.start(self, ["sleep", "600"], log, slot)

        def stop(self, worker: Worker) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        def kill(self, worker: Worker) -> None:
            super().kill(worker)
            killed.append(worker.returncode)

    def interrupt(seen: Snapshot) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(Deaf(), tmp_path, TWO, "cheapest-first", interrupt)
    assert killed == [-signal.SIGKILL] * 2


@pytest.mark.slow
def test_a_worker_that_is_frozen_alone_is_killed_and_followed_by_another(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, local, patience = folders(tmp_path, plan()), Recorded(), claims.STALE_SECONDS

    def freeze(seen: Snapshot) -> None:
        if len(local.started) > 1:
            monkeypatch.setattr(claims, "STALE_SECONDS", patience)
        elif seen.training:
            local.started[0].send_signal(signal.SIGSTOP)
            # Only while it is frozen: a worker may take longer to start.
            monkeypatch.setattr(claims, "STALE_SECONDS", 2.0)

    assert launch(local, tmp_path, ONE, "cheapest-first", freeze) == []
    assert statuses(runs) == ["completed"] * len(runs)
    assert local.started[0].returncode == -signal.SIGKILL
