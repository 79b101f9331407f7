"""What a model is asked: items of each task as tokens, each after its examples.

The same for every run of a study, and known to fit before anything is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from scaling.store.records import Refusal
from scaling.tasks.draw import Draw
from scaling.tasks.mix import TaskMix
from scaling.tasks.task import (
    EVALUATION,
    EVALUATION_SEED,
    TRAINING,
    Item,
    Task,
    evaluation_items,
    training_item,
)
from scaling.tasks.vocabulary import Vocabulary

_LOOKED_AT = 100  # items of each task, for the longest


@dataclass(frozen=True)
class Question:
    """An item as one task of the study asks it."""

    task: Task
    item: Item
    prompt: list[int]  # tokens, from the end of the document before on
    answer: list[int]  # tokens, with what ends it
    choices: tuple[list[int], ...]  # tokens of each; all with what ends them if one begins another

    @property
    def read_off(self) -> bool:
        """Whether its choices are single tokens, which one place of its own row scores all."""
        return bool(self.choices) and all(len(choice) == 1 for choice in self.choices)

    @property
    def rows(self) -> list[list[int]]:
        """What the model reads of it: prompt and answer, then prompt and each longer choice."""
        texts = [self.answer, *(() if self.read_off else self.choices)]
        return [self.prompt + text for text in texts]


def questions(task: Task, count: int, shots: int, vocabulary: Vocabulary) -> list[Question]:
    """The questions of a task, each after its own examples, which may be trained on.

    Raises Refusal for a task without items, and for a vocabulary that does not give answers back.
    """
    found = []
    for number, item in enumerate(evaluation_items(task, count)):
        draw = Draw(EVALUATION, EVALUATION_SEED, shots, number)
        examples = [training_item(task, draw) for _ in range(shots)]
        vocabulary.refuse_unreadable(item.answer)
        found.append(
            Question(
                task,
                item,
                vocabulary.prompt(examples, item),
                vocabulary.answer(item.answer),
                _choices(item, vocabulary),
            )
        )
    return found


def every_question(
    mix: TaskMix, vocabulary: Vocabulary, sequence_length: int
) -> dict[int, list[Question]]:
    """What a run is asked, by the number of examples.

    Raises Refusal for a task without items, for questions that do not fit into a sequence, and
    for a vocabulary that does not give answers back.
    """
    tasks = [spec.build() for spec in mix.tasks]
    asked = {
        shots: [each for task in tasks for each in questions(task, mix.items, shots, vocabulary)]
        for shots in mix.shots
    }
    for shots, each in asked.items():
        refuse_long(each, shots, sequence_length)
    return asked


def refuse_cut(mix: TaskMix, vocabulary: Vocabulary, sequence_length: int) -> None:
    """Raises Refusal for a task trained on that has no items for it, or whose items are longer
    than a window, which cuts them off before their answers."""
    for spec in mix.tasks:
        if not spec.weight:
            continue
        task, draw = spec.build(), Draw(TRAINING)
        longest = max(len(vocabulary.example(training_item(task, draw))) for _ in range(_LOOKED_AT))
        if longest > sequence_length:
            raise Refusal(
                f"[tasks] {task.label}: an item takes {longest:,} of sequence_length = "
                f"{sequence_length:,} tokens, and windows cut it off. Give shorter items, longer "
                "sequences, or weight = 0."
            )


def _choices(item: Item, vocabulary: Vocabulary) -> tuple[list[int], ...]:
    """The tokens of each choice, and where one begins another, of each with what ends it.

    What begins a longer choice is never less likely than that, so it is its end that tells them
    apart. Without such a pair choices are scored as they stand, as others report them.
    """
    plain = tuple(map(vocabulary.encode, item.choices))
    ordered = sorted(plain)  # so that what begins others stands right before one of them
    if any(longer[: len(each)] == each for each, longer in pairwise(ordered)):
        return tuple(map(vocabulary.answer, item.choices))
    return plain


def refuse_long(asked: Sequence[Question], shots: int, sequence_length: int) -> None:
    """Raises Refusal for questions that do not fit into a sequence with any of the answers."""
    prompt = max(asked, key=lambda each: len(each.prompt))
    longest = len(prompt.prompt) + max(
        len(text) for each in asked for text in (each.answer, *each.choices)
    )
    if longest > sequence_length:
        raise Refusal(
            f"[tasks] shots = {shots}: {prompt.task.label!r} with its examples and an answer takes "
            f"{longest:,} of sequence_length = {sequence_length:,} tokens. Give fewer shots, "
            "shorter tasks or longer sequences."
        )
