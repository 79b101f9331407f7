"""What a launch shows while it works: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from analysis.units import duration, human
from scaling.launch.watch import Snapshot

LOG_SECONDS = 20.0  # between lines where there is no terminal


class Watch:
    """Call it with snapshots, inside a `with`."""

    def __init__(self) -> None:
        self.console = Console()
        self.bar = Progress(
            TextColumn("runs"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        self.task = self.bar.add_task("runs", total=None, note="")
        self.live = Live(self.bar, console=self.console, transient=True)
        self.last = 0.0
        self.ended = False  # the last line is printed; workers may still have to exit

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def __call__(self, seen: Snapshot) -> None:
        note = _note(seen)
        if self.console.is_terminal:
            self.bar.update(self.task, completed=seen.runs_done, total=seen.runs, note=note)
        elif not self.ended and (
            time.monotonic() - self.last > LOG_SECONDS or seen.runs_done == seen.runs
        ):
            self.last, self.ended = time.monotonic(), seen.runs_done == seen.runs
            print(f"{seen.runs_done}/{seen.runs} runs, {note}", flush=True)


def _note(seen: Snapshot) -> str:
    """How far, how fast, and how long still; of what is not known, nothing."""
    share = seen.flops_done / seen.flops if seen.flops else 1.0
    parts = [f"{share:4.0%} of FLOPs"]
    if seen.runs_done == seen.runs:
        return f"{parts[0]} in {duration(seen.seconds)}"
    if seen.tokens_per_s:  # of runs that have reported; between two it is not known
        parts.append(f"{human(seen.tokens_per_s)} tokens/s")
    left = seen.seconds_left
    parts.append("no steps yet" if left is None else f"{duration(left)} left")
    if seen.training:
        parts.append(f"{seen.training} in training")
    return ", ".join(parts)
