"""Training windows made of a task's items: a pure function of (seed, place).

A window is the beginning of a document: the end token, then item after item of one task, each
ended by a newline. So its first item is asked as a zero-shot prompt is, and every later one as a
k-shot prompt is.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from scaling.tasks.draw import Draw
from scaling.tasks.task import TRAINING, Task, training_item
from scaling.tasks.vocabulary import Vocabulary

_PRECISION = 1 << 32  # weights are met to a part in so many


@dataclass(frozen=True)
class TaskWindows:
    """All task windows of a seed, one after the other without end."""

    tasks: tuple[Task, ...]
    weights: tuple[float, ...]  # how often a window is of each, relative to the others
    vocabulary: Vocabulary
    sequence_length: int
    seed: int

    def rows(self, first: int, count: int) -> np.ndarray:
        """`count` windows from the place `first`: int32, shape (count, T + 1)."""
        return np.stack([self.window(place) for place in range(first, first + count)])

    def window(self, place: int) -> np.ndarray:
        """The window of a place: int32, shape (T + 1,)."""
        draw = Draw(TRAINING, self.seed, place)
        task = self.tasks[self._turn(draw)]
        tokens = [self.vocabulary.end]
        while len(tokens) <= self.sequence_length:
            item = training_item(task, draw)
            # Cheap beside making the item, and the one thing that no result may rest on.
            assert not item.held_out, f"{item} is for evaluation"
            tokens += self.vocabulary.example(item)
        return np.array(tokens[: self.sequence_length + 1], np.int32)

    @cached_property
    def _ends(self) -> list[float]:
        return list(accumulate(self.weights))

    def _turn(self, draw: Draw) -> int:
        return bisect_right(self._ends, self._ends[-1] * (draw.below(_PRECISION) / _PRECISION))
