"""What was submitted to Slurm for a results folder, and what Slurm says of it now."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from scaling.store.records import Refusal, read_json, write_json
from scaling.store.results import Results

FOLDER = "slurm"  # beside that of logs: scripts, and a record for each submission
ANSWER_SECONDS = 60.0  # for the controller; Slurm's own MessageTimeout is 10 s, with retries


@dataclass(frozen=True)
class Submission:
    """One job array that was submitted."""

    job: int  # id of the array
    script: str  # name of the file, in the folder of this record
    sha256: str  # of the script
    tasks: int
    at_once: int
    submitted: str  # time, UTC

    def plain(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Task:
    """One task of an array, as Slurm has it in its queue."""

    job: int  # id of the array
    number: int
    state: str  # PENDING, RUNNING, COMPLETING, …
    restarts: int
    reason: str  # why it waits, in Slurm's words; "None" while it runs


# States in which a task holds nodes, or will; one that COMPLETES only cleans up.
WAITING, RUNNING = ("PENDING", "REQUEUED", "REQUEUE_HOLD"), ("RUNNING", "CONFIGURING", "SUSPENDED")


@dataclass(frozen=True)
class InQueue:
    """The workers that Slurm has for the results of a study."""

    jobs: tuple[int, ...]  # ids of the arrays that have tasks, or of the last one that had
    running: int  # tasks
    waiting: dict[str, int]  # tasks, by why they wait, in Slurm's words
    requeued: int  # tasks of these that have begun before
    unknown: str | None = None  # why Slurm could not be asked; then nothing is known of tasks

    @property
    def gone(self) -> bool:
        """Whether no task is left."""
        return self.unknown is None and not self.running and not self.waiting


@dataclass(frozen=True)
class Said:
    """How a command of Slurm's ended."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """What it said went wrong, in one line."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return "; ".join(lines) or f"exit code {self.code}"


def files_of(results: Results) -> Path:
    """The folder of this machine that scripts and records of submissions are in."""
    return results.logs.parent / FOLDER


def submissions(results: Results) -> list[Submission]:
    """What was submitted for these results, in the order of their ids.

    Raises Refusal for a record that is damaged.
    """
    found = [_submission(path) for path in files_of(results).glob("*.json")]
    return sorted(found, key=lambda each: each.job)


def record(results: Results, submission: Submission) -> None:
    """Write down what was submitted."""
    write_json(files_of(results) / f"{submission.job}.json", submission.plain())


def queued(jobs: Iterable[int]) -> list[Task]:
    """The tasks of these arrays that Slurm still has in its queue, each by itself.

    Raises Refusal where Slurm is not here, or does not answer.
    """
    wanted = sorted(set(jobs))
    if not wanted:
        return []
    # Columns of a fixed width, the only form that all versions of squeue have: --json needs a
    # plugin. The reason, whose words have spaces between them, comes last.
    columns = "ArrayJobID:16,ArrayTaskID:16,State:20,RestartCnt:8,Reason:200"
    ids = ",".join(map(str, wanted))
    said = slurm("squeue", "--noheader", "--array", f"--jobs={ids}", f"--Format={columns}")
    if said.code and "Invalid job id" in said.words:
        return []  # it has forgotten them, as it does some minutes after their end
    if said.code:
        raise Refusal(f"squeue --jobs={ids}: {said.words}. Give the command again later.")
    return [task for line in said.out.splitlines() if (task := _task(line)) is not None]


def in_queue(results: Results) -> InQueue | None:
    """The workers that Slurm has for these results; null where none were ever asked of it.

    Raises Refusal for a record that is damaged.
    """
    jobs = tuple(each.job for each in submissions(results))
    if not jobs:
        return None
    try:
        tasks = queued(jobs)
    except Refusal as error:
        return InQueue(jobs, 0, {}, 0, str(error))
    live = {task.job for task in tasks if task.state in (*WAITING, *RUNNING)}
    jobs = tuple(job for job in jobs if job in live) or jobs[-1:]
    running = [task for task in tasks if task.state in RUNNING]
    waiting = [task for task in tasks if task.state in WAITING]
    reasons = Counter(task.reason for task in waiting)
    requeued = sum(task.restarts > 0 for task in (*running, *waiting))
    return InQueue(jobs, len(running), dict(reasons), requeued)


def slurm(*command: str, given: str | None = None) -> Said:
    """Run a command of Slurm's, with `given` as its input.

    Raises Refusal where it is not on the path, or does not answer in ANSWER_SECONDS.
    """
    if shutil.which(command[0]) is None:
        raise Refusal(
            f"{command[0]} is not on the path: there is no Slurm here, or its module is not "
            "loaded. Give the command where Slurm is, or train here with --launcher local."
        )
    try:
        done = subprocess.run(
            command, input=given or "", capture_output=True, text=True, timeout=ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refusal(f"{command[0]}: {error}. Give the command again later.") from error
    return Said(done.returncode, done.stdout, done.stderr)


def _submission(path: Path) -> Submission:
    try:
        return TypeAdapter(Submission).validate_python(read_json(path))
    except ValidationError as error:
        raise Refusal(f"{path} is damaged: {error.errors()[0]['msg']}. Remove it.") from error


def _task(line: str) -> Task | None:
    """One line of squeue; null for one that is no task of an array."""
    words: Sequence[str] = line.split(maxsplit=4)
    if len(words) < 4 or not (words[0].isdigit() and words[1].isdigit() and words[3].isdigit()):
        return None
    reason = words[4].strip() if len(words) > 4 else ""
    return Task(int(words[0]), int(words[1]), words[2], int(words[3]), reason)
