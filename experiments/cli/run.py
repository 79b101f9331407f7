"""`scaling run`: train what a study plans, and collect the run table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from analysis.text import paragraph, scientific
from experiments.cli.app import Failed, Number, StudyPath, app, number
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.text import few, say
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from scaling.planning.plan import Plan
    from scaling.store.results import Results
    from scaling.store.table import Published

Order = Literal["cheapest-first", "longest-first"]
Where = Literal["local", "slurm", "ray"]


@app.command
def run(
    study: StudyPath,
    /,
    *,
    launcher: Where = "local",
    workers: int | None = None,
    devices_per_run: int | None = None,
    runs_per_device: int | None = None,
    results: Annotated[str, arg(metavar="FOLDER")] = "results",
    order: Order = "cheapest-first",
    max_flops: Number = None,
    max_hours: Number = None,
    retry: Annotated[tuple[Literal["failed", "diverged"], ...], arg(metavar="STATUS …")] = (),
    dry_run: bool = False,
    output: Outputs = TO_TERMINAL,
) -> None:
    """Train every run of a study that is not finished, then collect the run table.

    Each size trains one trunk at a constant learning rate; every token budget is a cooldown branch
    off it. Finished runs are kept, and interrupted ones continue from their last checkpoint. A run
    that diverges or fails gets a status and a reason, and the others continue. The command may be
    started several times at once, on hosts that share the folder: they divide the runs among them.

        scaling run experiments/quickstart.toml --workers 2
        scaling run experiments/quickstart.toml --retry failed

    Args:
        launcher: Where the runs train: on this machine, or by an engine that the study's [launch]
            section says more about.
        workers: Number of runs to train at once. The default is one per core, or one per GPU, of
            the host or of CUDA_VISIBLE_DEVICES.
        devices_per_run: Number of GPUs, or of chips of a TPU host, for each run. The default is one
            GPU, or as many as the largest run needs, and all chips of a TPU host.
        runs_per_device: Number of runs that share a GPU, for models too small to keep one busy.
        results: Folder for the results, or an address such as s3://bucket/runs; each study has a
            folder of its name in it.
        order: Which run a worker takes next: the cheapest, so that errors and a first fit come
            early, or the longest, so that all end soonest.
        max_flops: Refuse to start if the unfinished runs would train more FLOPs than this.
        max_hours: Stop after this time, with checkpoints and exit code 75.
        retry: Train again the runs with this status too: failed, diverged, or both.
        dry_run: Print what would be trained, and write no results.
    """
    from experiments.cli.join.plan import plan_bytes, refuse_above
    from experiments.cli.join.warnings import too_large
    from experiments.cli.launchers import LAUNCHINGS, Asked
    from experiments.cli.render.run import counts_text, next_text, run_json, to_do_text
    from scaling.launch.prepare import manifest_of, plan_before, prepared
    from scaling.spec import spent_flops
    from scaling.store import table
    from scaling.store.results import study_at, unfinished
    from scaling.study import study_bytes

    hours = number("--max-hours", max_hours) or math.inf
    asked = Asked(workers, devices_per_run, runs_per_device, hours, order)
    launching = LAUNCHINGS[launcher](asked)
    toml = study_bytes(study)
    plan = plan_bytes(toml, str(study)).plan
    folder = study_at(results, plan.study.name)
    if not dry_run:
        _refuse_absent_text(plan)
    specs = {spec.run_id: spec for spec in plan.runs}
    folder.look()
    plan_before(folder)  # refused, if it is of another version
    manifest = manifest_of(folder, plan, toml)
    waiting = [specs[run.run_id] for run in unfinished(folder, manifest, retry)]
    flops = sum(map(spent_flops, waiting))
    refuse_above(max_flops, flops)
    if waiting:
        where = launching.placed(folder, plan, waiting)
        for warning in too_large(plan):
            say(paragraph(f"warning: {warning}"))
        say(where)
    # Before hours of training: a file that cannot be written is refused at once.
    output.write(run_json(plan, folder, waiting))
    if dry_run:
        say(to_do_text(waiting))
        say(
            f"\n{plan.study.name}: {len(waiting)} of {len(plan.runs)} runs to do in "
            f"{folder}, {scientific(flops)} exact FLOPs. Nothing was written."
        )
        return
    with prepared(folder, plan, toml, retry) as ready:
        for note in ready.notes:
            say(note)
        say(f"{plan.study.name}: {counts_text(plan)}, {len(ready.todo)} to do, in {folder}")
        if ready.todo and not launching.train(folder, plan):
            return
        published = table.publish_table(folder)
    output.write(run_json(plan, folder, waiting, published))
    _report(folder, published)
    _raise_for_lost(_again(study, folder), folder, published, bool(ready.todo))
    say(next_text(folder, published.table, plan.study.law or "chinchilla"))


def _refuse_absent_text(plan: Plan) -> None:
    """Raise Refusal if the corpus is declared in the study and is not on this machine."""
    from scaling.data.sources import what_is_missing

    if plan.corpus.declared:
        raise Refusal(
            [
                f"[data] {plan.corpus.source!r} is not on this machine: the study can be planned, "
                "because train_tokens declares its size, but not trained. Bring the data here.",
                *filter(None, [what_is_missing(plan.study.data)]),
            ]
        )


def _report(folder: Results, published: Published) -> None:
    """Print the run table, where it is, and what is not as it should be in the folder."""
    from experiments.cli.render.run import runs_text

    if len(published.table):
        say(runs_text(published.table))
    say(f"\nRun table → {published.path}")
    for reason in published.damaged.values():
        say(f"damaged: {reason}")
    if published.orphans:
        say(
            f"{len(published.orphans)} runs in {folder} belong to an earlier version of the study; "
            f"they are kept, but are not in the table: {few(published.orphans)}"
        )
    if len(published.sources) > 1:
        counted = ", ".join(f"{n} runs by {source}" for source, n in published.sources.items())
        say(f"the runs were trained by different versions of this program: {counted}")


def _raise_for_lost(study: str, folder: Results, published: Published, trained: bool) -> None:
    """Raise Failed if runs have no end, or ended badly; print it if it was known before."""
    from scaling.store.results import unfinished

    manifest = folder.manifest()
    if left := unfinished(folder, manifest):
        raise Failed(
            f"{len(left)} of {len(manifest.runs)} runs could not be trained or recorded; correct "
            "the errors above and give the command again"
        )
    ended = published.table["status"].value_counts()
    lost = {name: ended[name] for name in ("failed", "diverged") if name in ended}
    if not lost:
        return
    counted = " and ".join(f"{count} {name}" for name, count in lost.items())
    said = (
        f"of {len(manifest.runs)} runs, {counted}. scaling status {folder} shows why; "
        f"scaling run {study} --retry {' '.join(lost)} tries again"
    )
    if trained or "failed" in lost:
        raise Failed(said)
    say(said)  # a run that diverged before is a result


def _again(study: Path, folder: Results) -> str:
    """From where the study can be read again, which a pipe cannot."""
    is_pipe = study.parts[:2] in (("/", "dev"), ("/", "proc"))
    return f"{folder}/study.toml" if is_pipe else str(study)
