"""Which tasks a run trains on and answers: the [tasks] of a study, resolved for one batch size."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scaling.store.records import Refusal
from scaling.tasks import arithmetic, composition, context, jsonl, strings
from scaling.tasks.task import Task, evaluation_items

TASKS: Mapping[str, type[Task]] = {
    task.name: task
    for task in (
        *(arithmetic.Addition, arithmetic.UnorderedAddition, arithmetic.Subtraction),
        *(arithmetic.Multiplication, arithmetic.ModularAddition),
        *(context.Copy, context.Recall, context.NGram),
        *(strings.Reverse, strings.Sort, strings.Unscramble),
        *(composition.Direct, composition.ChainOfThought),
        jsonl.Jsonl,
    )
}


@dataclass(frozen=True)
class TaskSpec:
    """One task as plain values."""

    task: str
    parameters: dict[str, int | str] = field(default_factory=dict)
    weight: float = 1.0  # how often a window is of it, relative to the others; 0: evaluated only

    def build(self) -> Task:
        """The task. Raises Refusal for an unknown one, or a parameter that it cannot have."""
        if self.task not in TASKS:
            raise Refusal(f"task = {self.task!r} is not known; give one of {', '.join(TASKS)}.")
        kind = TASKS[self.task]
        try:
            return TypeAdapter(kind).validate_json(json.dumps(self.parameters))
        except ValidationError as error:
            mistake = error.errors()[0]
            name, value = "".join(map(str, mistake["loc"][:1])), mistake["input"]
            if mistake["type"] == "unexpected_keyword_argument":
                known = ", ".join(each.name for each in fields(kind)) or "none"
                why = f"{name} is no parameter of it. It has {known}"
            elif mistake["type"] == "missing":
                why = f"{name} is missing. Give it"
            else:
                why = f"{name} = {str(value)[:40]}: {mistake['msg']}"
            raise Refusal(f"task = {self.task!r}: {why}.") from error

    @property
    def written_out(self) -> dict[str, Any]:
        """Plain values, those that were not given among them; of a file its content alone."""
        parameters = asdict(self.build())
        parameters.pop("file", None)
        return {"task": self.task, "weight": self.weight, "parameters": parameters}


@dataclass(frozen=True)
class TaskMix:
    """What of a run is tasks."""

    sequences: int  # of each batch that are task windows
    tasks: tuple[TaskSpec, ...]
    shots: tuple[int, ...]  # examples before each evaluated prompt, one evaluation each
    items: int  # evaluated of each task, at most
    samples: int = 1  # answers drawn an item, for pass@k; 1: none

    @property
    def identity(self) -> dict[str, Any]:
        """What of it determines a run: the tasks that are trained on, every parameter written out.

        Of a file that is its content, not where it lies.
        """
        trained = [each.written_out for each in self.tasks if each.weight]
        return {"sequences": self.sequences, "tasks": trained}

    @property
    def asked(self) -> dict[str, Any]:
        """What of it determines how a run is judged."""
        tasks = [each.written_out for each in self.tasks]
        return {**asdict(self), "sequences": 0, "tasks": tasks}


def resolve_mix(
    fraction: float,
    entries: Sequence[Mapping[str, Any]],
    batch_sequences: int,
    shots: tuple[int, ...],
    items: int,
    samples: int,
) -> TaskMix:
    """The [tasks] section of a study, of whose every batch `fraction` is task windows.

    Raises Refusal for a fraction that makes no whole number of sequences, an unknown task or
    parameter, a task given twice, weights that are none, and a task without items.
    """
    sequences = Fraction(str(fraction)) * batch_sequences
    if sequences.denominator != 1 or not 0 < sequences < batch_sequences:
        raise Refusal(
            f"[tasks] fraction = {fraction} of batch_sequences = {batch_sequences} is "
            f"{float(sequences):g} sequences. Give a fraction that makes whole ones and leaves "
            f"some for the text, such as {_near(fraction, batch_sequences):g}."
        )
    specs: list[TaskSpec] = []
    for number, entry in enumerate(entries, start=1):
        try:
            spec = _spec(entry)
            evaluation_items(spec.build(), 1)
        except Refusal as error:
            raise Refusal(f"[tasks] list, entry {number}: {error}") from error
        specs.append(spec)
    refuse_twice(specs, "[tasks] list")
    if not any(spec.weight for spec in specs):
        raise Refusal("[tasks] list: every weight is 0. Give one task that is trained on.")
    return TaskMix(int(sequences), tuple(specs), tuple(dict.fromkeys(shots)), items, samples)


def refuse_twice(specs: Sequence[TaskSpec], place: str) -> None:
    """Raises Refusal for a task that is there twice: its items would count twice."""
    labels = [spec.build().label for spec in specs]
    for label in labels:
        if labels.count(label) > 1:
            raise Refusal(f"{place} has {label!r} twice. Remove one.")


def _near(fraction: float, batch_sequences: int) -> float:
    return min(max(1, round(fraction * batch_sequences)), batch_sequences - 1) / batch_sequences


def _spec(entry: Mapping[str, Any]) -> TaskSpec:
    parameters = dict(entry)
    name, weight = parameters.pop("task", None), parameters.pop("weight", 1.0)
    if not isinstance(name, str):
        raise Refusal(f"task is missing. Give one of {', '.join(TASKS)}.")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise Refusal(f"weight = {weight!r} is no number.")
    if not 0 <= weight < math.inf:
        raise Refusal(f"weight = {weight}: give at least 0.")
    for parameter, value in parameters.items():
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise Refusal(f"{parameter} = {str(value)[:40]}: give a whole number or a text.")
    spec = TaskSpec(name, parameters, float(weight))
    if isinstance(task := spec.build(), jsonl.Jsonl):
        content = jsonl.read_items(Path(task.file))[1]
        return replace(spec, parameters={**parameters, "sha256": content})
    return spec
