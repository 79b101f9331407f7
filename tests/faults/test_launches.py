"""What a launch prints is not its life, and what befalls its workers is not the grid's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaling.launch.output import LOGS
from scaling.store import claims
from scaling.store.claims import newest
from scaling.store.exclusive import create
from scaling.store.records import read_json
from scaling.store.run_record import read_run, run_folders

pytestmark = pytest.mark.slow
Survived = Callable[..., None]
ROOT = Path(__file__).parents[2]


def begun(grid: Any) -> None:
    """Wait until a run has a checkpoint."""
    while not list(grid.folder.glob("runs/*/attempts/*/checkpoints/*/checksums.json")):
        time.sleep(0.01)


def trained_by(grid: Any) -> list[int]:
    """How many processes trained each run."""
    return [len(read_run(run).provenance) for run in run_folders(grid.folder)]


def test_head_reads_a_line_and_the_grid_is_trained(
    grid: Any, undisturbed: Any, survived: Survived
) -> None:
    survived("closed pipe")
    process = grid.launch()
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    grid.assert_whole(undisturbed)


def test_a_terminal_that_is_closed_under_nohup(
    grid: Any, undisturbed: Any, survived: Survived
) -> None:
    """It hangs up on everyone, and takes nothing that is printed any more."""
    survived("closed terminal, ignored SIGHUP")
    terminal, side = os.openpty()
    command = [
        sys.executable,
        "-m",
        "experiments.cli",
        "run",
        grid.study,
        "--results",
        grid.results,
    ]
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *map(str, command), "--workers", "2"],
        **{"cwd": ROOT, "stdin": side, "stdout": side, "stderr": side},
        start_new_session=True,
    )
    os.close(side)
    begun(grid)
    os.close(terminal)
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(timeout=300) == 0
    assert set(trained_by(grid)) == {1}
    grid.assert_whole(undisturbed)


def test_a_hang_up_that_is_not_ignored_stops_in_order(
    grid: Any, undisturbed: Any, survived: Survived
) -> None:
    survived("SIGHUP")
    process = grid.launch()
    begun(grid)
    os.killpg(process.pid, signal.SIGHUP)
    code, said = grid.finish(process)
    assert code == 75, said
    assert not [run for run in run_folders(grid.folder) if read_run(run).status == "failed"]
    assert grid.finish(grid.launch())[0] == 0
    grid.assert_whole(undisturbed)


def test_logs_that_are_deleted_while_workers_die(
    grid: Any, undisturbed: Any, survived: Survived
) -> None:
    survived("logs deleted")
    process = grid.launch()
    begun(grid)
    shutil.rmtree(grid.folder / LOGS)
    for worker in children_of(process.pid):
        os.kill(worker, signal.SIGKILL)
    code, said = grid.finish(process)
    assert code == 0, said
    grid.assert_whole(undisturbed)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_runs_whose_processes_always_die_fail_and_say_so(
    grid: Any, undisturbed: Any, survived: Survived
) -> None:
    survived("every worker dies where it begins")
    code, said = grid.finish(grid.launch(SCALING_FAILPOINT="running"))
    assert code == 1 and "of 6 runs, 6 failed" in said
    reasons = [read_json(run / "run.json")["reason"] for run in run_folders(grid.folder)]
    died = [reason for reason in reasons if reason.startswith("it was begun 3 times from step 0")]
    assert len(died) == 2 and sum("its trunk" in reason for reason in reasons) == 4
    assert grid.finish(grid.launch("--retry", "failed"))[0] == 0
    grid.assert_whole(undisturbed)


def test_a_launcher_that_is_killed_alone_leaves_no_worker_behind(
    grid: Any, undisturbed: Any, survived: Survived
) -> None:
    survived("launcher killed, its workers alive")
    process = grid.launch()
    begun(grid)
    workers = children_of(process.pid)
    process.kill()
    grid.finish(process)
    while any(map(is_at_work, workers)):
        time.sleep(0.01)
    assert [run for run in run_folders(grid.folder) if not read_run(run).ended]
    assert grid.finish(grid.launch())[0] == 0
    grid.assert_whole(undisturbed)


def is_at_work(pid: int) -> bool:
    """Whether a process is there, and is more than what is left to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_machines_that_are_lost_again_and_again_are_no_fault_of_a_run(
    grid: Any, undisturbed: Any, survived: Survived, monkeypatch: pytest.MonkeyPatch
) -> None:
    survived("machine lost four times")
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.5)
    trunk = grid.ready()[0]
    for _ in range(4):
        last = newest(trunk)
        number = 1 if last is None else last.generation + 1
        lost = {"generation": number, "token": "0" * 12, "host": "lost", "boot": "", "pid": 1}
        assert create(
            trunk / "claims" / f"{number:06d}.json", {**lost, "started": "", "step": 0, "log": ""}
        )
        observer = claims.Observer()
        while observer.owner(trunk) is not None:
            time.sleep(0.1)
    assert set(grid.train()) == {"completed"}
    grid.assert_whole(undisturbed)
