"""Which run of a results folder a worker takes next; every worker asks for itself.

Nothing is handed out: the manifest says what there is, records say what has ended, claims say what
somebody has. Two workers that choose the same run at once are told apart by their claims.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from scaling.store.attempt import checkpoint_folders
from scaling.store.claims import Observer
from scaling.store.manifest import Manifest, PlannedRun, read_manifest
from scaling.store.ready import has_ended, run_folder
from scaling.store.steps import checkpoint_steps

# The cheapest first: faults show early, and a law can be fitted to what is there. The longest
# first: all of a grid is done soonest, since no long run is left to one worker at the end.
Order = Literal["cheapest-first", "longest-first"]
ORDERS: tuple[Order, ...] = get_args(Order)


class CurrentManifest:
    """The manifest of a results folder as it is now; read again where it was replaced."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self._stamp: tuple[int, ...] = ()
        self._read: Manifest | None = None

    @property
    def manifest(self) -> Manifest:
        """Raises Refusal as `read_manifest`."""
        stamp: tuple[int, ...] = ()
        with suppress(OSError):  # gone: reading it says so
            found = (self.results / "plan.json").stat()
            stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if self._read is None or stamp != self._stamp:
            self._read, self._stamp = read_manifest(self.results), stamp
        return self._read


class Queue:
    """The runs of a results folder, as one worker comes to them."""

    def __init__(self, results: Path, order: Order) -> None:
        self.results = results
        self.current = CurrentManifest(results)
        self.order = order
        self.observer = Observer()
        self.given_up: dict[str, str] = {}  # by id: why this worker cannot even say it failed
        self._ended: set[tuple[str, int]] = set()  # ids, and how many steps were asked for
        self._last_trunk = ""

    def next(self) -> PlannedRun | None:
        """A run that nobody has and that can be trained now; none if there is none now.

        Call it again and again: those who hold a run are given up after a while without a sign.
        """
        starts: dict[str, set[int] | None] = {}  # as `_starts`, by trunk
        for run in sorted(self.left(), key=self._rank):
            if run.run_kind == "cooldown":
                if run.trunk_id not in starts:
                    starts[run.trunk_id] = self._starts(run.trunk_id)
                at = starts[run.trunk_id]
                if at is not None and run.first_step not in at:
                    continue
            if has_ended(self.results, run):
                self._ended.add((run.run_id, run.steps))
            elif self.observer.owner(self.folder(run)) is None:
                self._last_trunk = run.trunk_id
                return run
        return None

    def left(self) -> list[PlannedRun]:
        """The runs of the plan, but those that were seen to have ended, or given up."""
        for run in self.current.manifest.runs:
            trunk = run_folder(self.results, run.trunk_id)
            if run.trunk_id in self.given_up and run.first_step not in branch_points(trunk):
                self.given_up.setdefault(run.run_id, f"its trunk {run.trunk_id} was given up")
        return [
            run
            for run in self.current.manifest.runs
            if (run.run_id, run.steps) not in self._ended and run.run_id not in self.given_up
        ]

    def folder(self, run: PlannedRun) -> Path:
        """Where a run lies."""
        return run_folder(self.results, run.run_id)

    def _starts(self, trunk: str) -> set[int] | None:
        """The steps of a trunk that branches can start from; null if it ended: there are no more.

        A branch is then trained from what there is, or fails because its trunk did.
        """
        if has_ended(self.results, self.current.manifest.by_id[trunk]):
            return None
        return branch_points(run_folder(self.results, trunk))

    def _rank(self, run: PlannedRun) -> tuple[float, bool]:
        """Least first. Of equals, one of the trunk trained last, whose program is compiled."""
        cost = run.flops if self.order == "cheapest-first" else -run.flops
        return cost, run.trunk_id != self._last_trunk


def branch_points(trunk: Path) -> set[int]:
    """The steps after which a trunk's state is on disk."""
    return {step for each in checkpoint_folders(trunk) for step in checkpoint_steps(each)}
