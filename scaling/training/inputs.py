"""What tasks add to a run: windows in its batches, questions at its evaluations."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from scaling.data.batches import Batches
from scaling.data.corpus import Corpus
from scaling.data.holdout import HoldoutWindows
from scaling.planning.layout import Layout
from scaling.planning.memory import logits_memory
from scaling.spec import RunSpec
from scaling.store.paths import cache_folder
from scaling.tasks.evaluate import Evaluator
from scaling.tasks.made import MixedBatches, made_windows
from scaling.tasks.making import windows_made_beside
from scaling.tasks.position import icl_score, loss_by_position
from scaling.tasks.vocabulary import vocabulary_of
from scaling.training.step import Program


def batches_of(spec: RunSpec, corpus: Corpus) -> Batches | MixedBatches:
    """The batches of a run. Raises Refusal for tasks on a corpus without a tokeniser."""
    text = corpus.batches(
        spec.sequence_length,
        spec.batch_sequences - spec.task_sequences,
        spec.seed,
        spec.unique_tokens,
    )
    if spec.tasks is None:
        return text
    cache = cache_folder() / "task-windows"
    windows = made_windows(spec.tasks, corpus, spec.sequence_length, spec.seed, cache)
    return MixedBatches(text, windows, spec.task_sequences)


def made_beside(
    batches: Batches | MixedBatches, spec: RunSpec, corpus: Corpus, first: int, last: int
) -> AbstractContextManager[None]:
    """While this lasts, a process makes the task windows of these steps if many are missing."""
    if spec.tasks is None or not isinstance(batches, MixedBatches):
        return nullcontext()
    return windows_made_beside(batches, spec.tasks, corpus, first, last)


def rows_at_once(spec: RunSpec, layout: Layout) -> int:
    """Rows of `sequence_length` tokens to read at once for their logits, on all devices together.

    So many that the logits take no more memory than a training step has for its own and their
    gradient; on each device at least one.
    """
    of_a_row = 4 * spec.sequence_length * spec.model.vocab_size  # float32
    return layout.devices * max(1, int(logits_memory(spec, layout) // of_a_row))


def evaluator_of(spec: RunSpec, corpus: Corpus, program: Program) -> Evaluator:
    """What puts the tasks of a run to its model. Raises Refusal for questions that are too long."""
    assert spec.tasks is not None
    return Evaluator(
        spec.tasks,
        vocabulary_of(corpus),
        spec.sequence_length,
        rows_at_once(spec, program.layout),
        program.logits,
        program.model,
        program.put_windows,
    )


def context_scores(losses: np.ndarray, windows: HoldoutWindows) -> list[dict[str, Any]]:
    """What the text before a token is worth to a model, as scores of the task "context".

    `losses` are those of held-out windows, (windows, T).
    """
    measured = [icl_score(losses, windows), *loss_by_position(losses, windows)]
    return [{"task": "context", **vars(each)} for each in measured]
