"""What is asked of a Ray cluster, and what is refused of it, without one.

tests/faults/test_ray.py has a real one.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scaling.launch import ray
from scaling.launch.output import LOGS
from scaling.launch.pool import Pool
from scaling.launch.prepare import prepare
from scaling.launch.ray import Needs, Node, connect, needs_of, refuse_unfit, slots_of
from scaling.launch.watch import WatchedRuns
from scaling.planning.plan import Plan
from scaling.store import claims
from scaling.store.folder import Folder
from scaling.store.records import Refusal
from scaling.training.flags import Slot

CORES = (Node("a", "10.0.0.1", 4, 0), Node("b", "10.0.0.2", 2, 0))
GPUS = (Node("a", "10.0.0.1", 64, 8), Node("b", "10.0.0.2", 2, 8))


class RayError(Exception):
    """Of the fake."""


class Promise:
    """Kept with a value or an error, or not yet."""

    def __init__(self, *kept: Any) -> None:
        self.kept = kept


class Actor:
    """An actor that does nothing but remember."""

    def __init__(self, fake: FakeRay, *arguments: Any) -> None:
        self.arguments, self.calls = arguments, list[str]()
        self.placed, self.ended = Promise(*fake.at_start), Promise()
        self.__ray_ready__ = SimpleNamespace(remote=lambda: self.placed)
        self.wait = SimpleNamespace(remote=lambda: self.ended)
        self.stop = SimpleNamespace(remote=lambda: self.calls.append("stop"))
        self.kill = SimpleNamespace(remote=lambda: Promise(self.calls.append("kill")))


class FakeRay:
    """As much of Ray as is used."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.actors: list[Actor] = []
        self.killed: list[Actor] = []
        self.at_start: tuple[Any, ...] = (None,)  # of actors: empty where there is no room
        self.says: Any = ""  # what a node answers; an error is raised
        self.fails: Exception | None = None  # of init
        self.gone: Exception | None = None  # of whatever is asked, when the cluster is lost

    def init(self, **given: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as the real one does
        self.asked.append(given)
        if self.fails is not None:
            raise self.fails

    def nodes(self) -> list[dict[str, Any]]:
        node = {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 4.0}}
        return [{**node, "Alive": True}, {**node, "NodeID": "gone", "Alive": False}]

    def remote(self, what: Any) -> Any:
        make = self._actor if isinstance(what, type) else lambda *_: Promise(self.says)
        return SimpleNamespace(options=lambda **asked: self._asked(asked, make))

    def _asked(self, asked: dict[str, Any], make: Callable[..., Any]) -> Any:
        self.asked.append(asked)
        return SimpleNamespace(remote=make)

    def _actor(self, *arguments: Any) -> Actor:
        self.actors.append(Actor(self, *arguments))
        return self.actors[-1]

    def wait(self, promises: list[Promise], **_: Any) -> tuple[list[Promise], list[Promise]]:
        if self.gone is not None:
            raise self.gone
        return [each for each in promises if each.kept], [
            each for each in promises if not each.kept
        ]

    def get(self, promise: Promise, timeout: float = 0.0) -> Any:
        (value,) = promise.kept
        if isinstance(value, Exception):
            raise value
        return value

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor)
        actor.ended.kept = actor.ended.kept or (RayError("killed"),)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> FakeRay:
    made = FakeRay()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path_factory.mktemp("ray")))
    monkeypatch.setitem(sys.modules, "ray", made)
    pinned = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", pinned)
    return made


@pytest.fixture
def port() -> Iterator[int]:
    """One that answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_without_the_package_the_remedy_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Refusal, match=r'pip install "ray\[client\]>=2.60"'):
        connect(None)


def test_the_nodes_that_are_alive_are_those_of_the_cluster(fake: FakeRay) -> None:
    assert connect(None) == (Node("a", "10.0.0.1", 4.0, 0.0),)
    assert fake.asked[0]["address"] is None


def test_ray_reports_no_usage_unless_the_user_says_so(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(None)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    connect(None)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"


def test_what_asks_the_launch_to_stop_is_still_heard(fake: FakeRay) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        mine = signal.getsignal(signal.SIGTERM)
        connect(None)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("address", ["10.0.0.1", "http://", "ray://head", "head:0", "head:99999"])
def test_what_is_no_address_is_refused(fake: FakeRay, address: str) -> None:
    with pytest.raises(Refusal, match=r"\[launch.ray\] address = .* no address of a cluster"):
        connect(address)
    assert fake.asked == []


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_at_which_nobody_answers_is_refused(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, port: int, scheme: str
) -> None:
    connect(f"{scheme}127.0.0.1:{port}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{silent}")
    with pytest.raises(Refusal, match=r"RAY_ADDRESS = .*: nobody answers there: .*refused"):
        connect(None)
    assert len(fake.asked) == 1


@pytest.mark.parametrize("address", [None, "auto"])
def test_a_cluster_that_was_killed_is_not_waited_for(
    fake: FakeRay, port: int, address: str | None
) -> None:
    """Ray keeps the address of the latest, and asks for minutes whether it is there."""
    latest = Path(os.environ["RAY_TMPDIR"]) / "ray" / "ray_current_cluster"
    latest.parent.mkdir()
    latest.write_text(f"127.0.0.1:{port}")
    connect(address)
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = server.getsockname()[1]
    latest.write_text(f"127.0.0.1:{silent}")
    with pytest.raises(Refusal, match=r"ray_current_cluster = .*: nobody answers there: .*local"):
        connect(address)
    assert len(fake.asked) == 1


def test_a_cluster_of_other_versions_is_refused_in_one_line(fake: FakeRay, port: int) -> None:
    fake.fails = RuntimeError("Version mismatch: The cluster was started with:\n  Ray: 2.50.0\n")
    with pytest.raises(Refusal) as refused:
        connect(f"127.0.0.1:{port}")
    said = str(refused.value)
    assert "The cluster was started with: Ray: 2.50.0. Start a cluster with" in said
    assert "\n" not in said


def test_a_cluster_of_this_machine_that_does_not_start_is_refused(fake: FakeRay) -> None:
    fake.fails = Exception("The current node timed out during startup.")
    with pytest.raises(Refusal, match=r"--launcher ray: .* timed out during startup\. Start"):
        connect(None)


def test_a_worker_has_a_core_or_a_gpu_where_there_are_any() -> None:
    assert needs_of(CORES, None, None) == Needs(0)
    assert needs_of(GPUS, None, None) == Needs(1)
    assert needs_of(GPUS, 0, None) == Needs(0), "as the study may ask"
    assert needs_of(GPUS, None, 3).resources() == {"num_cpus": 1, "num_gpus": 0.3333}
    assert needs_of(GPUS, 4, None).resources() == {"num_cpus": 1, "num_gpus": 4}


def test_there_are_as_many_workers_as_places() -> None:
    assert slots_of(CORES, Needs(), None) == (Slot("cpu"),) * 6
    # The second node has two cores, and so two places.
    assert slots_of(GPUS, Needs(1), None) == (Slot("gpu"),) * 10
    assert len(slots_of(GPUS, Needs(3), None)) == 4
    assert slots_of(GPUS, Needs(1, sharing=2), 17) == (Slot("gpu", None, 2),) * 17


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: needs_of(CORES, 1, None), r"largest node .* has 0 GPUs.*gpus = 0"),
        (lambda: needs_of(GPUS, 16, None), r"16: the largest node .* 8 GPUs\. Give at most 8"),
        (lambda: needs_of(CORES, None, 2), r"--runs-per-device 2: .*Leave it out"),
        (lambda: needs_of(GPUS, 2, 2), r"--runs-per-device 2: .*here each has 2"),
        (lambda: needs_of(GPUS, 1, 0), r"--runs-per-device 0: at least 1"),
        (lambda: slots_of(CORES, Needs(), 7), r"--workers 7: .* 6 places of one core now"),
        (lambda: slots_of(CORES, Needs(), 0), r"--workers 0: "),
        (lambda: slots_of((), Needs(), None), r"--launcher ray: .* no room for a worker"),
    ],
)
def test_what_the_cluster_does_not_have_is_refused(ask: Callable[[], Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        ask()


def test_nodes_that_cannot_train_are_named_with_the_reason(fake: FakeRay, tmp_path: Path) -> None:
    refuse_unfit(Folder(tmp_path), GPUS, Needs(1))
    assert [asked["scheduling_strategy"] for asked in fake.asked] == ["a", "b"]
    fake.says = "it does not see /data. Give another."
    with pytest.raises(Refusal, match=r"Ray node 10.0.0.1, 10.0.0.2: it does not"):
        refuse_unfit(Folder(tmp_path), GPUS, Needs(1))
    fake.says = RayError("ray::unfit() at 10.0.0.1\n\nModuleNotFoundError: No module 'scaling'.\n")
    with pytest.raises(Refusal, match=r"or missing: ModuleNotFoundError: No module 'scaling'\. In"):
        refuse_unfit(Folder(tmp_path), GPUS, Needs(1))
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_no_worker_could_come_to_is_not_asked(fake: FakeRay, tmp_path: Path) -> None:
    refuse_unfit(Folder(tmp_path), [Node("head", "10.0.0.9", 0, 0), *CORES], Needs())
    assert [asked["scheduling_strategy"] for asked in fake.asked] == ["a", "b"]


def test_an_actor_is_asked_for_with_texts_and_numbers_alone(fake: FakeRay, tmp_path: Path) -> None:
    command = ["python", "-P", "start.py", str(tmp_path), "longest-first", "h-1-0.log", "77"]
    launcher = ray.Ray(Needs(1, sharing=2))
    worker = launcher.start(command, tmp_path / LOGS / "h-1-0.log", Slot("gpu", None, 2))
    assert fake.actors[0].arguments == (str(tmp_path), "longest-first", "h-1-0.log", 1, 2)
    asked = fake.asked[0]
    assert (asked["num_cpus"], asked["num_gpus"], asked["max_restarts"]) == (1, 0.5, 0)
    assert str(worker) == "Ray actor h-1-0-1" and launcher.alive(worker)


def test_a_worker_that_is_lost_says_why_and_leaves_its_place(fake: FakeRay, tmp_path: Path) -> None:
    launcher, log = ray.Ray(Needs()), tmp_path / LOGS / "h-1-0.log"
    worker = launcher.start(["", str(tmp_path), "", log.name, ""], log, Slot())
    worker.actor.ended.kept = (RayError("The actor died.\n\tpid: 7\nIts node has died.\n"),)
    assert not launcher.alive(worker) and not launcher.alive(worker)
    assert log.read_text() == "Ray actor h-1-0-1 is lost: Its node has died\n"
    assert fake.killed == [worker.actor]


def test_a_worker_is_told_to_end_and_one_that_has_no_room_is_given_up(
    fake: FakeRay, tmp_path: Path
) -> None:
    launcher, log = ray.Ray(Needs()), tmp_path / LOGS / "h-1-0.log"
    command = ["", str(tmp_path), "", log.name, ""]
    begun = launcher.start(command, log, Slot())
    fake.at_start = ()
    waiting = launcher.start(command, log, Slot())
    assert launcher.placed(begun) and not launcher.placed(waiting)
    launcher.stop(begun)
    launcher.stop(waiting)
    assert begun.actor.calls == ["stop"] and launcher.alive(begun)
    assert fake.killed == [waiting.actor] and not launcher.alive(waiting)
    launcher.kill(begun)
    assert begun.actor.calls == ["stop", "kill"] and not launcher.alive(begun)
    assert not log.exists(), "whoever was asked to end is not lost"


def test_a_cluster_that_is_lost_ends_the_launch_in_one_line(fake: FakeRay, tmp_path: Path) -> None:
    """Ray would connect anew, or start a cluster that nobody asked for."""
    connect(None)
    assert os.environ["RAY_ENABLE_AUTO_CONNECT"] == "0"
    launcher, log = ray.Ray(Needs()), tmp_path / LOGS / "h-1-0.log"
    worker = launcher.start(["", str(tmp_path), "", log.name, ""], log, Slot())
    fake.gone = ConnectionError("Client is shutting down.")
    with pytest.raises(Refusal, match=r"^--launcher ray: the cluster is lost: .* same command"):
        launcher.alive(worker)
    assert not launcher.alive(worker), "nothing is left to wait for"


def test_workers_that_wait_for_room_do_not_stand_still(
    fake: FakeRay, plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", -1.0)
    prepare(tmp_path, plan(), b"")
    fake.at_start = ()
    pool = Pool(ray.Ray(Needs()), WatchedRuns(tmp_path), "cheapest-first", [Slot()])
    for _ in range(3):
        pool.start()
    assert pool.alive() and fake.killed == []
    fake.actors[0].placed.kept = (None,)
    pool.start()
    assert fake.killed == [fake.actors[0]], "it has begun, and trains nothing"


def test_workers_that_sleep_between_looks_at_a_bucket_do_not_stand_still(
    fake: FakeRay, plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", -1.0)
    prepare(tmp_path, plan(), b"")
    pool = Pool(ray.Ray(Needs()), WatchedRuns(tmp_path), "cheapest-first", [Slot()])
    pool.start()
    monkeypatch.setattr(Folder, "pause", 5.0)
    pool.start()
    assert fake.killed == []
    pool.trained -= 90
    pool.start()
    assert fake.killed == [fake.actors[0]]


def test_of_many_nodes_with_one_fault_a_few_are_named(fake: FakeRay, tmp_path: Path) -> None:
    fake.says = "it lacks all."
    nodes = [Node(str(i), f"10.0.0.{i}", 1, 0) for i in range(500)]
    with pytest.raises(Refusal, match=r"^Ray node 10.0.0.0, 10.0.0.1, 10.0.0.2 and 497 more: it"):
        refuse_unfit(Folder(tmp_path), nodes, Needs())


def test_results_at_an_address_stay_there(fake: FakeRay, tmp_path: Path) -> None:
    command = ["python", "-P", "start.py", "s3://bucket/runs", "longest-first", "a.log", "77"]
    ray.Ray(Needs()).start(command, tmp_path / "a.log", Slot())
    assert fake.actors[0].arguments[0] == "s3://bucket/runs"
