"""Intervals of derived quantities: percentiles of refits, or linear where the draws are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from analysis.derived import interval_over_draws, percentiles, values_over_draws
from analysis.fit import Fit, fit
from analysis.laws import law

CHINCHILLA = law("chinchilla")
TRUTH = {"E": 0.76, "A": 12.0, "alpha": 0.31, "B": 620.0, "beta": 0.53}


def study(seed: int, noise: float = 0.004) -> pd.DataFrame:
    """A product grid with a trunk a size and a second seed of each: 8 clusters, so a jackknife."""
    rows = [
        (n, d, f"{seed_}-{n:.0f}")
        for n in (25e3, 98e3, 332e3, 786e3)
        for seed_, budgets in (("a", (0.5e6, 1e6, 2e6, 4e6)), ("b", (0.5e6,)))
        for d in budgets
    ]
    table = pd.DataFrame(rows, columns=["params", "tokens", "trunk_id"])
    rng = np.random.default_rng(seed)
    trunk = {each: noise * rng.normal() for each in table["trunk_id"].unique()}
    exact = CHINCHILLA.predict(TRUTH, {c: table[c].to_numpy() for c in ("params", "tokens")})
    error = table["trunk_id"].map(trunk) + noise * rng.normal(size=len(table))
    return table.assign(loss=exact * np.exp(error))


@pytest.fixture(scope="module")
def jackknifed() -> Fit:
    source = fit(CHINCHILLA, study(0), bootstrap=1000)
    assert source.interval.method == "jackknife"
    return source


def log_loss(coefficients: dict[str, np.ndarray]) -> np.ndarray:
    return np.log(CHINCHILLA.predict(coefficients, {"params": 2e6, "tokens": 8e6}))


def test_a_bootstraps_interval_is_the_percentiles_of_the_refits(jackknifed):
    refits = replace(jackknifed, interval=replace(jackknifed.interval, method="bootstrap"))
    low, high = interval_over_draws(refits, log_loss, 0.9)
    plain = log_loss({k: v.to_numpy() for k, v in refits.draws.items()})
    assert (float(low[0]), float(high[0])) == pytest.approx(np.quantile(plain, [0.05, 0.95]))


def test_a_jackknife_is_of_the_quantity_itself(jackknifed):
    trunks = jackknifed.table["trunk_id"]
    left_out = [
        fit(CHINCHILLA, jackknifed.table[trunks != each], bootstrap=0).coefficients
        for each in trunks.unique()
    ]
    values = np.array([float(log_loss(each)) for each in left_out])
    count = len(values)
    error = np.sqrt((count - 1) / count * ((values - values.mean()) ** 2).sum())
    low, high = (float(end[0]) for end in interval_over_draws(jackknifed, log_loss, 0.9))
    assert (high - low) / 2 == pytest.approx(student.ppf(0.95, count - 3) * error, rel=0.05)
    assert (high + low) / 2 == pytest.approx(float(log_loss(jackknifed.coefficients)), abs=error)


def test_without_its_refits_a_jackknife_is_linear_in_the_draws(jackknifed):
    # Twice the deviation of every coefficient is twice the deviation of the quantity.
    def widened(factor: float) -> Fit:
        c, draws = jackknifed.coefficients, jackknifed.draws.copy()
        for name in draws:
            if name in ("A", "B"):
                draws[name] = c[name] * (draws[name] / c[name]) ** factor
            else:
                draws[name] = c[name] + factor * (draws[name] - c[name])
        return replace(jackknifed, draws=draws, left_out=jackknifed.left_out.iloc[:0])

    centre = float(log_loss(jackknifed.coefficients))
    once = values_over_draws(widened(1.0), log_loss)[:, 0] - centre
    twice = values_over_draws(widened(2.0), log_loss)[:, 0] - centre
    assert np.corrcoef(once, twice)[0, 1] > 0.999
    assert np.median(np.abs(twice)) / np.median(np.abs(once)) == pytest.approx(2, rel=0.02)


@pytest.mark.slow
def test_a_jackknifes_interval_of_the_loss_covers_the_truth_and_is_not_skewed_upwards():
    truth, hits, skew = float(log_loss(TRUTH)), 0, []
    for seed in range(10):
        source = fit(CHINCHILLA, study(seed), bootstrap=400, checks=False)
        low, high = (float(end[0]) for end in interval_over_draws(source, log_loss, 0.9))
        hits += low <= truth <= high
        centre = float(log_loss(source.coefficients))
        skew.append((high - centre) / (centre - low))
    assert hits >= 7  # nominal 9
    assert 0.8 < np.median(skew) < 1.25  # plain percentiles of the same draws: 10


def test_an_infinite_draw_is_an_extreme_and_a_missing_one_is_left_out():
    values = np.array([[np.nan, 1.0, 1.0], [np.nan, 3.0, np.inf], [np.nan, 2.0, 2.0]])
    low, high = percentiles(values, 0.9)
    assert np.isnan([low[0], high[0]]).all()
    assert (low[1], high[1]) == pytest.approx((1.1, 2.9))
    assert (low[2], high[2]) == pytest.approx((1.1, np.inf))
