"""Items are right, depend on their key alone, and are never on both sides of a study."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from scaling.tasks import composition, context, strings
from scaling.tasks.draw import Draw
from scaling.tasks.mix import TASKS
from scaling.tasks.task import (
    HELD_OUT,
    TRAINING,
    Item,
    Task,
    evaluation_items,
    training_item,
)
from scaling.tasks.vocabulary import BYTES
from scaling.tasks.windows import TaskWindows

MADE = [kind for name, kind in TASKS.items() if name != "jsonl"]


def items(task: Task, count: int, seed: int = 0) -> list[Item]:
    draw = Draw(TRAINING, seed)
    return [task.item(draw) for _ in range(count)]


def test_draws_are_those_of_splitmix64() -> None:
    """The first outputs of the published generator seeded with 1234567 (Vigna's reference)."""
    draw = Draw()
    draw._state = 1234567
    assert [draw.below(1 << 64) for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_draws_are_even_and_samples_are_permutations() -> None:
    draw = Draw(1, 2)
    counts = Counter(draw.below(6) for _ in range(6000))
    assert sum((counts[face] - 1000) ** 2 / 1000 for face in range(6)) < 20.5  # chi², p = .001
    orders = Counter("".join(draw.sample("abc", 3)) for _ in range(6000))
    assert len(orders) == 6
    assert min(orders.values()) > 850


def solve(prompt: str) -> str:
    """The answer of every family, from the text of the prompt alone."""
    words = prompt.split(" ")
    match words[0]:
        case "reverse":
            return words[1].strip("=")[::-1]
        case "sort":
            return "".join(sorted(words[1].strip("=")))
        case "unscramble":
            letters = sorted(words[1].strip("="))
            return next(word for word in strings.WORDS if sorted(word) == letters)
    if prompt[-1] == "=":
        text, _, modulus = prompt[:-1].partition("%")
        value = eval(text)
        return str(value % int(modulus)) if modulus else str(value)
    if prompt[-1] == "~":
        return str(eval(prompt[:-1]) % 10)
    if prompt[-1] == ":":
        digits = [int(digit) for digit in prompt[:-1].split("+")]
        return ",".join(str(sum(digits[: n + 1]) % 10) for n in range(1, len(digits)))
    if prompt[-2] == "|":
        return prompt[1:-2]
    if prompt[-2] == ":":
        return prompt[prompt.index(prompt[-1]) + 1]
    followed = Counter(b for a, b in itertools.pairwise(prompt) if a == prompt[-2])
    return followed.most_common(1)[0][0]


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.name)
def test_every_answer_is_right(kind: Callable[[], Task]) -> None:
    for item in items(kind(), 300):
        assert item.answer == solve(item.prompt), item
        assert not item.choices or item.answer in item.choices


SPACES: dict[str, dict[str, int]] = {
    "addition": {"digits": 1},
    "addition_unordered": {"digits": 1},
    "subtraction": {"digits": 1},
    "multiplication": {"digits": 1},
    "modular_addition": {"modulus": 7},
    "copy": {"length": 4},
    "recall": {"pairs": 3},
    "ngram": {"length": 12, "symbols": 3},
    "reverse": {"length": 3},
    "sort": {"length": 3},
    "unscramble": {},
    "steps_direct": {"steps": 2},
    "steps_thought": {"steps": 2},
}


def guess(task: Task, item: Item, random: np.random.Generator) -> str:
    """A guesser who knows what form the answer has."""
    if item.choices:
        return str(random.choice(item.choices))
    match task.name:
        case "addition" | "addition_unordered":
            return str(random.integers(0, 19))
        case "subtraction":
            return str(random.integers(-9, 10))
        case "multiplication":
            return str(random.integers(0, 82))
        case "modular_addition":
            return str(random.integers(0, 7))
        case "unscramble":
            return str(random.choice(strings.WORDS))
        case "steps_direct" | "steps_thought":
            return ",".join(str(random.integers(0, 10)) for _ in item.answer.split(","))
        case _:  # an order of letters that are given
            return "".join(random.permutation(list(item.answer)))


@pytest.mark.parametrize("name", SPACES)
def test_chance_is_how_often_a_guesser_is_right(name: str) -> None:
    task: Task = TASKS[name](**SPACES[name])
    random = np.random.default_rng(0)
    asked = items(task, 4000)
    given = [guess(task, item, random) for item in asked]
    right = [guessed == item.answer for guessed, item in zip(given, asked, strict=True)]
    expected = np.mean([task.chance(item) or 0.0 for item in asked])
    assert abs(np.mean(right) - expected) < 4 * math.sqrt(expected / len(asked))
    if task.final:
        ends = [
            guessed.split(task.final)[-1] == item.answer.split(task.final)[-1]
            for guessed, item in zip(given, asked, strict=True)
        ]
        expected = np.mean([task.final_chance(item) or 0.0 for item in asked])
        assert abs(np.mean(ends) - expected) < 4 * math.sqrt(expected / len(asked))


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.name)
def test_no_evaluation_item_is_ever_trained_on(kind: Callable[[], Task]) -> None:
    asked = {(item.prompt, item.answer) for item in evaluation_items(kind(), 200)}
    trained = set()
    for seed in range(3):
        draw = Draw(TRAINING, seed)
        trained |= {(i.prompt, i.answer) for i in (training_item(kind(), draw) for _ in range(300))}
    assert asked
    assert not asked & trained


def test_training_windows_hold_no_evaluation_item() -> None:
    """Read back from the tokens of windows, for a task whose items are few enough to meet."""
    task = TASKS["addition"](digits=1)
    windows = TaskWindows((task,), (1.0,), BYTES, 127, seed=0)
    lines = {
        line
        for window in windows.rows(0, 96)
        for line in BYTES.decode(window[1:].tolist()).split("\n")[:-1]
    }
    asked = {item.prompt + item.answer for item in evaluation_items(task, 100)}
    assert len(lines) + len(asked) == 100  # all single-digit sums, each on one side
    assert not lines & asked


@pytest.mark.parametrize("name", ["addition_unordered", "multiplication", "modular_addition"])
def test_both_orders_of_operands_are_on_the_same_side(name: str) -> None:
    for item in items(TASKS[name](), 200):
        found = re.match(r"(\d+)(\D)(\d+)", item.prompt)
        assert found
        first, sign, second = found.groups()
        smaller, larger = sorted((int(first), int(second)))
        assert item.about.startswith(f"{smaller}{sign}{larger}")


def test_the_two_ways_to_ask_one_problem_are_on_the_same_side() -> None:
    direct, thought = composition.Direct(), composition.ChainOfThought()
    for one, other in zip(items(direct, 200), items(thought, 200), strict=True):
        assert one.about == other.about
        assert one.held_out == other.held_out


def test_no_word_to_be_found_is_an_answer_in_training() -> None:
    task = strings.Unscramble()
    draw = Draw(TRAINING, 0)
    trained = {training_item(task, draw).answer for _ in range(3000)}
    asked = {item.answer for item in evaluation_items(task, 1000)}
    assert (len(asked), len(trained)) == (60, 166)
    assert not asked & trained


def test_one_item_in_four_is_held_out() -> None:
    share = np.mean([item.held_out for item in items(context.Copy(), 4000)])
    assert share == pytest.approx(1 / HELD_OUT, abs=0.03)


def test_an_in_context_n_gram_has_one_most_frequent_continuation() -> None:
    for item in items(context.NGram(order=3, length=32), 100):
        text, seen = item.prompt[:-1], item.prompt[-3:-1]
        counts = Counter(text[i + 2] for i in range(len(text) - 2) if text[i : i + 2] == seen)
        (best, often), *rest = counts.most_common()
        assert best == item.answer
        assert all(count < often for _, count in rest)


def test_no_two_words_have_the_same_letters() -> None:
    assert len({"".join(sorted(word)) for word in strings.WORDS}) == len(strings.WORDS)


@pytest.fixture(scope="module")
def windows() -> Callable[..., TaskWindows]:
    def make(**given: Any) -> TaskWindows:
        tasks = (TASKS["copy"](), TASKS["recall"]())
        usual = {"weights": (3.0, 1.0), "sequence_length": 63, "seed": 7}
        return TaskWindows(tasks, vocabulary=BYTES, **{**usual, **given})

    return make


def test_windows_are_a_function_of_seed_and_place(windows: Callable[..., TaskWindows]) -> None:
    assert (windows().rows(0, 24)[16:] == windows().rows(16, 8)).all()
    assert (windows().rows(0, 24) != windows(seed=8).rows(0, 24)).any()
    assert (windows().rows(0, 8) != windows().rows(8, 8)).any()


def test_windows_are_of_each_task_by_its_weight(windows: Callable[..., TaskWindows]) -> None:
    found = windows().rows(0, 400)
    copies = np.mean([BYTES.encode("|")[0] in window for window in found])
    assert copies == pytest.approx(0.75, abs=0.08)
    assert (found[:, 0] == BYTES.end).all()
