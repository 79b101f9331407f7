"""An interval holds what it says: of a mixture, both its parts."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.interval import Interval, mixture


def test_a_mixture_of_two_normals_has_their_interval_where_they_agree_and_holds_both_elsewhere():
    alike = mixture((1.0, 1.0), (Interval(0.0, 2.0), Interval(0.0, 2.0)), 0.4, 0.9)
    assert alike == pytest.approx((0.0, 2.0))
    # By simulation: 30% N(0, 1) and 70% N(3, .5²), of which the ends are drawn.
    ends = (-1.6449, 1.6449), (3 - 0.8224, 3 + 0.8224)
    draws = np.random.default_rng(0).normal(size=(2, 400_000)) * [[1.0], [0.5]] + [[0.0], [3.0]]
    each = np.where(np.random.default_rng(1).random(400_000) < 0.3, *draws)
    assert mixture((0.0, 3.0), ends, 0.3, 0.9) == pytest.approx(
        np.percentile(each, (5, 95)), abs=0.02
    )
    open_end = mixture((0.0, 0.0), ((-1.0, np.inf), (-1.0, 1.0)), 0.5, 0.9)
    assert open_end[1] == np.inf
    assert np.isfinite(mixture((0.0, 0.0), ((-1.0, np.inf), (-1.0, 1.0)), 0.05, 0.9)).all()
