"""What do 1,000 workers that ask a bucket for their next run cost, and how long should one wait?

    python benchmarks/polling.py [--json FILE]

A simulation by events, of seeds: workers take the runs of a grid, trunks and branches, by the
protocol of scaling/store/bucket. A look lists all claims, beats and manifests, a page of 1,000
objects a request, and reads what is new since this worker's last look: each manifest that changed,
as it does when a run begins, at its checkpoints and at its end, and each claim on a run that is in
training. To take a run is to list what is known of it and one write, which only the first to try it
wins; who was too late looks again, and takes one of the next 2, 4, 8, … free runs. Whoever has a
run writes a beat every so many seconds and reads whether it was replaced; checkpoints and results
are written and read besides. A worker that finds nothing free waits: 20 times as long as it looked,
and at least a pause, which may double after each further look in vain up to a longest one, and is
by up to a half longer or shorter at random. The program does as in "pauses up to 1 min".

It does not let a listing tell what manifests say: the name of an object is no proof of what it
holds, so that a damaged record, whose run is trained again as it is, would pass for one that ended.

Two grids: 10,000 runs by 1,000 workers and, because a long wait costs most where few workers look,
100 runs by 8. A row is a policy on a grid: requests a second on average and in the busiest ten
seconds, dollars a day by what they buy, and the hours until all runs have ended. Each policy keeps
what the ones above it changed. The ratios are to the first.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Dollars a request, S3 Standard in us-east-1: .005 for 1,000 PUT, COPY, POST or LIST, .0004 for
# 1,000 GET (aws.amazon.com/s3/pricing, Requests & data retrievals). Google's operations of class A
# and B cost as much in one region (cloud.google.com/storage/pricing-examples). DELETE is free at
# both.
WRITE_OR_LIST, READ = 0.005 / 1000, 0.0004 / 1000
PRICES = {"list": WRITE_OR_LIST, "write": WRITE_OR_LIST, "read": READ}
PAGE = 1000  # objects that one LIST returns at most, at all three clouds
# S3 answers at least 3,500 writes and 5,500 reads a second for a prefix, and 503 above
# (docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html).
MOST_WRITES, MOST_READS = 3500, 5500

LATENCY = 0.02  # seconds of a request, from a machine of the same region
TOGETHER = 64  # reads that a worker has under way: READS of scaling/store/objects.py
SHARE = 0.05  # of the time that an idle worker looks: WAIT_SHARE of scaling/launch/worker.py
PAUSE = 5.0  # seconds that it waits at least: PAUSE_SECONDS of scaling/store/bucket/bucket.py
START = 10.0  # seconds in which the workers of an array come up
BIN = 10.0  # seconds over which a peak is taken

# Workers; seeds, sizes and budgets. A trunk for each size of each seed, a branch for each budget.
GRIDS = ((1000, (20, 20, 24)), (8, (1, 4, 24)))
MEAN_SECONDS = 360.0  # of a run; who trains longer runs asks for the next one less often
COOLDOWN = 0.2  # share of a branch's steps after it leaves its trunk
CHECKPOINT_SECONDS = 600.0
CHECKPOINT_FILES = 20


@dataclass(frozen=True)
class Policy:
    """When workers look and show that they live, and what a look reads."""

    name: str
    longest: float = PAUSE  # seconds to which the pause doubles
    reads: int = 1  # of a manifest that changed; 0 where the listing tells what it says
    beat: float = 10.0  # seconds between beats: BEAT_SECONDS of scaling/store/bucket/leases.py


POLICIES = (
    Policy("pauses of 5 s"),
    Policy("pauses up to 1 min", longest=60),
    Policy("pauses up to 5 min", longest=300),
    Policy("manifests told by the listing", longest=300, reads=0),
    Policy("beats of 20 s", longest=300, reads=0, beat=20),
)


@dataclass(frozen=True, order=True)
class Run:
    """A run, of which the cheapest is the first."""

    seconds: float
    number: int
    # (seconds after its start, the branch that can start then)
    branches: tuple[tuple[float, Run], ...] = field(default=(), compare=False)


def grid(seeds: int, sizes: int, budgets: int) -> list[Run]:
    """The trunks of a grid, with their branches; sizes grow by 1.15 and budgets by 1.1."""
    shapes = [(1.15**size, [1.1**budget for budget in range(budgets)]) for size in range(sizes)]
    work = sum(
        size * ((1 - COOLDOWN) * tokens[-1] + COOLDOWN * sum(tokens)) for size, tokens in shapes
    )
    unit = MEAN_SECONDS * sizes * (budgets + 1) / work
    trunks, number = [], 0
    for _ in range(seeds):
        for size, tokens in shapes:
            branches = []
            for each in tokens:
                run = Run(unit * size * COOLDOWN * each, number)
                branches.append((unit * size * (1 - COOLDOWN) * each, run))
                number += 1
            trunks.append(Run(branches[-1][0], number, tuple(branches)))
            number += 1
    return trunks


@dataclass
class Requests:
    """Requests by kind and by what they are for, and in each `BIN` seconds."""

    total: Counter[tuple[str, str]] = field(default_factory=Counter)
    in_bin: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, at: float, what: str, kind: str, count: int = 1) -> None:
        """So many requests at a time."""
        self.total[what, kind] += count
        self.in_bin[kind, int(at / BIN)] += count

    def peak(self, kind: str) -> float:
        """A second, in the busiest `BIN` seconds."""
        return max((n for (of, _), n in self.in_bin.items() if of == kind), default=0) / BIN


class Simulation:
    """A grid, trained by workers under one policy."""

    def __init__(self, trunks: Iterable[Run], workers: int, policy: Policy, seed: int) -> None:
        self.policy, self.random = policy, random.Random(seed)
        self.requests = Requests()
        self.free = sorted(trunks)
        self.left = sum(1 + len(trunk.branches) for trunk in self.free)
        self.claimed = 0  # runs, each with a claim, a beat and a manifest
        self.training = 0  # of these, those that have not ended
        self.changes = 0  # of manifests
        self.seen_changes = [0] * workers  # by worker: of how many changes of manifests it knows
        self.seen_claims = [0] * workers  # by worker: of how many claims it knows
        self.in_vain = [0] * workers  # by worker: looks that found nothing since its last run
        self.lost = [0] * workers  # by worker: claims in a row that another was faster to make
        self.waited = 0.0  # worker-seconds
        self.now, self._order = 0.0, 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        for worker in range(workers):
            self._at(self.random.uniform(0, START), self._look, worker)

    def run(self) -> Simulation:
        """Until every run has ended."""
        while self.left:
            self.now, _, happens, about = heapq.heappop(self._events)
            happens(*about)
        return self

    def beats(self, start: float, end: float) -> None:
        """Those of one lease: a write, and a read that tells whether it was replaced."""
        for number in range(1, int((end - start) / self.policy.beat) + 1):
            for kind in ("write", "read"):
                self.requests.add(start + number * self.policy.beat, "beats", kind)

    def _at(self, time: float, happens: Callable[..., None], *about: object) -> None:
        self._order += 1  # of events at the same time the first made is the first
        heapq.heappush(self._events, (time, self._order, happens, about))

    def _look(self, worker: int) -> None:
        pages = -(-self.claimed // PAGE) or 1  # of claims, of beats and of manifests: one a run
        self.requests.add(self.now, "lists", "list", 3 * pages)
        new = min(self.changes - self.seen_changes[worker], self.claimed) * self.policy.reads
        new += min(self.claimed - self.seen_claims[worker], self.training)
        self.seen_changes[worker], self.seen_claims[worker] = self.changes, self.claimed
        if new:
            self.requests.add(self.now, "reads", "read", new)
        took = LATENCY * (3 * pages - (-new // TOGETHER))
        if self.free:
            found = self.free[: 2 ** self.lost[worker]]
            self._at(self.now + took, self._claim, worker, self.random.choice(found))
            return
        growing = min(PAUSE * 2 ** self.in_vain[worker], self.policy.longest)
        self.in_vain[worker] = min(self.in_vain[worker] + 1, 30)  # of doublings
        wait = max(growing * self.random.uniform(0.5, 1.5), took / SHARE)
        self.waited += wait
        self._at(self.now + took + wait, self._look, worker)

    def _claim(self, worker: int, run: Run) -> None:
        self.requests.add(self.now, "claims", "list", 2)
        at = bisect_left(self.free, run)
        if self.free[at : at + 1] != [run]:
            self.lost[worker] = min(self.lost[worker] + 1, 30)
            self._at(self.now + 2 * LATENCY, self._look, worker)
            return
        del self.free[at]
        self.requests.add(self.now, "claims", "write")
        self.requests.add(self.now, "claims", "list", 2)  # of its state, and of its trunk's
        self.claimed += 1
        self.training += 1
        self.changes += 1
        self.in_vain[worker] = self.lost[worker] = 0
        begun, end = self.now, self.now + run.seconds
        self.requests.add(begun, "stored", "write")  # its manifest
        if not run.branches:
            self.requests.add(begun, "stored", "read", CHECKPOINT_FILES)  # its trunk's
        self.beats(begun, end)
        for number in range(1, int(run.seconds / CHECKPOINT_SECONDS) + 1):
            self._at(begun + number * CHECKPOINT_SECONDS, self._checkpoint, None)
        for after, branch in run.branches:
            self._at(begun + after, self._checkpoint, branch)
        self._at(end, self._end, worker)

    def _checkpoint(self, branch: Run | None) -> None:
        self.changes += 1
        self.requests.add(self.now, "stored", "write", CHECKPOINT_FILES + 1)
        if branch is not None:
            insort(self.free, branch)

    def _end(self, worker: int) -> None:
        self.left -= 1
        self.training -= 1
        self.changes += 1
        self.requests.add(self.now, "stored", "write", 5)  # steps, evals, scores, manifest, beat
        self._at(self.now, self._look, worker)


def measure(policy: Policy, trunks: list[Run], workers: int, seed: int = 0) -> dict[str, object]:
    """The row of a policy."""
    done = Simulation(trunks, workers, policy, seed).run()
    days = done.now / 86400
    per_day = {
        what: sum(n * PRICES[kind] for (of, kind), n in done.requests.total.items() if of == what)
        / days
        for what in ("lists", "reads", "claims", "beats", "stored")
    }
    return {
        **asdict(policy),
        "workers": workers,
        "runs": sum(1 + len(trunk.branches) for trunk in trunks),
        "hours": done.now / 3600,
        "waiting": done.waited / (done.now * workers),  # share of the workers' time
        "requests_per_second": sum(done.requests.total.values()) / done.now,
        "peak_per_second": {kind: done.requests.peak(kind) for kind in PRICES},
        "dollars_per_day": {**per_day, "all": sum(per_day.values())},
    }


def ratios_of(rows: list[dict]) -> dict[str, float]:
    """Dollars a day, and hours until all runs have ended, over the first policy's on that grid."""
    first: dict[int, dict] = {}
    ratios = {}
    for row in rows:
        base = first.setdefault(row["workers"], row)
        about = f"{row['workers']} workers, {row['name']} / {base['name']}"
        dollars, base_dollars = row["dollars_per_day"]["all"], base["dollars_per_day"]["all"]
        ratios[f"dollars: {about}"] = dollars / base_dollars
        ratios[f"hours: {about}"] = row["hours"] / base["hours"]
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for workers, shape in GRIDS:
        trunks = grid(*shape)
        for policy in POLICIES:
            rows.append(measure(policy, trunks, workers))
            print(text_of(rows[-1]), flush=True)
    ratios = ratios_of(rows)
    for name, value in ratios.items():
        print(f"{name}: {value:.4f}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "ratios": ratios}, indent=1) + "\n")


def text_of(row: dict) -> str:
    """A row in two lines."""
    peak = ", ".join(f"{each:,.0f} {kind}s" for kind, each in row["peak_per_second"].items())
    dollars = ", ".join(f"{what} ${each:,.2f}" for what, each in row["dollars_per_day"].items())
    return (
        f"{row['runs']:,} runs, {row['workers']:,} workers, {row['name']}: {row['hours']:.3f} h, "
        f"{row['waiting']:.0%} of it waiting, {row['requests_per_second']:,.0f} requests a second\n"
        f"    a second when busiest: {peak}; a day: {dollars}"
    )


if __name__ == "__main__":
    main()
