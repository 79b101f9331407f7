from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtr

from analysis.allocation.power_law import jackknifed, power_law, slope
from analysis.interval import student


@pytest.mark.parametrize("freedom", [1, 2, 3.4, 7, 30.5, 201])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_students_t_holds_its_level(freedom: float, level: float) -> None:
    reach = student(freedom, level)
    assert stdtr(freedom, reach) - stdtr(freedom, -reach) == pytest.approx(level, rel=1e-9)


def test_a_power_law_is_recovered_and_two_points_give_no_interval() -> None:
    x = np.geomspace(1e18, 1e21, 5)
    found = power_law(x, 3 * x**0.49, 0.9)
    assert found.exponent == pytest.approx(0.49)
    assert found.at(1e19) == pytest.approx(3 * 1e19**0.49)
    assert found.interval is not None and np.ptp(found.interval) < 1e-9
    assert power_law(x[:2], x[:2], 0.9).interval is None


def test_a_jackknife_of_independent_points_is_as_wide_as_their_scatter_on_average() -> None:
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 1e3, 12)
    widths = []
    for noise in rng.normal(0, 0.2, (300, 12)):
        y = x**0.5 * np.exp(noise)
        found = power_law(x, y, 0.9)
        without = [slope(np.delete(x, i), np.delete(y, i)) for i in range(12)]
        again = jackknifed(found, without, 0.9).interval
        assert found.interval is not None and again is not None
        assert sum(again) / 2 == pytest.approx(found.exponent)
        widths.append(np.ptp(again) / np.ptp(found.interval))
    assert np.mean(widths) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("points", [3, 6])
def test_ninety_percent_intervals_hold_the_truth_ninety_percent_of_the_time(points: int) -> None:
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 1e3, points)
    inside = 0
    for noise in rng.normal(0, 0.2, (2000, points)):
        interval = power_law(x, x**0.5 * np.exp(noise), 0.9).interval
        assert interval is not None
        inside += interval.low <= 0.5 <= interval.high
    assert inside / 2000 == pytest.approx(0.9, abs=0.02)
