"""The rule by which a rise is called sharp, smooth or undetermined."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.emergence.inference.trend_test import Trend
from analysis.emergence.inference.verdict import verdict_of
from analysis.emergence.response.estimate import Estimate
from analysis.interval import Interval

RISE = Trend(0.01, 1.0, 0.001)


@pytest.mark.parametrize(
    ("p_sharp", "width", "interval", "scales", "verdict"),
    [
        (0.01, 0.2, (0.1, 0.6), 12, "sharp"),
        (0.01, 0.2, (0.0, 0.6), 7, "undetermined"),  # too few scales
        (0.03, 0.2, (0.1, 0.6), 15, "sharp"),
        (0.04, 0.2, (0.1, 0.6), 15, "undetermined"),  # p-values of few scales are too small
        (0.04, 0.2, (0.1, 0.6), 16, "sharp"),
        (0.01, 0.2, (0.1, 1.1), 12, "undetermined"),  # may take more than a decade
        (0.01, 0.2, (0.1, np.inf), 12, "undetermined"),
        (0.20, 0.2, (0.1, 0.6), 12, "undetermined"),  # a smooth curve fits as well
        (0.01, 0.6, (0.4, 0.9), 12, "undetermined"),
        (0.20, 1.5, (0.6, 3.0), 12, "smooth"),
        (0.20, 1.5, (0.6, np.inf), 5, "smooth"),
        (0.20, 1.5, (0.4, 3.0), 12, "undetermined"),
        (0.20, None, None, 12, "undetermined"),  # the width is not identified
    ],
)
def test_the_rule_of_the_verdict(p_sharp, width, interval, scales, verdict):
    given, reason = verdict_of(
        RISE, p_sharp, Estimate(width, interval and Interval(*interval)), scales
    )
    assert given == verdict
    assert reason
