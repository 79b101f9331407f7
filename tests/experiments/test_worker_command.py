"""`scaling worker` trains what a plan has left, as the workers of a launch do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.planning import plan_study
from scaling.launch.prepare import prepare
from scaling.store.claims import newest
from scaling.store.ready import run_folder
from scaling.store.run_record import read_run
from scaling.study import read_study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(write_study: Callable[..., Path], tmp_path: Path) -> Path:
    """The folder of the one run of a study that is planned."""
    study = write_study()
    plan = plan_study(read_study(study)).plan
    (run,) = prepare(tmp_path / "grid", plan, study.read_bytes())
    return run_folder(tmp_path / "grid", run.run_id)


def worker(*words: object, **streams: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments", "worker", *map(str, words)]
    streams = streams or {"capture_output": True}
    return subprocess.run(command, cwd=ROOT, text=True, **streams)  # type: ignore[call-overload, no-any-return]


def test_it_trains_what_is_left_and_then_finds_nothing_to_do(run: Path) -> None:
    results = run.parents[1]
    done = worker(results)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert read_run(run).status == "completed"
    before = newest(run)
    assert worker(results, "--order", "longest-first").returncode == 0
    assert newest(run) == before


def test_its_exit_code_is_right_where_nothing_can_be_printed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.joinpath("attempts").write_text("no folder")  # the run fails, with a traceback in the log
    with Path("/dev/full").open("w") as full:
        assert worker(run.parents[1], stdout=full, stderr=full).returncode == 1
    assert read_run(run).status == "failed"


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    done = worker(tmp_path)
    assert done.returncode == 2
    assert "holds no plan" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_worker_that_is_told_to_stop_says_so_by_its_exit_code(run: Path) -> None:
    (run / "claims").mkdir()
    # Somebody else's for a minute: there is time to stop the one that waits.
    (run / "claims" / "000001.json").write_text("{")
    command = [sys.executable, "-m", "experiments", "worker", str(run.parents[1])]
    process = subprocess.Popen(command, cwd=ROOT)
    while not is_waiting(process.pid):
        assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=60) == 75


def is_waiting(pid: int) -> bool:
    """Whether the process is a worker that notes signals (SigCgt of proc(5)): the exec is over."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    started = b"start.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return started and bool(int(caught, 16) & 1 << 14)  # SIGTERM is 15
