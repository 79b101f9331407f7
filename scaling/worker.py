"""One process that trains the runs it is given, in order: `python -m scaling.worker RUN_DIR …`.

Every launcher starts this and nothing else. A run's folder says what to train (run.json); what
became of it is written there. Exit codes: 0 all completed, 1 a run failed or diverged, 75
interrupted with a checkpoint.
"""

from __future__ import annotations

import fcntl
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from scaling.data.corpus import load
from scaling.hardware import cache_folder
from scaling.records import Refusal, Status, read_run, read_steps, write_json
from scaling.run import RunSpec

REPORT_SECONDS = 1.0  # how often progress.json is replaced
REQUEUE = 75  # EX_TEMPFAIL: interrupted, start me again


def plan_run(folder: Path, spec: RunSpec, study: str, counts: dict[str, Any]) -> None:
    """Write the run.json of a run that is to be trained."""
    write_json(
        folder / "run.json",
        {
            "run_id": spec.run_id,
            "trunk_id": spec.trunk_id,
            "run_kind": spec.run_kind,
            "study": study,
            "status": "planned",
            "reason": None,
            "config": asdict(spec),
            "counts": counts,
            "provenance": [],
            "result": None,
        },
    )


def set_status(folder: Path, status: str, **changes: Any) -> None:
    """Replace the status, and whatever else is given, in a run.json."""
    run = read_run(folder)
    write_json(folder / "run.json", {**run, "status": status, **changes})


def read_spec(folder: Path) -> RunSpec:
    """The specification in a run's folder. Raises Refusal if it is not one."""
    run = read_run(folder)
    try:
        return TypeAdapter(RunSpec).validate_python(run["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(f"{folder / 'run.json'} is no run specification: {error}") from error


def is_owned(folder: Path) -> bool:
    """Whether some process is training the run now."""
    with owned(folder) as mine:
        return not mine


@contextmanager
def owned(folder: Path) -> Iterator[bool]:
    """Whether this process may train the run: at most one does, and the lock dies with it."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def train_run(folder: Path, should_stop: Any) -> str:
    """Train the run in `folder` unless it is done; returns its status afterwards."""
    from scaling.hardware import provenance
    from scaling.train import Diverged, Interrupted, Progress, Trained, train

    with owned(folder) as mine:
        if not mine:
            raise Interrupted("another process trains it")
        run = read_run(folder)
        if run["status"] == "completed":
            return "completed"
        last_report = 0.0

        def report(progress: Progress) -> None:
            nonlocal last_report
            if time.monotonic() - last_report > REPORT_SECONDS:
                last_report = time.monotonic()
                with suppress(Refusal):  # a full disk stops no run that needs no more of it
                    write_json(folder / "progress.json", asdict(progress))

        try:
            spec = read_spec(folder)
            if cause := _lost_trunk(folder, spec):
                set_status(folder, cause.status, reason=cause.reason)
                return cause.status
            corpus = load(spec.corpus, cache_folder() / "corpora")
            sessions = [*run["provenance"], provenance()]
            set_status(folder, "running", reason=None, provenance=sessions)
            trained: Trained = train(spec, folder, corpus, report=report, should_stop=should_stop)
        except Diverged as error:
            set_status(folder, "diverged", reason=str(error))
            return "diverged"
        except Interrupted as error:
            set_status(folder, "planned", reason=str(error))
            raise
        except Exception as error:  # whatever stops this run, the others of the job go on
            traceback.print_exc()
            text = str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
            set_status(folder, "failed", reason=text.splitlines()[0])
            return "failed"
        rates = read_steps(folder)["tokens_per_s"]
        set_status(
            folder,
            "completed",
            result={
                "loss": trained.holdout.loss,
                "loss_stderr": trained.holdout.stderr,
                "bits_per_byte": trained.holdout.bits_per_byte,
                "train_loss": trained.train_loss,
                "tokens_per_s": float(rates.median()),
            },
        )
        (folder / "progress.json").unlink(missing_ok=True)
        return "completed"


@dataclass(frozen=True)
class _Loss:
    """Why a branch cannot be trained."""

    status: Status
    reason: str


def _lost_trunk(folder: Path, spec: RunSpec) -> _Loss | None:
    """What ended the trunk before this cooldown's branch point, if something did."""
    if spec.run_kind != "cooldown":
        return None
    trunk = folder.parent / spec.trunk_id
    if not (trunk / "run.json").exists():
        return None
    record = read_run(trunk)
    reached = (trunk / "checkpoints" / str(spec.first_step)).exists()
    if record["status"] not in ("diverged", "failed") or reached:
        return None
    return _Loss(
        record["status"], f"its trunk {spec.trunk_id} {record['status']}: {record['reason']}"
    )


def main(arguments: list[str]) -> int:
    """Train the runs whose folders are given; returns the exit code."""
    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, stop)

    from scaling.compilation import configure_jax

    configure_jax()
    from scaling.train import Interrupted

    statuses = []
    for argument in arguments:
        try:
            statuses.append(train_run(Path(argument), lambda: stopping))
        except Interrupted as error:
            print(f"{argument}: {error}", file=sys.stderr)
            return REQUEUE
        except (Refusal, OSError) as error:  # not even a run.json to write the failure to
            print(f"{argument}: {error}", file=sys.stderr)
            statuses.append("failed")
        if stopping:
            return REQUEUE
    return int(any(status in ("failed", "diverged") for status in statuses))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
