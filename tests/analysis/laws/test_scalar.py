"""Minima and roots of functions of one variable, a problem a row."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.laws.scalar import argmin, root, slope


def test_argmin_finds_the_lower_of_two_valleys_and_a_kink():
    two = argmin(lambda x: (x**2 - 4) ** 2 + x, np.array([-5.0]), np.array([5.0]))
    kink = argmin(lambda x: np.abs(x - 1.2345), np.array([-5.0]), np.array([5.0]))
    assert two == pytest.approx([min(np.roots([4, 0, -16, 1]))], abs=1e-9)
    assert kink == pytest.approx([1.2345], abs=1e-3)


def test_argmin_ends_at_the_bound_a_function_falls_towards():
    assert argmin(lambda x: x, np.zeros(1), np.ones(1)) == pytest.approx([0.0], abs=1e-6)
    assert argmin(lambda x: -x, np.zeros(1), np.ones(1)) == pytest.approx([1.0], abs=1e-6)


def test_a_root_is_found_to_rounding_in_every_row() -> None:
    goal = np.array([[0.5], [3.0], [69.0]])
    found = root(lambda x: goal - x, np.zeros((3, 1)), np.full((3, 1), 70.0))
    assert found == pytest.approx(goal, rel=1e-14)


def test_a_function_that_stays_above_zero_has_its_root_at_infinity() -> None:
    found = root(lambda x: np.exp(-x) + np.array([0.1, -0.1]), np.zeros(2), np.full(2, 70.0))
    assert np.isinf(found[0]) and found[1] == pytest.approx(np.log(10))


def test_the_slope_of_a_power_law_in_logarithms_is_exact_to_ten_digits() -> None:
    at = np.array([[1.0], [20.0]])
    found = slope(lambda log_n: 400 * np.exp(-0.34 * log_n), at)
    assert found == pytest.approx(-0.34 * 400 * np.exp(-0.34 * at), rel=1e-10)
