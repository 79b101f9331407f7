"""One process that trains the runs of a plan, one after the other, until all have ended.

Every launcher starts this and nothing else, by scaling/launch/start.py; `scaling worker` is the
same. It takes a run that nobody has (scaling/launch/queue.py), trains it, takes the next. Where
nothing is free but runs of others are unfinished it waits: they may leave one behind. Exit codes:
0 nothing failed, 1 a run failed or diverged, 2 it may not or cannot train here, 75 it was told to
stop.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from models.devices import expected_platform, is_asked_for_others
from scaling.data.chunks import CorpusChanged
from scaling.data.corpus import load
from scaling.data.verified import digest_of, loaded
from scaling.launch.hosts import led, together
from scaling.launch.output import Printable, Unbroken, log_tail
from scaling.launch.queue import ORDERS, Order, Queue
from scaling.launch.source import source_digest
from scaling.launch.stops import REFUSED, REQUEUE, stops_noted
from scaling.spec import RunSpec, read_spec
from scaling.store.attempt import Attempt, attempt, branch_points, last_checkpoint, settle
from scaling.store.claims import Beginning, Claim, Owned, Replaced, awake, deaths, replace
from scaling.store.failpoint import failpoint
from scaling.store.manifest import Manifest, PlannedRun
from scaling.store.objects import Unreachable
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal, table_bytes, write_json
from scaling.store.results import Results, has_ended, results_at
from scaling.store.run_record import RunRecord, Status, read_run, set_columns
from scaling.store.steps import of_run, read_steps
from scaling.store.table import publish_missing
from scaling.training.flags import refuse_faulty_jax
from scaling.training.processes import Place

REPORT_SECONDS = 1.0  # how often progress.json is replaced
WAIT_SECONDS = 0.5  # between looks where nothing is free
WAIT_SHARE = 0.05  # of the time, where a look at a large grid takes longer
MOST_DEATHS = 3  # of processes that trained a run and brought it no further; it has failed then


def work(
    place: str | Path | Results,
    order: Order,
    stopping: Callable[[], bool] = lambda: False,
    log: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Train runs of a results folder until every run of its plan has ended; returns the exit code.

    `say` is told a line when a run begins and when it ends.
    Raises Refusal where this is not the program that the plan was made with, the folder's plan is
    missing, damaged or of another version, or jax cannot start or is not to be used here.
    """
    _refuse_unusable_jax()
    results = results_at(place)
    queue = Queue(results, order)
    loaded = _source(results.manifest())
    with results.working():
        _refuse_another_program(results, loaded)
        _refuse_another_study(results)
        _refuse_other_corpora(results)
        while not stopping():
            began = time.monotonic()
            run = queue.next()
            if run is not None:
                _refuse_another_program(results, loaded)
                _take(queue, run, stopping, log, loaded, say)
            elif queue.left():
                _wait(max((time.monotonic() - began) / WAIT_SHARE, queue.pause()), stopping)
            else:
                return _exit_code(queue, say)
    return REQUEUE


def _refuse_unusable_jax() -> None:
    """Raise Refusal where jax cannot start, which would fail every run, and as `refuse_faulty_jax`.

    A plugin may be installed where there is no device. jax is asked only where it makes a
    difference.
    """
    with suppress(Refusal):
        refuse_faulty_jax(expected_platform())
        if not is_asked_for_others():
            return
    from scaling.training.target import target_here

    refuse_faulty_jax(target_here().platform)


def _take(
    queue: Queue,
    run: PlannedRun,
    stopping: Callable[[], bool],
    log: str,
    source: str,
    say: Callable[[str], None],
) -> None:
    """Train a run if it is still free, and give it up where not even a failure can be written."""
    try:
        at_hand = queue.results.at_hand(queue.results.manifest(), run, stopping, log)
        with at_hand as (folder, to_stop):
            say(f"run {run.run_id} begins, {len(queue.left())} are left with it")
            status = train_run(folder, to_stop, log, source)
            said = "stopped, to go on from its checkpoint" if status == "planned" else status
            say(f"run {run.run_id}: {said}")
        queue.lost = 0
    except Unreachable:  # no run's fault: whoever starts this process again finds all as it was
        raise
    except (Owned, Replaced) as error:
        queue.lost += 1
        print(f"run {run.run_id}: {error}; it is left to that", file=sys.stderr)
    except (Refusal, OSError) as error:
        queue.given_up[run.run_id] = str(error)
        print(f"run {run.run_id} is given up: {error}", file=sys.stderr)


def _wait(seconds: float, stopping: Callable[[], bool]) -> None:
    """Sleep until the next look."""
    until = time.monotonic() + seconds
    while not stopping():
        time.sleep(WAIT_SECONDS)
        awake()
        if time.monotonic() > until:
            return


def _exit_code(queue: Queue, say: Callable[[str], None]) -> int:
    """0 if every run of the plan completed, 2 if some have no end and are given up here, else 1."""
    runs = queue.results.manifest().runs
    given_up = [
        run for run in runs if run.run_id in queue.given_up and not has_ended(queue.results, run)
    ]
    if given_up:
        reason = queue.given_up[given_up[0].run_id]
        print(
            f"scaling worker: error: {len(given_up)} of {len(runs)} runs are given up here, one "
            f"because {reason.rstrip('.')}. Correct that and start a worker again, or start one "
            "elsewhere.",
            file=sys.stderr,
        )
        return REFUSED
    say("every run of the plan has ended")
    for run in runs:
        with suppress(Refusal):  # its record was damaged since it ended
            record = queue.results.record(run.run_id)
            if record is not None and record.status == "completed":
                continue
        return 1
    return 0


def _source(manifest: Manifest) -> str:
    """The digest of the program, with the architectures of a plan."""
    try:
        return source_digest(str(run.config["architecture"]) for run in manifest.runs)
    except (ValueError, OSError) as error:  # a file of it is gone, or half written
        raise Refusal(f"the program that the plan was made with is not here: {error}.") from error


def _refuse_another_program(results: Results, loaded: str) -> None:
    """Raise Refusal unless the plan is of the program that this process is and the disk holds."""
    manifest = results.manifest()
    planned = manifest.source_sha256
    for found, where in ((loaded, "this worker"), (_source(manifest), "what lies on disk now")):
        if found != planned:
            raise Refusal(
                f"{results}: its plan was made with source {planned[:12]} of the program, and "
                f"{where} is source {found[:12]}. Give the same `scaling run` again: it plans and "
                "trains with the program as it is now."
            )


def _refuse_another_study(results: Results) -> None:
    """Raise Refusal where the plan is of another study than the one that lies beside it."""

    def is_another() -> bool:
        study = results.read("study.toml")
        found = None if study is None else hashlib.sha256(study).hexdigest()
        return found not in (None, results.manifest().study_sha256)

    if is_another():
        with results.changing():  # of a launch that writes both, one may be there before the other
            if not is_another():
                return
        raise Refusal(
            f"{results}: its plan is of study {results.manifest().study_sha256[:12]}, and the "
            "study.toml beside it is another. Give the same `scaling run` again, which writes both."
        )


def _refuse_other_corpora(results: Results) -> None:
    """Raise Refusal where a corpus here holds other tokens than the one that was planned on.

    Its name is of the text and of the tokenizer, whose version may be another here.
    """
    for name, planned in results.manifest().corpora.items():
        found = ""
        with suppress(Refusal):  # it is missing, which fails its runs with that reason
            found = digest_of(load(name, cache_folder() / "corpora"))
        if found and found != planned:
            raise Refusal(
                f"corpus {name} in {cache_folder()} has tokens of digest {found[:12]}, and the "
                f"plan in {results} was made with {planned[:12]}. Bring here the folder "
                f"corpora/{name} of the host that planned."
            )


def train_run(
    folder: Path,
    stopping: Callable[[], bool] = lambda: False,
    log: str = "",
    source: str | None = None,
) -> Status:
    """Train the run in `folder` unless it ended, or it is not this process's to train.

    `log` is the file in the results' folder of logs that this process prints to, `source` the
    digest of the program that it is, for the record. Returns the run's
    status afterwards: planned if it was stopped, running if another process has it.
    """
    if (run := read_run(folder)).ended:
        return run.status
    try:
        with attempt(folder, Beginning(last_checkpoint(folder), log, stopping)) as mine:
            try:
                return _train(mine, stopping, source)
            except Replaced:
                mine.discard()
                raise
    except (Owned, Replaced) as error:
        print(f"{folder}: {error}; it is left to that", file=sys.stderr)
        return "running"


def _train(mine: Attempt, stopping: Callable[[], bool], source: str | None) -> Status:
    folder = mine.run
    settle(folder, mine.claim)  # what a killed process had published
    run = read_run(folder)
    if run.ended:
        return run.status
    if len(died := deaths(folder, mine.claim)) >= MOST_DEATHS:
        mine.record("failed", reason=_death(folder, mine.claim, died))
        return "failed"
    try:
        spec = read_spec(folder)
        trunk = folder.parent / spec.trunk_id
        if spec.run_kind == "cooldown" and spec.first_step not in branch_points(trunk):
            match _status(trunk):
                case "diverged" | "failed" as ended:
                    reason = f"its trunk {trunk.name} {ended}: {read_run(trunk).reason}"
                    mine.record(ended, reason=reason)
                    return ended
                case "planned" | "running":
                    print(f"{folder}: its trunk is not there yet", file=sys.stderr)
                    return "planned"
        return _train_from_files(mine, spec, run, stopping, source)
    except Replaced:
        raise
    except CorpusChanged as error:
        # Nothing is left for it to go on from, or for what would grow from it to begin with.
        mine.forget()
        mine.record("failed", reason=str(error))
        return "failed"
    except Exception as error:  # whatever stops this run, the others go on
        mine.check()  # if it is another's by now, the error tells nothing about the run
        mine.record("failed", reason=_reason(error, folder).splitlines()[0])
        with suppress(OSError):  # the log may be on the disk that is full
            traceback.print_exc()
        return "failed"


def _reason(error: Exception, folder: Path) -> str:
    """What a run failed of, for its record."""
    if isinstance(error, Refusal):
        return str(error)
    with suppress(Refusal):
        # Late: jax, which is loaded where it was jax that said so.
        if "RESOURCE_EXHAUSTED" in str(error):
            from scaling.training.exhausted import out_of_memory

            if (said := out_of_memory(error, read_spec(folder))) is not None:
                return said
    return f"{type(error).__name__}: {error}"


def _train_from_files(
    mine: Attempt,
    spec: RunSpec,
    run: RunRecord,
    stopping: Callable[[], bool],
    source: str | None,
) -> Status:
    """Begin, train, publish; returns completed, diverged, or planned if it was stopped."""
    # Late: a run that is another's is found out without waiting for jax.
    from scaling.training.jax_setup import configure_jax
    from scaling.training.loop import Diverged, Interrupted, Progress, train
    from scaling.training.provenance import provenance

    configure_jax()
    mine.begin()
    cache = cache_folder() / "corpora"
    corpus = loaded(spec.corpus, cache)
    sets = {name: loaded(text, cache) for name, text in spec.sets}
    goes_on_from = run.provenance if mine.claim.step else ()
    session = {
        "source_sha256": source,
        "corpus_sha256": digest_of(corpus),
        **provenance(spec, goes_on_from),
    }
    mine.record("running", reason=None, provenance=[*run.provenance, session])
    failpoint("running")
    last_report = 0.0

    def report(progress: Progress) -> None:
        nonlocal last_report
        if time.monotonic() - last_report > REPORT_SECONDS:
            last_report = time.monotonic()
            with suppress(Refusal):  # a full disk stops no run that needs no more of it
                write_json(mine.folder / "progress.json", asdict(progress))

    try:
        with led(mine):
            trained = train(
                spec,
                mine.folder,
                corpus,
                sets=sets,
                trunk=mine.run.parent / spec.trunk_id,
                before_commit=mine.check,
                report=report,
                should_stop=stopping,
            )
    except Diverged as error:
        mine.check()
        steps = table_bytes("steps.parquet", of_run(mine.run, read_steps(mine.folder)))
        replace(mine.run, mine.claim, "steps.parquet", steps)
        mine.record("diverged", reason=str(error))
        return "diverged"
    except Interrupted as error:
        mine.record("planned", reason=str(error))
        return "planned"
    result = {
        "loss": trained.holdout.loss,
        "loss_stderr": trained.holdout.stderr,
        "bits_per_byte": trained.holdout.bits_per_byte,
        "train_loss": trained.train_loss,
        "tokens_per_s": float(read_steps(mine.folder)["tokens_per_s"].median()),
    }
    for name, found in trained.sets.items():
        values = (found.loss, found.stderr, found.bits_per_byte)
        result |= dict(zip(set_columns(name), values, strict=True))
    mine.publish(spec.schedule.steps, result)
    return "completed"


def _death(folder: Path, mine: Claim, died: Sequence[Claim]) -> str:
    """Why a run has failed whose processes die, with the end of the last one's log."""
    return (
        f"it was begun {len(died)} times from step {mine.step} and its process died each time, "
        f"getting no further; {log_tail(folder.parents[1], died[0].log)}"
    )


def _status(run: Path) -> Status | None:
    return read_run(run).status if (run / "run.json").exists() else None


def worker_command(
    results: Path | Results,
    order: Order,
    log: str = "",
    parent: int = 0,
    place: Place | None = None,
) -> list[str]:
    """What starts a worker of this installation, whatever the working directory.

    It prints to `log`, in the results' folder of logs, and stops when `parent` is no longer its
    parent process; 0: when it is told to. With a `place` it is one of several processes.
    """
    # -P: neither that directory nor the one of the script is searched for modules.
    start = str(Path(__file__).with_name("start.py"))
    one_of = () if place is None else (json.dumps(asdict(place)),)
    return [sys.executable, "-P", start, str(results), order, log, str(parent), *one_of]


def main(arguments: list[str]) -> int:
    """As `worker_command` says; returns the exit code."""
    results, asked_order, log, parent, *one_of = arguments
    place = Place(**json.loads(one_of[0])) if one_of else None
    (order,) = (each for each in ORDERS if each == asked_order)

    def stopping() -> bool:
        return asked.is_set() or (parent != "0" and os.getppid() != int(parent))

    def lead(stopping: Callable[[], bool]) -> int:
        if parent != "0":  # of a launch, which shows how far all are and writes the run table
            return work(results, order, stopping, log)
        code = work(results, order, stopping, log, say=partial(print, flush=True))
        if code != REQUEUE:
            publish_missing(results_at(results))
        return code

    out, err = Unbroken(sys.stdout), Unbroken(sys.stderr)
    with (
        redirect_stdout(Printable(out)),
        redirect_stderr(Printable(err)),
        stops_noted() as asked,
    ):
        try:
            return together(place, results, lambda: results_at(results).manifest(), stopping, lead)
        except Refusal as error:
            print(f"scaling worker: error: {error}", file=sys.stderr)
            return REQUEUE if isinstance(error, Unreachable) else REFUSED
        finally:
            out.flush()
            err.flush()
