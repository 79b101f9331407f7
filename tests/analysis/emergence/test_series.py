"""What may be asked about emergence: metrics, their direction, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.emergence.scores.metrics import Metric, metric
from analysis.emergence.scores.series import Series
from scaling.store.records import Refusal

X = np.geomspace(1e7, 1e10, 4)


def series(value, name="acc", **more) -> Series:
    return Series("task", metric(name), "params", more.pop("x", X), np.array(value), **more)


def test_zero_is_worst_and_one_is_best_whichever_way_the_metric_points():
    assert series([0, 25, 50, 100], "bleu").unit == pytest.approx([0, 0.25, 0.5, 1])
    error = Metric("error", 1.0, 0.0)
    assert Series("task", error, "params", X, np.array([1, 0.9, 0.5, 0])).unit == pytest.approx(
        [0, 0.1, 0.5, 1]
    )


def test_values_come_back_from_the_unit_scale():
    for name, value in (("bleu", [1.0, 2, 30, 40]), ("loss", [4.0, 3, 2, 1.5])):
        one = series(value, name)
        assert one.from_unit(one.unit) == pytest.approx(value)


def test_progress_goes_up_where_the_scale_is_a_loss():
    falling = Series("task", metric("acc"), "loss", np.array([2.0, 3.0]), np.ones(2), falling=True)
    assert falling.t[0] > falling.t[1]
    assert falling.to_x(float(falling.t[0])) == pytest.approx(2.0)


def test_a_standard_error_implies_the_number_of_questions():
    share = np.array([0.2, 0.4, 0.5, 0.9])
    stderr = np.sqrt(share * (1 - share) / 500)
    assert series(share, stderr=stderr).questions == pytest.approx(np.full(4, 500))


@pytest.mark.parametrize(
    ("value", "more", "message"),
    [
        ([0, 0.5, 1, 97], {}, "outside 0 to 1.*In percent"),
        ([0, 0.5, 1, math.nan], {}, "missing or infinite"),
        ([0, 0.5, 1], {}, "3 values of value for 4 of params"),
        ([0, 0, 1, 1], {"x": np.full(4, 1e7)}, "all 4 scores are at one scale, params = 1e"),
        ([0, 0, 1, 1], {"x": np.array([1e7, -1, 1e9, 1e10])}, "not a positive number"),
        ([0, 0, 1, 1], {"n": np.array([10, 0, 10, 10])}, "at least 1 question"),
        ([0, 0, 1, 1], {"chance": 1.5}, "chance 1.5 lies outside"),
        ([0, 0, 1, 1], {"chance": 1.0}, "no room for a rise"),
        ([0, 0, 1, 1], {"stderr": -np.ones(4)}, "must not be negative"),
    ],
)
def test_what_cannot_be_a_score_is_refused(value, more, message):
    with pytest.raises(Refusal, match=message):
        series(value, **more)


def test_a_metric_of_unknown_range_is_refused_with_the_remedy():
    with pytest.raises(Refusal, match="--range WORST,BEST"):
        metric("vibes")
    with pytest.raises(Refusal, match="two different numbers"):
        Metric("flat", 1.0, 1.0)


def test_the_resolution_is_one_question_of_the_coarsest_score() -> None:
    share = np.linspace(0, 1, 4)
    assert series(share, n=[1000, 250, 500, 1000]).resolution == pytest.approx(1 / 250)
    assert series(share).resolution is None
