"""Which run of some results a worker takes next; every worker asks for itself.

Nothing is handed out: the manifest says what there is, records say what has ended, claims say what
somebody has. Two workers that choose the same run at once are told apart by their claims.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal, get_args

from scaling.store.manifest import PlannedRun
from scaling.store.results import Results, has_ended, results_at

# The cheapest first: faults show early, and a law can be fitted to what is there. The longest
# first: all of a grid is done soonest, since no long run is left to one worker at the end.
Order = Literal["cheapest-first", "longest-first"]
ORDERS: tuple[Order, ...] = get_args(Order)


# Seconds. A run whose owner died is taken over after two looks, which is soon enough.
LONGEST_PAUSE = 60.0
SPREAD = 0.5  # of a pause, more or less by chance


def longest_sleep(results: Results) -> float:
    """Seconds in which a worker that finds nothing free does not look, at most."""
    return LONGEST_PAUSE * (1 + SPREAD) if results.pause else 0.0


class Queue:
    """The runs of a plan, as one worker comes to them."""

    def __init__(self, results: Path | Results, order: Order) -> None:
        self.results = results_at(results)
        self.order = order
        self.given_up: dict[str, str] = {}  # by id: why this worker cannot even say it failed
        self._ended: set[tuple[str, int]] = set()  # ids, and how many steps were asked for
        self.lost = 0  # claims in a row that another process was faster to make
        self._in_vain = 0  # looks in a row that found nothing
        self._last_trunk = ""

    def next(self) -> PlannedRun | None:
        """A run that nobody has and that can be trained now; none if there is none now.

        Call it again and again: those who hold a run are given up after a while without a sign.
        Where others were faster, it is one of the next 2, 4, 8, …: so a thousand workers that begin
        at once do not all want the same.
        """
        self.results.look()
        starts: dict[str, set[int] | None] = {}  # as `_starts`, by trunk
        free: list[PlannedRun] = []
        for run in sorted(self.left(), key=self._rank):
            if run.run_kind == "cooldown":
                if run.trunk_id not in starts:
                    starts[run.trunk_id] = self._starts(run.trunk_id)
                at = starts[run.trunk_id]
                if at is not None and run.first_step not in at:
                    continue
            if has_ended(self.results, run):
                self._ended.add((run.run_id, run.steps))
            elif self.results.living_owner(run.run_id) is None:
                free.append(run)
                if len(free) >= 2**self.lost:
                    break
        self._in_vain = 0 if free else self._in_vain + 1
        if not free:
            return None
        run = random.choice(free)
        self._last_trunk = run.trunk_id
        return run

    def pause(self) -> float:
        """Seconds until the next look after one in vain, where each has its price.

        Twice as many after each, and by chance more or less, so that a thousand workers that began
        to wait at once do not look at once.
        """
        growing = self.results.pause * 2.0 ** min(self._in_vain - 1, 30)
        return min(growing, LONGEST_PAUSE) * random.uniform(1 - SPREAD, 1 + SPREAD)

    def left(self) -> list[PlannedRun]:
        """The runs of the plan, but those that were seen to have ended, or given up."""
        runs = self.results.manifest().runs
        for run in runs:
            trunk = run.trunk_id
            if trunk in self.given_up and run.first_step not in self.results.checkpoints(trunk):
                self.given_up.setdefault(run.run_id, f"its trunk {trunk} was given up")
        return [
            run
            for run in runs
            if (run.run_id, run.steps) not in self._ended and run.run_id not in self.given_up
        ]

    def _starts(self, trunk: str) -> set[int] | None:
        """The steps of a trunk that branches can start from; null if it ended: there are no more.

        A branch is then trained from what there is, or fails because its trunk did.
        """
        if has_ended(self.results, self.results.manifest().by_id[trunk]):
            return None
        return self.results.checkpoints(trunk)

    def _rank(self, run: PlannedRun) -> tuple[float, bool]:
        """Least first. Of equals, one of the trunk trained last, whose program is compiled."""
        cost = run.flops if self.order == "cheapest-first" else -run.flops
        return cost, run.trunk_id != self._last_trunk
