"""Forecasts and observed scores: which were reached, and whether a forecast meets the last."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.emergence.forecast.forecast import Forecast, forecast_scores
from analysis.emergence.scores.metrics import metric
from analysis.emergence.scores.series import Series
from analysis.figures.emergence import forecast_panels
from analysis.figures.style import OTHERS


def forecast(last: float) -> Forecast:
    """Twenty-four scores on a slow logistic, but for the last; forecast to twice its scale."""
    x = np.geomspace(1e20, 5e23, 24)
    value = 1 / (1 + np.exp(-1.3 * (np.log10(x) - 24.2)))
    value[-1] = last
    series = Series(
        "sums", metric("exact_match"), "flops", x, value, n=np.full(24, 1e3), chance=0.0
    )
    return forecast_scores(series, float(x[-1]), at=[1e24])


@pytest.fixture(scope="module")
def far() -> Forecast:
    return forecast(0.9)


def test_a_score_beyond_half_way_is_said_to_be_seen(far):
    assert far.reached is not None
    assert (far.reached.x, far.reached.value) == (pytest.approx(5e23), 0.9)


def test_a_forecast_that_misses_the_last_score_is_doubted(far):
    assert any("below the score of 0.9 there by more than its interval" in w for w in far.warnings)
    assert "Doubtful: the forecast misses the score at the largest scale fitted (sums)." in caption(
        far
    )


def test_a_forecast_that_meets_the_last_score_is_not_doubted():
    near = forecast(0.4)
    assert near.missed is None and near.reached is None
    assert "Doubtful" not in caption(near)


def test_the_bar_of_half_way_ends_inside_the_axis(far):
    (axes,) = forecast_panels([far]).axes
    left, right = axes.get_xlim()
    for line in [each for each in axes.lines if each.get_color() == OTHERS[0]]:
        assert left < min(line.get_xdata()) and max(line.get_xdata()) < right


def caption(each: Forecast) -> str:
    return forecast_panels([each]).get_supxlabel().replace("\n", " ")
