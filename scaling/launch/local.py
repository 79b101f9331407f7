"""Train on this machine: a fixed number of worker processes, one job each at a time.

Other launchers may train the same study, here or on hosts that share the folder. What they own is
left to them and waited for; what they leave behind is taken over.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from scaling.data.corpus import load
from scaling.data.verified import check_afresh
from scaling.launch.base import Job, Task, worker_command
from scaling.launch.stops import STOPS, stops_interrupt
from scaling.launch.worker import REQUEUE, branch_point
from scaling.store.attempt import attempt_folder, checkpoint_folders, set_status, settle
from scaling.store.claims import (
    Claim,
    Observer,
    Owned,
    Replaced,
    claimed,
    newest,
    was_held_by,
    was_left_by,
)
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal, read_json
from scaling.store.run_record import ENDED, read_run
from scaling.store.steps import checkpoint_steps
from scaling.training.flags import worker_environment

POLL_SECONDS = 0.5
SWEEP_SECONDS = 2.0  # between looks at runs that no worker of ours has
SWEEP_SHARE = 0.05  # of the launcher's time, where a look at a large grid takes longer
LOG_TAIL_LINES = 3


class TimeUp(Exception):
    """The launch reached its time limit; its workers wrote checkpoints."""


@dataclass(frozen=True)
class Snapshot:
    """How far a launch is."""

    runs_done: int
    runs: int
    flops_done: float
    flops: float
    tokens_per_s: float  # of all workers now
    seconds: float  # since the launch
    elsewhere: int = 0  # runs that other launchers' workers train

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; null before anything is done."""
        if not self.flops_done:
            return None
        return self.seconds * (self.flops - self.flops_done) / self.flops_done


@dataclass
class _Watched:
    """A run as the launcher sees it from outside."""

    task: Task
    flops: float
    before: float  # share already done when this launch began
    share: float
    done: bool = False  # it has ended, or was given up
    owner: Claim | None = None
    tokens_per_s: float = 0.0

    @property
    def folder(self) -> Path:
        return self.task.folder

    def look(self, observer: Observer) -> None:
        """Read the run's files again."""
        if self.done:
            return
        self.done = self.task.ended()
        self.owner = None if self.done else observer.owner(self.folder)
        self.tokens_per_s = 0.0
        if self.done:
            self.share = 1.0
        elif self.owner is not None:
            with suppress(Refusal, KeyError, TypeError):  # nothing reported yet
                seen = read_json(attempt_folder(self.folder, self.owner) / "progress.json")
                length = max(1, seen["last_step"] - seen["first_step"])
                self.share = (seen["step"] - seen["first_step"]) / length
                self.tokens_per_s = seen["tokens_per_s"]

    def can_branch(self) -> bool:
        """Whether it is a cooldown whose branch point is on disk."""
        run = self.task.run
        trunk = self.folder.parent / run.trunk_id
        return run.run_kind == "cooldown" and branch_point(trunk, run)


@dataclass
class _Worker:
    runs: Sequence[_Watched]
    process: subprocess.Popen[bytes]
    log: IO[bytes] = field(repr=False)

    def next_up(self) -> _Watched | None:
        """The run that it trains, or comes to next."""
        pid = self.process.pid
        mine = (run for run in self.runs if not run.done)
        return next((run for run in mine if run.owner is None or run.owner.pid == pid), None)


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    watch: Callable[[Snapshot], None],
    max_seconds: float = float("inf"),
) -> dict[str, str]:
    """Train `jobs` with `workers` processes until every run has ended, or was given up.

    A worker that dies marks the run it trained failed, with the signal and the end of its log, and
    the rest goes on; one that was asked from elsewhere to stop is started again. Runs whose
    folders cannot be written, not even to say so, are given up: returns their ids and why. On
    KeyboardInterrupt (Ctrl-C, or a signal that asks to stop) the workers are asked to checkpoint
    and awaited, and so they are when the time is up, which raises TimeUp. Raises Refusal for a
    corpus that is not in the cache as it was written.
    """
    for corpus in sorted({str(task.run.config["corpus"]) for job in jobs for task in job.tasks}):
        check_afresh(load(corpus, cache_folder() / "corpora"))
    with stops_interrupt():
        return _Launch(jobs, workers).run(watch, max_seconds)


class _Launch:
    """The state of one launch."""

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        self.groups = [[_watched(task) for task in job.tasks] for job in jobs]
        self.runs = [run for group in self.groups for run in group]
        self.workers = workers
        self.active: list[_Worker] = []
        self.observer = Observer()
        self.swept = float("-inf")
        self.given_up: dict[str, str] = {}

    def run(self, watch: Callable[[Snapshot], None], max_seconds: float) -> dict[str, str]:
        start = time.monotonic()
        try:
            while True:
                self._look()
                while len(self.active) < self.workers and (runs := self._next()):
                    self.active.append(_start(runs))
                seconds = time.monotonic() - start
                watch(self._snapshot(seconds))
                if not self.active and all(run.done for run in self.runs):
                    break
                if seconds > max_seconds:
                    raise TimeUp
                time.sleep(POLL_SECONDS)
                self._reap()
        finally:
            for worker in self.active:
                worker.process.terminate()
            for worker in self.active:
                worker.process.wait()
                worker.log.close()
        return self.given_up

    def _next(self) -> list[_Watched]:
        """What an idle worker takes up: a job that nobody is at, else a branch of one."""
        ours = {id(run) for worker in self.active for run in worker.runs}
        for group in self.groups:
            left = [run for run in group if not run.done]
            begun = any(id(run) in ours or run.owner for run in left)
            if left and not begun and all(self._is_free(run) for run in left):
                return left
        # The last first: a worker that is at the job comes to it last, and it is the longest.
        taken = {id(worker.next_up()) for worker in self.active}
        for run in (run for group in self.groups for run in reversed(group)):
            waits = not run.done and run.owner is None and id(run) not in taken
            if waits and run.can_branch() and self._is_free(run):
                return [run]
        return []

    def _is_free(self, run: _Watched) -> bool:
        """Whether nobody has taken up a run that waits, looking now; it is then ready."""
        run.look(self.observer)
        if run.done or run.owner is not None:
            return False
        run.task.make_ready()
        return True

    def _look(self) -> None:
        """Look at the runs of our workers, and now and then at all."""
        started = time.monotonic()
        if started >= self.swept:
            for run in self.runs:
                run.look(self.observer)
            took = time.monotonic() - started
            self.swept = started + max(SWEEP_SECONDS, took / SWEEP_SHARE)
        else:
            for worker in self.active:
                for run in worker.runs:
                    run.look(self.observer)

    def _reap(self) -> None:
        for worker in [worker for worker in self.active if worker.process.poll() is not None]:
            self.active.remove(worker)
            worker.log.close()
            if worker.process.returncode not in (0, REQUEUE, *(-number for number in STOPS)):
                self._give_up({folder.name: why for folder, why in _bury(worker).items()})
            self.swept = float("-inf")

    def _give_up(self, refused: Mapping[str, str]) -> None:
        """Try these runs no more, nor branches that would wait for them for ever."""
        for run in self.runs:
            name, trunk = run.folder.name, run.task.run.trunk_id
            waits = trunk in refused and not run.can_branch() and not run.task.ended()
            if name in refused or waits:
                run.done, run.owner, run.tokens_per_s = True, None, 0.0
                self.given_up[name] = refused.get(name) or f"its trunk {trunk} was given up"

    def _snapshot(self, seconds: float) -> Snapshot:
        ours = {worker.process.pid for worker in self.active}
        return Snapshot(
            runs_done=sum(run.done for run in self.runs) - len(self.given_up),
            runs=len(self.runs),
            # What was trained before this launch says nothing about its speed.
            flops_done=sum(run.flops * max(0.0, run.share - run.before) for run in self.runs),
            flops=sum(run.flops * (1 - run.before) for run in self.runs),
            tokens_per_s=sum(run.tokens_per_s for run in self.runs),
            seconds=seconds,
            elsewhere=sum(run.owner is not None and run.owner.pid not in ours for run in self.runs),
        )


def _watched(task: Task) -> _Watched:
    """A run, with the share of it that its last checkpoint holds."""
    run = task.run
    steps = max(
        (max(checkpoint_steps(each), default=0) for each in checkpoint_folders(task.folder)),
        default=0,
    )
    done = max(0, steps - run.first_step) / (run.steps - run.first_step)
    return _Watched(task, run.flops, before=done, share=done)


def _start(runs: Sequence[_Watched]) -> _Worker:
    path = runs[0].folder / "worker.log"
    try:
        # Not through a link, which would be written elsewhere.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        log = os.fdopen(os.open(path, flags, 0o666), "ab")
    except OSError as error:
        raise Refusal(f"cannot write {path}: {error.strerror}.") from error
    process = subprocess.Popen(
        worker_command([run.folder for run in runs]),
        env=worker_environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    return _Worker(runs, process, log)


def _bury(worker: _Worker) -> dict[Path, str]:
    """Give the run that a dead worker held a status and a reason; all its runs if it had none.

    Returns the runs in whose folders that cannot be written, and why.
    """
    code, pid = worker.process.returncode, worker.process.pid
    statuses = {run.folder: _status(run.folder) for run in worker.runs}
    left = [folder for folder, status in statuses.items() if status not in ENDED]
    held = [folder for folder in left if was_left_by(folder, pid)]
    if code == 1 and not held and {"failed", "diverged"} & set(statuses.values()):
        return {}  # it ended in order, and said which run failed
    if not held and any(_was_taken_from(folder, pid) for folder in statuses):
        return {}  # where it died has ended or is another's: what is left is started again
    log = worker.runs[0].folder / "worker.log"
    tail = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    cause = f"signal {-code} (out of memory sends 9)" if code < 0 else f"exit code {code}"
    reason = f"its worker died: {cause}; log: {' | '.join(tail)}"
    refused = {}
    for folder in held or left:
        if statuses[folder] is None:
            continue  # a damaged run.json is planned again
        try:
            with suppress(Owned, Replaced), claimed(folder) as claim:
                settle(folder, claim)
                if not read_run(folder).ended:
                    set_status(folder, claim, "failed", reason=reason)
        except (Refusal, OSError) as error:
            refused[folder] = f"{error} ({reason})"
    return refused


def _was_taken_from(folder: Path, pid: int) -> bool:
    """Whether a process held a run that has ended since, or that another took over."""
    ended, last = _status(folder) in ENDED, newest(folder)
    return was_held_by(folder, pid) and (ended or last is None or last.pid != pid)


def _status(folder: Path) -> str | None:
    """A run's status; null where its run.json is damaged."""
    try:
        return read_run(folder).status
    except Refusal:
        return None
