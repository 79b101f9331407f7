"""Whatever happens to a grid on its way, it comes out complete, once, with the same bits."""

from __future__ import annotations

import itertools
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd
import pytest

from experiments.cli.status import looked_at
from scaling.launch.worker import train_run
from scaling.store import claims as claim
from scaling.store.attempt import last_checkpoint
from scaling.store.claims import Observer
from scaling.store.records import Refusal, read_json
from scaling.store.run_record import run_folders
from scaling.store.steps import verify_checkpoint
from scaling.store.table import publish_table
from scaling.training import loop
from scaling.training.flags import worker_environment

pytestmark = [
    pytest.mark.slow,
    # Orbax leaves the tasks of a save or a read that failed to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

Survived = Callable[..., None]
Make = Callable[..., Any]

ROOT = Path(__file__).parents[2]

# In the order in which a run meets them; `:k` is the k-th pass.
OF_A_WORKER = [
    *["claimed", "attempt-linked", "attempt-begun", "replacing", "running", "resumed"],
    *["commit", "segment-written", "checkpoint-written", "checkpoint-saved", "checkpoints-kept"],
    *["commit:2", "segment-written:2", "checkpoint-written:2"],
    *["checkpoint-saved:2", "checkpoints-kept:2"],
    *["steps-merged", "evals-written", "publish", "published"],
    *["settled-checkpoint", "settled-checkpoint:2", "settled-table", "settled-table:2"],
    *["attempts-removed", "settled-run"],
]
OF_A_LAUNCHER = [
    *["study-written", "plan-written", "manifest-written", "planned", "planned:3", "replanned"],
    *["table-collected", "table-written"],
]
# Where there are tasks: around each write of their answers.
OF_A_WORKER_WITH_TASKS = [
    *["scores-written", "segment-written", "checkpoint-saved", "scores-written:2", "commit:2"],
    *["steps-merged", "evals-written", "published", "settled-table"],
]
OF_A_LAUNCHER_WITH_TASKS = ["scores-collected", "scores-table-written"]
WITH_TASKS = (
    ("tokens = [3072, 6144]", "tokens = [3072]"),
    ("seeds = [0, 1]", "seeds = [0]"),
    (
        "[evaluation]",
        '[tasks]\nfraction = 0.25\nlist = [{ task = "steps_direct", steps = 1 }]\nitems = 8\n'
        "[evaluation]",
    ),
)


# A process that trains the runs it is given, in order.
OF_RUNS = """
import sys; from pathlib import Path; from scaling.launch.worker import train_run
for folder in sys.argv[1:]:
    train_run(Path(folder))
"""


def training(folders: list[Path], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OF_RUNS, *map(str, folders)],
        cwd=ROOT,
        env={**worker_environment(), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


# Workers one after the other, each a process that begins where the imports are done: they take
# longer than all that a worker does here. That so many die is no fault of a run.
NURSERY = """
import os, sys, warnings
import scaling.training.jax_setup, scaling.training.loop, scaling.launch.worker
scaling.launch.worker.MOST_DEATHS = 1000
warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # no program runs in this process
for name in sys.stdin:
    if (child := os.fork()) == 0:
        os.environ["SCALING_FAILPOINT"] = name.strip()
        sys.stdout = open(os.devnull, "w")  # a worker that no launch watches says what it does
        os._exit(scaling.launch.worker.main([sys.argv[1], "cheapest-first", "", "0"]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_every_place_to_die_is_tried() -> None:
    """Here, or with the corpora and the buckets that have such places."""
    sources, tests = (
        "".join(file.read_text() for file in (ROOT / folder).rglob("*.py"))
        for folder in ("scaling", "tests")
    )
    places = set(re.findall(r'failpoint\("(.+?)"\)', sources))
    tried = set(re.findall(r'"([a-z-]+)(?::\d+)?(?:-[\w-]+)?"', tests))
    assert len(places) > 40
    assert places - tried == set()


def test_killed_at_every_write_of_a_worker(grid: Any, undisturbed: Any, survived: Survived) -> None:
    survived("killed at a failpoint of a worker", len(OF_A_WORKER))
    kill_workers(grid, OF_A_WORKER)
    assert set(grid.train()) == {"completed"}
    grid.assert_whole(undisturbed)


def kill_workers(grid: Any, places: list[str]) -> None:
    """Train with one worker after the other, each killed at its place."""
    grid.ready()
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(grid.folder)],
        **{"cwd": ROOT, "env": worker_environment(), "text": True},
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE},
    ) as nursery:
        assert nursery.stdin is not None and nursery.stdout is not None
        for name in places:
            print(name, file=nursery.stdin, flush=True)
            assert nursery.stdout.readline() == f"{-signal.SIGKILL}\n", f"{name} was not reached"


def test_killed_at_every_write_of_a_launcher(
    grid: Any, undisturbed: Any, survived: Survived
) -> None:
    survived("killed at a failpoint of a launcher", len(OF_A_LAUNCHER))
    for name in OF_A_LAUNCHER:
        if name == "replanned":  # its run.json was lost meanwhile
            run = next(iter(run_folders(grid.folder)))
            (run / "run.json").write_text("")
        if name == "table-collected":
            grid.train()
            (grid.folder / "runs.parquet").unlink()
        code, said = grid.finish(grid.launch(SCALING_FAILPOINT=name))
        assert code == -signal.SIGKILL, f"{name} was not reached\n{said}"
    assert grid.finish(grid.launch())[0] == 0
    grid.assert_whole(undisturbed)


@pytest.fixture(scope="module")
def answered(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trunk and a branch with tasks, that nothing happened to."""
    grid = make(tmp_path_factory.mktemp("answered"), *WITH_TASKS)
    assert grid.train() == {"completed": 2}
    return grid


def assert_answered(grid: Any, truth: Any) -> None:
    """As `assert_whole`, the table of answers too."""
    grid.assert_whole(truth)
    scores = [pd.read_parquet(each.folder / "scores.parquet") for each in (grid, truth)]
    assert len(scores[0]) and not scores[0].duplicated(["run_id", "step", "task", "metric"]).any()
    pd.testing.assert_frame_equal(*scores, check_exact=True)


def test_killed_at_every_write_of_answers(
    make: Make, answered: Any, tmp_path: Path, survived: Survived
) -> None:
    places = len(OF_A_WORKER_WITH_TASKS) + len(OF_A_LAUNCHER_WITH_TASKS)
    survived("killed at a failpoint of a run with tasks", places)
    grid = make(tmp_path, *WITH_TASKS)
    kill_workers(grid, OF_A_WORKER_WITH_TASKS)
    for name in OF_A_LAUNCHER_WITH_TASKS:
        code, said = grid.finish(grid.launch(SCALING_FAILPOINT=name))
        assert code == -signal.SIGKILL, f"{name} was not reached\n{said}"
        assert (grid.folder / "scores.parquet").exists() == (name == "scores-table-written")
    assert grid.finish(grid.launch())[0] == 0
    assert_answered(grid, answered)


def test_a_damaged_file_of_answers(
    make: Make, answered: Any, tmp_path: Path, survived: Survived
) -> None:
    grid = make(tmp_path, *WITH_TASKS)
    for damage, place in ((truncate, "checkpoints-kept:2"), (flip, "checkpoints-kept")):
        survived(f"{damage.__name__}: a file of answers")
        kill_workers(grid, [place])
        file = max(grid.folder.glob("runs/*/attempts/*/evals/*.parquet"))
        data = file.read_bytes()
        file.unlink()  # hard links would damage both
        file.write_bytes(damage(data))
    assert set(grid.train()) == {"completed"}
    assert_answered(grid, answered)


# --- damaged files ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halfway(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A grid whose first trunk is published and not settled, the second killed on its way."""
    grid = make(tmp_path_factory.mktemp("halfway"))
    folders = grid.ready()
    trunks = [folder for folder in folders if read_json(folder / "run.json")["run_kind"] == "trunk"]
    for trunk, place in zip(trunks, ("published", "checkpoints-kept:6"), strict=True):
        process = training([trunk], SCALING_FAILPOINT=place)
        assert process.wait(timeout=300) == -signal.SIGKILL
        process.communicate()
    return grid


FILES = {
    "run.json": "runs/*/run.json",
    "a claim": "runs/*/claims/*.json",
    "a heartbeat": "runs/*/claims/*.beat",
    "a publication": "runs/*/published/*.json",
    "progress.json": "runs/*/attempts/*/progress.json",
    "a checkpoint's data": "runs/*/attempts/*/checkpoints/*/**/d/*",
    "a checkpoint's checksums": "runs/*/attempts/*/checkpoints/*/checksums.json",
    "a segment of steps": "runs/*/attempts/*/steps/*.parquet",
    "study.toml": "study.toml",
    "plan.csv": "plan.csv",
    "plan.json": "plan.json",
}


OF_A_FINISHED_RUN = ["run.json", "steps.parquet", "evals.parquet"]


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    """One bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :] if data else data


@pytest.mark.parametrize("what", FILES)
def test_a_damaged_file_of_every_kind(
    grid: Any,
    halfway: Any,
    undisturbed: Any,
    survived: Survived,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """One is cut short and, after it was seen, a bit flips in another where there is one."""
    monkeypatch.setattr(claim, "STALE_SECONDS", 0.0)
    shutil.copytree(halfway.folder, grid.folder, copy_function=shutil.copy)
    files = [file for file in grid.folder.glob(FILES[what]) if file.is_file()]
    for damage, file in zip((truncate, flip), (files[-1], files[-2:][0]), strict=True):
        survived(f"{damage.__name__}: {what}")
        data = file.read_bytes()
        file.unlink()  # hard links would damage both
        file.write_bytes(damage(data))
        for folder in grid.ready():
            Observer().owner(folder)
    assert set(grid.train()) == {"completed"}
    grid.assert_whole(undisturbed)


@pytest.mark.parametrize("what", OF_A_FINISHED_RUN)
def test_damage_to_a_finished_run_is_reported_and_mended_when_asked(
    grid: Any, undisturbed: Any, survived: Survived, what: str
) -> None:
    shutil.copytree(undisturbed.folder, grid.folder, copy_function=shutil.copy)
    victims = [grid.run_folder(spec) for spec in grid.plan.runs[::5]]  # a trunk, and a branch
    for damage, run in zip((truncate, flip), victims, strict=True):
        survived(f"{damage.__name__}: {what} of a finished run")
        (run / what).write_bytes(damage((run / what).read_bytes()))
    reported = publish_table(grid.folder).damaged
    assert set(reported) == {run.name for run in victims}
    assert all(what in reason for reason in reported.values())
    assert set(grid.train(retry=["failed"])) == {"completed"}
    grid.assert_whole(undisturbed)
    for run in victims:
        assert (run / what).with_suffix(".unreadable").exists()


@pytest.mark.parametrize("damage", [truncate, None])
def test_a_checkpoint_of_a_finished_run_that_is_not_whole_is_reported_and_made_again_when_asked(
    grid: Any, undisturbed: Any, survived: Survived, damage: Callable[[bytes], bytes] | None
) -> None:
    shutil.copytree(undisturbed.folder, grid.folder, copy_function=shutil.copy)
    spec = grid.plan.runs[0]
    survived(f"{'cut' if damage else 'missing'} file in a finished run's last checkpoint")
    last = grid.run_folder(spec) / "checkpoints" / str(spec.schedule.steps)
    file = max(last.rglob("d/*"))
    before = file.read_bytes()
    file.unlink() if damage is None else file.write_bytes(damage(before))
    (row,) = [row for row in looked_at(grid.folder).runs if row["reason"]]
    assert (row["run_id"], row["status"]) == (spec.run_id, "completed") and row["loss"] is not None
    assert file.name in row["reason"] and "--retry failed" in row["reason"]
    assert publish_table(grid.folder).damaged == {}, "its loss is whole"
    assert set(grid.train(retry=["failed"])) == {"completed"}
    grid.assert_whole(undisturbed)
    verify_checkpoint(last, spec.run_id)
    assert not [row for row in looked_at(grid.folder).runs if row["reason"]]


# --- the disk ---------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system in memory, mounted with the options given; the user must be root."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = ["-o", f"remount,{options}"] if folder.is_mount() else ["-o", options]
        done = subprocess.run(["mount", "-t", "tmpfs", *again, "none", str(folder)])
        if done.returncode:
            pytest.skip("mounting is not allowed here; a limit on file sizes stands in elsewhere")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(
    make: Make, undisturbed: Any, disk: Callable[[str], Path], survived: Survived
) -> None:
    sizes = ["300k", "600k", "900k"]
    survived("disk full", len(sizes))
    grid = make(disk("size=200k"))
    for size in sizes:
        disk(f"size={size}")
        try:
            ended = grid.train(retry=["failed"])
            assert ended["failed"]
        except Refusal as error:
            assert "cannot write" in str(error)
    disk("size=100m")
    assert set(grid.train(retry=["failed"])) == {"completed"}
    grid.assert_whole(undisturbed)


def test_a_full_disk_under_a_launcher(
    make: Make, undisturbed: Any, disk: Callable[[str], Path], survived: Survived
) -> None:
    survived("disk full under a launcher")
    grid = make(disk("size=400k"))
    code, said = grid.finish(grid.launch(workers=1))
    told = [read_json(run / "run.json")["reason"] for run in run_folders(grid.folder)]
    assert code in (1, 2) and "No space left" in " ".join([said, *filter(None, told)])
    disk("size=100m")
    assert grid.finish(grid.launch("--retry", "failed"))[0] == 0
    grid.assert_whole(undisturbed)


def test_a_read_only_folder(
    make: Make, undisturbed: Any, disk: Callable[[str], Path], survived: Survived
) -> None:
    survived("read-only folder", 2)
    grid = make(disk("size=100m"))
    folders = grid.ready()
    disk("size=100m,ro")
    for attempt in (grid.train, lambda: train_run(folders[0], lambda: False)):
        with pytest.raises(Refusal, match="cannot write"):
            attempt()
    disk("size=100m,rw")
    assert set(grid.train()) == {"completed"}
    grid.assert_whole(undisturbed)


# --- time, and others -------------------------------------------------------------------------


def test_clocks_that_jump(
    grid: Any, undisturbed: Any, survived: Survived, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty years back and forth at every look, in the midst of a checkpoint too."""
    survived("wall clock jumps fifty years at every look")
    now, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() + 1.6e9 * (next(looks) % 2))
    assert set(grid.train()) == {"completed"}
    assert next(looks) > 1000
    grid.assert_whole(undisturbed)


@pytest.mark.parametrize("launchers", [2, 8])
def test_launchers_at_once(grid: Any, undisturbed: Any, survived: Survived, launchers: int) -> None:
    survived(f"{launchers} launchers at once")
    processes = [grid.launch(workers=1) for _ in range(launchers)]
    for code, said in map(grid.finish, processes):
        assert code == 0, said
    grid.assert_whole(undisturbed)
    for run in run_folders(grid.folder):
        assert len(read_json(run / "run.json")["provenance"]) == 1, "trained twice"


@pytest.mark.parametrize("checkpoints", [1, 3])
def test_an_owner_that_was_paused_and_wakes_after_it_was_replaced(
    grid: Any,
    undisturbed: Any,
    survived: Survived,
    monkeypatch: pytest.MonkeyPatch,
    checkpoints: int,
) -> None:
    survived("owner paused, taken over, woken")
    monkeypatch.setattr(claim, "STALE_SECONDS", 0.5)
    folders = grid.ready()
    process = training(folders[:1])
    while last_checkpoint(folders[0]) < 8 * checkpoints:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    observer = Observer()
    while observer.owner(folders[0]) is not None:
        time.sleep(0.1)
    assert set(grid.train()) == {"completed"}
    process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0 and "replaced by process" in said
    grid.assert_whole(undisturbed)


def test_a_study_that_is_edited_in_between(make: Make, tmp_path: Path, survived: Survived) -> None:
    """One budget is dropped, a longer one added, and one that its trunk has passed already."""
    survived("study edited in between", 2)
    asked = "tokens = [3072, 6144]"
    wanted = (asked, "tokens = [3072, 4608, 8192]")
    truth = make(tmp_path / "truth", wanted)
    assert set(truth.train()) == {"completed"}

    finished = make(tmp_path / "finished")
    assert set(finished.train()) == {"completed"}
    stopped = make(tmp_path / "stopped")
    process = training(stopped.ready(), SCALING_FAILPOINT="checkpoints-kept:12")
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    for grid in (finished, stopped):
        before = {run.name for run in run_folders(grid.folder)}
        edited = make(grid.study.parent, wanted)
        assert set(edited.train()) == {"completed"}
        edited.assert_whole(truth)
        vanished = before - {spec.run_id for spec in edited.plan.runs}
        assert len(vanished) == 2 and vanished < {run.name for run in run_folders(grid.folder)}
    assert publish_table(stopped.folder).orphans == ()
    assert len(publish_table(finished.folder).orphans) == 2


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["parameters", "a batch"])
def test_values_that_are_no_numbers(
    grid: Any,
    undisturbed: Any,
    survived: Survived,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """One trunk diverges; branches that start before it do not; a second try mends it."""
    survived(f"NaN injected into {what}")
    advance = loop._Loop._advance
    poisoned = grid.plan.runs[0].run_id

    def poison(self: Any, state: Any, call: Any) -> Any:
        if self.spec.run_id == poisoned and call.first == 48 and what == "parameters":
            state = jax.tree.map(lambda x: x * jnp.nan if x.dtype == jnp.float32 else x, state)
        if self.spec.run_id == poisoned and call.first == 48 and what == "a batch":
            state, metrics = advance(self, state, call)
            return state, metrics._replace(loss=metrics.loss * jnp.nan)
        return advance(self, state, call)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_advance", poison)
        assert grid.train() == {"completed": 4, "diverged": 2}
    assert grid.train() == {}
    assert grid.train(retry=["diverged"]) == {"completed": 2}
    grid.assert_whole(undisturbed)


def test_a_program_that_does_not_compile_fails_its_run_alone(
    grid: Any, undisturbed: Any, survived: Survived, monkeypatch: pytest.MonkeyPatch
) -> None:
    survived("compilation fails")
    program_of, broken = loop.program_of, grid.plan.runs[0].seed

    def fail(spec: Any, *more: Any) -> Any:
        if spec.seed == broken:
            raise RuntimeError("INTERNAL: the compiler gave up\nat some length")
        return program_of(spec, *more)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "program_of", fail)
        assert grid.train() == {"completed": 3, "failed": 3}
    reason = read_json(grid.run_folder(grid.plan.runs[0]) / "run.json")["reason"]
    assert reason == "RuntimeError: INTERNAL: the compiler gave up"
    assert grid.train(retry=["failed"]) == {"completed": 3}
    grid.assert_whole(undisturbed)


def test_a_launch_that_reaches_its_time_limit(
    grid: Any, undisturbed: Any, survived: Survived
) -> None:
    survived("--max-hours reached")
    code, said = grid.finish(grid.launch("--max-hours", "0.0005"))
    assert code == 75 and "of 6 runs are not finished" in said
    assert grid.finish(grid.launch())[0] == 0
    grid.assert_whole(undisturbed)
