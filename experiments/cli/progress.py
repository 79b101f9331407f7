"""What the terminal shows while work goes on: a bar, or in a log one line now and then."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from analysis.text import duration, human, printable
from experiments.cli.text import say
from scaling.data.progress import Step
from scaling.launch.output import Printable, drawing_on
from scaling.launch.watch import Snapshot

LOG_SECONDS = 20.0  # between lines where there is no terminal


class _Bar:
    """A bar on a terminal while a `with` lasts, and nothing elsewhere."""

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self.on_terminal = console.is_terminal
        self.bar = Progress(
            *columns, console=console, transient=True,
            redirect_stdout=sys.stdout.isatty(), redirect_stderr=sys.stderr.isatty(),
        )  # fmt: skip
        self.shown = ExitStack()

    def __enter__(self) -> Self:
        if self.on_terminal:
            self.bar.start()
            self.shown.callback(self.bar.stop)  # without a terminal it may print an empty line
            # The bar prints above itself what is printed meanwhile on a terminal, as it is.
            self.shown.enter_context(redirect_stdout(Printable(sys.stdout)))
            self.shown.enter_context(redirect_stderr(Printable(sys.stderr)))
        return self

    def __exit__(self, *_: object) -> None:
        self.shown.close()


class Watch(_Bar):
    """Shows how far a launch is: call it with snapshots, inside a `with`."""

    def __init__(self) -> None:
        note = TextColumn("{task.fields[note]}")
        console = Console(file=drawing_on(sys.stdout))
        super().__init__(console, TextColumn("runs"), MofNCompleteColumn(), BarColumn(), note)
        self.task = self.bar.add_task("runs", total=None, note="")
        self.last = 0.0
        self.ended = False  # the last line is printed; workers may still have to exit

    def __call__(self, seen: Snapshot) -> None:
        note = _launch_note(seen)
        if self.on_terminal:
            self.bar.update(self.task, completed=seen.runs_done, total=seen.runs, note=note)
        elif not self.ended and (
            time.monotonic() - self.last > LOG_SECONDS or seen.runs_done == seen.runs
        ):
            self.last, self.ended = time.monotonic(), seen.runs_done == seen.runs
            print(f"{seen.runs_done}/{seen.runs} runs, {note}", flush=True)


class Taking(_Bar):
    """Shows how many runs were taken elsewhere: call it with counts, inside a `with`."""

    def __init__(self) -> None:
        columns = TextColumn("runs"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn()
        super().__init__(Console(file=drawing_on(sys.stderr)), *columns)
        self.task = self.bar.add_task("runs", total=None)
        self.last = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        if self.on_terminal:
            self.bar.update(self.task, completed=done, total=of)
        elif done < of and time.monotonic() - self.last > LOG_SECONDS:
            self.last = time.monotonic()
            say(f"{done:,} of {of:,} runs", sys.stderr)


class Preparation(_Bar):
    """Shows how far a corpus is read and tokenised: call it with steps, inside a `with`."""

    def __init__(self) -> None:
        what = TextColumn("{task.description}", markup=False)  # a glob has brackets
        note = TextColumn("{task.fields[note]}")
        console = Console(file=drawing_on(sys.stderr))
        super().__init__(console, what, BarColumn(), note, TimeElapsedColumn())
        self.step: Step | None = None
        self.went_on = False  # with what was done before
        self.began = 0.0
        self.over = threading.Event()
        # The library that learns a vocabulary is silent for minutes; a thread prints meanwhile.
        self.clock = threading.Thread(target=self._log, daemon=True)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        super().__exit__()
        if self.clock.is_alive():
            self.clock.join()

    def __call__(self, step: Step) -> None:
        first, fresh = self.step is None, self.step is None or self.step.doing != step.doing
        if fresh:
            self.began = time.monotonic()
        self.step, self.went_on = step, self.went_on or step.kept > 0
        if self.on_terminal:
            if fresh:
                for task in self.bar.task_ids:
                    self.bar.remove_task(task)
                self.bar.add_task(printable(step.doing), total=step.of, note="")
            self.bar.update(self.bar.task_ids[-1], completed=step.done, note=self._note(step))
        elif first:
            self.clock.start()

    def _log(self) -> None:
        while not self.over.wait(LOG_SECONDS):
            step = self.step
            assert step is not None
            elapsed = duration(time.monotonic() - self.began)
            say(f"{step.doing}: {', '.join(filter(None, [self._note(step), elapsed]))}", sys.stderr)

    def _note(self, step: Step) -> str:
        """How much is done, how fast, and the time left; what is not known is left out."""
        if not step.done:
            return ""
        share = f" ({step.done / step.of:.0%})" if step.of else ""
        parts = [f"{human(step.done)}{share}"]
        seconds, now = time.monotonic() - self.began, step.done - step.kept
        if seconds < 1 or not now:
            return parts[0]
        parts.append(f"{human(now / seconds)}/s")
        if step.tokens:
            parts.append(f"{human(step.tokens / seconds)} tokens/s")
        if step.of and step.of > step.done:
            parts.append(f"{duration((step.of - step.done) * seconds / now)} left")
        return ", ".join(parts)


def _launch_note(seen: Snapshot) -> str:
    """How far the launch is, how fast, and the time left; what is not known is left out."""
    share = seen.flops_done / seen.flops if seen.flops else 1.0
    parts = [f"{share:4.0%} of FLOPs"]
    if seen.runs_done == seen.runs:
        return f"{parts[0]} in {duration(seen.seconds)}"
    if seen.tokens_per_s:  # known while runs report
        parts.append(f"{human(seen.tokens_per_s)} tokens/s")
    if not seen.flops_done:
        parts.append("no steps yet")
    elif (left := seen.seconds_left) is not None:
        parts.append(f"{duration(left)} left")
    if seen.training:
        parts.append(f"{seen.training} in training")
    return ", ".join(parts)
