"""`scaling eval`: the scores of finished runs on tasks, trained on them or not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from analysis.text import human, printable, text_table
from experiments.cli.app import Failed, app
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.text import say
from scaling.store.records import Refusal, refuse_newer
from scaling.store.run_record import read_run, run_folders
from scaling.store.sealed import OtherFormat

if TYPE_CHECKING:
    from scaling.tasks.mix import TaskMix, TaskSpec
    from scaling.training.restore import Finished

RunPaths = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN|DIR …")]
Tasks = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK|FILE.jsonl …")]
Whole = Annotated[tuple[int, ...], tyro.conf.arg(metavar="NUMBER …")]
ITEMS = 100  # per task, as [tasks] items of a study
CONTEXT = ("context", "position")  # two names of the loss by position in the context


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated on every run."""

    mix: TaskMix  # without tasks: those that a run was trained on
    context: bool


@dataclass(frozen=True)
class Scores:
    """The scores of a run: one row per task, number of shots and metric."""

    rows: list[dict[str, Any]]
    judged: tuple[str, ...] = ()  # which part of the held-out text was used, in words


@app.command(name="eval")
def evaluate(
    runs: RunPaths,
    /,
    *,
    task: Tasks = (),
    shots: Whole = (0,),
    samples: int = 1,
    items: int = ITEMS,
    output: Outputs = TO_TERMINAL,
) -> None:
    """Evaluate finished runs on tasks whose answers are known, and print the scores.

    A task is a name with its parameters, as results show it, or a file with one JSON object per
    line: prompt, answer and, for multiple choice, choices. Only held-out items are used, chosen by
    a hash of their content; the examples of a prompt come from the others. The task `context` (or
    by its other name `position`) reports the held-out loss by position in the context, and the
    in-context learning score: the loss late in a window minus that early in it. The JSON file can
    be read by `scaling emergence`.

        scaling eval results/emergence --task 'addition digits=2' --shots 0 4 --json scores.json
        scaling emergence scores.json --scale params --metric exact_match
        scaling eval results/emergence/runs/0123456789ab --task mine.jsonl --samples 16

    Args:
        runs: Run folders, or results folders, of which every completed run is evaluated.
        task: Tasks to evaluate; by default those that a run was trained on.
        shots: Numbers of examples before each question; one evaluation each.
        samples: Answers sampled per question, for pass@k.
        items: Largest number of questions per task.
    """
    for option, least, value in (
        *(("--shots", 0, each) for each in shots),
        *(("--samples", 1, samples), ("--items", 1, items)),
    ):
        if value < least:
            raise Refusal(f"{option} {value}: give at least {least}.")
    if not shots:
        raise Refusal("--shots: give a number of examples, such as 0.")
    if "jax" not in sys.modules:  # as in training, for the same programs
        from models.devices import expected_platform
        from scaling.training.flags import Slot, worker_environment

        os.environ.update(worker_environment(Slot(expected_platform())))
        # A worker that trains meanwhile has most of a GPU's memory: take what is needed alone.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from scaling.tasks.mix import TaskMix, refuse_twice

    specs = tuple(task_spec(each) for each in task if each not in CONTEXT)
    refuse_twice(specs, "--task")
    mix = TaskMix(0, specs, tuple(dict.fromkeys(shots)), items, samples)
    evaluation = Evaluation(mix, not set(task).isdisjoint(CONTEXT))
    scores: list[dict[str, Any]] = []
    judged: dict[str, None] = {}  # the text used, in words, each once
    lost: list[tuple[Path, Refusal]] = []
    folders = list(_completed(runs))
    for number, folder in enumerate(folders, start=1):
        try:
            found = _scores(folder, evaluation)
            scores += found.rows
            judged |= dict.fromkeys(found.judged)
        except Refusal as error:
            lost.append((folder, error))
        if number < len(folders):
            say(f"{number} of {len(folders)} runs", sys.stderr)
    if not scores:
        raise lost[0][1]
    lines = [scores_text(scores), *judged]
    if output.to_json:
        metrics = " ".join(dict.fromkeys(row["metric"] for row in scores))
        lines.append(
            f"Next: scaling emergence {output.to_json} --scale params --metric … (of {metrics})"
        )
    try:
        output.write({"scores": scores})
    finally:  # where a disk is full, what was computed is shown at least
        say("\n".join(lines))
    if lost:
        for folder, reason in lost:
            say(f"{folder}: {reason}", sys.stderr)
        raise Failed(f"{len(lost)} of {len(folders)} runs could not be evaluated")


def task_spec(text: str) -> TaskSpec:
    """The task of `NAME parameter=value …`, or of a file. Raises Refusal for other text."""
    from scaling.tasks.mix import TaskSpec
    from scaling.tasks.task import evaluation_items

    if text.endswith(".jsonl"):
        spec = TaskSpec("jsonl", {"file": text})
    else:
        name, *words = text.split() or [""]
        parameters: dict[str, int | str] = {}
        for word in words:
            parameter, equals, value = word.partition("=")
            if not (parameter and equals and value):
                raise Refusal(f"--task {text!r}: {word!r} is not PARAMETER=VALUE.")
            parameters[parameter] = int(value) if value.isdecimal() else value
        spec = TaskSpec(name, parameters)
    try:
        evaluation_items(spec.build(), 1)  # before any model is brought back
    except Refusal as error:
        raise Refusal(f"--task {text!r}: {error}") from error
    return spec


def _completed(paths: Sequence[Path]) -> Iterator[Path]:
    """The folders of the runs to evaluate. Raises Refusal for what is neither run nor results."""
    if not paths:
        raise Refusal("give a run's folder, or a results folder, such as results/quickstart.")
    for path in paths:
        if (path / "run.json").exists():
            yield path
            continue
        refuse_newer(path)
        found = [each for each in run_folders(path) if _is_completed(each)]
        if not found:
            raise Refusal(f"{path} has no completed run. scaling status {path} says why.")
        yield from found


def _is_completed(folder: Path) -> bool:
    """Whether a run completed; one whose record cannot be read is refused when it is evaluated."""
    try:
        return read_run(folder).status == "completed"
    except OtherFormat:
        raise
    except Refusal:
        return True


def _scores(folder: Path, evaluation: Evaluation) -> Scores:
    from scaling.spec import run_columns
    from scaling.training.restore import finished

    run = finished(folder)
    record = read_run(folder)
    of_run = run_columns(run.spec, run.corpus.info)
    common = {
        "run_id": record.run_id,
        "run_kind": record.run_kind,
        "seed": of_run["seed"],
        "params": of_run["params_total"],
        "tokens": of_run["tokens"],
        "flops_6nd": of_run["flops_6nd"],
        "loss": record.loss,
    }
    only_context = evaluation.context and not evaluation.mix.tasks
    rows = [] if only_context else _task_scores(folder, run, evaluation.mix)
    context = _in_context(run) if evaluation.context else Scores([])
    return Scores([{**common, **row} for row in [*rows, *context.rows]], context.judged)


def _task_scores(folder: Path, run: Finished, mix: TaskMix) -> list[dict[str, Any]]:
    from scaling.training.inputs import evaluator_of

    if not mix.tasks:
        if not run.spec.tasks or not run.spec.tasks.tasks:
            raise Refusal(f"{folder} was not trained on tasks. Name some with --task.")
        mix = replace(mix, tasks=run.spec.tasks.tasks)
    evaluator = evaluator_of(replace(run.spec, tasks=mix), run.corpus, run.program)
    return evaluator.scores(run.params)


def _in_context(run: Finished) -> Scores:
    """The held-out loss by position in the context."""
    import numpy as np

    from scaling.data.holdout import holdout_windows
    from scaling.training.inputs import context_scores
    from scaling.training.judge import holdout_losses

    spec = run.spec
    windows = holdout_windows(run.corpus, spec.sequence_length, spec.holdout_tokens)
    losses = holdout_losses(run.program, run.params, windows)
    held_out = sum(len(part.holdout) for part in run.corpus.parts)
    judged = (
        f"context: {len(windows.tokens)} windows of {spec.sequence_length} tokens, from "
        f"{len(np.unique(windows.document))} of the {held_out} held-out documents of "
        f"{run.corpus.info.source!r}, packed one after another"
    )
    rows = [{**row, "shots": None, "chance": None} for row in context_scores(losses, windows)]
    return Scores(rows, (judged,))


def scores_text(scores: Sequence[dict[str, Any]]) -> str:
    """A table with one row per score."""
    rows = [
        [
            *(row["run_id"], human(row["params"]), human(row["tokens"])),
            *(printable(row["task"]), "" if row["shots"] is None else str(row["shots"])),
            *(row["metric"], f"{row['value']:.3g}"),
            *("" if row[name] is None else f"{row[name]:.2g}" for name in ("stderr", "chance")),
            str(row["n"]),
        ]
        for row in scores
    ]
    header = ("run", "params", "tokens", "task", "shots", "metric", "value", "±", "chance", "n")
    return text_table(header, rows)
