"""Two processes of one worker, on a CPU: they train what one would, and end together."""

from __future__ import annotations

import socket
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import pandas as pd
import pytest

from scaling.data.corpus import Corpus
from scaling.launch.hosts import place_of, slot_of
from scaling.launch.prepare import prepare
from scaling.launch.stops import REQUEUE
from scaling.launch.worker import REFUSED, worker_command
from scaling.planning.plan import Plan
from scaling.store.attempt import last_checkpoint
from scaling.store.records import Refusal
from scaling.store.run_record import read_run, run_folders
from scaling.store.steps import read_steps
from scaling.training.flags import Slot, worker_environment
from scaling.training.processes import Place, join

CLOCK = ["tokens_per_s", "mfu", "mfu_causal"]
# Two devices sum a batch's gradient in another order than one, which changes its last bits, 1e-7 of
# it, in each of 80 steps, one after the other. Measured: losses differ by 2e-6, norms of gradients
# by 4e-6 and standard errors by 6e-6.
ROUNDING = 5e-5


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


# A worker in whose program something is changed first.
PATCHED = "import sys; from scaling.launch.worker import main; {}; sys.exit(main(sys.argv[1:]))"


def start(
    results: Path, count: int, patches: Mapping[int, str] = MappingProxyType({}), **last: str
) -> list[subprocess.Popen[str]]:
    """The processes of one worker, with the flags of a study.

    `patches` are by process what it executes first; `last` is added to the last one's environment.
    """
    as_usual = worker_environment()
    flags = as_usual["XLA_FLAGS"].replace("--xla_backend_optimization_level=0", "")
    coordinator = f"127.0.0.1:{free_port()}"
    started = []
    for index in range(count):
        command = worker_command(results, "cheapest-first", place=Place(coordinator, count, index))
        if index in patches:
            code = f"exec({textwrap.dedent(patches[index])!r})"
            command = [command[0], "-c", PATCHED.format(code), *command[3:]]
        started.append(
            subprocess.Popen(
                command,
                env={**as_usual, "XLA_FLAGS": flags, **(last if index == count - 1 else {})},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(processes: list[subprocess.Popen[str]]) -> list[int]:
    """Their exit codes; where they do not end, they are killed."""
    try:
        for number, process in enumerate(processes):
            said = process.communicate(timeout=600)[1]
            print(f"process {number}:", said[-3000:])  # shown by pytest when the test fails
        return [process.returncode for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def small(plan: Callable[..., Plan]) -> Plan:
    """A trunk of 80 steps with a checkpoint at every second call, and its one branch."""
    return plan(grid={"tokens": [6144]})


@pytest.fixture(scope="module")
def ready(small: Plan, corpus: Corpus) -> Callable[[Path], Path]:
    def make(results: Path) -> Path:
        prepare(results, small, b"", retry=["failed"])
        return results

    return make


@pytest.fixture(scope="module")
def by_two(ready: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two processes that nothing disturbed."""
    results = ready(tmp_path_factory.mktemp("two"))
    assert finish(start(results, 2)) == [0, 0]
    return results


def checkpoints(results: Path) -> list[Path]:
    # Not by `**`, which fails where a folder that it walks goes meanwhile.
    places = ("runs/*", "runs/*/attempts/*")
    return [
        file
        for place in places
        for file in results.glob(f"{place}/checkpoints/[0-9]*/checksums.json")
    ]


@contextmanager
def in_mid_run(results: Path, count: int) -> Iterator[list[Any]]:
    """The processes of a worker that has written a checkpoint, and is far from the end."""
    processes = start(results, count)
    try:
        while not checkpoints(results):
            assert all(process.poll() is None for process in processes), finish(processes)
            time.sleep(0.05)
        yield processes
    finally:
        for process in processes:
            process.kill()


def assert_same(plan: Plan, one: Path, other: Path, **within: float) -> None:
    """To the bit, or the losses within a relative difference."""
    for spec in plan.runs:
        folders = [results / "runs" / spec.run_id for results in (one, other)]
        assert [read_run(folder).status for folder in folders] == ["completed", "completed"]
        steps = [read_steps(folder).drop(columns=CLOCK) for folder in folders]
        pd.testing.assert_frame_equal(*steps, check_exact=not within, **within)


@pytest.mark.slow
def test_what_one_process_began_two_end(by_two, ready, small, tmp_path) -> None:
    with in_mid_run(ready(tmp_path), 1) as (process,):
        process.terminate()
        assert finish([process]) == [REQUEUE]
    assert finish(start(tmp_path, 2)) == [0, 0]
    assert_same(small, by_two, tmp_path, rtol=ROUNDING)


@pytest.mark.slow
def test_two_processes_stop_together_and_one_ends_what_they_began(
    by_two, ready, small, tmp_path
) -> None:
    with in_mid_run(ready(tmp_path), 2) as processes:
        processes[1].terminate()  # the one that does not lead
        assert finish(processes) == [REQUEUE, REQUEUE]
    (stopped,) = {last_checkpoint(run) for run in run_folders(tmp_path)} - {0}
    print(f"stopped at step {stopped}")
    assert finish(start(tmp_path, 1)) == [0]
    assert_same(small, by_two, tmp_path, rtol=ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_is_killed_all_end_and_two_others_go_on_to_the_same_bits(
    killed, by_two, ready, small, tmp_path
) -> None:
    with in_mid_run(ready(tmp_path), 2) as processes:
        processes[killed].kill()
        codes = finish(processes)  # jax ends the other within the heartbeat's timeout
        assert 0 not in codes
    assert finish(start(tmp_path, 2)) == [0, 0]
    assert_same(small, by_two, tmp_path)


@pytest.mark.slow
def test_two_processes_answer_tasks_as_one_does(plan, corpus, tmp_path) -> None:
    tasks = {
        "fraction": 0.5,
        "list": [{"task": "steps_direct", "steps": 1}],
        "shots": [0],
        "items": 12,
    }
    asked = plan(tasks=tasks, grid={"tokens": [1536]})
    found = []
    for count in (1, 2):
        results = tmp_path / str(count)
        (run,) = prepare(results, asked, b"")[:1]
        assert finish(start(results, count)) == [0] * count
        found.append(pd.read_parquet(results / "runs" / run.run_id / "evals.parquet"))
    one, two = found
    assert set(one["metric"]) > {"exact_match", "loss"}
    pd.testing.assert_frame_equal(one, two, rtol=1e-3, atol=1e-3)  # of rates of 12 answers


@pytest.mark.slow
def test_a_run_fails_of_what_one_process_cannot_begin(ready, small, tmp_path) -> None:
    refusing = """
    import scaling.launch.hosts as hosts
    from scaling.store.records import Refusal
    def refuse(corpus, cache): raise Refusal("its corpus is damaged")
    hosts.loaded = refuse
    """
    codes = finish(start(ready(tmp_path), 2, {1: refusing}))
    assert codes == [1, 1]  # they go on together to the next run, of which the same is true
    trunk, _ = (read_run(tmp_path / "runs" / spec.run_id) for spec in small.runs)
    assert trunk.status == "failed"
    assert str(trunk.reason).startswith("process 1 of 2 on ")
    assert "its corpus is damaged" in str(trunk.reason)


@pytest.mark.slow
def test_where_one_lacks_the_corpus_none_begins(ready, small, tmp_path, capfd) -> None:
    codes = finish(start(ready(tmp_path), 2, SCALING_CACHE=str(tmp_path / "empty")))
    assert codes == [REFUSED, REFUSED]
    records = [read_run(tmp_path / "runs" / spec.run_id) for spec in small.runs]
    assert {record.status for record in records} == {"planned"}
    corpus = small.corpus.fingerprint
    said = f"process 1 of 2 has corpus {corpus} with tokens that are missing or damaged and"
    assert said in capfd.readouterr().out


@pytest.mark.slow
def test_when_process_0_cannot_write_all_leave_that_run_and_go_on(ready, small, tmp_path) -> None:
    full = """
    import scaling.training.loop as loop
    from scaling.store.records import Refusal
    def refuse(*_): raise Refusal("the disk is full")
    loop.write_segment = refuse
    """
    assert finish(start(ready(tmp_path), 2, {0: full})) == [1, 1]
    trunk, _ = (read_run(tmp_path / "runs" / spec.run_id) for spec in small.runs)
    assert (trunk.status, trunk.reason) == ("failed", "the disk is full")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_an_error_of_one_process_alone_ends_all_and_is_recorded(
    number, ready, small, tmp_path
) -> None:
    soon = """
    import scaling.launch.hosts as hosts
    hosts.LEAVE_SECONDS = 1.0
    """
    lost = """
    from scaling.data.batches import Batches
    before = Batches.span
    def span(self, first, count, rows):
        if first >= 20: raise OSError("the disk is gone")
        return before(self, first, count, rows)
    Batches.span = span
    """
    patches = {0: soon, 1: lost} if number else {0: soon + lost}
    codes = finish(start(ready(tmp_path), 2, patches))
    assert codes[0] == REQUEUE  # it waited for the other in a step, and cannot go on
    assert codes[1] != 0
    trunk, _ = (read_run(tmp_path / "runs" / spec.run_id) for spec in small.runs)
    assert trunk.status == "failed"
    assert str(trunk.reason).startswith(f"process {number} of 2 on ")
    assert str(trunk.reason).endswith(": OSError: the disk is gone")


@pytest.mark.slow
def test_processes_of_different_versions_are_refused_in_one_line(ready, tmp_path, capfd) -> None:
    older = "import scaling.launch.hosts as hosts; hosts.version = lambda name: '0.9.9'"
    assert finish(start(ready(tmp_path), 2, {1: older})) == [REFUSED, REFUSED]
    said = [line for line in capfd.readouterr().out.splitlines() if "error" in line]
    assert len(said) == 2
    assert "process 1 of 2 has jax 0.9.9 and process 0 has " in said[0]
    assert not checkpoints(tmp_path)


@pytest.mark.slow
def test_processes_that_see_different_folders_are_refused(ready, tmp_path, capfd) -> None:
    here, there = ready(tmp_path / "here"), ready(tmp_path / "there")
    elsewhere = f"import sys; sys.argv[1] = {str(there)!r}"
    assert finish(start(here, 2, {1: elsewhere})) == [REFUSED, REFUSED]
    assert "does not see what process 0 writes there" in capfd.readouterr().out


def test_a_process_has_the_place_that_was_asked_for() -> None:
    assert place_of("node1:12345", 4, 3) == Place("node1:12345", 4, 3)
    assert place_of(None, None, None) == Place()  # jax asks Slurm, Open MPI or Kubernetes


def test_a_refusal_names_the_option_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ValueError("Address already in use\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    with pytest.raises(Refusal, match=r"^--coordinator a:1: Address already in use. Give the host"):
        join(Place("a:1", 2, 0))
    with pytest.raises(Refusal, match=r"^--together: Address.*, give --coordinator HOST:PORT"):
        join(Place())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((None, 4, 3), "--coordinator is missing"),
        (("node1:12345", 4, None), "--processes and --process: give both"),
        (("node1:12345", 4, 4), "--process 4: give 0 to 3"),
        (("node1:12345", 0, 0), "--processes 0: give at least 1"),
        (("node1", 2, 0), "--coordinator node1: give HOST:PORT"),
    ],
)
def test_what_can_be_no_place_is_refused(asked: Any, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        place_of(*asked)


EIGHT = Slot("gpu", tuple("01234567"))
SLURM = {"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_LOCALID": "1", "SLURM_NODEID": "2"}
OPEN_MPI = {"OMPI_COMM_WORLD_LOCAL_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "seen", "has"),
    [
        ({}, "01234567", "01234567"),  # one process a host, or CUDA_VISIBLE_DEVICES says which
        (SLURM, "01234567", "4567"),
        ({**SLURM, "SLURM_NODEID": "3", "SLURM_LOCALID": "0"}, "01234567", "01234567"),
        ({**SLURM, "SLURM_GPUS_PER_TASK": "2"}, "01", "01"),
        (SLURM, "5", "5"),  # Slurm shows it one
        (OPEN_MPI, "01234567", "67"),
    ],
)
def test_processes_of_one_host_share_its_devices(
    environment: dict[str, str], seen: str, has: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert slot_of(Slot("gpu", tuple(seen)), Place()) == Slot("gpu", tuple(has), alone=False)


def test_devices_that_do_not_divide_among_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Refusal, match=r"^--together: 4 processes of this host see 6 devices"):
        slot_of(Slot("gpu", tuple("012345")), Place())
