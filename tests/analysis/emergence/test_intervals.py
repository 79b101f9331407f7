"""Thresholds and widths: recovered, bounded, or said not to be there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from analysis.emergence.inference.analyse import analyse
from analysis.emergence.scores.metrics import Metric, metric
from analysis.emergence.scores.series import Series
from scaling.store.records import Refusal

T = np.linspace(7, 11, 16)
LN9 = np.log(9)


def logistic(midpoint: float, width: float, floor: float = 0.0, ceiling: float = 1.0):
    return floor + (ceiling - floor) * expit(2 * LN9 * (T - midpoint) / width)


def curve(value, name="acc", t=T, **more):
    reach = more.pop("reach", ())
    more.setdefault("chance", 0.0)
    kind = metric(name) if isinstance(name, str) else name
    series = Series("task", kind, more.pop("scale", "params"), 10**t, np.asarray(value), **more)
    return analyse(series, bootstrap=99, reach=reach)


@pytest.fixture(scope="module")
def measured():
    value = np.random.default_rng(0).binomial(1000, logistic(9.0, 1.5, 0.25)) / 1000
    return curve(value, n=np.full(16, 1000), chance=0.25, reach=[0.5])


def test_midpoint_and_width_are_recovered_with_intervals_that_hold_them(measured):
    assert np.log10(measured.threshold.value) == pytest.approx(9.0, abs=0.1)
    low, high = measured.threshold.interval
    assert low < 1e9 < high < 1.6 * low
    assert measured.width_decades.value == pytest.approx(1.5, abs=0.2)
    assert measured.width_decades.interval[0] < 1.5 < measured.width_decades.interval[1]


def test_leaving_chance_and_a_level_are_where_the_curve_says(measured):
    leaves, half = measured.thresholds["leaves_chance"], measured.thresholds["half_way"]
    assert np.log10(leaves.value) == pytest.approx(9.0 - 0.75, abs=0.15)
    reached = measured.thresholds["reaches_0.5"].value
    assert measured.predict([leaves.value, half.value, reached]) == pytest.approx(
        [0.25 + 0.075, 0.625, 0.5], abs=0.01
    )


def test_the_band_holds_the_curve(measured):
    low, high = measured.band(10**T)
    fitted = measured.predict(10**T)
    assert (low <= fitted + 1e-3).all() and (fitted <= high + 1e-3).all()


@pytest.mark.slow
def test_the_band_holds_the_truth():
    truth, held = logistic(9.0, 1.5, 0.25), []
    for seed in range(12):
        value = np.random.default_rng(seed).binomial(1000, truth) / 1000
        low, high = curve(value, n=np.full(16, 1000), chance=0.25).band(10**T)
        held.append(np.mean((low <= truth) & (truth <= high)))
    # .93. Points of a table stand or fall together (.63 to 1): the mean of 12 is good to .04.
    assert 0.85 <= np.mean(held) <= 0.99


def test_an_accuracy_and_its_error_say_the_same():
    value = logistic(9.2, 2.0)
    right = curve(value, n=np.full(16, 200))
    wrong = curve(1 - value, Metric("error", 1.0, 0.0), n=np.full(16, 200), chance=1.0)
    assert wrong.threshold.value == pytest.approx(right.threshold.value)
    assert wrong.verdict == right.verdict


def test_against_a_loss_progress_goes_down():
    loss = 10 ** np.linspace(0.6, 0.3, 12)
    value = expit(40 * (0.45 - np.log10(loss)))
    found = curve(value, t=np.log10(loss), scale="loss", falling=True)
    assert np.log10(found.threshold.value) == pytest.approx(0.45, abs=0.01)
    assert found.threshold.interval[0] < found.threshold.value < found.threshold.interval[1]
    assert found.verdict == "undetermined"
    assert "not judged against loss" in found.reason


def test_a_rise_that_ends_beyond_the_scales_is_not_in_range():
    value = np.random.default_rng(0).binomial(500, logistic(11.7, 3.0)) / 500
    found = curve(value, n=np.full(16, 500))
    assert found.threshold.value is None
    assert found.threshold.reason.startswith("not in range: beyond the last scale")
    assert found.threshold.interval[0] > 1e10


def test_without_a_rise_there_is_no_threshold():
    value = np.random.default_rng(0).binomial(100, 0.25, 16) / 100
    found = curve(value, n=np.full(16, 100), chance=0.25, reach=[0.5])
    assert found.verdict == "none"
    assert {each.value for each in found.thresholds.values()} == {None}
    assert set(found.thresholds) == {"leaves_chance", "half_way", "reaches_0.5"}


def test_a_power_law_without_a_floor_has_no_threshold():
    found = curve(-500 * 10 ** (-0.2 * T), "log_prob", chance=None)
    assert found.fitted.form == "power_law"
    assert found.threshold.value is None
    assert found.threshold.reason.startswith("not identified")
    assert found.predict([1e9]) == pytest.approx([-500 * 10**-1.8], rel=1e-3)


def test_a_loss_with_a_floor_and_a_ceiling_is_recovered():
    value = 5 - 3 * expit(2 * LN9 * (T - 9) / 1.2)
    found = curve(value + np.random.default_rng(0).normal(0, 0.02, 16), "loss", chance=None)
    assert np.log10(found.threshold.value) == pytest.approx(9.0, abs=0.05)
    assert found.fitted.curves.floor[0] != found.fitted.curves.ceiling[0]
    assert found.predict([1e7, 1e11]) == pytest.approx([5, 2], abs=0.1)


def test_levels_out_of_range_are_refused():
    series = Series("task", metric("acc"), "params", 10**T, logistic(9.0, 1.5), chance=0.0)
    with pytest.raises(Refusal, match="score to reach, 50"):
        analyse(series, reach=[50])
    with pytest.raises(Refusal, match="between 0 and 1"):
        analyse(series, level=90)
    with pytest.raises(Refusal, match=r"rest on 200 bootstrap samples.*Give 0\.99 or less"):
        analyse(series, level=0.999)


@pytest.mark.parametrize("count", [-1, 0, 32])
def test_fewer_tables_than_a_sharp_rise_needs_are_refused(count):
    series = Series("task", metric("acc"), "params", 10**T, logistic(9.0, 0.2), chance=0.0)
    with pytest.raises(Refusal, match=f"--bootstrap {count}: .* Give 33 or more"):
        analyse(series, bootstrap=count)
