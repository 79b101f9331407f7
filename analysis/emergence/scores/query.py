"""What is read of a table of scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class PerTask:
    """A number given for all tasks, or for single ones by name."""

    everywhere: float | None = None
    single: Mapping[str, float] = field(default_factory=dict)

    def of(self, task: str) -> float | None:
        """The number of the task, else that of the task without its shots or `by`, else of all."""
        known = (self.single[name] for name in names_of(task) if name in self.single)
        return next(known, self.everywhere)


def names_of(task: str) -> list[str]:
    """The names of a task: with its shots and the values of `by`, with fewer of them, with none."""
    parts = task.split(", ")
    return [", ".join(parts[:count]) for count in range(len(parts), 0, -1)]


@dataclass(frozen=True)
class ScoreQuery:
    """Which rows of a table of scores are read, and which columns hold what."""

    scale: str  # a column, or params, tokens, flops, loss
    metrics: tuple[str, ...] = ()  # none: the table has only one
    tasks: tuple[str, ...] = ()  # none: all
    by: tuple[str, ...] = ()  # columns of which each value has its own curve
    columns: Mapping[str, str] = field(default_factory=dict)  # task, value, n, ... -> the table's
    value_columns: tuple[str, ...] = ()  # of a wide table; each is a task
    conditions: tuple[str, ...] = ()  # as `analysis.runs.filter.meets` reads them
    chance: PerTask = PerTask()  # chance level
    n: PerTask = PerTask()  # questions per score
    span: tuple[float, float] | None = None  # worst and best value; None: those of METRICS
    join: Path | None = None  # a table with the scale, one row per model
    on: str | None = None  # the column that both tables have
    steps: str = "ends"  # of runs: the ends of a decay, or "all"
    completed: tuple[str, ...] = ()  # further status words of runs that finished
