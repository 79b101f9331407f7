"""Curves as shapes moved and stretched, against their textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.emergence.response.links import POWER, SHAPES

T = np.linspace(-0.8, 0.8, 41)
NAMES = [f"{shape.form}-{index}" for index, shape in enumerate(SHAPES)]


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_the_midpoint_is_the_threshold_and_the_width_runs_from_a_tenth_to_nine(shape):
    assert float(shape(np.array(0.0))) == pytest.approx(0.5)
    assert shape.at(0.9) - shape.at(0.1) == pytest.approx(1.0)
    for share in (0.01, 0.1, 0.3, 0.9, 0.99):
        assert float(shape(np.array(shape.at(share)))) == pytest.approx(share)


@pytest.mark.parametrize("shape", [*SHAPES, POWER], ids=[*NAMES, "power"])
def test_no_shape_ever_falls(shape):
    assert (np.diff(shape(T)) >= 0).all()


def test_the_double_exponential_is_a_power_law_in_log_probability():
    """−log p = a x^−b; its 10–90% width is log10(ln 10 / −ln 0.9) / b decades."""
    shape, b, a = SHAPES[1], 0.8, 3.0
    width = np.log10(np.log(10) / -np.log(0.9)) / b
    midpoint = np.log10(a / np.log(2)) / b
    assert shape((T - midpoint) / width) == pytest.approx(np.exp(-a * 10 ** (-b * T)))


def test_a_broken_power_law_has_another_exponent_below_its_break():
    ratios = []
    for shape in (each for each in SHAPES if each.form == "broken_power"):
        exponents = np.diff(np.log(-np.log(shape(T)))) / np.diff(T)
        ratios.append(exponents[0] / exponents[-1])
    assert sorted(ratios) == pytest.approx([0.1, 0.1, 0.3, 0.3, 3.0, 3.0])
