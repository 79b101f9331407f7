"""What every launch shares: an engine keeps workers at a results folder, and the launch waits.

Workers find out for themselves what there is to train (scaling/launch/queue.py), so an engine only
sees to it that there are some. Other launches may be at the same folder, here or on hosts that
share it; what their workers train is waited for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

from scaling.data.corpus import load
from scaling.data.verified import check_afresh
from scaling.launch.stops import stops_interrupt
from scaling.launch.watch import Snapshot, WatchedRuns
from scaling.store.paths import cache_folder

POLL_SECONDS = 0.5


class TimeUp(Exception):
    """The launch reached its time limit; its workers wrote checkpoints."""


class Engine(Protocol):
    """Starts and stops workers, and trains nothing itself.

    A pool is one (scaling/launch/pool.py), of processes of this machine or of actors of Ray. Slurm
    is none: it keeps workers itself (scaling/launch/slurm.py), and its scancel stops them.
    """

    def start(self) -> None:
        """Start the workers that are missing; called again and again."""

    def alive(self) -> bool:
        """Whether a worker runs or waits to, as far as the engine has seen."""

    def stop(self) -> None:
        """Ask the workers to end in order, with a checkpoint, and see to it that they do."""


def launch(
    engine: Engine,
    watch: WatchedRuns,
    show: Callable[[Snapshot], None],
    max_seconds: float = math.inf,
) -> None:
    """Keep workers at a results folder until every run of its plan has ended.

    A worker that ends while runs are left is started again, as long as anybody gets further. Where
    nobody does, returns with runs left in `watch`. On KeyboardInterrupt (Ctrl-C, or a signal that
    asks to stop) the engine is stopped; so it is when the time is up, which raises TimeUp. Raises
    Refusal for a corpus that is not in the cache as it was written.
    """
    with stops_interrupt():
        for corpus in sorted({str(run.config["corpus"]) for run in watch.left}):
            check_afresh(load(corpus, cache_folder() / "corpora"))
        try:
            while watch.left:
                engine.start()
                if not engine.alive():
                    break
                show(watch.snapshot())
                if watch.snapshot().seconds > max_seconds:
                    raise TimeUp
                time.sleep(POLL_SECONDS)
                watch.glance()
        finally:
            engine.stop()
        show(watch.snapshot())
