"""How far the runs of a results folder are, seen from outside: by their files alone."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scaling.launch.queue import CurrentManifest
from scaling.store.attempt import attempt_folder, last_checkpoint
from scaling.store.claims import Observer
from scaling.store.manifest import PlannedRun
from scaling.store.ready import has_ended, run_folder
from scaling.store.records import Refusal, read_json

LOOK_SHARE = 0.05  # of the watcher's time, where a look at a large grid takes long


@dataclass(frozen=True)
class Snapshot:
    """How far the runs are that had not ended when this launch began."""

    runs_done: int
    runs: int
    flops_done: float  # since then
    flops: float
    tokens_per_s: float  # of all workers now
    seconds: float  # since then
    training: int = 0  # runs that a worker has now, of whichever launch

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; null before anything is done."""
        if not self.flops_done:
            return None
        return self.seconds * (self.flops - self.flops_done) / self.flops_done


@dataclass
class _Seen:
    """A run as it was at the last look."""

    run: PlannedRun
    folder: Path
    before: float  # share that was done when the launch began
    share: float
    ended: bool = False
    trained: bool = False  # by somebody, now
    tokens_per_s: float = 0.0

    def look(self, observer: Observer) -> None:
        if self.ended:
            return
        self.ended = has_ended(self.folder.parents[1], self.run)
        claim = None if self.ended else observer.owner(self.folder)
        self.trained, self.tokens_per_s = claim is not None, 0.0
        if self.ended:
            self.share = 1.0
        elif claim is not None:
            with suppress(Refusal, KeyError, TypeError):  # nothing reported yet
                seen = read_json(attempt_folder(self.folder, claim) / "progress.json")
                length = max(1, seen["last_step"] - seen["first_step"])
                self.share = (seen["step"] - seen["first_step"]) / length
                self.tokens_per_s = seen["tokens_per_s"]


class WatchedRuns:
    """The runs of a plan that had not ended when the watch began."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.current = CurrentManifest(results)
        self.began = time.monotonic()
        self.observer = Observer()  # a frozen worker's lease ends, though no other worker looks
        self._seen: dict[tuple[str, int], _Seen | None] = {}  # null: it had ended before
        self._next_look = 0.0
        self.look()

    def look(self) -> None:
        """Look at all of them now; a plan that was replaced brings its new runs."""
        started = time.monotonic()
        for run in self.current.manifest.runs:
            key = (run.run_id, run.steps)
            if key not in self._seen:
                ended = has_ended(self.results, run)
                self._seen[key] = None if ended else _first_seen(self.results, run)
            if (seen := self._seen[key]) is not None:
                seen.look(self.observer)
        self._next_look = started + (time.monotonic() - started) / LOOK_SHARE

    def glance(self) -> None:
        """Look, unless looking takes so long that it is too soon."""
        if time.monotonic() >= self._next_look:
            self.look()

    @property
    def runs(self) -> list[_Seen]:
        """Those of the plan as it is now."""
        keys = [(run.run_id, run.steps) for run in self.current.manifest.runs]
        return [seen for key in keys if (seen := self._seen.get(key)) is not None]

    @property
    def left(self) -> list[PlannedRun]:
        """The runs that have not ended."""
        return [seen.run for seen in self.runs if not seen.ended]

    def snapshot(self) -> Snapshot:
        """How far they are, as of the last look."""
        runs = self.runs
        return Snapshot(
            runs_done=sum(seen.ended for seen in runs),
            runs=len(runs),
            # What was trained before this launch says nothing about its speed.
            flops_done=sum(seen.run.flops * max(0.0, seen.share - seen.before) for seen in runs),
            flops=sum(seen.run.flops * (1 - seen.before) for seen in runs),
            tokens_per_s=sum(seen.tokens_per_s for seen in runs),
            seconds=time.monotonic() - self.began,
            training=sum(seen.trained for seen in runs),
        )


def _first_seen(results: Path, run: PlannedRun) -> _Seen:
    """A run, with the share of it that its last checkpoint holds."""
    folder = run_folder(results, run.run_id)
    done = max(0, last_checkpoint(folder) - run.first_step) / (run.steps - run.first_step)
    return _Seen(run, folder, before=done, share=done)
