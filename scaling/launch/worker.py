"""One process that trains the runs it is given, in order.

Every launcher starts this and nothing else, by scaling/launch/start.py. A run's folder says what to
train (run.json); what became of it is written there. A run that another process trains is left to
it, and a branch whose branch point is not there yet to whoever comes later. Exit codes: 0 nothing
failed, 1 a run failed or diverged, 75 interrupted with a checkpoint.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaling.data.corpus import load
from scaling.data.verified import check
from scaling.launch.stops import STOPS
from scaling.spec import RunSpec, read_spec
from scaling.store.attempt import Attempt, attempt, checkpoint_folders, settle
from scaling.store.claims import Owned, Replaced, replace
from scaling.store.failpoint import failpoint
from scaling.store.manifest import PlannedRun
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal, write_json
from scaling.store.run_record import RunRecord, read_run
from scaling.store.steps import checkpoint_steps, read_steps

REPORT_SECONDS = 1.0  # how often progress.json is replaced
REQUEUE = 75  # EX_TEMPFAIL: interrupted, start me again


def train_run(folder: Path, should_stop: Callable[[], bool]) -> str:
    """Train the run in `folder` unless it ended, or it is not this process's to train.

    Returns its status afterwards: planned if it was stopped, running if another process has it.
    """
    if (run := read_run(folder)).ended:
        return run.status
    try:
        with attempt(folder) as mine:
            try:
                return _train(mine, should_stop)
            except Replaced:
                mine.discard()
                raise
    except (Owned, Replaced) as error:
        print(f"{folder}: {error}; it is left to that", file=sys.stderr)
        return "running"


def _train(mine: Attempt, should_stop: Callable[[], bool]) -> str:
    folder = mine.run
    settle(folder, mine.claim)  # what a killed process had published
    run = read_run(folder)
    if run.ended:
        return run.status
    try:
        spec = read_spec(folder)
        trunk = folder.parent / spec.trunk_id
        if spec.run_kind == "cooldown" and not branch_point(trunk, spec):
            match _status(trunk):
                case "diverged" | "failed" as ended:
                    reason = f"its trunk {trunk.name} {ended}: {read_run(trunk).reason}"
                    mine.record(ended, reason=reason)
                    return ended
                case "planned" | "running":
                    print(f"{folder}: its trunk is not there yet", file=sys.stderr)
                    return "planned"
        return _train_from_files(mine, spec, run, should_stop)
    except Replaced:
        raise
    except Exception as error:  # whatever stops this run, the others of the job go on
        mine.check()  # if it is another's by now, the error tells nothing about the run
        text = str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        mine.record("failed", reason=text.splitlines()[0])
        with suppress(OSError):  # the log may be on the disk that is full
            traceback.print_exc()
        return "failed"


def _train_from_files(
    mine: Attempt, spec: RunSpec, run: RunRecord, should_stop: Callable[[], bool]
) -> str:
    """Begin, train, publish; returns completed, diverged, or planned if it was stopped."""
    # Late: a run that is another's is found out without waiting for jax.
    from scaling.training.jax_setup import configure_jax
    from scaling.training.loop import Diverged, Interrupted, Progress, train
    from scaling.training.provenance import provenance

    configure_jax()
    mine.begin()
    corpus = load(spec.corpus, cache_folder() / "corpora")
    check(corpus)
    mine.record("running", reason=None, provenance=[*run.provenance, provenance(spec)])
    failpoint("running")
    last_report = 0.0

    def report(progress: Progress) -> None:
        nonlocal last_report
        if time.monotonic() - last_report > REPORT_SECONDS:
            last_report = time.monotonic()
            with suppress(Refusal):  # a full disk stops no run that needs no more of it
                write_json(mine.folder / "progress.json", asdict(progress))

    try:
        trained = train(
            spec,
            mine.folder,
            corpus,
            trunk=mine.run.parent / spec.trunk_id,
            before_commit=mine.check,
            report=report,
            should_stop=should_stop,
        )
    except Diverged as error:
        mine.check()
        steps = read_steps(mine.folder).to_parquet(index=False)
        replace(mine.run, mine.claim, "steps.parquet", steps)
        mine.record("diverged", reason=str(error))
        return "diverged"
    except Interrupted as error:
        mine.record("planned", reason=str(error))
        return "planned"
    mine.publish(
        spec.schedule.steps,
        {
            "loss": trained.holdout.loss,
            "loss_stderr": trained.holdout.stderr,
            "bits_per_byte": trained.holdout.bits_per_byte,
            "train_loss": trained.train_loss,
            "tokens_per_s": float(read_steps(mine.folder)["tokens_per_s"].median()),
        },
    )
    return "completed"


def branch_point(trunk: Path, run: RunSpec | PlannedRun) -> bool:
    """Whether the trunk's state where this cooldown starts is on disk."""
    return any(run.first_step in checkpoint_steps(each) for each in checkpoint_folders(trunk))


def _status(run: Path) -> str | None:
    return read_run(run).status if (run / "run.json").exists() else None


def main(arguments: list[str]) -> int:
    """Train the runs whose folders are given; returns the exit code."""
    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True

    # Whoever is stopped before this dies of it, and has nothing to lose.
    for number in STOPS:
        signal.signal(number, stop)

    statuses = []
    for argument in arguments:
        try:
            statuses.append(train_run(Path(argument), lambda: stopping))
        except (Refusal, OSError) as error:  # not even a run.json to write the failure to
            print(f"{argument}: {error}", file=sys.stderr)
            statuses.append("failed")
        if stopping:
            return REQUEUE
    return int(any(status in ("failed", "diverged") for status in statuses))
