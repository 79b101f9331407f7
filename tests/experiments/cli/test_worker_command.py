"""`scaling worker` trains what a plan has left, as the workers of a launch do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.cli.join.plan import plan_study
from scaling.launch.prepare import prepare
from scaling.launch.worker import worker_command
from scaling.store.claims import newest
from scaling.store.ready import run_folder
from scaling.store.run_record import read_run
from scaling.study import read_study

ROOT = Path(__file__).parents[3]
CLI = (sys.executable, "-m", "experiments.cli")


@pytest.fixture
def run(write_study: Callable[..., Path], tmp_path: Path) -> Path:
    """The folder of the one run of a study that is planned."""
    study = write_study()
    plan = plan_study(read_study(study)).plan
    (run,) = prepare(tmp_path / "grid", plan, study.read_bytes())
    return run_folder(tmp_path / "grid", run.run_id)


def worker(*words: object, **streams: object) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "worker", *map(str, words)]
    streams = streams or {"capture_output": True}
    return subprocess.run(command, cwd=ROOT, text=True, **streams)  # type: ignore[call-overload, no-any-return]


def test_it_trains_what_is_left_and_then_finds_nothing_to_do(run: Path) -> None:
    results = run.parents[1]
    done = worker(results)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("every run of the plan has ended\n")
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


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("nonsense", "Unable to initialize backend 'nonsense'"),
        ("cpu,nonsense", "Unable to initialize backend 'nonsense'"),
        ("cuda", ""),  # what jax says depends on the plugins that are there
    ],
)
@pytest.mark.parametrize("how", ["worker", "run", "as a launch starts it"])
def test_platforms_that_jax_has_not_are_refused_once_and_before_anything_is_written(
    run: Path, write_study: Callable[..., Path], how: str, asked: str, why: str
) -> None:
    # No device is seen, whatever this machine has.
    environment = {**os.environ, "JAX_PLATFORMS": asked, "CUDA_VISIBLE_DEVICES": "-1"}
    results = run.parents[1]
    commands = {
        "worker": [*CLI, "worker", str(results)],
        "run": [*CLI, "run", str(write_study()), "--results", str(results.parent)],
        "as a launch starts it": worker_command(results, "cheapest-first"),
    }
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    done = subprocess.run(
        commands[how], cwd=ROOT, text=True, capture_output=True, env=environment, check=False
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"jax finds no device here: JAX_PLATFORMS = {asked!r}: " in done.stderr
    assert why in done.stderr and "JAX_PLATFORMS=cpu trains without one" in done.stderr
    written = {path for path in results.rglob("*") if path.stat().st_mtime_ns != before.get(path)}
    assert not {path for path in written if not path.name.endswith(".lock")} - {results}


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    done = worker(tmp_path)
    assert done.returncode == 2
    assert "holds no plan" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_worker_that_is_told_to_stop_says_so_by_its_exit_code(run: Path) -> None:
    (run / "claims").mkdir()
    # Somebody else's for a minute: there is time to stop the one that waits.
    (run / "claims" / "000001.json").write_text("{")
    command = [sys.executable, "-m", "experiments.cli", "worker", str(run.parents[1])]
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--processes", 2, "--process", 0), "--coordinator is missing"),
        (("--coordinator", "node1"), "--coordinator node1: give HOST:PORT"),
        (("--together",), "give --coordinator HOST:PORT"),  # no cluster is found here
    ],
)
def test_processes_that_cannot_find_each_other_are_refused(
    words: tuple[object, ...], said: str, run: Path
) -> None:
    done = worker(run.parents[1], *words)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["none", "slurm"])
def test_two_processes_are_one_worker(cluster: str, run: Path) -> None:
    port, started = str(free_port()), []
    for number in range(2):
        words = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(number)]
        environment = dict(os.environ)
        if cluster == "slurm":  # what srun sets in a step of two tasks
            words = ["--together"]
            environment |= {
                "JAX_COORDINATOR_PORT": port,
                "SLURM_JOB_ID": "1",
                "SLURM_LOCALID": str(number),
                "SLURM_NODEID": "0",
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": str(number),
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_STEP_TASKS_PER_NODE": "2",
            }
        command = [sys.executable, "-m", "experiments.cli", "worker", str(run.parents[1]), *words]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    assert [process.wait(300) for process in started] == [0, 0]
    record = read_run(run)
    assert record.status == "completed"
    assert record.provenance[-1]["process_count"] == record.provenance[-1]["device_count"] == 2
