"""What a model answers to the tasks of a study: the same items for every run, in few large calls.

Likelihoods of all answers come from one forward pass; greedy exact match follows from it, since
decoding gives the answer exactly if every true token is the likeliest after the true ones before.
Only how far off a wrong answer is, and samples, need text from the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.decoder.generate import generate, log_likelihoods
from models.decoder.model import Decoder
from models.sharding import fetch
from scaling.tasks.metrics import Answered, Score, chance_of, metrics_of, summarise
from scaling.tasks.mix import TaskMix
from scaling.tasks.questions import Question, every_question
from scaling.tasks.task import EVALUATION_SEED, Task
from scaling.tasks.vocabulary import Vocabulary

# Chen et al. 2021, arXiv:2107.03374, figure 5: best for pass@100, while 0.2 is for pass@1.
TEMPERATURE = 0.8
# A decoder's cache needs the logits of one place alone, so more rows fit; other models' logits are
# those of all places, again and again.
_SPOKEN_AT_ONCE = 4
_LENGTHS = 8  # rows are padded to multiples of this, so that few programs are compiled


class _Read(NamedTuple):
    """What one forward pass tells; of the rows as one array each."""

    logprobs: Any  # (R, T): of each token after the first, nats
    hits: Any  # (R, T): whether it is the likeliest
    candidates: Any  # (R, C): logprobs of the candidates of each row, in its one place


class Evaluator:
    """The questions of a study, and what is compiled to put them to its models.

    `logits` and `model` are those of parameters, `put` brings rows to the devices; `rows_at_once`
    rows of `sequence_length` tokens may be read in one call.
    """

    def __init__(
        self,
        mix: TaskMix,
        vocabulary: Vocabulary,
        sequence_length: int,
        rows_at_once: int,
        logits: Callable[[Any, jax.Array], jax.Array],
        model: Callable[[Any], Any],
        put: Callable[[np.ndarray], Any],
    ) -> None:
        self.mix, self.vocabulary = mix, vocabulary
        self.budget = rows_at_once, sequence_length
        self.model, self.put = model, put
        self.asked = every_question(mix, vocabulary, sequence_length)

        def read(params: Any, rows: jax.Array, place: jax.Array, candidates: jax.Array) -> _Read:
            logits_RxTxV = logits(params, rows[:, :-1])
            here_RxV = jnp.take_along_axis(logits_RxTxV, place[:, None, None], axis=1)[:, 0]
            logprobs_RxV = jax.nn.log_softmax(here_RxV)
            return _Read(
                *log_likelihoods(logits_RxTxV, rows),
                jnp.take_along_axis(logprobs_RxV, candidates, axis=1),
            )

        self.read = jax.jit(read)

    def scores(self, params: Any) -> list[dict[str, Any]]:
        """A row a metric of each task and number of shots: task, shots, metric, value, stderr, n,
        chance. The same for the same parameters."""
        found = []
        # All is asked for before the first answer is waited for.
        reading = {shots: self._begin_read(params, asked) for shots, asked in self.asked.items()}
        for shots, asked in self.asked.items():
            answered = self._answered(params, asked, _fetched(reading.pop(shots)))
            for task in dict.fromkeys(each.task for each in asked):
                mine = [pair for pair in zip(asked, answered, strict=True) if pair[0].task == task]
                common = {"task": task.label, "shots": shots}
                found += [{**common, **vars(score)} for score in _scores(task, mine)]
        return found

    def _answered(
        self, params: Any, asked: Sequence[Question], fetched: Sequence[np.ndarray]
    ) -> list[Answered]:
        """What the model says to each question, of which it has read the rows."""
        first = np.cumsum([0, *(len(each.rows) for each in asked)])
        read = _Read(*fetched)
        spoken = [
            slice(len(each.prompt) - 1, len(each.prompt) - 1 + len(each.answer)) for each in asked
        ]
        hits = [read.hits[row, span] for row, span in zip(first, spoken, strict=False)]
        # What is decoded greedily is known where every token of the answer is the likeliest.
        greedy = [each.item.answer for each in asked]
        wrong = [number for number, each in enumerate(hits) if not each.all()]
        for number, text in zip(wrong, self._said(params, asked, wrong, 0.0, 0), strict=True):
            greedy[number] = text
        samples = [
            self._said(params, asked, range(len(asked)), TEMPERATURE, number)
            for number in range(self.mix.samples if self.mix.samples > 1 else 0)
        ]
        found = []
        for number, (each, row) in enumerate(zip(asked, first, strict=False)):
            start = spoken[number].start
            if each.read_off:
                choices = read.candidates[row, : len(each.choices)]
            else:
                choices = np.array(
                    [
                        read.logprobs[row + 1 + place, start : start + len(choice)].sum()
                        for place, choice in enumerate(each.choices)
                    ]
                )
            found.append(
                Answered(
                    hits=hits[number],
                    # Without its end, as others report it.
                    logprobs=read.logprobs[row, start : spoken[number].stop - 1],
                    answer=each.item.answer,
                    choice_logprobs=choices if each.choices else None,
                    right_choice=each.item.choices.index(each.item.answer) if each.choices else 0,
                    generated=greedy[number],
                    samples=tuple(texts[number] for texts in samples),
                )
            )
        return found

    def _begin_read(self, params: Any, asked: Sequence[Question]) -> list[_Chunk]:
        """Ask for what one forward pass tells of all rows of these questions, and wait for none."""
        rows = self._padded([row for each in asked for row in each.rows])
        place = np.array([len(each.prompt) - 1 for each in asked for _ in each.rows], np.int32)
        most = max(len(each.choices) if each.read_off else 1 for each in asked)
        candidates = np.zeros((len(rows), most), np.int32)
        at = 0
        for each in asked:
            if each.read_off:
                candidates[at, : len(each.choices)] = [token for (token,) in each.choices]
            at += len(each.rows)
        return _asked_in_chunks(
            self._size(len(rows), rows.shape[1]),
            lambda *chunk: self.read(params, *map(self.put, chunk)),
            rows,
            place,
            candidates,
        )

    def _said(
        self,
        params: Any,
        asked: Sequence[Question],
        chosen: Sequence[int],
        temperature: float,
        sample: int,
    ) -> list[str]:
        """The answers that the model gives to the chosen of the questions, as text.

        Of shapes that do not depend on the choice, so that one program is compiled.
        """
        if not chosen:
            return []
        numbers = np.array(chosen, np.int32)
        prompts = self._padded([each.prompt for each in asked])[numbers]
        lengths = np.array([len(each.prompt) for each in asked], np.int32)[numbers]
        key = jax.random.fold_in(jax.random.key(EVALUATION_SEED), sample)
        module = self.model(params)
        new_tokens = max(len(each.answer) for each in asked)

        def go_on(prompts: np.ndarray, lengths: np.ndarray, number: np.ndarray) -> tuple[jax.Array]:
            mine = jax.random.fold_in(key, int(number[0]))
            return (
                generate(
                    module,
                    self.put(prompts),
                    self.put(lengths),
                    new_tokens=new_tokens,
                    temperature=temperature,
                    key=mine,
                    context_length=self.budget[1],
                ),
            )

        times, columns = _SPOKEN_AT_ONCE, prompts.shape[1]
        if not isinstance(module, Decoder):
            times, columns = 1, min(columns + new_tokens - 1, self.budget[1])
        size = self._size(len(asked), columns, times)
        (tokens,) = _fetched(_asked_in_chunks(size, go_on, prompts, lengths, numbers))
        # What a task's answers may be long, not the others': no score depends on its company.
        longest = {
            task: max(len(each.answer) for each in asked if each.task == task)
            for task in {each.task for each in asked}
        }
        return [
            self.vocabulary.answered(row[: longest[asked[number].task]].tolist())
            for number, row in zip(chosen, tokens, strict=True)
        ]

    def _size(self, rows: int, length: int, times: int = 1) -> int:
        """How many rows to take at once, at most `times` what fits: even parts of all of them."""
        at_once, sequence_length = self.budget
        parts = -(-rows // (times * at_once * max(1, sequence_length // length)))
        return -(-rows // (parts * at_once)) * at_once

    def _padded(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Rows of one length, int32, zeros after their ends."""
        length = min(-(-max(map(len, rows)) // _LENGTHS) * _LENGTHS, self.budget[1])
        padded = np.zeros((len(rows), length), np.int32)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return padded


@dataclass(frozen=True)
class _Chunk:
    """What was asked of some rows, on the devices; they may still be at work on it."""

    rows: int  # without those that fill it up
    answers: tuple[jax.Array, ...]  # the rows along the first axis of each


def _asked_in_chunks(
    size: int,
    function: Callable[..., Sequence[jax.Array]],
    *arrays: np.ndarray,
) -> list[_Chunk]:
    """A function of arrays' rows on `size` of them at a time, the last filled up; none is waited
    for."""
    chunks = []
    for start in range(0, len(arrays[0]), size):
        parts = [array[start : start + size] for array in arrays]
        answers = function(*(_filled(part, size) for part in parts))
        chunks.append(_Chunk(len(parts[0]), tuple(answers)))
    return chunks


def _fetched(chunks: Sequence[_Chunk]) -> list[np.ndarray]:
    """The answers of all chunks, row by row."""
    answers = zip(*fetch([chunk.answers for chunk in chunks]), strict=True)
    counts = [chunk.rows for chunk in chunks]
    return [
        np.concatenate([part[:count] for part, count in zip(parts, counts, strict=True)])
        for parts in answers
    ]


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    """An array with its first row repeated until it has `size`."""
    return np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)])


def _scores(task: Task, pairs: Sequence[tuple[Question, Answered]]) -> list[Score]:
    """The metrics of one task's questions, and what guessing gives."""
    items = [metrics_of(answered, task.final) for _, answered in pairs]
    chances = [
        {
            metric: chance_of(
                metric,
                task.chance(question.item),
                len(question.choices),
                task.final_chance(question.item),
            )
            for metric in items[0]
        }
        for question, _ in pairs
    ]
    return summarise(items, chances)
