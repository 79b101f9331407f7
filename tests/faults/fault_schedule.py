"""What befalls a grid on its way, drawn at random: a pure function of a seed and a number.

So a schedule that a grid did not survive can be given again by these two. Over the numbers the
places, the faults and the damages take turns, and the rest is drawn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Place = Literal["folder", "bucket"]
Who = Literal["worker", "launcher"]
# How long a frozen process stands still: shorter than its lease, longer, or until another launch
# has trained the grid.
Freeze = Literal["briefly", "for long", "beside a rival"]

# About how often each writes below results and cache in a grid that nothing happens to, or asks a
# bucket for something (`injected/sitecustomize.py` counts).
OPERATIONS: dict[tuple[Place, Who], int] = {
    ("folder", "worker"): 600,
    ("folder", "launcher"): 50,
    ("bucket", "worker"): 2000,
    ("bucket", "launcher"): 55,
}


@dataclass(frozen=True)
class Strike:
    """A fault that befalls one process of a launch, once."""

    what: str  # one of WHAT
    who: Who
    at: int  # before which of its operations, counted within the process
    moment: float | None = None  # in place of `at`: a share of the time that a launch takes
    freeze: Freeze = "briefly"
    error: str = "EIO"  # the name of an errno
    times: int = 1  # operations that fail, from the first on
    reads: bool = False  # whether reads count and fail, in place of writes

    def __str__(self) -> str:
        how = {"freeze": f" {self.freeze}", "error": f" {self.error} x {self.times}"}
        when = f"{'read' if self.reads else 'write'} {self.at}"
        if self.moment is not None:
            when = f"{self.moment:.0%} of the time"
        return f"{self.what}{how.get(self.what, '')} of the {self.who} at {when}"


@dataclass(frozen=True)
class Damage:
    """A file that goes missing, or in which a bit flips, while nobody works there.

    Files are chosen by shares of what is there: first the kind, so that a rare one is as likely.
    """

    what: Literal["missing", "flipped"]
    of: Literal["results", "cache"]
    kind: float
    file: float
    bit: float


@dataclass(frozen=True)
class Launch:
    """One `scaling run`, and what becomes of it."""

    workers: int
    strike: Strike | None
    damage: Damage | None = None  # afterwards


@dataclass(frozen=True)
class Schedule:
    """All that befalls one grid, before it is launched to its end."""

    seed: int
    number: int
    place: Place
    launches: tuple[Launch, ...]

    def __str__(self) -> str:
        lines = [f"schedule {self.number} of seed {self.seed}, in a {self.place}"]
        for launch in self.launches:
            lines.append(f"  launch of {launch.workers}: {launch.strike or 'undisturbed'}")
            if launch.damage is not None:
                lines.append(f"  then {launch.damage.what} in {launch.damage.of}")
        return "\n".join(lines)


# What, who, and for how long it is frozen; null: nothing befalls the launch itself.
WHAT: tuple[tuple[str, Who, Freeze] | None, ...] = (
    ("kill", "worker", "briefly"),
    ("error", "worker", "briefly"),
    ("freeze", "worker", "beside a rival"),
    ("power cut", "worker", "briefly"),
    ("kill", "launcher", "briefly"),
    None,
    ("freeze", "worker", "for long"),
    ("error", "launcher", "briefly"),
    ("freeze", "launcher", "beside a rival"),
    ("stop", "worker", "briefly"),
    ("freeze", "launcher", "briefly"),
)


def schedule(seed: int, number: int, place: Place | None = None) -> Schedule:
    """The schedule of that number; even ones are in a folder, unless a place is given."""
    draw = random.Random(f"{seed}/{number}")
    place = place or ("folder", "bucket")[number % 2]
    turn = number // 2
    first = _launch(draw, place, WHAT[turn % len(WHAT)], turn)
    more = [
        _launch(draw, place, draw.choice(WHAT), draw.randrange(3)) for _ in range(draw.randrange(2))
    ]
    return Schedule(seed, number, place, (first, *more))


def _launch(
    draw: random.Random, place: Place, what: tuple[str, Who, Freeze] | None, turn: int
) -> Launch:
    workers, damage = draw.randint(1, 2), None
    if what is None or turn % 3:  # nothing at all would be no schedule
        damage = Damage(
            what=("missing", "flipped")[turn % 2],
            of="cache" if draw.random() < 0.15 else "results",
            kind=draw.random(),
            file=draw.random(),
            bit=draw.random(),
        )
    strike = None
    if what is not None:
        name, who, freeze = what
        workers_share = workers if who == "worker" else 1
        strike = Strike(
            what=name,
            who=who,
            at=draw.randint(1, OPERATIONS[place, who] // workers_share),
            moment=draw.random() if name != "error" and draw.random() < 0.3 else None,
            freeze=freeze,
            error=draw.choice(["EIO", "ENOSPC", "EACCES"]) if name == "error" else "EIO",
            times=draw.choice([1, 3, 1000]) if name == "error" else 1,
            reads=name == "error" and draw.random() < 0.3,
        )
    return Launch(workers, strike, damage)
