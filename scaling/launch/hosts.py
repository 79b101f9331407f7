"""One worker that is several processes, on several hosts: process 0 leads, the others follow.

The one that leads is a worker like any other: it takes runs, claims them and writes their records.
With each run that it trains it tells the others which, and they train it too. Their results must be
in a folder that all of them see. What one process cannot do, the others wait for, so an error that
only some of them meet ends them all, and the run has failed of it.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

from scaling.data.chunks import CorpusChanged
from scaling.data.corpus import load
from scaling.data.verified import digest_of, loaded
from scaling.launch.source import source_digest
from scaling.launch.stops import REFUSED, REQUEUE
from scaling.spec import read_spec
from scaling.store.attempt import Attempt
from scaling.store.manifest import Manifest
from scaling.store.paths import cache_folder
from scaling.store.ready import run_folder
from scaling.store.records import Refusal
from scaling.training.flags import Slot
from scaling.training.processes import START_SECONDS, Note, Place, Processes, here, join, said

LOOK_SECONDS = 0.5  # between looks at what other processes ask for
# For all processes to leave a run that one of them could not go on with. Who is not out by then
# waits for that one in a step, and can only be ended.
LEAVE_SECONDS = 30.0
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def place_of(coordinator: str | None, processes: int | None, process: int | None) -> Place:
    """The place of a process by what was asked for; what is null is for jax to find out.

    Raises Refusal for what can be no place.
    """
    for option, value, least in (("--processes", processes, 1), ("--process", process, 0)):
        if value is not None and value < least:
            raise Refusal(f"{option} {value}: give at least {least}.")
    if (processes is None) != (process is None):
        raise Refusal("--processes and --process: give both, or neither where the cluster says it.")
    if processes is not None and process is not None:
        if coordinator is None:
            raise Refusal(
                f"--processes {processes}: --coordinator is missing. Give all of them the "
                "HOST:PORT at which process 0 is to listen; the port is to be free there."
            )
        if process >= processes:
            raise Refusal(f"--process {process}: give 0 to {processes - 1}, each once.")
    if coordinator is not None and not re.fullmatch(r".+:[0-9]{1,5}", coordinator):
        raise Refusal(f"--coordinator {coordinator}: give HOST:PORT, e.g. node1:12345.")
    return Place(coordinator, processes, process)


def slot_of(whole: Slot, place: Place) -> Slot:
    """What a process has of the devices that it sees, which others of its host may see too.

    One process a host has all; several have equal parts, unless Slurm gave each its own. Raises
    Refusal where the devices do not divide.
    """
    number, count = (0, 1) if place.index is not None else _on_this_host(os.environ)
    seen = whole.devices
    if seen is None or count == 1 or len(seen) < count or "SLURM_GPUS_PER_TASK" in os.environ:
        return replace(whole, alone=False)
    share, rest = divmod(len(seen), count)
    if rest:
        raise Refusal(
            f"{place.option}: {count} processes of this host see {len(seen)} devices. Start one "
            "process a host, or one a device."
        )
    return replace(whole, devices=seen[number * share : (number + 1) * share], alone=False)


def tasks_beside() -> int:
    """How many tasks the Slurm step has that this process is of; 1 outside of Slurm."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


def _on_this_host(environment: Mapping[str, str]) -> tuple[int, int]:
    """Which of this host's processes this is, and how many they are, by Slurm or Open MPI."""
    if "OMPI_COMM_WORLD_LOCAL_RANK" in environment:
        rank, size = (environment[f"OMPI_COMM_WORLD_LOCAL_{each}"] for each in ("RANK", "SIZE"))
        return int(rank), int(size)
    if "SLURM_STEP_TASKS_PER_NODE" in environment:  # such as 2(x3),1
        parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", environment["SLURM_STEP_TASKS_PER_NODE"])
        tasks = [int(each) for each, times in parts for _ in range(int(times or 1))]
        return int(environment["SLURM_LOCALID"]), tasks[int(environment["SLURM_NODEID"])]
    return 0, 1


def together(
    place: Place | None,
    folder: str,
    manifest: Callable[[], Manifest],
    asked: Callable[[], bool],
    lead: Callable[[Callable[[], bool]], int],
) -> int:
    """Do what `lead` does, as one of the processes of a `place` where one is given.

    `lead` is told by what it is called with whether any of them was `asked` to stop. Returns its
    exit code, of all processes the same. Raises Refusal where they cannot train together: not all
    come, or they are of different versions, of different devices, or see different folders.
    """
    if place is None:
        return lead(asked)
    if "://" in folder:
        raise Refusal(
            f"{folder}: the processes of one worker need a folder that all hosts share. Copy the "
            "results there with `scaling sync`, or start a worker on one host."
        )
    results = Path(folder)
    print(f"waiting for all processes, at most {START_SECONDS} s", file=sys.stderr, flush=True)
    processes = join(place)
    if processes.count == 1:
        return lead(asked)
    _refuse_differences(processes, results, manifest)
    with _wishes_told(processes, asked) as any_asked:
        if not processes.leads:
            return _follow(processes, results, asked)
        code = 1
        try:
            code = lead(any_asked)
        except Refusal:
            code = REFUSED
            raise
        finally:
            processes.lead("order", lambda: {"code": code})
        return code


def _refuse_differences(
    processes: Processes, results: Path, manifest: Callable[[], Manifest]
) -> None:
    """Raise Refusal, on all of them alike, unless these processes can train together."""
    marker = results / f".together-{uuid4().hex}"

    def mark() -> str:
        try:
            marker.touch()
        except OSError as error:
            raise Refusal(f"cannot write {marker}: {error.strerror}.") from error
        return marker.name

    name = processes.lead("folder", mark)
    sees = processes.gather("sees", (results / name).is_file())
    marker.unlink(missing_ok=True)
    if not all(sees):
        raise Refusal(
            f"{results}: process {sees.index(False)} of {processes.count} does not see what "
            "process 0 writes there. Give a folder that all hosts share."
        )
    _refuse_different(
        processes.gather(
            "versions",
            {
                "Python": ".".join(platform.python_version_tuple()[:2]),
                **{name: version(name) for name in PACKAGES},
                "source": _source(manifest),
                **_corpora(manifest),
            },
        )
    )
    # Late: only now all have the same jax.
    from jax.experimental.multihost_utils import sync_global_devices

    from scaling.training.target import target_here

    target = target_here()
    _refuse_different(processes.gather("platform", {"devices of kind": str(target.platform)}))
    memories = processes.gather("memory", target.memory)
    processes.memory = min((each for each in memories if each is not None), default=None)
    # Gloo gives the processes 30 s to meet for the first time: now, and not when one of them has
    # compiled a step and the others have not.
    sync_global_devices("together")


def _source(manifest: Callable[[], Manifest]) -> str:
    """The digest of the program here, or what is wrong with it."""
    try:
        architectures = {str(run.config["architecture"]) for run in manifest().runs}
        return source_digest(architectures)[:12]
    except (Refusal, ValueError, OSError) as error:
        return f"that cannot be read ({said(error)})"


def _corpora(manifest: Callable[[], Manifest]) -> dict[str, str]:
    """The digests of the tokens of each corpus here, by its name."""
    found: dict[str, str] = {}
    with suppress(Refusal):  # without a plan there is no source either, which is compared first
        for name in manifest().corpora:
            try:
                digest = digest_of(load(name, cache_folder() / "corpora"))[:12]
            except Refusal:
                digest = "that are missing or damaged"
            found[f"corpus {name} with tokens"] = digest
    return found


def _refuse_different(facts: Sequence[dict[str, str]]) -> None:
    for number, each in enumerate(facts):
        for name, value in each.items():
            if value != facts[0].get(name, "none"):
                raise Refusal(
                    f"process {number} of {len(facts)} has {name} {value} and process 0 has "
                    f"{facts[0].get(name, 'none')}. Give all hosts the same."
                )


@contextmanager
def _wishes_told(processes: Processes, asked: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """While this lasts, process 0 hears who is asked to stop."""
    heard, ended = threading.Event(), threading.Event()

    def tell() -> None:
        while not asked():
            if ended.wait(LOOK_SECONDS):
                return
        processes.note("asked", "stop", "is asked to stop")

    def hear() -> None:
        while not ended.wait(LOOK_SECONDS):
            if processes.notes("asked"):
                heard.set()
                return

    listening = threading.Thread(target=hear if processes.leads else tell, daemon=True)
    listening.start()
    try:
        yield lambda: asked() or heard.is_set()
    finally:
        ended.set()
        listening.join()


@contextmanager
def led(mine: Attempt) -> Iterator[None]:
    """While this lasts, the other processes train the run of this attempt too.

    Raises Refusal where one of them cannot begin. Where one cannot go on, it ends this process,
    having recorded why.
    """
    processes = here()
    if processes.count == 1:
        yield
        return
    from scaling.training.loop import Diverged, Interrupted

    order = {"run": mine.run.name, "attempt": mine.folder.name}
    processes.lead("order", lambda: order)
    _refuse_unready(processes.gather("ready", None))
    out = threading.Event()

    def watch() -> None:
        while not out.wait(LOOK_SECONDS):
            if failed := processes.notes(mine.folder.name):
                if not out.wait(LEAVE_SECONDS):
                    _end(mine, failed[0])
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        with processes.failures_noted(mine.folder.name, but=(Diverged, Interrupted)):
            yield
    finally:
        processes.gather("out", None)
        out.set()


def _end(mine: Attempt, failed: Note) -> NoReturn:
    """Record a failure and end, whatever the main thread waits for."""
    with suppress(Exception):
        if failed.kind == CorpusChanged.__name__:
            mine.forget()
        mine.record("failed", reason=failed.said)
    print(f"{mine.run}: {failed.said}; all its processes end", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(REQUEUE)


def _follow(processes: Processes, results: Path, asked: Callable[[], bool]) -> int:
    """Train what process 0 trains, until it ends; returns its exit code."""
    while "code" not in (order := processes.lead("order", dict[str, Any])):
        run = run_folder(results, order["run"])
        with suppress(_Unready):
            _follow_in(processes, run, run / "attempts" / order["attempt"], asked)
    return int(order["code"])


class _Unready(Refusal):
    """A process cannot begin a run, and says why."""


def _refuse_unready(reasons: Sequence[str | None]) -> None:
    for reason in filter(None, reasons):
        raise _Unready(reason)


def _follow_in(processes: Processes, run: Path, folder: Path, asked: Callable[[], bool]) -> None:
    """Train one run beside process 0. Raises _Unready where any process cannot begin."""
    from scaling.training.jax_setup import configure_jax
    from scaling.training.loop import Diverged, Interrupted, train

    reason = None
    try:
        configure_jax()
        spec = read_spec(run)
        cache = cache_folder() / "corpora"
        corpus = loaded(spec.corpus, cache)
        sets = {name: loaded(text, cache) for name, text in spec.sets}
    except Exception as error:  # whatever it is, process 0 is to know
        reason = f"{processes}: {said(error)}"
    _refuse_unready(processes.gather("ready", reason))
    both = (Diverged, Interrupted)  # so it ends on all of them
    try:
        with suppress(*both), processes.failures_noted(folder.name, but=both):
            trunk = run.parent / spec.trunk_id
            train(spec, folder, corpus, sets=sets, trunk=trunk, should_stop=asked)
    except Exception:  # which process 0 knows of
        traceback.print_exc()
    processes.gather("out", None)
