"""Workers on a Ray cluster: one actor each, which Ray places where its GPUs and its core are free.

A worker whose node goes ends with it, and the pool starts another wherever there is room; what it
had trained is on disk. Ray is imported here alone, and only once it is asked for.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from scaling.launch.local import add_to_log
from scaling.launch.ray_node import Place, unfit
from scaling.store.folder import Folder
from scaling.store.records import Refusal
from scaling.store.results import Results
from scaling.training.flags import Slot

CONNECT_SECONDS = 5.0  # for a port to be answered; Ray itself tries for minutes
LOOK_SECONDS = 300.0  # for nodes to import this program, many at once and from a shared disk
KILL_SECONDS = 5.0  # for an actor to end its worker
SHOWN = 3  # addresses of nodes that have one fault
DECIMALS = 4  # of a share of a GPU that Ray keeps


@dataclass(frozen=True)
class Node:
    """A node of a cluster that is alive."""

    id: str
    address: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Needs:
    """What one worker is given: a core, and GPUs if there are any."""

    gpus: int = 0
    sharing: int = 1  # workers to a GPU

    def places(self, node: Node) -> int:
        """How many such workers a node has room for when nothing else runs there."""
        cores = int(node.cpus)
        return min(cores, int(node.gpus) // self.gpus * self.sharing) if self.gpus else cores

    def resources(self) -> dict[str, float]:
        """The same as Ray calls it."""
        scale = 10**DECIMALS  # rounded down, so that as many fit as are to share
        return {"num_cpus": 1, "num_gpus": math.floor(self.gpus * scale / self.sharing) / scale}


def needs_of(nodes: Sequence[Node], gpus: int | None, runs_per_device: int | None) -> Needs:
    """What a worker is given: so many GPUs, by default one where the cluster has any.

    Raises Refusal for GPUs that no node has, and for several runs on what is not one GPU.
    """
    most = max((int(node.gpus) for node in nodes), default=0)
    wanted = min(1, most) if gpus is None else gpus
    if wanted > most:
        remedy = f"Give at most {most}" if most else "Leave it out, or give [launch.ray] gpus = 0"
        raise Refusal(
            f"--devices-per-run or [launch.ray] gpus, {wanted}: the largest node of the Ray "
            f"cluster has {most} GPUs. {remedy}."
        )
    if runs_per_device is not None and (runs_per_device < 1 or wanted != 1):
        raise Refusal(
            f"--runs-per-device {runs_per_device}: at least 1 run may share a GPU, where each run "
            f"has one; here each has {wanted}. Leave it out."
        )
    return Needs(wanted, runs_per_device or 1)


def slots_of(nodes: Sequence[Node], needs: Needs, workers: int | None) -> tuple[Slot, ...]:
    """A slot for each place of the cluster as it is now, or for so many `workers`.

    Raises Refusal where the cluster has fewer.
    """
    places = sum(map(needs.places, nodes))
    each = f"{needs.gpus} GPUs and one core" if needs.gpus else "one core"
    if not places:
        raise Refusal(
            f"--launcher ray: the Ray cluster has no room for a worker of {each} now. Start nodes "
            "with such resources first (ray start)."
        )
    count = places if workers is None else workers
    if not 1 <= count <= places:
        raise Refusal(
            f"--workers {workers}: the Ray cluster has {places} places of {each} now. Give 1 to "
            f"{places}, or start more nodes first."
        )
    return (Slot("gpu" if needs.gpus else "cpu", None, needs.sharing),) * count


def connect(address: str | None) -> tuple[Node, ...]:
    """Connect to the cluster at an address; returns its nodes, those that are alive.

    Without one it is Ray's own choice: RAY_ADDRESS, a cluster of this machine that runs, or one
    that starts now and ends with this process. Raises Refusal where Ray is not installed, nobody
    answers, or the cluster is of another version of Ray or Python.
    """
    # Read when Ray is imported or starts a cluster; it says nothing of us unless the user wants so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # When the cluster is lost, any call would start another, or go to one that it finds.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    ray = _ray()
    given = "--launcher ray" if address is None else f"[launch.ray] address = {address!r}"
    if address is None and (asked := os.environ.get("RAY_ADDRESS")):
        address, given = asked, f"RAY_ADDRESS = {asked!r}"
    known: tuple[str, str] | None
    match address:
        case None | "auto":
            known = _latest()
        case "local":
            known = None
        case _:
            known = given, address
    if known is not None:
        _refuse_silent(*known)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # a node that does not start in time raises no narrower one
        said = " ".join(str(error).split())
        raise Refusal(
            f"{given}: Ray cannot connect: {said.rstrip('.')}. Start a cluster with the versions "
            "of this environment, and give its address; where it asks for a token, set "
            "RAY_AUTH_MODE=token."
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # which ray.init replaces
    return tuple(
        Node(
            each["NodeID"],
            each["NodeManagerAddress"],
            each["Resources"].get("CPU", 0.0),
            each["Resources"].get("GPU", 0.0),
        )
        for each in ray.nodes()
        if each["Alive"]
    )


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise Refusal(
            "--launcher ray: the package ray is not installed. Install it here and on every node: "
            'pip install "ray[client]>=2.60"'
        ) from None


def _latest() -> tuple[str, str] | None:
    """Where Ray says which cluster of this machine is the latest, and its address.

    That of one that was killed stays there, and Ray would ask for minutes whether it runs.
    """
    folders = (os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR"))
    file = Path(next(filter(None, folders), "/tmp")) / "ray" / "ray_current_cluster"
    with suppress(OSError):
        if address := file.read_text(errors="replace").strip():
            return f"{file} = {address!r}", address
    return None


def _refuse_silent(given: str, address: str) -> None:
    """Raise Refusal unless somebody answers at the port of an address."""
    host, _, port = address.removeprefix("ray://").rstrip("/").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise Refusal(
            f"{given}: this is no address of a cluster. Give e.g. '10.0.0.1:6379' on one of its "
            "nodes, or 'ray://10.0.0.1:10001' from outside."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise Refusal(
            f"{given}: nobody answers there: {error.strerror or error}. Start the cluster, or give "
            "the address of one that runs; 'local' starts one of this machine alone."
        ) from None


def refuse_unfit(results: Results, nodes: Sequence[Node], needs: Needs) -> None:
    """Raise Refusal, of all at once, for nodes that could be given a worker and cannot train.

    Such are those that do not see the results folder or the corpora, and those on which this
    program is another version or missing. Nothing is trained before.
    """
    ray = _ray()
    pinned = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    look = ray.remote(unfit)
    mark = Path(str(results)) / f".{uuid4().hex}" if isinstance(results, Folder) else None
    try:
        if mark is not None:
            mark.touch()
        asked = {
            look.options(
                num_cpus=0, max_retries=0, scheduling_strategy=pinned(node.id, soft=False)
            ).remote(_from_anywhere(str(results)), mark.name if mark else ""): node
            for node in nodes
            if needs.places(node)
        }
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_SECONDS)
        reasons: dict[str, list[str]] = {}  # the addresses that have each
        for ref, node in asked.items():
            said = "it did not answer in time. Look at it with `ray status`."
            if ref in answered:
                said = _answer(ray, ref)
            if said:
                reasons.setdefault(said, []).append(node.address)
    finally:
        if mark is not None:
            mark.unlink(missing_ok=True)
    if reasons:
        raise Refusal([f"{_named(nodes)}: {said}" for said, nodes in reasons.items()])


def _named(addresses: Sequence[str]) -> str:
    more = f" and {len(addresses) - SHOWN} more" if len(addresses) > SHOWN else ""
    return f"Ray node {', '.join(addresses[:SHOWN])}{more}"


def _answer(ray: Any, ref: Any) -> str:
    try:
        return str(ray.get(ref))
    except ray.exceptions.RayError as error:
        return (
            f"this program is another version there, or missing: {_last_line(error)}. Install the "
            "same version on every node, in the environment that Ray was started from."
        )


@dataclass
class Worker:
    """A worker on the cluster, as the launch knows it."""

    name: str  # of the actor, as `ray list actors` shows it
    actor: Any
    placed: Any  # of Ray's promises, the one that is kept when the worker has begun
    ended: Any  # and the one of its exit code
    log: Path | None  # until it is asked to end, or has ended
    over: bool = False

    def __str__(self) -> str:
        return f"Ray actor {self.name}"


class Ray:
    """A `Launcher` of actors on the cluster that this process is connected to."""

    def __init__(self, needs: Needs) -> None:
        self.ray = _ray()
        self.needs = needs
        self.started = 0  # workers so far
        self.lost = False  # the cluster
        self.place = self.ray.remote(Place)

    def start(self, command: Sequence[str], log: Path, slot: Slot) -> Worker:
        """Ask for a worker; it begins once there is room for it."""
        # Of the command its words alone: the node has a Python of its own, and the actor is the
        # parent there.
        *_, results, order, log_name, _ = command
        self.started += 1
        name = f"{log.stem}-{self.started}"
        # One thread waits for the worker, the others hear that it is to end. When an actor dies
        # the pool starts another, which counts those that bring nobody further; Ray would not.
        actor = self.place.options(
            name=name, max_concurrency=3, max_restarts=0, **self.needs.resources()
        ).remote(_from_anywhere(results), order, log_name, self.needs.gpus, slot.sharing)
        return Worker(name, actor, actor.__ray_ready__.remote(), actor.wait.remote(), log)

    def placed(self, worker: Worker) -> bool:
        """Whether it has begun, or will not."""
        return self._is_kept(worker.placed)

    def alive(self, worker: Worker) -> bool:
        """Whether it runs or waits to. If its actor was lost, that is added to its log.

        Raises Refusal, once, when the cluster itself is lost.
        """
        if self.lost:
            return False
        if not worker.over and self._is_kept(worker.ended):
            worker.over = True
            try:
                self.ray.get(worker.ended)
            except self.ray.exceptions.RayError as error:
                if worker.log is not None:
                    add_to_log(worker.log, f"{worker} is lost: {_last_line(error)}\n")
            self.ray.kill(worker.actor)  # leaves its place to the next
        return not worker.over

    def stop(self, worker: Worker) -> None:
        """Ask it to end in order; one that has not begun ends here."""
        worker.log = None
        if self.placed(worker):
            worker.actor.stop.remote()
        else:
            self.ray.kill(worker.actor)

    def kill(self, worker: Worker) -> None:
        """End it at once, with its actor."""
        with suppress(self.ray.exceptions.RayError):
            if self.placed(worker):
                self.ray.get(worker.actor.kill.remote(), timeout=KILL_SECONDS)
        self.ray.kill(worker.actor)

    def _is_kept(self, promise: Any) -> bool:
        try:
            kept, _ = self.ray.wait([promise], timeout=0)
        except ConnectionError as error:
            self.lost = True
            raise Refusal(
                f"--launcher ray: the cluster is lost: {_last_line(error)}. What was trained is "
                "kept: start a cluster and give the same command."
            ) from None
        return bool(kept)


def _from_anywhere(results: str) -> str:
    """A results folder as other working directories name it; an address stays as it is."""
    return results if "://" in results else str(Path(results).absolute())


def _last_line(error: Exception) -> str:
    """The sentence of Ray's many that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
