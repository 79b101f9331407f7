"""Each metric against cases worked by hand, simulation, or the library that defines it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from scaling.store.records import Refusal
from scaling.tasks.metrics import (
    Answered,
    brier,
    chance_of,
    choice_accuracy,
    edit_distance,
    metrics_of,
    pass_at_k,
    powers_of_two,
    summarise,
)


def answered(hits: list[bool], probabilities: list[float], **more: object) -> Answered:
    return Answered(np.array(hits), np.log(probabilities), **more)  # type: ignore[arg-type]


def test_an_answer_with_one_wrong_token_of_three() -> None:
    found = metrics_of(answered([True, False, True, True], [0.5, 0.25, 0.8], answer="123"))
    assert found["exact_match"] == 0
    assert found["token_accuracy"] == pytest.approx(2 / 3)  # the end is no token of it
    assert found["answer_logprob"] == pytest.approx(math.log(0.1))
    assert found["token_logprob"] == pytest.approx(math.log(0.1) / 3)


def test_an_answer_that_does_not_end_is_no_match_though_its_tokens_are_right() -> None:
    found = metrics_of(answered([True, True, False], [0.9, 0.9]))
    assert (found["exact_match"], found["token_accuracy"]) == (0, 1)


@pytest.mark.parametrize(
    ("given", "right", "edits"),
    # The first is the textbook's: k→s, e→i, +g.
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ca", "abc", 3), ("", "", 0)],
)
def test_edit_distance_is_a_share_of_the_longer_text(given: str, right: str, edits: int) -> None:
    assert edit_distance(given, right) == edits / max(len(given), len(right), 1)
    assert edit_distance(right, given) == edit_distance(given, right)


def test_the_brier_score_of_three_choices() -> None:
    logprobs = np.log([0.6, 0.3, 0.1]) - 5  # made to sum to 1
    assert brier(logprobs, 0) == pytest.approx(0.4**2 + 0.3**2 + 0.1**2)
    assert brier(logprobs, 2) == pytest.approx(0.6**2 + 0.3**2 + 0.9**2)
    assert brier(np.zeros(4), 1) == pytest.approx(chance_of("brier", None, 4))
    assert choice_accuracy(logprobs, 0) == 1
    assert choice_accuracy(logprobs, 1) == 0
    assert choice_accuracy(np.zeros(4), 1) == chance_of("choice_accuracy", None, 4)


@pytest.mark.parametrize(("n", "right", "k"), [(5, 2, 1), (5, 2, 3), (6, 1, 4), (4, 0, 2)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int, right: int, k: int) -> None:
    subsets = list(itertools.combinations([True] * right + [False] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_of_too_few_samples_is_refused() -> None:
    with pytest.raises(Refusal, match=r"pass@3 of 2 samples: k must be from 1 to 2"):
        pass_at_k(2, 1, 3)
    assert powers_of_two(6) == (1, 2, 4)


def test_of_an_answer_with_steps_the_last_part_counts_by_itself() -> None:
    found = metrics_of(
        answered([True, False, True, True], [0.9] * 3, answer="8,7", generated="9,7"), final=","
    )
    assert (found["exact_match"], found["final_match"]) == (0, 1)
    assert found["edit_distance"] == pytest.approx(1 / 3)


def test_samples_are_counted_right_by_their_text() -> None:
    found = metrics_of(answered([True, True], [0.9], answer="7", samples=("7", "8", "9", "7")))
    assert found["pass@1"] == pytest.approx(0.5)
    assert found["pass@2"] == pytest.approx(1 - 1 / 6)
    assert found["pass@4"] == 1


def test_of_several_guesses_one_is_right_more_often() -> None:
    random = np.random.default_rng(0)
    right = (random.random((20000, 4)) < 0.2).any(axis=1).mean()
    assert chance_of("pass@4", 0.2) == pytest.approx(right, abs=4 * math.sqrt(0.24 / 20000))
    assert chance_of("pass@1", 0.2) == chance_of("exact_match", 0.2) == 0.2
    assert chance_of("pass@2", None) is None


def test_the_final_part_of_an_answer_has_a_chance_of_its_own() -> None:
    assert chance_of("final_match", 0.001, final=0.1) == 0.1
    assert chance_of("exact_match", 0.001, final=0.1) == 0.001


def test_a_score_is_the_mean_over_items_with_its_standard_error() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    (score,) = summarise([{"m": value} for value in values], [{"m": 0.25}] * 5)
    assert (score.value, score.n, score.chance) == (pytest.approx(0.6), 5, 0.25)
    assert score.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(5))
    (single,) = summarise([{"m": 1.0}], [{"m": None}])
    assert (single.stderr, single.chance) == (None, None)
