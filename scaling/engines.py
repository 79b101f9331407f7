"""What a study asks of the engines that start its workers: its [launch] section."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass

from scaling.fields import Count, Whole

_STRICT = ConfigDict(extra="forbid", strict=True)

# A value of an #SBATCH line: sbatch divides that at spaces, and a shell reads what follows it.
Word = Annotated[str, Field(pattern=r"""^[^\s'"\\$`#;-][^\s'"\\$`#;]*$""", max_length=256)]
# A line of the script. [^\n] alone would leave other characters that end a line.
Line = Annotated[str, Field(pattern=r"^[^\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]+$")]
Memory = Annotated[str, Field(pattern=r"^[1-9]\d*(\.\d+)?[KMGT]?$")]

# sbatch(1), --time: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
# days-hours:minutes and days-hours:minutes:seconds.
_TIME = re.compile(
    r"(?P<minutes>\d+)(:(?P<seconds>\d+))?"
    r"|(?P<hours>\d+):(?P<m>\d+):(?P<s>\d+)"
    r"|(?P<days>\d+)-(?P<h>\d+)(:(?P<dm>\d+))?(:(?P<ds>\d+))?"
)


def seconds_of(time: str) -> int:
    """The seconds of a time limit as Slurm writes it. Raises ValueError for anything else."""
    if (found := _TIME.fullmatch(time)) is None:
        raise ValueError(
            "is no time that Slurm reads; give hours:minutes:seconds such as '04:00:00', "
            "days-hours such as '1-12', or minutes"
        )
    part = {name: int(value) for name, value in found.groupdict().items() if value}
    hours = 24 * part.get("days", 0) + part.get("hours", 0) + part.get("h", 0)
    minutes = part.get("minutes", 0) + part.get("m", 0) + part.get("dm", 0)
    seconds = part.get("seconds", 0) + part.get("s", 0) + part.get("ds", 0)
    return 3600 * hours + 60 * minutes + seconds


def _time(value: Any) -> Any:
    if type(value) is int:
        value = str(value)  # minutes
    if not isinstance(value, str):
        raise ValueError("is no time; give one such as '04:00:00'")
    if seconds_of(value) == 0:
        raise ValueError("is no limit to Slurm, or the site's longest; leave it out for that")
    return value


Time = Annotated[str, BeforeValidator(_time)]


@dataclass(frozen=True, config=_STRICT)
class SlurmSection:
    """How workers are asked of Slurm: one task of a job array each."""

    partition: Word | None = None  # this and the next six: the site's default unless given
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    time: Time | None = None  # of a task, which begins again after it
    cpus: Count | None = None  # of a worker
    mem: Memory | None = None  # of a worker, in Slurm's units
    gpus: Count | None = None  # of a worker on each of its hosts; it trains one run on all of them
    nodes: Count = 1  # hosts of one worker
    workers: Count | None = None  # at once; as many as runs, and no more than 8, unless given
    setup: tuple[Line, ...] = ()  # shell lines before the worker, such as "module load cuda"
    container: Line | None = None  # words before the worker's command: "apptainer exec --nv a.sif"
    template: Line | None = None  # path of a script in place of scaling/launch/slurm.sh
    requeue: StrictBool = True  # whether the site lets a job go back into the queue
    spares: Whole | None = None  # tasks beyond `workers`, which take over where requeue = false
    checkpoint_seconds: Count = 120  # before the time limit, when a worker is told to stop

    def __post_init__(self) -> None:
        if self.time is not None and seconds_of(self.time) <= self.checkpoint_seconds:
            raise ValueError(
                f"time = {self.time!r} leaves a worker no time before it is told to write its "
                f"checkpoint, checkpoint_seconds = {self.checkpoint_seconds} before the end; give "
                "a longer time, or fewer seconds"
            )


@dataclass(frozen=True, config=_STRICT)
class RaySection:
    """How workers are asked of Ray: one actor each."""

    address: Line | None = None  # of a cluster; unless given Ray's choice, as in launch/ray.py
    gpus: Whole | None = None  # of a worker; 1 where the cluster has any unless given
    workers: Count | None = None  # at once; as many as the cluster has room for unless given


@dataclass(frozen=True, config=_STRICT)
class LaunchSection:
    """Where workers run, by `scaling run --launcher`: no part of what their runs are."""

    slurm: SlurmSection = field(default_factory=SlurmSection)
    ray: RaySection = field(default_factory=RaySection)
