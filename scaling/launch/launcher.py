"""What every launcher shares: it starts workers and waits for them, and trains nothing itself.

Workers find out for themselves what there is to train (scaling/launch/queue.py), so a launch only
sees to it that there are some. Other launches may be at the same folder, here or on hosts that
share it; what their workers train is waited for.
"""

from __future__ import annotations

import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from scaling.data.corpus import load
from scaling.data.verified import check_afresh
from scaling.launch.output import LOGS, log_tail
from scaling.launch.queue import Order
from scaling.launch.stops import stops_interrupt
from scaling.launch.watch import Snapshot, WatchedRuns
from scaling.launch.worker import worker_command
from scaling.store import claims
from scaling.store.paths import cache_folder
from scaling.training.flags import Slot

POLL_SECONDS = 0.5
STEP_SECONDS = 0.05  # between looks at workers that are to end
END_SECONDS = 10.0  # for workers to end that have nothing left to train
STOP_SECONDS = 120.0  # for workers to end their step and write a checkpoint
# Workers that a slot starts one after the other while nobody gets further: one more than it takes
# to find out that a run's processes die, and to say so.
MOST_FRUITLESS = 5


class TimeUp(Exception):
    """The launch reached its time limit; its workers wrote checkpoints."""


class Launcher(Protocol):
    """Starts worker processes somewhere; a handle is whatever it knows one by."""

    def start(self, command: Sequence[str], log: Path, slot: Slot) -> Any:
        """Start a worker of a slot, which prints to `log`; returns its handle."""

    def alive(self, worker: Any) -> bool:
        """Whether a worker has not ended yet."""

    def stop(self, worker: Any) -> None:
        """Ask a worker to end in order, with a checkpoint."""

    def kill(self, worker: Any) -> None:
        """End a worker at once, whatever it is at."""


def launch(
    launcher: Launcher,
    results: Path,
    slots: Sequence[Slot],
    order: Order,
    show: Callable[[Snapshot], None],
    max_seconds: float = math.inf,
) -> list[str]:
    """Keep a worker in each slot at a results folder until every run of its plan has ended.

    A worker that ends while runs are left is started again, as long as anybody gets further.
    Where nobody does, returns with runs left, and what the last workers said. On
    KeyboardInterrupt (Ctrl-C, or a signal that asks to stop) the workers are asked to write
    checkpoints, awaited for STOP_SECONDS at most and then killed; so they are when the time is up,
    which raises TimeUp. Raises Refusal for a corpus that is not in the cache as it was written.
    """
    with stops_interrupt():
        watch = WatchedRuns(results)
        for corpus in sorted({str(run.config["corpus"]) for run in watch.left}):
            check_afresh(load(corpus, cache_folder() / "corpora"))
        pool = _Pool(launcher, results, order, slots)
        try:
            while watch.left and pool.tend(watch):
                show(watch.snapshot())
                if watch.snapshot().seconds > max_seconds:
                    raise TimeUp
                time.sleep(POLL_SECONDS)
                watch.glance()
        except BaseException:
            pool.stop()
            raise
        pool.end(END_SECONDS)
        show(watch.snapshot())
        return pool.last_words() if watch.left else []


@dataclass
class _Filled:
    """A slot, and the worker that is in it."""

    slot: Slot
    log: str
    worker: Any = None  # the handle; null where there is none
    fruitless: int = 0  # workers that ended here since anybody got further


class _Pool:
    """The workers of one launch."""

    def __init__(
        self, launcher: Launcher, results: Path, order: Order, slots: Sequence[Slot]
    ) -> None:
        self.launcher, self.results, self.order = launcher, results, order
        name = re.sub(r"[^\w.-]", "-", f"{platform.node()}-{os.getpid()}")
        self.slots = [_Filled(slot, f"{name}-{number}.log") for number, slot in enumerate(slots)]
        self.furthest = (-1, 0.0)
        self.trained = time.monotonic()  # when a run was last seen in training

    def tend(self, watch: WatchedRuns) -> bool:
        """Fill empty slots if runs are left; whether any slot is filled now."""
        begun = [slot for slot in self.slots if slot.worker is not None]
        ended = [slot for slot in begun if not self.launcher.alive(slot.worker)]
        for slot in ended:
            slot.worker = None
            slot.fruitless += 1
        if ended:
            watch.look()
        seen = watch.snapshot()
        if seen.training or ended:
            self.trained = time.monotonic()
        elif time.monotonic() - self.trained > claims.STALE_SECONDS:
            self._kill_frozen()
        if (seen.runs_done, seen.flops_done) > self.furthest:
            self.furthest = (seen.runs_done, seen.flops_done)
            for slot in self.slots:
                slot.fruitless = 0
        for slot in self.slots:
            if slot.worker is None and watch.left and slot.fruitless < MOST_FRUITLESS:
                command = worker_command(self.results, self.order, slot.log, os.getpid())
                log = self.results / LOGS / slot.log
                slot.worker = self.launcher.start(command, log, slot.slot)
        return any(slot.worker is not None for slot in self.slots)

    def _kill_frozen(self) -> None:
        """End all workers: runs are left, none has taken one for so long, and none has ended."""
        for worker in self._alive():
            print(f"{worker} stands still and is killed", file=sys.stderr, flush=True)
            self.launcher.kill(worker)
        self.trained = time.monotonic()

    def stop(self) -> None:
        """Ask for checkpoints, and say who is waited for and how long."""
        if alive := self._alive():
            print(
                f"waiting for {len(alive)} workers to write a checkpoint, at most "
                f"{STOP_SECONDS:g} s: {', '.join(map(str, alive))}. Interrupt again to kill them.",
                file=sys.stderr,
                flush=True,
            )
        self.end(STOP_SECONDS)

    def end(self, seconds: float) -> None:
        """Ask the workers to end, wait so long, and kill those that have not."""
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
        return [log_tail(self.results, slot.log) for slot in self.slots]

    def _alive(self) -> list[Any]:
        workers = [slot.worker for slot in self.slots if slot.worker is not None]
        return [worker for worker in workers if self.launcher.alive(worker)]

    def _remove_empty_logs(self) -> None:
        for slot in self.slots:
            log = self.results / LOGS / slot.log
            with suppress(OSError):
                if log.stat().st_size == 0:
                    log.unlink()
        with suppress(OSError):
            (self.results / LOGS).rmdir()
