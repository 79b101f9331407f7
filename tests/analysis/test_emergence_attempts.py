"""pass@k without bias, its power law, and sizes against attempts at one price."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from analysis.emergence.attempts import (
    Attempts,
    equal_compute,
    fit_attempts,
    pass_at_k,
    shift,
    tries,
)
from analysis.emergence.metrics import Metric
from analysis.emergence.series import Series
from analysis.emergence.thresholds import Estimate
from analysis.figures.attempts import attempts_panels
from scaling.store.records import Refusal


@pytest.mark.parametrize(
    ("n", "c", "k"), [(10, 0, 3), (10, 3, 1), (10, 3, 5), (10, 8, 4), (5, 5, 5)]
)
def test_pass_at_k_counts_the_draws_without_a_right_answer(n: int, c: int, k: int) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k))


def test_pass_at_k_has_no_bias_where_the_plug_in_has() -> None:
    p, n, k = 0.1, 20, 8
    right = np.random.default_rng(0).binomial(n, p, 400_000)
    truth = 1 - (1 - p) ** k
    assert pass_at_k(n, right, k).mean() == pytest.approx(truth, abs=0.002)
    assert (1 - (1 - right / n) ** k).mean() < truth - 0.02


def test_more_attempts_than_samples_are_refused() -> None:
    with pytest.raises(Refusal, match="k from 1 to 10"):
        pass_at_k([10, 20], [1, 1], 11)
    with pytest.raises(Refusal, match="more right answers than samples"):
        pass_at_k(10, 11, 1)


def test_the_power_law_in_k_is_recovered() -> None:
    truth = Attempts(2.5, 0.4, 1000, 0.0)
    k = [1, 3, 10, 100, 1000]
    found = fit_attempts(k, truth.at(k))
    assert (found.a, found.b, found.most) == pytest.approx((2.5, 0.4, 1000))
    assert float(found.at(found.needed(0.9))) == pytest.approx(0.9)


def test_heavy_tailed_difficulties_give_brown_s_power_law() -> None:
    # Schaeffer et al. 2025, arXiv:2502.17578: density p^(b-1) near 0 gives -log pass@k ~ k^-b.
    p = (np.arange(200_000) + 0.5) / 200_000
    b, k = 0.5, [100, 300, 1000, 3000]
    solved = [float(np.mean(1 - (1 - p ** (1 / b)) ** each)) for each in k]
    assert fit_attempts(k, solved).b == pytest.approx(b, abs=0.02)


def test_scores_of_zero_and_one_say_nothing_of_the_power_law() -> None:
    with pytest.raises(Refusal, match="1 of 3 values of k"):
        fit_attempts([1, 2, 4], [0.0, 0.5, 1.0])


def test_the_threshold_falls_with_attempts() -> None:
    moved = shift({1: 1e9, 10: 1e8, 100: 1e7, 1000: None})
    assert moved is not None and moved.slope == pytest.approx(-1)
    assert moved.k == (1, 10, 100) and "lower the threshold 10-fold" in moved.sentence
    assert shift({1: 1e9, 2: None}) is None


def curve(metric: str, x: np.ndarray, value: np.ndarray, half_rise: float | None) -> Any:
    """What `analyse` gives, as far as attempts are concerned."""
    series = Series("add", Metric(metric, 0.0, 1.0), "params", x, value, chance=0.0)
    return SimpleNamespace(series=series, threshold=Estimate(half_rise, None, ""))


def test_a_task_scored_at_several_k_has_a_law_at_each_size_and_a_threshold_at_each_k() -> None:
    x, law = np.array([1e8, 1e8, 1e9]), Attempts(2.0, 0.5, 8, 0.0)
    scores = [
        curve(f"pass@{k}", x, np.array([law.at(k) - 0.02, law.at(k) + 0.02, 0.0]), 1e9 / k)
        for k in (8, 1, 2, 4)
    ]
    (found,) = tries([*scores, curve("exact_match", x, np.zeros(3), None)])
    assert list(found.laws) == [1e8]  # where nothing is solved there is no law
    assert (found.laws[1e8].a, found.laws[1e8].b) == pytest.approx((2.0, 0.5))
    assert list(found.thresholds) == [1, 2, 4, 8]
    assert found.moved is not None and found.moved.slope == pytest.approx(-1)
    assert tries(scores[:1]) == []  # one k says nothing of attempts


def test_attempts_are_drawn_against_k_price_and_threshold() -> None:
    x = np.geomspace(1e6, 1e9, 5)
    scores = [curve(f"pass@{k}", x, 1 - (1 - np.linspace(0.01, 0.9, 5)) ** k, 1e8 / k)
              for k in (1, 4, 16)]  # fmt: skip
    made = attempts_panels(tries(scores), "parameters N")
    labels = [axes.get_xlabel() for axes in made.axes]
    assert labels[:3] == ["attempts k", "FLOPs a token, all attempts", "attempts k"]
    tokens = [replace(each.series, scale="tokens") for each in scores]
    for each, series in zip(scores, tokens, strict=True):
        each.series = series
    assert len(attempts_panels(tries(scores), "training tokens D").axes) == 3  # a bar, no price


def test_a_small_model_that_tries_often_beats_a_large_one_at_one_price() -> None:
    models = {1e8: Attempts(2.0, 0.8, 64, 0.0), 1e9: Attempts(1.5, 0.3, 64, 0.0)}
    best, other = equal_compute(models, budget=2 * 1e9 * 100, tokens=100)
    assert (best.params, best.k, other.k) == (1e8, 10, 1)
    assert best.flops == other.flops == 2e11 and not best.beyond
    assert equal_compute(models, 2e13, 100)[0].beyond  # 1,000 attempts were never seen


def test_a_budget_below_one_attempt_is_refused() -> None:
    with pytest.raises(Refusal, match="the smallest needs 2e"):
        equal_compute({1e9: Attempts(1, 1, 1, 0)}, 1e9, 100)
