"""How far the runs of a plan are, seen from outside: by what they write alone."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scaling.store.manifest import PlannedRun
from scaling.store.results import Results, has_ended, results_at

EARLY = 0.1  # of the FLOPs: the cheapest runs, which come first, take longest a FLOP
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
    flops_per_s: float | None = None  # of late; null where nobody knows yet

    @property
    def seconds_left(self) -> float | None:
        """At the rate of late; null while too little is done to know it."""
        if not self.flops_per_s or self.flops_done < EARLY * self.flops:
            return None
        return (self.flops - self.flops_done) / self.flops_per_s


@dataclass
class _Seen:
    """A run as it was at the last look."""

    run: PlannedRun
    before: float  # share that was done when the launch began
    share: float
    ended: bool = False
    trained: bool = False  # by somebody, now
    tokens_per_s: float = 0.0

    def look(self, results: Results) -> None:
        if self.ended:
            return
        self.ended = has_ended(results, self.run)
        # A frozen worker's lease ends, though no other worker looks.
        claim = None if self.ended else results.living_owner(self.run.run_id)
        self.trained, self.tokens_per_s = claim is not None, 0.0
        if self.ended:
            self.share = 1.0
        elif claim is not None:
            seen = results.progress(self.run.run_id)
            with suppress(KeyError, TypeError, ValueError, OverflowError):  # nothing reported yet
                first, last, step = (int(seen[f"{name}step"]) for name in ("first_", "last_", ""))
                self.share = (step - first) / max(1, last - first)
                self.tokens_per_s = float(seen["tokens_per_s"])


class WatchedRuns:
    """The runs of a plan that had not ended when the watch began."""

    def __init__(self, results: Path | Results) -> None:
        self.results = results_at(results)
        self.began = time.monotonic()
        self._seen: dict[tuple[str, int], _Seen | None] = {}  # null: it had ended before
        self._next_look = 0.0
        self._looks: deque[tuple[float, float]] = deque()  # seconds, and FLOPs done by then
        self.look()

    def look(self) -> None:
        """Look at all of them now; a plan that was replaced brings its new runs."""
        started = time.monotonic()
        self.results.look()
        for run in self.results.manifest().runs:
            key = (run.run_id, run.steps)
            if key not in self._seen:
                ended = has_ended(self.results, run)
                self._seen[key] = None if ended else _first_seen(self.results, run)
            if (seen := self._seen[key]) is not None:
                seen.look(self.results)
        now = time.monotonic()
        self._next_look = started + max((now - started) / LOOK_SHARE, self.results.pause)
        self._looks.append((now - self.began, self._flops_done))
        while len(self._looks) > 1 and self._looks[1][0] <= self._looks[-1][0] / 2:
            self._looks.popleft()

    def glance(self) -> None:
        """Look, unless looking takes so long that it is too soon."""
        if time.monotonic() >= self._next_look:
            self.look()

    @property
    def runs(self) -> list[_Seen]:
        """Those of the plan as it is now."""
        keys = [(run.run_id, run.steps) for run in self.results.manifest().runs]
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
            flops_done=self._flops_done,
            flops=sum(seen.run.flops * (1 - seen.before) for seen in runs),
            tokens_per_s=sum(seen.tokens_per_s for seen in runs),
            seconds=time.monotonic() - self.began,
            training=sum(seen.trained for seen in runs),
            flops_per_s=self._flops_per_s,
        )

    @property
    def _flops_done(self) -> float:
        # What was trained before this launch says nothing about its speed.
        return sum(seen.run.flops * max(0.0, seen.share - seen.before) for seen in self.runs)

    @property
    def _flops_per_s(self) -> float | None:
        """In the later half of the time; null unless there were steps before it.

        So starting and compiling are not in it, nor small runs when large ones have come.
        """
        (begun, before), (ended, now) = self._looks[0], self._looks[-1]
        return (now - before) / (ended - begun) if now > before > 0 else None


def _first_seen(results: Results, run: PlannedRun) -> _Seen:
    """A run, with the share of it that its last checkpoint holds."""
    last = max(results.checkpoints(run.run_id), default=0)
    done = max(0, last - run.first_step) / (run.steps - run.first_step)
    return _Seen(run, before=done, share=done)
