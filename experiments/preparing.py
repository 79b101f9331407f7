"""What the terminal shows while a corpus is read and tokenised: never a minute of silence."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from analysis.units import human
from experiments.text import duration, printable, say
from scaling.data.progress import Step

LOG_SECONDS = 20.0  # between lines where there is no terminal


class Preparation:
    """Call it with steps, inside a `with`. What takes less than a moment shows nothing."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),  # a glob has brackets
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self.step: Step | None = None
        self.began = 0.0
        self.over = threading.Event()
        # The library that learns a vocabulary says nothing for minutes, so lines come from beside.
        self.clock = threading.Thread(target=self._log, daemon=True)

    def __enter__(self) -> Preparation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        if self.console.is_terminal:  # elsewhere it would print an empty line
            self.bar.stop()
        if self.clock.is_alive():
            self.clock.join()

    def __call__(self, step: Step) -> None:
        first, fresh = self.step is None, self.step is None or self.step.doing != step.doing
        if fresh:
            self.began = time.monotonic()
        self.step = step
        if self.console.is_terminal:
            if first:
                self.bar.start()
            if fresh:
                for task in self.bar.task_ids:
                    self.bar.remove_task(task)
                self.bar.add_task(printable(step.doing), total=step.of, note="")
            self.bar.update(self.bar.task_ids[-1], completed=step.done, note=_note(step))
        elif first:
            self.clock.start()

    def _log(self) -> None:
        while not self.over.wait(LOG_SECONDS):
            step = self.step
            assert step is not None
            note = ", ".join(filter(None, [_note(step), duration(time.monotonic() - self.began)]))
            say(f"{step.doing}: {note}", sys.stderr)


def _note(step: Step) -> str:
    if not step.done:
        return ""
    share = f" ({step.done / step.of:.0%})" if step.of else ""
    return f"{human(step.done)}{share}"
