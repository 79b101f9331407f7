"""Does a score rise: against other implementations, on noise, and on curves that dip."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from analysis.emergence.likelihood import data_of
from analysis.emergence.metrics import metric
from analysis.emergence.rise import _rising_errors, rise_test
from analysis.emergence.series import Series

X = np.geomspace(1e7, 1e11, 8)


def rise(value, **more):
    more.setdefault("chance", 0.0)
    x = more.pop("x", X)
    data = data_of(Series("task", metric("acc"), "params", x, np.asarray(value, float), **more))
    return rise_test(data, np.random.default_rng(0))


def test_errors_of_growing_pools_are_those_of_isotonic_regression():
    rng = np.random.default_rng(1)
    mean, weight = rng.normal(size=12), rng.uniform(1, 5, 12)
    ours = _rising_errors(mean.tolist(), weight.tolist())
    for count in range(1, 13):
        curve = isotonic_regression(mean[:count], weights=weight[:count]).x
        assert ours[count] == pytest.approx(float(weight[:count] @ (mean[:count] - curve) ** 2))


@pytest.mark.slow
def test_noise_is_called_a_rise_as_rarely_as_said():
    rng = np.random.default_rng(2)
    p = []
    for _ in range(100):
        data = data_of(Series("t", metric("acc"), "params", X, rng.beta(2, 6, 8), chance=0.0))
        p.append(rise_test(data, rng).p_value)
    assert (
        np.mean(np.array(p) <= 0.05) <= 0.16
    )  # 25 tables: two and a half standard deviations over 5%
    assert np.mean(p) == pytest.approx(0.5, abs=0.09)


def test_a_rise_at_the_last_scales_alone_is_one():
    assert rise([0.01, 0.02, 0.0, 0.01, 0.02, 0.01, 0.3, 0.8]).p_value <= 0.05


def test_a_dip_that_comes_back_is_no_rise_and_one_that_goes_on_is():
    assert rise([0.5, 0.4, 0.3, 0.2, 0.2, 0.3, 0.4, 0.5]).p_value > 0.05
    assert rise([0.5, 0.4, 0.3, 0.2, 0.3, 0.45, 0.7, 0.9]).p_value <= 0.05


def test_what_stays_below_chance_has_not_risen():
    climbing = np.linspace(0.15, 0.24, 8)
    assert rise(climbing, chance=0.25).p_value > 0.05
    assert rise(climbing, chance=0.0).p_value <= 0.05


def test_models_of_one_family_are_compared_with_each_other():
    """Two families at two levels, each flat: the better one's models are also the larger."""
    x = np.concatenate([X[:4], X[4:]])
    value = np.array([0.1, 0.12, 0.11, 0.1, 0.6, 0.62, 0.59, 0.61])
    family = np.repeat(["old", "new"], 4)
    assert rise(value, x=x).p_value <= 0.05
    assert rise(value, x=x, group=family).p_value > 0.05


def test_three_scales_cannot_show_a_rise():
    three = rise([0.0, 0.4, 0.9], x=X[:3])
    assert three.least_p == pytest.approx(1 / 6)
