"""What a killed, stopped or failed worker leaves behind, another finishes with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from models.sharding import make_mesh
from scaling.data.corpus import Corpus
from scaling.launch import worker
from scaling.launch.output import LOGS
from scaling.launch.prepare import prepare
from scaling.launch.stops import REFUSED, STOPS
from scaling.launch.worker import train_run, worker_command
from scaling.planning.plan import Plan
from scaling.spec import RunSpec
from scaling.store.attempt import attempt, last_checkpoint
from scaling.store.claims import Beginning, Observer, claimed, deaths
from scaling.store.manifest import read_manifest, write_manifest
from scaling.store.ready import run_folder
from scaling.store.records import Refusal, read_json, write_json
from scaling.store.run_record import read_run
from scaling.store.steps import read_steps
from scaling.training import checkpoint
from scaling.training.flags import worker_environment
from scaling.training.step import program_of

CLOCK = ["tokens_per_s", "mfu", "mfu_causal"]

# Not preexec_fn, which forks, and jax has threads. -1 is no limit.
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
os.execv(sys.argv[2], sys.argv[2:])
"""


def start(results: Path, limit: int = -1, **environment: str) -> subprocess.Popen[str]:
    """A worker with the flags of a study; `limit` is the size in bytes that no file may exceed."""
    as_usual = worker_environment()
    flags = as_usual["XLA_FLAGS"].replace("--xla_backend_optimization_level=0", "")
    command = worker_command(results, "cheapest-first")
    return subprocess.Popen(
        [sys.executable, "-c", LIMITED, str(limit), *command],
        env={**as_usual, "XLA_FLAGS": flags, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> int:
    said = process.communicate(timeout=600)[1]
    print(said[-3000:])  # shown by pytest when the test fails
    return process.returncode


def status(folder: Path) -> str:
    return str(read_json(folder / "run.json")["status"])


def final(spec: RunSpec, results: Path) -> list[bytes]:
    program = program_of(spec, make_mesh())
    folder = results / "runs" / spec.run_id / "checkpoints"
    state = checkpoint.restore(folder, spec.schedule.steps, program.abstract, spec.run_id)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def without_corpus(run: Path) -> None:
    """Let the run ask for a corpus that is nowhere."""
    record = read_run(run)
    wanted = record.changed(config={**record.config, "corpus": "f" * 12})
    write_json(run / "run.json", wanted.plain())


Ready = Callable[[Path], list[Path]]


@pytest.fixture(scope="module")
def small(plan: Callable[..., Plan]) -> Plan:
    """A trunk of 80 steps with a checkpoint at every second call, and its one branch."""
    return plan(grid={"tokens": [6144]})


@pytest.fixture(scope="module")
def ready(small: Plan, corpus: Corpus) -> Ready:
    def make(results: Path) -> list[Path]:
        runs = prepare(results, small, b"", retry=["failed"])
        return [run_folder(results, run.run_id) for run in runs]

    return make


@pytest.fixture(scope="module")
def undisturbed(ready: Ready, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("undisturbed")
    folders = ready(results)
    assert finish(start(results)) == 0
    assert [status(folder) for folder in folders] == ["completed", "completed"]
    return results


def assert_same(plan: Plan, one: Path, other: Path) -> None:
    for spec in plan.runs:
        assert final(spec, one) == final(spec, other)
        folders = [results / "runs" / spec.run_id for results in (one, other)]
        steps = [read_steps(folder).drop(columns=CLOCK) for folder in folders]
        pd.testing.assert_frame_equal(*steps, check_exact=True)
        ends = [read_json(folder / "run.json")["result"] for folder in folders]
        for end in ends:
            del end["tokens_per_s"]
        assert ends[0] == ends[1]


@pytest.mark.slow
def test_a_run_that_was_killed_and_then_stopped_ends_with_the_same_bits(
    small: Plan, ready: Ready, undisturbed: Path, tmp_path: Path
) -> None:
    folders = ready(tmp_path)
    trunk = folders[0]

    def once_it_has_a_checkpoint_beyond(step: int, number: int) -> int:
        process = start(tmp_path)
        while process.poll() is None:
            if last_checkpoint(trunk) > step:
                process.send_signal(number)
                break
            time.sleep(0.002)
        return finish(process)

    assert once_it_has_a_checkpoint_beyond(0, signal.SIGKILL) == -signal.SIGKILL
    assert status(trunk) == "running"
    killed_at = last_checkpoint(trunk)
    assert killed_at < 80
    assert once_it_has_a_checkpoint_beyond(killed_at, signal.SIGTERM) == 75
    assert status(trunk) == "planned"
    assert finish(start(tmp_path)) == 0
    assert_same(small, undisturbed, tmp_path)


@pytest.mark.slow
def test_a_full_disk_fails_the_run_and_loses_nothing(
    small: Plan, ready: Ready, undisturbed: Path, tmp_path: Path
) -> None:
    """Files may not grow beyond 12 kB: enough for records, not for a checkpoint or the table."""
    folders = ready(tmp_path)
    assert finish(start(tmp_path, limit=12_000)) == worker.REFUSED
    run = read_json(folders[0] / "run.json")
    assert run["status"] == "failed"
    assert "cannot write checkpoint" in run["reason"] and "\n" not in run["reason"]
    ready(tmp_path)
    assert finish(start(tmp_path)) == 0
    assert_same(small, undisturbed, tmp_path)


def test_a_run_that_cannot_start_fails_with_its_reason_and_so_does_its_branch(
    ready: Ready, small: Plan, tmp_path: Path
) -> None:
    trunk, branch = ready(tmp_path)
    assert finish(start(tmp_path, SCALING_CACHE=str(tmp_path / "empty"))) == 1
    assert status(trunk) == "failed"
    assert small.corpus.fingerprint in read_json(trunk / "run.json")["reason"]
    # Its branch has nowhere to start, and says so instead of training the trunk again.
    assert status(branch) == "failed"
    assert trunk.name in read_json(branch / "run.json")["reason"]


def test_a_log_that_can_hold_no_more_hides_no_reason(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = ready(tmp_path)[0]
    without_corpus(trunk)
    with monkeypatch.context() as patch, Path("/dev/full").open("w", buffering=1) as full:
        patch.setattr(sys, "stderr", full)
        assert train_run(trunk, lambda: False) == "failed"
        with suppress(OSError):
            full.close()
    assert "f" * 12 in read_json(trunk / "run.json")["reason"]


@pytest.mark.parametrize("number", STOPS)
def test_every_signal_that_asks_to_stop_ends_a_worker_in_order(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    trained = []

    def train_one(folder: Path, stopping: Callable[[], bool], *_: object) -> str:
        os.kill(os.getpid(), number)
        while not stopping():
            time.sleep(0.001)
        trained.append(folder)
        return "planned"

    trunk, _ = ready(tmp_path)
    monkeypatch.setattr(worker, "train_run", train_one)
    assert worker.main([str(tmp_path), "cheapest-first", "", "0"]) == worker.REQUEUE
    assert trained == [trunk]


def test_a_worker_whose_launcher_is_gone_stops(ready: Ready, tmp_path: Path) -> None:
    ready(tmp_path)
    nobody = str(os.getppid() + 1)
    assert worker.main([str(tmp_path), "cheapest-first", "", nobody]) == worker.REQUEUE


def test_a_worker_waits_while_others_have_what_is_left_and_ends_with_them(
    ready: Ready, tmp_path: Path
) -> None:
    trunk, branch = ready(tmp_path)
    with attempt(trunk) as other:
        process = start(tmp_path)
        while not list((tmp_path / "runs").glob("*/claims/*.json")):
            time.sleep(0.01)
        other.record("diverged", reason="of another")
    assert finish(process) == 1
    assert status(branch) == "diverged"


# --- what cannot be trained ---------------------------------------------------------------------


def test_a_run_whose_folder_cannot_be_written_is_given_up_with_its_branches(
    ready: Ready, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk, branch = ready(tmp_path)
    (trunk / "claims").write_text("no folder")
    told: list[str] = []
    assert worker.work(tmp_path, "cheapest-first", say=told.append) == REFUSED
    said = capsys.readouterr().err
    assert f"run {trunk.name} is given up: cannot write" in said
    assert "2 of 2 runs are given up here, one because cannot write" in said
    assert "every run of the plan has ended" not in told
    assert (status(trunk), status(branch)) == ("planned", "planned")


DIE = """
import os, sys
from pathlib import Path
from scaling.store.claims import Beginning, claimed
with claimed(Path(sys.argv[1]), Beginning(0, "a.log")):
    os.kill(os.getpid(), 9)
"""


def test_a_run_whose_process_dies_three_times_where_it_began_has_failed(
    ready: Ready, tmp_path: Path
) -> None:
    trunk, branch = ready(tmp_path)
    (tmp_path / LOGS).mkdir()
    (tmp_path / LOGS / "a.log").write_text("no memory\n")
    for _ in range(worker.MOST_DEATHS):
        subprocess.run([sys.executable, "-c", DIE, str(trunk)])
    said: list[str] = []
    assert worker.work(tmp_path, "cheapest-first", say=said.append) == 1
    assert said[:2] == [f"run {trunk.name} begins, 2 are left with it", f"run {trunk.name}: failed"]
    assert said[-1] == "every run of the plan has ended"
    reason = read_json(trunk / "run.json")["reason"]
    assert reason.startswith("it was begun 3 times from step 0 and its process died each time")
    assert reason.endswith("log: no memory")
    assert "its trunk" in read_json(branch / "run.json")["reason"]
    ready(tmp_path)  # it is tried again
    with claimed(trunk, Beginning(0)) as mine:
        assert deaths(trunk, mine) == []


# --- the program --------------------------------------------------------------------------------


def test_a_worker_of_another_program_than_the_plan_refuses(ready: Ready, tmp_path: Path) -> None:
    folders = ready(tmp_path)
    manifest = read_manifest(tmp_path)
    write_manifest(tmp_path, manifest.changed(source_sha256="0" * 64))
    process = start(tmp_path)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == worker.REFUSED
    (line,) = said.splitlines()
    assert "0" * 12 in line and manifest.source_sha256[:12] in line
    assert "Give the same `scaling run` again" in line
    assert [status(folder) for folder in folders] == ["planned"] * 2


def test_so_does_one_whose_program_is_changed_between_two_runs(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk, branch = ready(tmp_path)

    def train_one(folder: Path, *_: object) -> str:
        with attempt(folder) as mine:
            mine.record("failed", reason="a trial")
        monkeypatch.setattr(worker, "source_digest", lambda _: "f" * 64)  # somebody updates it
        return "failed"

    monkeypatch.setattr(worker, "train_run", train_one)
    with pytest.raises(Refusal, match=f"what lies on disk now is source {'f' * 12}"):
        worker.work(tmp_path, "cheapest-first")
    assert (status(trunk), status(branch)) == ("failed", "planned")


def test_a_finished_run_is_not_touched(ready: Ready, tmp_path: Path) -> None:
    folders = ready(tmp_path)
    for folder in folders:
        with attempt(folder) as mine:
            mine.record("completed", result={"loss": 2.5})
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert {train_run(folder, lambda: False) for folder in folders} == {"completed"}
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_owners_that_stood_still_did_not_die(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaling.store.claims.STALE_SECONDS", 0.3)
    folder = run_folder(tmp_path, prepare(tmp_path, plan(), b"")[0].run_id)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(claimed(folder, Beginning(0)))
            monkeypatch.setattr("scaling.store.claims._write_beat", lambda *_: None)
            observer = Observer()
            while observer.owner(folder) is not None:
                time.sleep(0.05)
        assert deaths(folder, held.enter_context(claimed(folder, Beginning(0)))) == []
