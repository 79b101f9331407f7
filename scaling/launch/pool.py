"""The workers that one launching process tends: a worker in each slot, replaced when it ends.

Where they run is a `Launcher`'s: processes of this machine (scaling/launch/local.py), for one.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from scaling.launch.output import log_tail
from scaling.launch.queue import Order, longest_sleep
from scaling.launch.watch import WatchedRuns
from scaling.launch.worker import worker_command
from scaling.store import claims
from scaling.training.flags import Slot

STEP_SECONDS = 0.05  # between looks at workers that are to end
END_SECONDS = 10.0  # for workers to end that have nothing left to train
STOP_SECONDS = 120.0  # for workers to end their step and write a checkpoint
# Workers that a slot starts one after the other while nobody gets further: one more than it takes
# to find out that a run's processes die, and to say so.
MOST_FRUITLESS = 5


class Launcher(Protocol):
    """Starts worker processes somewhere; a handle is whatever it knows one by."""

    def start(self, command: Sequence[str], log: Path, slot: Slot) -> Any:
        """Start a worker of a slot, which prints to `log`; returns its handle."""

    def placed(self, worker: Any) -> bool:
        """Whether a worker has begun; until then it waits for room, which may take hours."""

    def alive(self, worker: Any) -> bool:
        """Whether a worker has not ended yet."""

    def stop(self, worker: Any) -> None:
        """Ask a worker to end in order, with a checkpoint."""

    def kill(self, worker: Any) -> None:
        """End a worker at once, whatever it is at."""


@dataclass
class _Filled:
    """A slot, and the worker that is in it."""

    slot: Slot
    log: str
    worker: Any = None  # the handle; null where there is none
    fruitless: int = 0  # workers that ended here since anybody got further


class Pool:
    """An `Engine` of the workers that a launcher starts, one in each slot."""

    def __init__(
        self, launcher: Launcher, watch: WatchedRuns, order: Order, slots: Sequence[Slot]
    ) -> None:
        self.launcher, self.watch, self.order = launcher, watch, order
        name = re.sub(r"[^\w.-]", "-", f"{platform.node()}-{os.getpid()}")
        self.slots = [_Filled(slot, f"{name}-{number}.log") for number, slot in enumerate(slots)]
        self.furthest = (-1, 0.0)
        self.trained = time.monotonic()  # when a run was last seen in training

    def start(self) -> None:
        """Fill empty slots if runs are left and somebody gets further."""
        begun = [slot for slot in self.slots if slot.worker is not None]
        ended = [slot for slot in begun if not self.launcher.alive(slot.worker)]
        for slot in ended:
            slot.worker = None
            slot.fruitless += 1
        if ended:
            self.watch.look()
        seen = self.watch.snapshot()
        if seen.training or ended or not self._placed():
            self.trained = time.monotonic()
        elif time.monotonic() - self.trained > self._longest_still():
            self._kill_frozen()
        if (seen.runs_done, seen.flops_done) > self.furthest:
            self.furthest = (seen.runs_done, seen.flops_done)
            for slot in self.slots:
                slot.fruitless = 0
        for slot in self.slots:
            if slot.worker is None and self.watch.left and slot.fruitless < MOST_FRUITLESS:
                command = worker_command(self.watch.results, self.order, slot.log, os.getpid())
                slot.worker = self.launcher.start(command, self._log(slot), slot.slot)

    def alive(self) -> bool:
        """Whether any slot has a worker that was not seen to have ended."""
        return any(slot.worker is not None for slot in self.slots)

    def _longest_still(self) -> float:
        """Seconds after which workers of which none trains are frozen, and do not only wait."""
        return claims.STALE_SECONDS + longest_sleep(self.watch.results)

    def _kill_frozen(self) -> None:
        """End all workers: runs are left, none has taken one for so long, and none has ended."""
        for worker in self._placed():
            print(f"{worker} stands still and is killed", file=sys.stderr, flush=True)
            self.launcher.kill(worker)
        self.trained = time.monotonic()

    def stop(self) -> None:
        """Ask the workers to end, wait for their checkpoints, and kill those that have not ended.

        Where runs are left, it says who is waited for and how long; else they only have to exit.
        """
        seconds = END_SECONDS
        if self.watch.left and (alive := self._alive()):
            seconds = STOP_SECONDS
            print(
                f"waiting at most {seconds:g} s for checkpoints of "
                f"{', '.join(map(str, alive))}. Interrupt again to kill them.",
                file=sys.stderr,
                flush=True,
            )
        until = time.monotonic() + seconds
        try:
            for worker in self._alive():
                self.launcher.stop(worker)
            while self._alive() and time.monotonic() < until:
                time.sleep(STEP_SECONDS)
        finally:
            for worker in self._alive():
                print(f"{worker} did not end and is killed", file=sys.stderr, flush=True)
                self.launcher.kill(worker)
            self._remove_empty_logs()

    def last_words(self) -> list[str]:
        """What the worker of each slot said last."""
        return [log_tail(self.watch.results.logs.parent, slot.log) for slot in self.slots]

    def _log(self, slot: _Filled) -> Path:
        return self.watch.results.logs / slot.log

    def _alive(self) -> list[Any]:
        workers = [slot.worker for slot in self.slots if slot.worker is not None]
        return [worker for worker in workers if self.launcher.alive(worker)]

    def _placed(self) -> list[Any]:
        return [worker for worker in self._alive() if self.launcher.placed(worker)]

    def _remove_empty_logs(self) -> None:
        for slot in self.slots:
            log = self._log(slot)
            with suppress(OSError):
                if log.stat().st_size == 0:
                    log.unlink()
        with suppress(OSError):
            self.watch.results.logs.rmdir()
