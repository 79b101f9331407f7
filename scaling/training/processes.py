"""The processes that train one run together, of one `jax.distributed`: one a host, or one a device.

All make the same calls to the devices in the same order, and each holds its part of the state. What
one alone may do, or alone knows, such as what lies on the disk, process 0 does, and tells the
others: it leads. A process that is by itself is one of one, and none of this costs it anything.
"""

from __future__ import annotations

import json
import os
import platform
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from models.devices import GPUS
from scaling.store.records import Refusal
from scaling.training.flags import VISIBLE

T = TypeVar("T")

# Processes that one host lost are ended by jax after so long without a sign; its own default is
# 100 s. Half of STALE_SECONDS of scaling/store/claims.py: when another worker takes a run over,
# none of those that trained it is left.
HEARTBEAT_SECONDS = 30
# For all to come: nodes of one job start within seconds, but one may have to fetch its container.
START_SECONDS = 300
# For all to end: whoever is late writes the run table or a log, and nothing of a run.
END_SECONDS = 60
# Between questions whether what is waited for is there; each is one message to process 0. Waiting
# itself has no end: of a process that died jax ends all others.
WAIT_MS = 10_000


class Abandoned(Refusal):
    """Process 0 cannot go on, and says why."""


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that train together.

    Null is for jax to find out: from Slurm, Open MPI, Kubernetes or the TPU's host.
    """

    coordinator: str | None = None  # HOST:PORT of process 0
    count: int | None = None
    index: int | None = None

    @property
    def option(self) -> str:
        """By which it was asked for."""
        return "--together" if self.coordinator is None else f"--coordinator {self.coordinator}"


@dataclass(frozen=True)
class Note:
    """A word that a process left for process 0."""

    kind: str  # of an error the name of its class
    said: str


class Processes:
    """This process and those that train with it."""

    def __init__(self, index: int = 0, count: int = 1, client: Any = None) -> None:
        self.index = index
        self.count = count
        # Bytes of a device, of all of theirs the least: they lay out their runs alike.
        self.memory: float | None = None
        self._client = client  # of jax's coordination service, which process 0 keeps
        self._times: Counter[str] = Counter()  # that a name was used
        self._lock = threading.Lock()

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which alone writes to a run's folder."""
        return self.index == 0

    def lead(self, name: str, do: Callable[[], T]) -> T:
        """What `do` returns on process 0, told to all as JSON; the others do nothing.

        All processes call it, those of one name in the same order. What `do` raises is raised on
        process 0, and Abandoned on all others.
        """
        if self.count == 1:
            return do()
        key = self._key(name)
        if not self.leads:
            told = json.loads(self._wait(key))
            if "failed" in told:
                raise Abandoned(told["failed"])
            value: T = told["value"]
            return value
        try:
            value = do()
        except BaseException as error:
            self._client.key_value_set(key, json.dumps({"failed": said(error)}))
            raise
        self._client.key_value_set(key, json.dumps({"value": value}))
        return value

    def gather(self, name: str, value: T) -> list[T]:
        """What each process gives, in their order, as JSON. Waits for all."""
        if self.count == 1:
            return [value]
        key = self._key(name)
        self._client.key_value_set(f"{key}/{self.index}", json.dumps(value))
        return [json.loads(self._wait(f"{key}/{each}")) for each in range(self.count)]

    def note(self, name: str, kind: str, value: str) -> None:
        """Leave a word for process 0, which looks for it at its own time."""
        told = json.dumps({"kind": kind, "said": f"{self}: {value}"})
        self._client.key_value_set(f"scaling/{name}/{self.index}", told, allow_overwrite=True)

    def notes(self, name: str) -> list[Note]:
        """The words that were left under this name."""
        told = self._client.key_value_dir_get(f"scaling/{name}/")
        return [Note(**json.loads(value)) for _, value in told]

    @contextmanager
    def failures_noted(
        self, name: str, but: tuple[type[BaseException], ...] = ()
    ) -> Iterator[None]:
        """What is raised within is noted for process 0: the others may wait for this one.

        But for what is raised on all of them at once.
        """
        try:
            yield
        except BaseException as error:
            if self.count > 1 and not isinstance(error, (Abandoned, *but)):
                self.note(name, type(error).__name__, said(error))
            raise

    def _key(self, name: str) -> str:
        with self._lock:
            self._times[name] += 1
            return f"scaling/{name}/{self._times[name]}"

    def _wait(self, key: str) -> str:
        while True:
            try:
                return str(self._client.blocking_key_value_get(key, WAIT_MS))
            except Exception as error:  # jax.errors.JaxRuntimeError, which is not imported for it
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def __str__(self) -> str:
        return f"process {self.index} of {self.count} on {platform.node()}"


def said(error: BaseException) -> str:
    """An error in one line."""
    what = str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
    return what.splitlines()[0] if what else type(error).__name__


_here = Processes()


def here() -> Processes:
    """This process and those that it was joined with; by itself, until `join` is called."""
    return _here


def join(place: Place) -> Processes:
    """Become one of several processes. Call it once, before jax is asked for a device.

    Raises Refusal where nothing says which of how many it is, or process 0 cannot listen. Where not
    all come within START_SECONDS, jax aborts those that have.
    """
    global _here
    import jax
    from jax._src import distributed  # its client is not public; Orbax takes it from here too

    # Collectives between CPUs; jax would take MPI where the environment says so.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for itself; who asks to stop is heard by scaling/launch/stops.py.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address=place.coordinator,
            num_processes=place.count,
            process_id=place.index,
            # All that it sees: those of other processes on its host were taken from its sight
            # (scaling/launch/hosts.py). Alone, jax would take one.
            local_device_ids=_devices_seen(),
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=END_SECONDS,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        remedy = (
            "Where neither Slurm nor Open MPI nor Kubernetes says it, give --coordinator HOST:PORT "
            "(the port is to be free on the host of process 0), --processes and --process"
            if place.index is None
            else "Give the host of process 0, and a port that is free there"
        )
        raise Refusal(
            f"{place.option}: {str(error).splitlines()[0].rstrip('.')}. {remedy}."
        ) from error
    state = distributed.global_state
    _here = Processes(state.process_id, state.num_processes, state.client)
    return _here


def _devices_seen() -> list[int] | None:
    """The numbers of the GPUs that this process may see; null where nothing says how many."""
    names = next(filter(None, (os.environ.get(VISIBLE[each], "") for each in GPUS)), "")
    return list(range(len(names.split(",")))) if names else None
