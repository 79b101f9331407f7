"""`scaling eval`: what finished runs answer to tasks, trained on them or not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.cli import Failed, JsonFile, app
from experiments.text import columns, printable, say
from scaling.store.records import Refusal, refuse_newer, write_json
from scaling.store.run_record import read_run, run_folders
from scaling.store.sealed import OtherFormat

if TYPE_CHECKING:
    from scaling.tasks.mix import TaskSpec
    from scaling.training.restore import Finished

RunPaths = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN|DIR …")]
Tasks = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK|FILE.jsonl …")]
Whole = Annotated[tuple[int, ...], tyro.conf.arg(metavar="NUMBER …")]
ITEMS = 100  # asked of each task, as [tasks] items of a study
CONTEXT = ("context", "position")  # the loss by position, as results call it and as it is known


@dataclass(frozen=True)
class Ask:
    """What every run is asked."""

    tasks: tuple[TaskSpec, ...]
    context: bool
    shots: tuple[int, ...]
    samples: int
    items: int


@dataclass(frozen=True)
class Answers:
    """What a run answers: a row a task, number of shots and metric."""

    rows: list[dict[str, Any]]
    judged: tuple[str, ...] = ()  # which of the held-out text was judged, in words


@app.command(name="eval")
def evaluate(
    runs: RunPaths,
    /,
    *,
    task: Tasks = (),
    shots: Whole = (0,),
    samples: int = 1,
    items: int = ITEMS,
    to_json: JsonFile = None,
) -> None:
    """Ask finished runs questions whose answers are known, and score what they say.

    A task is a name with its parameters, as results show it, or a file with one JSON object per
    line: prompt, answer and, if there are, choices. Only its held-out items are asked, chosen by a
    hash of their content; examples are drawn from the others. The task `context`, or `position`,
    asks nothing: it is the held-out loss by the number of tokens before, and the in-context
    learning score, the loss late in a window minus that early in it. `scaling emergence` reads the
    JSON file.

        scaling eval results/emergence --task 'addition digits=2' --shots 0 4 --json scores.json
        scaling emergence scores.json --scale params --metric exact_match
        scaling eval results/emergence/runs/0123456789ab --task mine.jsonl --samples 16

    Args:
        runs: Run folders, or results folders, of which every completed run is asked.
        task: What is asked; the tasks that a run was trained on, if none is given.
        shots: Examples before each question; one evaluation each.
        samples: Answers drawn a question, for pass@k.
        items: Questions of each task, at most.
        to_json: Write the scores to this file too.
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
    from scaling.tasks.mix import refuse_twice

    ask = Ask(
        tuple(task_spec(each) for each in task if each not in CONTEXT),
        not set(task).isdisjoint(CONTEXT),
        tuple(dict.fromkeys(shots)),
        samples,
        items,
    )
    refuse_twice(ask.tasks, "--task")
    scores: list[dict[str, Any]] = []
    judged: dict[str, None] = {}  # what was judged on, in words, each once
    lost: list[tuple[Path, Refusal]] = []
    folders = list(_completed(runs))
    for number, folder in enumerate(folders, start=1):
        try:
            answers = _scores(folder, ask)
            scores += answers.rows
            judged |= dict.fromkeys(answers.judged)
        except Refusal as error:
            lost.append((folder, error))
        if number < len(folders):
            say(f"{number} of {len(folders)} runs", sys.stderr)
    if not scores:
        raise lost[0][1]
    lines = [scores_text(scores), *judged]
    if to_json:
        metrics = " ".join(dict.fromkeys(row["metric"] for row in scores))
        lines.append(f"Next: scaling emergence {to_json} --scale params --metric … (of {metrics})")
    try:
        if to_json:
            write_json(to_json, {"scores": scores})
    finally:  # where a disk is full, what was computed is shown at least
        say("\n".join(lines))
    if lost:
        for folder, reason in lost:
            say(f"{folder}: {reason}", sys.stderr)
        raise Failed(f"{len(lost)} of {len(folders)} runs could not be asked")


def task_spec(text: str) -> TaskSpec:
    """The task of `NAME parameter=value …`, or of a file. Raises Refusal for what is none."""
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
                raise Refusal(f"--task {text!r}: {word!r} is no PARAMETER=VALUE.")
            parameters[parameter] = int(value) if value.isdecimal() else value
        spec = TaskSpec(name, parameters)
    try:
        evaluation_items(spec.build(), 1)  # before any model is brought back
    except Refusal as error:
        raise Refusal(f"--task {text!r}: {error}") from error
    return spec


def _completed(paths: Sequence[Path]) -> Iterator[Path]:
    """The folders of the runs to ask. Raises Refusal for what is neither run nor results."""
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
    """Whether a run may be asked; one whose record cannot be read says so when it is asked."""
    try:
        return read_run(folder).status == "completed"
    except OtherFormat:
        raise
    except Refusal:
        return True


def _scores(folder: Path, ask: Ask) -> Answers:
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
    rows = [] if ask.context and not ask.tasks else _answers(folder, run, ask)
    context = _in_context(run) if ask.context else Answers([])
    return Answers([{**common, **row} for row in [*rows, *context.rows]], context.judged)


def _answers(folder: Path, run: Finished, ask: Ask) -> list[dict[str, Any]]:
    from scaling.tasks.mix import TaskMix
    from scaling.training.inputs import evaluator_of

    own = run.spec.tasks.tasks if run.spec.tasks else ()
    if not (ask.tasks or own):
        raise Refusal(f"{folder} was trained on no tasks. Name some with --task.")
    mix = TaskMix(0, ask.tasks or own, ask.shots, ask.items, ask.samples)
    asked = evaluator_of(replace(run.spec, tasks=mix), run.corpus, run.program)
    return asked.scores(run.params)


def _in_context(run: Finished) -> Answers:
    """The held-out loss by position, and on which documents."""
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
        f"{run.corpus.info.source!r}; documents shorter than a window are not judged"
    )
    rows = [{**row, "shots": None, "chance": None} for row in context_scores(losses, windows)]
    return Answers(rows, (judged,))


def scores_text(scores: Sequence[dict[str, Any]]) -> str:
    """A row a score."""
    from analysis.units import human

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
    return columns(header, rows)
