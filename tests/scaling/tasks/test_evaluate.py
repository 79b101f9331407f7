"""What a model answers, against a model whose every probability is written down."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.decoder.generate import generate
from scaling.tasks import evaluate, questions
from scaling.tasks.evaluate import Evaluator
from scaling.tasks.jsonl import Jsonl
from scaling.tasks.mix import TaskMix, TaskSpec
from scaling.tasks.task import Item, evaluation_items
from scaling.tasks.vocabulary import BYTES

# After "?" one of three letters; what follows those is certain.
FIRST = {"a": 0.5, "b": 0.3, "c": 0.2}


class Bigram(nnx.Module):
    """Every token depends on the one before alone."""

    def __init__(self, last: str) -> None:
        table = np.full((256, 256), -60.0, np.float32)
        for letter, probability in FIRST.items():
            table[ord("?"), ord(letter)] = np.log(probability)
        for before, after in (("a", "\n"), ("b", "\n"), ("c", last), ("d", "\n")):
            table[ord(before), ord(after)] = 0.0
        self.table = nnx.Param(jnp.asarray(table))

    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        return self.table[...][tokens_BxT]


Scores = dict[str, Any]
Made = Callable[[str, int, int], tuple[Scores, np.ndarray]]


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Every score of a three-way question, and how often each answer is asked for."""

    @functools.cache
    def made(third: str, shots: int, samples: int) -> tuple[Scores, np.ndarray]:
        choices = ["a", "b", third]
        file = tmp_path_factory.mktemp("bigram") / "letters.jsonl"
        lines = (
            {"prompt": f"{n:03d}?", "answer": choices[n % 3], "choices": choices}
            for n in range(150)
        )
        file.write_text("\n".join(map(json.dumps, lines)))
        graph, params = nnx.split(Bigram(third[1:] or "\n"))
        model = lambda params: nnx.merge(graph, params)  # noqa: E731
        mix = TaskMix(1, (TaskSpec("jsonl", {"file": str(file)}),), (shots,), 30, samples)
        evaluator = Evaluator(
            mix, BYTES, 40, 4, lambda params, tokens: model(params)(tokens), model, jnp.asarray
        )
        asked = evaluation_items(Jsonl(str(file)), 30)
        counts = np.array([sum(item.answer == each for item in asked) for each in choices])
        assert counts.all()
        return {row["metric"]: row for row in evaluator.scores(params)}, counts

    return made


@pytest.mark.parametrize(("third", "shots", "samples"), [("c", 0, 4), ("cd", 2, 1)])
def test_every_metric_is_that_of_the_model(
    scores: Made, third: str, shots: int, samples: int
) -> None:
    found, counts = scores(third, shots, samples)
    long = third == "cd"  # then its second letter is right after its first
    expected = {
        "exact_match": [1, 0, 0],
        "token_accuracy": [1, 0, 0.5 if long else 0],
        "answer_logprob": np.log([0.5, 0.3, 0.2]),
        "token_logprob": np.log([0.5, 0.3, 0.2]) / [1, 1, 2 if long else 1],
        "edit_distance": [0, 1, 1],
        "choice_accuracy": [1, 0, 0],
        "brier": [0.25 + 0.09 + 0.04, 0.25 + 0.49 + 0.04, 0.25 + 0.09 + 0.64],
    }
    for metric, values in expected.items():
        row = found[metric]
        assert row["value"] == pytest.approx(np.average(values, weights=counts), rel=1e-5), metric
        assert row["n"] == counts.sum()
    assert found["exact_match"]["chance"] == pytest.approx(1 / 3)
    assert found["brier"]["chance"] == pytest.approx(2 / 3)
    assert found["answer_logprob"]["chance"] is None


def test_of_two_choices_of_which_one_begins_the_other_the_longer_can_win(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    item = Item("1?", "cd", ("c", "cd"))
    monkeypatch.setattr(questions, "evaluation_items", lambda task, count: (item,))
    mix = TaskMix(1, (TaskSpec("addition", {"digits": 1}),), (0,), 1)
    graph, params = nnx.split(Bigram("d"))
    model = lambda params: nnx.merge(graph, params)  # noqa: E731
    evaluator = Evaluator(
        mix, BYTES, 40, 4, lambda params, tokens: model(params)(tokens), model, jnp.asarray
    )
    found = {row["metric"]: row["value"] for row in evaluator.scores(params)}
    assert (found["choice_accuracy"], found["brier"]) == (1, pytest.approx(0))


def test_all_questions_are_read_before_any_answer_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mix = TaskMix(1, (TaskSpec("addition", {"digits": 2}),), (0, 1), 40)
    graph, params = nnx.split(Bigram("\n"))
    model = lambda params: nnx.merge(graph, params)  # noqa: E731
    evaluator = Evaluator(
        mix, BYTES, 40, 4, lambda params, tokens: model(params)(tokens), model, jnp.asarray
    )
    said: list[str] = []
    read, fetch = evaluator.read, jax.device_get
    monkeypatch.setattr(evaluator, "read", lambda *asked: (said.append("read"), read(*asked))[1])
    monkeypatch.setattr(jax, "device_get", lambda found: (said.append("waited"), fetch(found))[1])
    evaluator.scores(params)
    first = said.index("waited")
    assert first > 1 and "read" not in said[first:]


def test_text_of_a_model_without_a_cache_takes_no_more_rows_at_once_than_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mix = TaskMix(1, (TaskSpec("addition", {"digits": 2}),), (0,), 40)
    graph, params = nnx.split(Bigram("\n"))
    shapes: dict[str, set[tuple[int, ...]]] = {"read": set(), "spoken": set()}

    def logits(params: Any, tokens: jax.Array) -> jax.Array:
        shapes["read"].add(tokens.shape)
        return nnx.merge(graph, params)(tokens)

    def spoken(
        module: Any, prompts: jax.Array, lengths: Any, *, new_tokens: int, **more: Any
    ) -> jax.Array:
        rows, columns = prompts.shape
        shapes["spoken"].add((rows, columns + new_tokens - 1))
        return generate(module, prompts, lengths, new_tokens=new_tokens, **more)

    monkeypatch.setattr(evaluate, "generate", spoken)
    Evaluator(
        mix, BYTES, 40, 4, logits, lambda params: nnx.merge(graph, params), jnp.asarray
    ).scores(params)
    assert all(rows * length <= 4 * 40 for each in shapes.values() for rows, length in each)
    assert all(shapes.values())


def test_samples_are_right_as_often_as_their_probability_at_the_temperature(
    scores: Made,
) -> None:
    found, counts = scores("c", 0, 4)
    sharpened = np.array(list(FIRST.values())) ** (1 / 0.8)
    right = np.average(sharpened / sharpened.sum(), weights=counts)
    row = found["pass@1"]
    assert abs(row["value"] - right) < 4 * row["stderr"]
    assert found["pass@1"]["value"] < found["pass@2"]["value"] < found["pass@4"]["value"]
