"""Two heuristics of BIG-bench, against values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.emergence.big_bench import breakthroughness, linearity


def test_a_straight_line_is_linear_and_one_jump_is_a_breakthrough() -> None:
    x = np.geomspace(1, 1e5, 6)
    line, jump = np.linspace(0, 1, 6), np.array([0.0, 0.01, 0.0, 0.01, 0.0, 1.0])
    assert linearity(x, line) == pytest.approx(5)  # (n - 1) equal steps
    assert breakthroughness(x, line) == pytest.approx(5)
    assert breakthroughness(x, jump) == pytest.approx(100)  # 1 over the median step of .01
    assert linearity(x, -line) == pytest.approx(-5)  # getting worse
    assert breakthroughness(x, np.array([0, 0, 0, 0, 0, 1.0])) is None  # its median step is 0
    assert linearity(x, np.zeros(6)) is None


def test_improvement_over_typical_steps_is_the_one_worked_by_hand() -> None:
    # Steps .2, -.1, .4, .1: squares of mean .055 and median .025; improvement .7 - .1.
    x, y = [1, 10, 100, 1000, 10000], [0.1, 0.3, 0.2, 0.6, 0.7]
    assert linearity(x, y) == pytest.approx(0.6 / 0.055**0.5)
    assert breakthroughness(x, y) == pytest.approx(0.6 / 0.025**0.5)


def test_scores_at_one_scale_are_averaged_before_steps_are_taken() -> None:
    x, y = [1, 1, 10, 100], [0.0, 0.2, 0.2, 0.3]
    assert linearity(x, y) == pytest.approx(linearity([1, 10, 100], [0.1, 0.2, 0.3]))
