"""Intervals of forecasts hold what is not known of a score's floor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from analysis.array import Array
from analysis.emergence.forecast.backtest import better, choose_way, smaller_cuts
from analysis.emergence.forecast.bounded import fit_bounded
from analysis.emergence.forecast.forecast import Forecast, forecast_scores
from analysis.emergence.scores.metrics import Metric
from analysis.emergence.scores.series import Series
from scaling.store.records import Refusal

ACCURACY = Metric("score", 0.0, 1.0)
CUT = 1e22


def rising(seed: int, floor: float, chance: float | None, spread: float = 0.3) -> Series:
    """Forty models of 1e19 to 1e24 FLOPs that rise from `floor`, and are half-way at 3e22."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(19, 24, 40))
    share = floor + (1 - floor) * expit(2 * (t - 22.5) + spread * rng.standard_normal(40))
    n = np.full(40, 1000.0)
    return Series("add", ACCURACY, "flops", 10**t, rng.binomial(1000, share) / 1000, n=n,
                  chance=chance)  # fmt: skip


def inside(found: Forecast) -> float:
    return found.judged[0].coverage


@pytest.mark.parametrize(("floor", "chance"), [(0.25, None), (0.19, 0.25), (0.01, 0.0)])
def test_the_score_of_knowing_nothing_is_fitted(floor: float, chance: float | None) -> None:
    found = [forecast_scores(rising(seed, floor, chance), CUT) for seed in range(8)]
    assert np.mean([inside(each) for each in found]) > 0.85
    assert np.mean([each.judged[0].crps for each in found]) < 0.08


def families(seed: int) -> Series:
    """Ten families of four models, each with a level and a slope of its own, named as groups."""
    rng = np.random.default_rng(seed)
    family = np.repeat(np.arange(10), 4)
    t = rng.uniform(19, 24, 40)
    level, slope = rng.normal(0, 0.5, 10)[family], rng.normal(1.6, 0.4, 10)[family]
    share = expit(slope * (t - 22) + level + rng.normal(0, 0.3, 40))
    return Series("add", ACCURACY, "flops", 10**t, rng.binomial(1000, share) / 1000,
                  n=np.full(40, 1000.0), chance=0.0, group=family)  # fmt: skip


@pytest.mark.slow
def test_intervals_hold_models_of_families_that_rise_at_rates_of_their_own() -> None:
    found = [forecast_scores(families(seed), 10**21.5) for seed in range(16)]
    assert np.mean([inside(each) for each in found]) >= 0.85  # 1.00: ten families are few


def test_the_unit_of_the_scale_changes_no_forecast() -> None:
    one = rising(1, 0.25, None)
    other = replace(one, x=one.x / 1e21)
    found = forecast_scores(one, CUT), forecast_scores(other, CUT / 1e21)
    assert found[0].median == pytest.approx(found[1].median, abs=0.01)
    assert found[0].high == pytest.approx(found[1].high, abs=0.01)


def over_the_loss(noise: float) -> tuple[Series, Array]:
    """Scores that follow the loss, whose own scatter is most of theirs; `noise` hides the loss."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(20, 23, 40))
    own = rng.standard_normal(40)
    share = expit(2 * (t - 21.5 + own))
    loss = 3 * np.exp(-0.12 * (t - 20 + own) + noise * rng.standard_normal(40))
    series = Series("add", ACCURACY, "flops", 10**t, rng.binomial(1000, share) / 1000,
                    n=np.full(40, 1000.0), chance=0.0)  # fmt: skip
    return series, loss


def test_the_way_over_the_loss_is_taken_where_it_forecast_better_below_the_cut() -> None:
    series, loss = over_the_loss(noise=0.0)
    found = forecast_scores(series, CUT, loss=loss)
    assert found.way is not None
    assert found.way.way == better(found.way.crps) and found.way.n > 10
    same = forecast_scores(series, CUT, method=found.way.way, loss=loss)
    assert np.array_equal(found.median, same.median)
    series, loss = over_the_loss(noise=0.5)
    hidden = forecast_scores(series, CUT, loss=loss)
    assert hidden.way is not None and hidden.way.way == "direct"


@pytest.mark.parametrize(("over", "way"), [(0.079, "two_step"), (0.081, "direct")])
def test_the_way_over_the_loss_must_be_better_by_a_fifth(over: float, way: str) -> None:
    assert better({"direct": 0.1, "two_step": over}) == way


def test_without_losses_to_compare_by_scores_are_forecast_directly() -> None:
    series, loss = over_the_loss(noise=0.0)
    below = series.x <= CUT
    assert choose_way(series, below, None, None) is None
    risen = choose_way(series, below, 1 / loss, None)
    assert risen is not None and risen.way == "direct" and "do not fall" in risen.reason
    few = choose_way(series, series.x <= np.sort(series.x)[3], loss, None)
    assert few is not None and few.n == 0 and "too few scores" in few.reason
    with pytest.raises(Refusal, match="does not fall"):
        forecast_scores(series, CUT, method="two_step", loss=1 / loss)


def test_smaller_cuts_lie_below_the_cut_and_leave_scores_between() -> None:
    series, _ = over_the_loss(noise=0.0)
    below = series.x <= CUT
    cuts = smaller_cuts(series, below)
    assert len(cuts) == 3
    for inner in cuts:
        assert not np.any(inner & ~below) and np.any(below & ~inner) and inner.sum() >= 4


def test_a_fitted_floor_is_where_the_small_models_are() -> None:
    series = rising(0, 0.19, 0.25)
    fit = fit_bounded(series, series.x <= CUT, "direct", None, None, np.random.default_rng(0))
    floors = np.concatenate([expit(each.coefficients["floor"][:, 0]) for each in fit.posteriors])
    assert np.median(floors) == pytest.approx(0.19, abs=0.01)
