"""Workers on this machine: processes of their own, whose output goes to logs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from scaling.remedies import cannot_write
from scaling.training.flags import Slot, worker_environment


class Worker(subprocess.Popen[bytes]):
    """A worker's process."""

    log: Path | None = None  # until it was seen to have ended

    def __str__(self) -> str:
        return f"process {self.pid}"


class Local:
    """A `Launcher` of processes on this machine, each in the environment of its slot."""

    def __init__(
        self, environment: Callable[[Slot], Mapping[str, str]] = worker_environment
    ) -> None:
        self.environment = environment

    def start(self, command: Sequence[str], log: Path, slot: Slot) -> Worker:
        """A worker, in the process group of the launch: Ctrl-C reaches both."""
        file = _open(log)
        try:
            worker = Worker(
                command,
                env=self.environment(slot),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        finally:
            os.close(file)
        worker.log = log
        return worker

    def placed(self, worker: Worker) -> bool:
        """Always: a process begins at once."""
        return True

    def alive(self, worker: Worker) -> bool:
        """Whether it still runs, or is only frozen. Of what it died is added to its log."""
        code = worker.poll()
        if code is not None and code < 0 and worker.log is not None:
            add_to_log(worker.log, f"{worker} ended by signal {-code} (out of memory sends 9)\n")
            worker.log = None
        return code is None

    def stop(self, worker: Worker) -> None:
        """Ask it to end in order."""
        worker.log = None  # whoever is asked to end need not say of what
        worker.terminate()

    def kill(self, worker: Worker) -> None:
        """End it, also if it is frozen."""
        worker.kill()
        worker.wait()


def add_to_log(log: Path, text: str) -> None:
    """Add lines to a worker's log, if it can be written."""
    file = _open(log)
    with suppress(OSError):
        os.write(file, text.encode())
    os.close(file)


def _open(log: Path) -> int:
    """A log to be added to; where it cannot be written, which is said, none: a run needs none."""
    try:
        log.parent.mkdir(exist_ok=True)
        # Not through a link, which would be written elsewhere.
        return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        print(f"a worker has no log: {cannot_write(log, error)}", file=sys.stderr, flush=True)
        return os.open(os.devnull, os.O_WRONLY)
