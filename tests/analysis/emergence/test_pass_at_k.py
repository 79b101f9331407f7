"""The power law of pass@k in k, and sizes against samples at equal compute."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from analysis.emergence.pass_at_k import (
    PassLaw,
    equal_compute,
    fit_pass_law,
    pass_at_k_by_task,
    threshold_shift,
)
from analysis.emergence.response.estimate import Estimate
from analysis.emergence.scores.metrics import Metric
from analysis.emergence.scores.series import Series
from analysis.figures.attempts import attempts_panels
from scaling.store.records import Refusal


def test_the_power_law_in_k_is_recovered() -> None:
    truth = PassLaw(2.5, 0.4, 1000, 0.0)
    k = [1, 3, 10, 100, 1000]
    found = fit_pass_law(k, truth.at(k))
    assert (found.a, found.b, found.most) == pytest.approx((2.5, 0.4, 1000))


def test_heavy_tailed_difficulties_give_brown_s_power_law() -> None:
    # Schaeffer et al. 2025, arXiv:2502.17578: density p^(b-1) near 0 gives -log pass@k ~ k^-b.
    p = (np.arange(200_000) + 0.5) / 200_000
    b, k = 0.5, [100, 300, 1000, 3000]
    solved = [float(np.mean(1 - (1 - p ** (1 / b)) ** each)) for each in k]
    assert fit_pass_law(k, solved).b == pytest.approx(b, abs=0.02)


def test_scores_of_zero_and_one_say_nothing_of_the_power_law() -> None:
    with pytest.raises(Refusal, match="1 of 3 values of k"):
        fit_pass_law([1, 2, 4], [0.0, 0.5, 1.0])


def test_the_threshold_falls_with_attempts() -> None:
    moved = threshold_shift({1: 1e9, 10: 1e8, 100: 1e7, 1000: None})
    assert moved is not None and moved.slope == pytest.approx(-1)
    assert moved.k == (1, 10, 100) and "lower the threshold 10-fold" in moved.sentence
    assert threshold_shift({1: 1e9, 2: None}) is None


def curve(metric: str, x: np.ndarray, value: np.ndarray, threshold: float | None) -> Any:
    """What `analyse` gives, as far as attempts are concerned."""
    series = Series("add", Metric(metric, 0.0, 1.0), "params", x, value, chance=0.0)
    return SimpleNamespace(series=series, threshold=Estimate(threshold, None, ""))


def test_a_task_scored_at_several_k_has_a_law_at_each_size_and_a_threshold_at_each_k() -> None:
    x, law = np.array([1e8, 1e8, 1e9]), PassLaw(2.0, 0.5, 8, 0.0)
    scores = [
        curve(f"pass@{k}", x, np.array([law.at(k) - 0.02, law.at(k) + 0.02, 0.0]), 1e9 / k)
        for k in (8, 1, 2, 4)
    ]
    (found,) = pass_at_k_by_task([*scores, curve("exact_match", x, np.zeros(3), None)])
    assert list(found.laws) == [1e8]  # where nothing is solved there is no law
    assert (found.laws[1e8].a, found.laws[1e8].b) == pytest.approx((2.0, 0.5))
    assert list(found.thresholds) == [1, 2, 4, 8]
    assert found.moved is not None and found.moved.slope == pytest.approx(-1)
    assert pass_at_k_by_task(scores[:1]) == []  # one k says nothing of attempts


def test_attempts_are_drawn_against_k_price_and_threshold() -> None:
    x = np.geomspace(1e6, 1e9, 5)
    scores = [curve(f"pass@{k}", x, 1 - (1 - np.linspace(0.01, 0.9, 5)) ** k, 1e8 / k)
              for k in (1, 4, 16)]  # fmt: skip
    made = attempts_panels(pass_at_k_by_task(scores))
    labels = [axes.get_xlabel() for axes in made.axes]
    assert labels[:3] == ["samples k", "FLOPs per token, all samples", "samples k"]
    tokens = [replace(each.series, scale="tokens") for each in scores]
    for each, series in zip(scores, tokens, strict=True):
        each.series = series
    assert len(attempts_panels(pass_at_k_by_task(scores)).axes) == 2  # no price


def test_a_small_model_that_tries_often_beats_a_large_one_at_one_price() -> None:
    models = {1e8: PassLaw(2.0, 0.8, 64, 0.0), 1e9: PassLaw(1.5, 0.3, 64, 0.0)}
    best, other = equal_compute(models, budget=2 * 1e9 * 100, tokens=100)
    assert (best.params, best.k, other.k) == (1e8, 10, 1)
    assert best.flops == other.flops == 2e11 and not best.beyond
    assert equal_compute(models, 2e13, 100)[0].beyond  # 1,000 attempts were never seen


def test_a_budget_below_one_attempt_is_refused() -> None:
    with pytest.raises(Refusal, match="the smallest needs 2e"):
        equal_compute({1e9: PassLaw(1, 1, 1, 0)}, 1e9, 100)
