"""`scaling plan`, `run` and `status`: from a study file to a run table."""

from __future__ import annotations

import math
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from experiments.cli import Directory, Failed, JsonFile, Number, StudyPath, app, number
from experiments.text import few, say
from scaling.store.records import Refusal, read_json, refuse_newer, write_json

if TYPE_CHECKING:
    from scaling.store.manifest import PlannedRun


@app.command
def plan(
    study: StudyPath,
    /,
    *,
    device: tuple[str, ...] = (),
    count: int = 1,
    mfu: float | None = None,
    measured: Path | None = None,
    dtype: str | None = None,
    devices: Path | None = None,
    compile_for: Annotated[str | None, arg(name="compile", metavar="CHIPS")] = None,
    max_flops: Number = None,
    to_json: JsonFile = None,
) -> None:
    """Show what a study would train, and what that costs, before anything is trained.

    One row a run: shape, parameters, tokens, steps, rates, FLOPs, and the estimated time and
    memory of one worker on this machine, or the time on the devices named. Then how each size is
    laid out there, and whether it fits. All that is wrong with the study
    is refused together, with values that would do: a warmup above 20% of a run, more tokens than
    the corpus holds, duplicate runs, a grid that cannot identify the law the study names. What
    needs no text is checked first; then the corpus is tokenised, once.

        scaling plan experiments/quickstart.toml
        scaling plan experiments/accelerator.toml --device h100-sxm tpu-v5p --count 8 --mfu 0.4
        scaling plan experiments/accelerator.toml --compile tpu-v5e:2x4

    Args:
        study: A study file; experiments/quickstart.toml is a documented example.
        device: How each size is laid out on these devices of models/devices.toml, whether it fits
            and, where it is known how much of their peak training reaches, time and money of the
            whole grid.
        count: Of devices, among which each run is divided.
        mfu: Share of the device's peak that training reaches; if not given, what was measured in
            bfloat16 by size, if it was (benchmarks/results).
        measured: What benchmarks/accelerator.py --json wrote on your device.
        dtype: Number format of the peak; that of the study's products if not given.
        devices: A file of devices of your own, in the form of models/devices.toml.
        compile_for: Compile the step that needs the most memory for these chips of a TPU, such as
            tpu-v5e:2x4, and say what it needs; no TPU is needed, and the extra `tpu` is.
        max_flops: Refuse a study that trains more than this.
        to_json: Write the table to this file too.
    """
    from experiments.compiling import compiled_largest
    from experiments.placing import placed_here, placed_on, places_for
    from experiments.plan_text import Shown, plan_json, plan_text
    from experiments.planning import asked_devices, grid_costs, plan_file, refuse_above
    from scaling.launch.slots import this_host
    from scaling.training.compiling import topology_of

    asked = asked_devices(device, count, mfu, measured, devices)
    topology = None if compile_for is None else topology_of(compile_for)
    planned = plan_file(study)
    runs = planned.plan.runs
    refuse_above(max_flops, planned.plan.flops_spent)
    places = None if asked else places_for(runs, this_host())
    shown = Shown(
        planned=planned,
        devices=tuple(asked),
        placings=tuple(placed_on(runs, each, count) for each in asked)
        if places is None
        else (placed_here(runs, places),),
        bills=tuple(grid_costs(planned.plan, asked, count, mfu, dtype, measured)),
        count=count,
        workers=1 if places is None else len(places.slots),
        compiled=None if topology is None else compiled_largest(runs, topology),
    )
    if to_json:
        write_json(to_json, plan_json(shown))
    print(plan_text(shown))
    if not any(placing.too_large for placing in shown.placings):
        print(f"Next: scaling run {study}")


@app.command
def run(
    study: StudyPath,
    /,
    *,
    workers: int | None = None,
    devices_per_run: int | None = None,
    runs_per_device: int | None = None,
    results: Path = Path("results"),
    order: Literal["cheapest-first", "longest-first"] = "cheapest-first",
    max_flops: Number = None,
    max_hours: Number = None,
    retry: Annotated[tuple[Literal["failed", "diverged"], ...], arg(metavar="STATUS …")] = (),
    dry_run: bool = False,
) -> None:
    """Train every run of a study that is not done yet, then collect the run table.

    Each size trains one constant-rate trunk; every token budget is a cooldown branch off it.
    Runs that are finished are kept; killed ones go on from their last checkpoint. A run that
    diverges or fails gets a status and a reason, and the rest goes on. The command may be given
    several times at once, on hosts that share the folder: they divide the runs among them.

        scaling run experiments/quickstart.toml --workers 2
        scaling run experiments/quickstart.toml --retry failed

    Args:
        study: The study file.
        workers: Runs that are trained at once; if not given, one a core, or one a GPU, of the
            host, or of those that CUDA_VISIBLE_DEVICES names.
        devices_per_run: GPUs, or chips of a TPU host, that a run is divided among; if not given,
            one GPU, or as many as the largest run needs, and all chips of a TPU host.
        runs_per_device: Runs that share a GPU, for models too small to keep one busy.
        results: The folder in which one named like the study is made.
        order: What a worker takes next: the cheapest run, so that faults and the first fit come
            early, or the longest, so that all is done soonest.
        max_flops: Refuse to start where the unfinished runs would train more than this.
        max_hours: Stop after this time, with checkpoints and exit code 75.
        retry: Try these again too: runs that failed, diverged, or both.
        dry_run: Say what would be trained, and write nothing.
    """
    from analysis.units import scientific
    from experiments.doubts import too_large
    from experiments.grid_text import runs_text, slots_text, to_do_text
    from experiments.next_text import next_text
    from experiments.placing import placed_here, places_for
    from experiments.planning import plan_bytes, refuse_above
    from experiments.progress import Watch
    from scaling.launch.launcher import TimeUp, launch
    from scaling.launch.local import Local
    from scaling.launch.prepare import manifest_of, prepared
    from scaling.launch.recording import environment_for
    from scaling.launch.slots import slots_of, this_host
    from scaling.spec import spent_flops
    from scaling.store import table
    from scaling.store.manifest import read_manifest
    from scaling.store.ready import unfinished
    from scaling.study import study_bytes
    from scaling.training.flags import refuse_faulty_jax

    hours = number("--max-hours", max_hours)
    if hours is not None and hours <= 0:
        raise Refusal(f"--max-hours {max_hours}: give more than 0.")
    places = slots_of(this_host(), workers, devices_per_run, runs_per_device)
    refuse_faulty_jax(places.host.platform)
    toml = study_bytes(study)
    planned = plan_bytes(toml, str(study))
    read = planned.plan.study
    folder = results / read.name
    if planned.plan.corpus.declared and not dry_run:
        from scaling.data.sources import what_is_missing

        raise Refusal(
            f"[data] {planned.plan.corpus.source!r} is not on this machine: it can be planned, "
            "as train_tokens declares it, and not trained on. Bring the data here.\n"
            f"{what_is_missing(read.data)}".rstrip()
        )
    specs = {spec.run_id: spec for spec in planned.plan.runs}
    refuse_newer(folder)
    manifest = manifest_of(folder, planned.plan, toml)
    waiting = [specs[run.run_id] for run in unfinished(folder, manifest, retry)]
    flops = sum(map(spent_flops, waiting))
    refuse_above(max_flops, flops)
    if waiting:
        places = places_for(waiting, places.host, workers, devices_per_run, runs_per_device)
        placed_here(waiting, places).refuse_too_large()
        for said in too_large(planned.plan):
            print(f"warning: {said}")
        print(slots_text(places, len(waiting)))
    if dry_run:
        print(to_do_text(waiting))
        print(
            f"\n{read.name}: {len(waiting)} of {len(planned.plan.runs)} runs to do in "
            f"{folder}, {scientific(flops)} exact FLOPs. Nothing was written."
        )
        return
    with prepared(folder, planned.plan, toml, retry) as ready:
        for note in ready.notes:
            print(note)
        todo, runs = len(ready.todo), len(planned.plan.runs)
        print(f"{read.name}: {runs} runs, {todo} to do, in {folder}")
        last_words: list[str] = []
        try:
            if todo:
                environment = environment_for(
                    folder, planned.plan.runs, places.host, places.slots[0], print
                )
                with Watch() as watch:
                    seconds = 3600 * (hours or math.inf)
                    local = Local(environment)
                    last_words = launch(local, folder, places.slots, order, watch, seconds)
        except BaseException as error:
            # What was finished is in the table, however the rest ended; the table hides no error.
            try:
                table.publish_table(folder)
            except (Refusal, OSError) as unwritten:
                say(f"the run table is not written: {unwritten}", sys.stderr)
            if not isinstance(error, TimeUp):
                raise
            left = unfinished(folder, read_manifest(folder))
            print(
                f"--max-hours {max_hours} are over: {len(left)} of {runs} runs are left, "
                f"{scientific(sum(run.flops for run in left))} exact FLOPs from their start"
            )
            raise KeyboardInterrupt from None
        for said in last_words:
            say(f"a worker that could not go on: {said}", sys.stderr)
        published = table.publish_table(folder)
    if len(published.table):
        print(runs_text(published.table))
    print(f"\nRun table → {published.path}")
    for reason in published.damaged.values():
        say(f"damaged: {reason}")
    if published.orphans:
        print(
            f"{len(published.orphans)} runs in {folder} belong to an earlier version of the study; "
            f"they are kept, and not in the table: {few(published.orphans)}"
        )
    if len(published.sources) > 1:
        counted = ", ".join(f"{n} runs by {source}" for source, n in published.sources.items())
        print(f"not one source of this program trained them all: {counted}")
    if left := unfinished(folder, read_manifest(folder)):
        raise Failed(
            f"of {runs} runs, {len(left)} could neither be trained nor be "
            "marked as failed; mend what is said above and give the command again"
        )
    ended = published.table["status"].value_counts()
    lost = {name: int(ended[name]) for name in ("failed", "diverged") if name in ended}
    if lost:
        counted = " and ".join(f"{count} {name}" for name, count in lost.items())
        said = (
            f"of {runs} runs, {counted}. scaling status {folder} says why; "
            f"scaling run {_again(study, folder)} --retry {' '.join(lost)} tries again"
        )
        if todo or "failed" in lost:
            raise Failed(said)
        print(said)  # known before: a diverged run is a result
    print(next_text(folder, published.table, read.law or "chinchilla"))


def _again(study: Path, folder: Path) -> Path:
    """Where the study can be read again; a pipe can not."""
    return folder / "study.toml" if study.parts[:2] in (("/", "dev"), ("/", "proc")) else study


@app.command
def worker(
    directory: Directory,
    /,
    *,
    order: Literal["cheapest-first", "longest-first"] = "cheapest-first",
) -> None:
    """Train runs of a results folder, one after the other, until all of its plan have ended.

    What `scaling run` starts as often as it has workers. Start as many as you like, where the
    folder and the cache of corpora are seen: each takes a run that nobody has, and waits while
    others have what is left. It uses all accelerators that it sees: where several are started on a
    host, give each its own CUDA_VISIBLE_DEVICES. Exit codes: 0 all completed, 1 a run failed or
    diverged, 75 stopped.

        scaling worker results/quickstart

    Args:
        directory: A folder in which `scaling run` wrote a plan.
        order: What it takes next: the cheapest run, or the longest.
    """
    from scaling.data.corpus import load
    from scaling.data.verified import check_afresh
    from scaling.launch.recording import environment_for
    from scaling.launch.slots import this_host, whole_host
    from scaling.launch.worker import worker_command
    from scaling.spec import spec_of
    from scaling.store.manifest import read_manifest
    from scaling.store.paths import cache_folder
    from scaling.store.ready import unfinished

    manifest, slot = read_manifest(directory), whole_host()
    left = unfinished(directory, manifest)
    for corpus in sorted({str(run.config["corpus"]) for run in left}):
        check_afresh(load(corpus, cache_folder() / "corpora"))
    command = worker_command(directory, order)
    # In place of this process: the one that a launcher starts, with the same environment.
    runs = (spec_of(run.config) for run in manifest.runs)
    environment = environment_for(directory, runs, this_host(), slot, print)
    os.execve(command[0], command, environment(slot))


@app.command
def status(directory: Directory, /, *, to_json: JsonFile = None) -> None:
    """Show what is done, running, failed and waiting in a results folder, and why.

        scaling status results/quickstart

    Args:
        directory: A folder that `scaling run` wrote.
        to_json: Write the rows to this file too.
    """
    from experiments.grid_text import status_text

    seen = looked_at(directory)
    if to_json:
        write_json(to_json, asdict(seen))
    print(status_text(seen.runs))
    if seen.unreadable:
        print(
            f"{len(seen.unreadable)} runs of the plan have no record that can be read; the same "
            "`scaling run` makes it again, from what was published:"
        )
        say("\n".join(seen.unreadable.values()))
    if seen.orphans:
        print(
            f"{len(seen.orphans)} runs that ended belong to an earlier version of the study: "
            f"{few(seen.orphans)}"
        )


@dataclass(frozen=True)
class Look:
    """Where the runs of a plan are."""

    runs: list[dict[str, Any]]  # a row each, by size, seed and tokens
    unreadable: dict[str, str]  # by run id: what is wrong with its record, or that there is none
    orphans: tuple[str, ...]  # runs that ended, of the folder and not of the plan


def looked_at(results: Path) -> Look:
    """Every run of the plan of a results folder. Raises Refusal where there is no plan."""
    from scaling.store.manifest import read_manifest
    from scaling.store.ready import run_folder
    from scaling.store.table import orphans

    manifest = read_manifest(results)
    rows, unreadable = [], {}
    for planned in manifest.runs:
        try:
            rows.append(_status(run_folder(results, planned.run_id), planned))
        except Refusal as error:
            unreadable[planned.run_id] = str(error)
    rows.sort(key=lambda row: (row["params_non_embedding"], row["seed"], row["tokens"]))
    return Look(rows, unreadable, orphans(results, manifest))


def _status(folder: Path, planned: PlannedRun) -> dict[str, Any]:
    """Where one run of a plan is, as plain values. Raises Refusal where its record does not say."""
    from scaling.store.attempt import attempt_folder
    from scaling.store.claims import newest, owner
    from scaling.store.run_record import damage, read_run
    from scaling.store.table import JUDGED_OTHERWISE

    record = read_run(folder)
    progress: dict[str, Any] = {}
    status: str = record.status
    reason, loss = record.reason, record.loss
    if damaged := damage(folder, record):
        status, reason, loss = "failed", "; ".join(damaged.values()), None
    elif status == "completed" and not record.judged_as(planned.config):
        status, loss = JUDGED_OTHERWISE, None
        reason = "the study asks for other held-out text; `scaling run` judges it again"
    elif record.ended and record.steps < planned.steps:
        status, loss, reason = "planned", None, f"it goes on from step {record.steps}"
    if status == "running":
        claim = newest(folder)
        if claim is not None:
            with suppress(Refusal):
                progress = read_json(attempt_folder(folder, claim) / "progress.json")
        reason = (
            "its worker is gone; `scaling run` goes on" if owner(folder) is None else str(claim)
        )
    return {
        "run_id": planned.run_id,
        "run_kind": planned.run_kind,
        "params_non_embedding": planned.columns["params_non_embedding"],
        "tokens": planned.columns["tokens"],
        "seed": planned.columns["seed"],
        "status": status,
        "step": progress.get("step"),
        "steps": planned.steps,
        "loss": loss,
        "reason": reason,
    }
