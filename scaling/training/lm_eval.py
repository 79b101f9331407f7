"""EleutherAI's lm-evaluation-harness on a finished run: its tasks ask, the run's model answers.

    import lm_eval
    from scaling.training.lm_eval import RunModel

    model = RunModel("results/quickstart/runs/0123456789ab")
    lm_eval.simple_evaluate(model=model, tasks=["lambada_openai"])

Every text is read after the end of a document, as in training. The extra `eval` installs the
harness, which needs no torch for this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from models.decoder.generate import generate, log_likelihoods
from scaling.store.records import Refusal
from scaling.training.inputs import rows_at_once
from scaling.training.restore import finished

SAMPLING_SEED = 0
DEFAULT_NEW_TOKENS = 256  # of the harness's own models, where a task names no number
# Options of generation that mean the same for every model; others would be left out in silence.
OPTIONS = {"until", "max_gen_toks", "do_sample", "temperature"}
SHORTEST = 16  # rows are padded to this times a power of two, so that few programs are compiled


@dataclass(frozen=True)
class Row:
    """Tokens that a model reads, and how many of the last of them it is asked for."""

    tokens: list[int]
    asked: int


@register_model("scaling")
class RunModel(TemplateLM):
    """A finished run as a model of the harness, `folder` its folder under results/STUDY/runs/.

    Raises Refusal for a folder that holds no completed run, as scaling/training/restore.py says.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.run = finished(Path(folder))
        self.vocabulary = self.run.vocabulary
        self.max_length = self.run.spec.sequence_length
        logits = self.run.program.logits
        self._likelihoods = jax.jit(
            lambda params, rows: log_likelihoods(logits(params, rows[:, :-1]), rows)
        )

    @property
    def eot_token_id(self) -> int:
        return self.vocabulary.end

    @property
    def tokenizer_name(self) -> str:
        return f"scaling-{self.run.spec.corpus}"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return [int(token) for token in self.vocabulary.encode(string)]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, nats: window after window, each token once, as the harness cuts them."""
        rows, counts = [], []
        for text in (request.args[0] for request in requests):
            windows = list(self._windows(self.tok_encode(text)))
            rows += windows
            counts.append(len(windows))
        found = iter(self._scored(rows))
        return [float(sum(next(found)[0] for _ in range(count))) for count in counts]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Texts up to a stop text, the end of a document or the most tokens asked for.

        At most half of the window is new; of a prompt, what then fits before it is read.
        """
        answers: dict[int, str] = {}
        groups: dict[tuple[int, float], list[int]] = {}
        options = [self._options(request.args[1]) for request in requests]
        for number, each in enumerate(options):
            new_tokens = min(each["max_gen_toks"], max(1, self.max_length // 2))
            temperature = float(each.get("temperature", 0.0)) if each["do_sample"] else 0.0
            groups.setdefault((new_tokens, temperature), []).append(number)
        for (new_tokens, temperature), numbers in groups.items():
            room = self.max_length + 1 - new_tokens
            prompts = [
                self._begun(self.tok_encode(requests[number].args[0]))[-room:] for number in numbers
            ]
            texts = self._generated(prompts, new_tokens, temperature)
            for number, text in zip(numbers, texts, strict=True):
                answers[number] = postprocess_generated_text(text, options[number]["until"], None)
        return [answers[number] for number in range(len(requests))]

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return self._scored([self._row(before, after) for _, before, after in requests])

    def _row(self, before: list[int], after: list[int]) -> Row:
        if len(after) > self.max_length:
            raise Refusal(
                f"a continuation of {len(after):,} tokens does not fit in sequence_length = "
                f"{self.max_length:,}. Take a task with shorter ones, or a run on longer sequences."
            )
        return Row([*self._begun(before), *after][-self.max_length - 1 :], len(after))

    def _begun(self, tokens: list[int]) -> list[int]:
        return tokens if tokens[:1] == [self.eot_token_id] else [self.eot_token_id, *tokens]

    def _windows(self, tokens: list[int]) -> Iterator[Row]:
        windows = get_rolling_token_windows(tokens, self.eot_token_id, self.max_length, 1)
        for before, after in map(make_disjoint_window, windows):
            yield Row([*before, *after], len(after))

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        options = dict(normalize_gen_kwargs(given, DEFAULT_NEW_TOKENS))
        if unknown := set(options) - OPTIONS:
            raise Refusal(
                f"generation option {min(unknown)!r} is not supported. Take it out of the task's "
                f"generation_kwargs; there are {', '.join(sorted(OPTIONS))}."
            )
        return options

    def _scored(self, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        """Of each row's last tokens: the ln of their probability, and whether all are likeliest."""
        found: dict[int, tuple[float, bool]] = {}
        for numbers, tokens, lengths in self._batches([row.tokens for row in rows], extra=1):
            values = self._likelihoods(self.run.params, self.run.program.put_windows(tokens))
            logprobs, likeliest = map(np.asarray, values)
            for place, number in enumerate(numbers):
                asked = slice(lengths[place] - 1 - rows[number].asked, lengths[place] - 1)
                total = float(logprobs[place, asked].sum(dtype=np.float64))
                found[number] = total, bool(likeliest[place, asked].all())
        return [found[number] for number in range(len(rows))]

    def _generated(
        self, prompts: Sequence[list[int]], new_tokens: int, temperature: float
    ) -> list[str]:
        """What follows each prompt, up to the end of a document."""
        found: dict[int, str] = {}
        model = self.run.program.model(self.run.params)
        for numbers, tokens, lengths in self._batches(prompts, extra=0):
            drawn = generate(
                model,
                self.run.program.put_windows(tokens),
                lengths,
                new_tokens=new_tokens,
                temperature=temperature,
                key=jax.random.fold_in(jax.random.key(SAMPLING_SEED), int(numbers[0])),
                context_length=self.max_length,
            )
            for number, row in zip(numbers, np.asarray(drawn).tolist(), strict=False):
                end = row.index(self.eot_token_id) if self.eot_token_id in row else len(row)
                found[number] = self.vocabulary.decode(row[:end])
        return [found[number] for number in range(len(prompts))]

    def _batches(
        self, rows: Sequence[list[int]], extra: int
    ) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Which rows, their tokens padded to one length (B, T) and their lengths (B,).

        As many rows to a batch as their logits allow, the last filled up with repeats of its
        first; rows of like length stand together.
        """
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        size = rows_at_once(self.run.spec, self.run.program.layout)
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            filled = [*numbers, *[numbers[0]] * (size - len(numbers))]
            lengths = np.array([len(rows[number]) for number in filled], np.int32)
            width = SHORTEST
            while width < lengths.max() - extra:
                width *= 2
            tokens = np.zeros((size, min(width, self.max_length) + extra), np.int32)
            for place, number in enumerate(filled):
                tokens[place, : len(rows[number])] = rows[number]
            yield numbers, tokens, lengths
