"""Numbers that cannot all be true are named, and so are scores far off their curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from analysis.emergence.forecast.forecast import forecast_scores
from analysis.emergence.inference.analyse import analyse
from analysis.emergence.scores.checks import above_the_start, contradictions, off_the_curve
from analysis.emergence.scores.metrics import metric
from analysis.emergence.scores.series import Series

X = np.geomspace(1e7, 1e10, 16)
RISE = expit(2.5 * np.log10(X / 3e8))


def series(value: np.ndarray, name: str = "acc", **more: Any) -> Series:
    return Series("add", metric(name), "params", X, np.asarray(value, float), **more)


def errors(value: np.ndarray, n: float) -> np.ndarray:
    return np.sqrt(value * (1 - value) / n)


def test_a_standard_error_that_so_many_questions_cannot_have_is_named() -> None:
    value = np.linspace(0.3, 0.7, 16)
    found = series(value, chance=0.25, n=np.full(16, 100.0), stderr=errors(value, 2500))
    (said,) = contradictions(found)
    assert "contradict each other in 16 of 16 scores" in said
    assert "as from 2,500" in said and "--n" in said


@pytest.mark.parametrize("n", [95.0, 100.0, 110.0])
def test_standard_errors_that_agree_with_n_are_believed(n: float) -> None:
    value = np.linspace(0.3, 0.7, 16)
    assert not contradictions(
        series(value, chance=0.25, n=np.full(16, 100.0), stderr=errors(value, n))
    )


def test_shares_of_an_answer_may_scatter_less_than_right_and_wrong_do() -> None:
    value, n = np.linspace(0.3, 0.7, 16), np.full(16, 100.0)
    narrow, wide = errors(value, 2500), errors(value, 10)
    assert not contradictions(series(value, "token_accuracy", n=n, stderr=narrow))
    assert "contradict" in contradictions(series(value, "token_accuracy", n=n, stderr=wide))[0]


def test_chance_0_where_no_score_comes_near_it_is_named_with_the_likely_level() -> None:
    (said,) = contradictions(series(0.24 + 0.7 * RISE, chance=0.0))
    assert "no score is below 0.257, though chance is taken as 0" in said
    assert "--chance 'add=0.25'" in said
    assert not contradictions(series(0.24 + 0.7 * RISE, chance=0.25))
    assert not contradictions(series(0.1 + 0.8 * RISE, chance=0.0))


def test_single_scores_far_below_chance_are_named() -> None:
    value = 0.25 + 0.5 * RISE
    value[2] = 0.1
    (said,) = contradictions(series(value, chance=0.25, n=np.full(16, 400.0)))
    assert said.startswith("1 of 16 scores are worse than chance 0.25") and "by 7" in said


def test_shares_under_a_range_of_percent_are_named() -> None:
    assert "--range 0,1" in contradictions(series(0.3 * RISE, "bleu", chance=0.0))[0]


def test_a_score_far_off_its_curve_is_named_with_its_scale_and_errors() -> None:
    value = RISE.copy()
    value[12] = 0.2
    (said,) = off_the_curve(series(value, chance=0.0, n=np.full(16, 1000.0)), RISE)
    away = round(float((RISE[12] - 0.2) / errors(RISE[12], 1000.0)))
    assert f"0.2 at params = {X[12] / 1e9:.3g}B" in said
    assert f"({away} standard errors away)" in said and away > 35


def test_scores_that_scatter_alike_are_not_named_however_much() -> None:
    rng = np.random.default_rng(0)
    value = rng.beta(10 * RISE + 1e-3, 10 * (1 - RISE) + 1e-3)
    assert not off_the_curve(series(value, chance=0.0, n=np.full(16, 1000.0)), RISE)


def test_a_score_off_its_curve_is_named_with_threshold_and_forecast() -> None:
    value = RISE.copy()
    value[9] = 0.02
    found = series(value, chance=0.0, n=np.full(16, 1000.0))
    curve = analyse(found, bootstrap=33)
    assert any("0.02 at params" in each for each in curve.warnings)
    ahead = forecast_scores(found, 5e9, cautions=curve.cautions)
    assert any("0.02 at params" in each for each in ahead.warnings)


def test_a_forecast_of_a_score_that_falls_says_so() -> None:
    found = series(0.7 - 0.4 * RISE, chance=0.25, n=np.full(16, 1000.0))
    curve = analyse(found, bootstrap=33)
    assert curve.verdict == "none"
    ahead = forecast_scores(found, 3e9, cautions=curve.cautions)
    assert any("the score falls with scale" in each for each in ahead.warnings)


def test_scores_above_a_curve_that_is_still_at_chance_are_named() -> None:
    """As in a published arithmetic task: 100 of 104 scores at .002 to .007, chance taken as 0."""
    low = np.random.default_rng(0).uniform(0.002, 0.007, 16)
    curve = np.where(X > 5e9, 0.3, 0.0)
    (said,) = above_the_start(series(low + curve, "exact_match", chance=0.0), curve)
    assert said.startswith("the 8 smallest models score 0.00") and "--chance" in said
    assert not above_the_start(series(low + curve, "exact_match", chance=0.005), curve + 0.005)
    asked = np.random.default_rng(1).binomial(64, 0.001, 16) / 64  # a right answer now and then
    few = series(asked, "exact_match", chance=0.0, n=np.full(16, 64.0))
    assert not above_the_start(few, np.zeros(16))
    assert not above_the_start(series(RISE, chance=0.0), RISE)
