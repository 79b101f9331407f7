"""A task asks for a text that is known: items of prompt and answer, each a function of its key.

Whether an item is for training or for evaluation is decided by a hash of its content, so that no
seed, length or mixture can bring an evaluated item into a training window.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import ClassVar

from pydantic import ConfigDict

from scaling.store.records import Refusal
from scaling.tasks.draw import Draw

STRICT = ConfigDict(extra="forbid", strict=True)
HELD_OUT = 4  # one item in so many is for evaluation alone
# Draws that may fail in a row before a task is said to have no more items on a side: by chance
# that happens once in 1e62 times where one in four is held out.
PATIENCE = 500
EVALUATION_SEED = 0  # of the items that every run of a study answers
# First part of a key, so that no two purposes share a stream.
TRAINING, EVALUATION = 1, 2


@dataclass(frozen=True)
class Item:
    """One question with its known answer."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()  # all that may be answered, the answer among them
    about: str = ""  # what it asks, where other tasks ask the same in other words

    @property
    def held_out(self) -> bool:
        """Whether it is for evaluation alone: a function of its content."""
        content = self.about or f"{self.prompt}\0{self.answer}"
        return hashlib.sha256(content.encode()).digest()[0] % HELD_OUT == 0


@dataclass(frozen=True)
class Task(ABC):
    """A kind of question; its fields are the parameters that a study may set."""

    name: ClassVar[str]
    final: ClassVar[str] = ""  # what stands before the final part of an answer, if it has steps

    @abstractmethod
    def item(self, draw: Draw) -> Item:
        """An item, a function of the draws alone."""

    def held_out(self, draw: Draw) -> Iterator[Item]:
        """Different items for evaluation, until many draws in a row bring no new one.

        Of few items all come, unless some are much rarer than others; of thousands the last few
        in a hundred may not.
        """
        seen, missed = set[Item](), 0
        while missed < PATIENCE:
            item = self.item(draw)
            missed += 1
            if item.held_out and item not in seen:
                seen.add(item)
                missed = 0
                yield item

    def chance(self, item: Item) -> float | None:
        """How often an even guess among the answers of the right form is right; null if unknown."""
        return 1 / len(item.choices) if item.choices else None

    def final_chance(self, item: Item) -> float | None:
        """How often the final part alone of such a guess is right, for answers with steps."""
        return self.chance(item)

    @property
    def label(self) -> str:
        """Its name and parameters, as results show it."""
        parameters = (f"{each.name}={getattr(self, each.name)}" for each in fields(self))
        return " ".join([self.name, *parameters])


def training_item(task: Task, draw: Draw) -> Item:
    """The next item that may be trained on, or shown in a prompt.

    Raises Refusal for a task that has none.
    """
    for _ in range(PATIENCE):
        item = task.item(draw)
        if not item.held_out:
            return item
    raise Refusal(f"[tasks] {task.label}: every item is for evaluation. Give more items.")


def evaluation_items(task: Task, count: int) -> tuple[Item, ...]:
    """The first `count` different held-out items, fewer where the task finds no more.

    The same for every run and study. Raises Refusal for a task that has none.
    """
    found = tuple(islice(task.held_out(Draw(EVALUATION, EVALUATION_SEED)), count))
    if not found:
        raise Refusal(
            f"[tasks] {task.label}: no item is for evaluation, which is one in {HELD_OUT} by a "
            "hash of its content. Give more items."
        )
    return found
