"""A grid on a Ray cluster comes to the same bits, whatever becomes of its nodes and its launch.

The cluster is one of Ray's own for tests: several nodes on this machine, each with its processes.
Only one of them has a core for a worker, so that it is known which node trains.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scaling.launch.output import LOGS
from scaling.store.claims import owner
from scaling.store.run_record import read_run, run_folders

pytestmark = pytest.mark.servers

WAIT_SECONDS = 240.0  # for what takes 20 on a quiet machine
CLUSTER = Path(__file__).with_name("ray_cluster.py")
CLIENT_PORT = 23077  # outside of the ports that Ray gives its workers

# One trunk and its one branch. It trains for ten seconds: time enough to take its node away.
ONE_LONG = (
    ("tokens = [3072, 6144]", "tokens = [24576]"),
    ("seeds = [0, 1]", "seeds = [0]"),
    ("every_tokens = 768", "every_tokens = 6144"),
)
BLOCKED = """\
import sys
sys.modules["scaling"] = None  # as on a node where this program is not installed
"""


@pytest.fixture
def grid(make: Callable[..., Any], tmp_path: Path) -> Any:
    return make(tmp_path, *ONE_LONG)


@pytest.fixture(scope="module")
def undisturbed(make: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same, trained by this machine's launcher."""
    made = make(tmp_path_factory.mktemp("undisturbed"), *ONE_LONG)
    code, said = made.finish(made.launch(workers=1))
    assert code == 0, said
    return made


class Cluster:
    """One in a process of its own, with a head that has no core."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, CLUSTER, str(CLIENT_PORT)],
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._answer()

    def add(self, *path: Path) -> None:
        """Start a node with a core; its PYTHONPATH may be given."""
        self._order("add", *map(str, path))

    def lose(self) -> None:
        """End the last node as a power failure would."""
        self._order("lose")

    def empty(self) -> None:
        """Only the head is left, and knows it."""
        self._order("empty")

    def _order(self, *words: str) -> None:
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def head(cache: Path) -> Iterator[Cluster]:
    """A cluster without a core; it sees the cache of the tests."""
    made = Cluster()
    with made.process:  # whose end of input is the cluster's
        yield made


@pytest.fixture
def cluster(head: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The same with a node that has a core."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    head.add()
    yield head
    head.empty()


def launch(
    grid: Any, *options: object, workers: int = 1, **environment: str
) -> subprocess.Popen[str]:
    """`scaling run` on a cluster, in a home of its own: Ray writes there."""
    home = str(grid.study.parent)
    process: subprocess.Popen[str] = grid.launch(
        "--launcher", "ray", *options, workers=workers, HOME=home, **environment
    )
    return process


def launch_until_it_trains(grid: Any, address: str) -> subprocess.Popen[str]:
    """The same, once a run is beyond a checkpoint; it goes on for long."""
    process = launch(grid, RAY_ADDRESS=address)
    wait_for(lambda: is_training(grid) or process.poll() is not None)
    return process


def wait_for(what: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def is_training(grid: Any) -> bool:
    """Whether a worker has taken a run beyond a checkpoint."""
    begun = grid.folder.glob("runs/*/attempts/*/checkpoints/*/checksums.json")
    return any(owner(file.parents[4]) is not None for file in begun)


def workers(grid: Any) -> list[str]:
    """The processes that train a grid."""
    found = subprocess.run(["pgrep", "-f", f"start.py {grid.folder}"], capture_output=True)
    return found.stdout.decode().split()


def times_begun(grid: Any) -> list[int]:
    return [len(read_run(run).provenance) for run in run_folders(grid.folder)]


def test_when_a_node_is_lost_its_run_goes_on_where_there_is_room(
    cluster: Cluster, grid: Any, undisturbed: Any
) -> None:
    process = launch_until_it_trains(grid, cluster.address)
    cluster.lose()
    cluster.add()
    code, said = grid.finish(process)
    assert code == 0, said
    assert "1 run at a time, each on one core of a Ray cluster: 2 nodes, 1 core" in said
    grid.assert_whole(undisturbed)
    assert max(times_begun(grid)) == 2, "the node was lost in the middle of a run"
    logs = "".join(log.read_text() for log in (grid.folder / LOGS).iterdir())
    assert "is lost: " in logs


def test_a_launch_that_is_interrupted_goes_on_from_outside_of_another_cluster(
    cluster: Cluster, grid: Any, undisturbed: Any
) -> None:
    """Ctrl-C on a cluster of the launch's own; then by ray:// on one that runs."""
    process = launch_until_it_trains(grid, "local")
    os.killpg(process.pid, signal.SIGINT)
    code, said = grid.finish(process)
    assert code == 75, said
    assert "waiting at most 120 s for checkpoints of Ray actor" in said
    assert "is killed" not in said
    assert not any(map(owner, run_folders(grid.folder)))
    address = f"ray://127.0.0.1:{CLIENT_PORT}"
    code, said = grid.finish(launch(grid, RAY_ADDRESS=address))
    assert code == 0, said
    grid.assert_whole(undisturbed)
    assert max(times_begun(grid)) == 2


def test_no_worker_outlives_a_launch_that_is_killed(cluster: Cluster, grid: Any) -> None:
    process = launch_until_it_trains(grid, cluster.address)
    assert len(workers(grid)) == 1, grid.finish(process)
    process.kill()
    assert grid.finish(process)[0] == -signal.SIGKILL
    wait_for(lambda: not any(map(owner, run_folders(grid.folder))))
    wait_for(lambda: not workers(grid))


def test_a_node_without_this_program_is_named_before_anything_is_trained(
    cluster: Cluster, grid: Any, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    cluster.add(tmp_path)
    code, said = grid.finish(launch(grid, RAY_ADDRESS=cluster.address))
    assert code == 2, said
    assert "this program is another version there, or missing" in said
    assert not list(grid.folder.glob("runs/*/claims"))


def test_what_the_cluster_does_not_have_is_refused(cluster: Cluster, grid: Any) -> None:
    for workers, options, words in (
        (1, ["--devices-per-run", "3"], "the largest node of the Ray cluster has 0 GPUs"),
        (7, [], "--workers 7: the Ray cluster has 1 places of one core now"),
    ):
        code, said = grid.finish(
            launch(grid, *options, workers=workers, RAY_ADDRESS=cluster.address)
        )
        assert code == 2 and words in said, said
    assert not grid.folder.exists()
