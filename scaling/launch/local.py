"""Train on this machine: a fixed number of worker processes, one job each at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from scaling.hardware import worker_environment
from scaling.launch.base import Job
from scaling.records import Refusal, checkpoint_steps, read_json, read_run
from scaling.run import RunSpec, spent_flops
from scaling.worker import REQUEUE, read_spec, set_status

POLL_SECONDS = 0.5
LOG_TAIL_LINES = 3


@dataclass(frozen=True)
class Snapshot:
    """How far a launch is."""

    runs_done: int
    runs: int
    flops_done: float
    flops: float
    tokens_per_s: float  # of all workers now
    seconds: float  # since the launch

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; null before anything is done."""
        if not self.flops_done:
            return None
        return self.seconds * (self.flops - self.flops_done) / self.flops_done


@dataclass
class _Watched:
    """A run as the launcher sees it from outside."""

    folder: Path
    spec: RunSpec
    flops: float
    before: float = 0.0  # share already done when this launch began
    done: bool = False
    share: float = 0.0
    tokens_per_s: float = 0.0

    def look(self) -> None:
        """Read the run's files again."""
        run = read_run(self.folder)
        self.done = run["status"] in ("completed", "diverged", "failed")
        self.tokens_per_s = 0.0
        if self.done:
            self.share = 1.0
        elif run["status"] == "running" and (self.folder / "progress.json").exists():
            seen = read_json(self.folder / "progress.json")
            length = max(1, seen["last_step"] - seen["first_step"])
            self.share = (seen["step"] - seen["first_step"]) / length
            self.tokens_per_s = seen["tokens_per_s"]


@dataclass
class _Worker:
    job: Job
    process: subprocess.Popen[bytes]
    log: IO[bytes] = field(repr=False)


def run_jobs(jobs: list[Job], workers: int, watch: Callable[[Snapshot], None]) -> int:
    """Train `jobs` with `workers` processes; returns the number of runs that did not complete.

    A worker that dies marks its run failed, with the signal and the end of its log, and the rest
    goes on. On KeyboardInterrupt (Ctrl-C, SIGTERM or SIGHUP) the workers are asked to checkpoint
    and awaited; it is also raised at the end if a worker was interrupted from elsewhere.
    """
    watched = [
        _Watched(folder, spec, spent_flops(spec), _checkpointed(folder, spec))
        for job in jobs
        for folder in job.folders
        for spec in [read_spec(folder)]
    ]
    waiting = list(jobs)
    active: list[_Worker] = []
    interrupted = False
    start = time.monotonic()
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        while waiting or active:
            while waiting and len(active) < workers:
                active.append(_start(waiting.pop(0)))
            time.sleep(POLL_SECONDS)
            for worker in [worker for worker in active if worker.process.poll() is not None]:
                active.remove(worker)
                _bury(worker)
                interrupted |= worker.process.returncode == REQUEUE
            watch(_snapshot(watched, time.monotonic() - start))
    finally:
        for worker in active:
            worker.process.terminate()
        for worker in active:
            worker.process.wait()
            worker.log.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupted:
        raise KeyboardInterrupt
    return sum(read_run(run.folder)["status"] != "completed" for run in watched)


def _checkpointed(folder: Path, spec: RunSpec) -> float:
    """The share of a run that its last checkpoint holds."""
    steps = checkpoint_steps(folder / "checkpoints")
    length = spec.schedule.steps - spec.first_step
    return max(0, steps[-1] - spec.first_step) / length if steps else 0.0


def _start(job: Job) -> _Worker:
    path = job.folders[0] / "worker.log"
    try:
        log = path.open("ab")
    except OSError as error:
        raise Refusal(f"cannot write {path}: {error.strerror}.") from error
    process = subprocess.Popen(
        [sys.executable, "-m", "scaling.worker", *map(str, job.folders)],
        env=worker_environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    return _Worker(job, process, log)


def _bury(worker: _Worker) -> None:
    """Give every run that a dead worker left behind a status and a reason."""
    worker.log.close()
    code = worker.process.returncode
    if code in (0, REQUEUE):
        return
    tail = Path(worker.log.name).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    cause = f"signal {-code} (out of memory sends 9)" if code < 0 else f"exit code {code}"
    for folder in worker.job.folders:
        if read_run(folder)["status"] in ("planned", "running"):
            reason = f"its worker died: {cause}; log: {' | '.join(tail)}"
            set_status(folder, "failed", reason=reason)


def _snapshot(watched: list[_Watched], seconds: float) -> Snapshot:
    for run in watched:
        if not run.done:
            run.look()
    return Snapshot(
        runs_done=sum(run.done for run in watched),
        runs=len(watched),
        # What was trained before this launch says nothing about its speed.
        flops_done=sum(run.flops * (run.share - run.before) for run in watched),
        flops=sum(run.flops * (1 - run.before) for run in watched),
        tokens_per_s=sum(run.tokens_per_s for run in watched),
        seconds=seconds,
    )
