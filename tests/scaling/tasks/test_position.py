"""Losses by position are those of their tokens, and the score is late minus early."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.data.holdout import HoldoutWindows
from scaling.store.records import Refusal
from scaling.tasks.position import icl_score, loss_by_position


def windows(n: int, T: int) -> HoldoutWindows:
    """A document each."""
    return HoldoutWindows(np.zeros((n, T + 1), np.int32), np.arange(n)[:, None].repeat(T, 1), None)


def test_the_loss_of_a_token_is_found_at_the_number_of_tokens_before_it() -> None:
    losses = np.tile(np.arange(1.0, 21.0), (3, 1))  # of a token with c before it: c
    found = loss_by_position(losses, windows(3, 20))
    assert [(each.metric, each.value) for each in found] == [
        (f"loss@{context}", float(context)) for context in (1, 2, 4, 8, 16)
    ]


def test_the_score_at_512_tokens_is_of_the_500th_and_50th() -> None:
    losses = np.zeros((4, 512))
    losses[:, 499], losses[:, 49] = [1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 7.0]
    found = icl_score(losses, windows(4, 512))
    # Differences -1, -1, -1, -3: mean -1.5, standard deviation 1, over the root of 4.
    assert (found.value, found.stderr, found.n) == (-1.5, 0.5, 4)


def test_the_standard_error_is_the_spread_of_the_score_over_corpora() -> None:
    random = np.random.default_rng(0)
    scores = [icl_score(random.normal(size=(200, 64)), windows(200, 64)) for _ in range(300)]
    spread = np.std([score.value for score in scores])
    # 300 draws know a standard deviation to 4%.
    assert np.mean([score.stderr or 0.0 for score in scores]) == pytest.approx(spread, rel=0.15)


def test_windows_of_one_document_have_no_standard_error() -> None:
    same = HoldoutWindows(np.zeros((3, 9), np.int32), np.zeros((3, 8), np.int64), None)
    assert icl_score(np.ones((3, 8)), same).stderr is None


@pytest.mark.parametrize("places", [(0.9, 0.1), (0.5, 0.51), (0.1, 1.5)])
def test_places_that_are_no_two_places_in_order_are_refused(places: tuple[float, float]) -> None:
    with pytest.raises(Refusal, match="of 8 tokens: give two places"):
        icl_score(np.zeros((2, 8)), windows(2, 8), *places)
