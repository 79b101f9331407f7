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
        for run in sorted(self.left(), key=self._rank):
            if has_ended(self.results, run):
                self._ended.add((run.run_id, run.steps))
            elif self._can_begin(run) and self.observer.owner(self.folder(run)) is None:
                self._last_trunk = run.trunk_id
                return run
        return None

    def left(self) -> list[PlannedRun]:
        """The runs of the plan, but those that were seen to have ended, or given up."""
        for run in self.current.manifest.runs:
            if run.trunk_id in self.given_up and not branch_point(self.trunk(run), run.first_step):
                self.given_up.setdefault(run.run_id, f"its trunk {run.trunk_id} was given up")
        return [
            run
            for run in self.current.manifest.runs
            if (run.run_id, run.steps) not in self._ended and run.run_id not in self.given_up
        ]

    def folder(self, run: PlannedRun) -> Path:
        """Where a run lies."""
        return run_folder(self.results, run.run_id)

    def trunk(self, run: PlannedRun) -> Path:
        """Where the run lies that it goes on from."""
        return run_folder(self.results, run.trunk_id)

    def _can_begin(self, run: PlannedRun) -> bool:
        """Whether a run starts from nothing, or from what is there, or from what never will be."""
        return (
            run.run_kind != "cooldown"
            or branch_point(self.trunk(run), run.first_step)
            or has_ended(self.results, self.current.manifest.by_id[run.trunk_id])
        )

    def _rank(self, run: PlannedRun) -> tuple[float, bool]:
        """Least first. Of equals, one of the trunk trained last, whose program is compiled."""
        cost = run.flops if self.order == "cheapest-first" else -run.flops
        return cost, run.trunk_id != self._last_trunk


def branch_point(trunk: Path, step: int) -> bool:
    """Whether a trunk's state after so many steps is on disk."""
    return any(step in checkpoint_steps(each) for each in checkpoint_folders(trunk))
