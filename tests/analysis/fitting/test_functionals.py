"""Intervals of derived quantities: refits, as far off as the quantity's own clusters make them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import Fit, fit
from analysis.fitting.functionals import interval_over_draws
from analysis.fitting.inputs import support_of
from analysis.interval import percentiles
from analysis.laws.catalogue import law
from scaling.store.records import Refusal

CHINCHILLA = law("chinchilla")
TRUTH = {"E": 0.76, "A": 12.0, "alpha": 0.31, "B": 620.0, "beta": 0.53}


def study(seed: int, noise: float = 0.004) -> pd.DataFrame:
    """A product grid with a trunk a size and a second seed of each: 8 clusters."""
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
def source() -> Fit:
    return fit(CHINCHILLA, study(0), bootstrap=1000, checks=False)


def log_loss(coefficients: dict[str, np.ndarray]) -> np.ndarray:
    return np.log(CHINCHILLA.predict(coefficients, {"params": 2e6, "tokens": 8e6}))


def test_the_interval_of_a_coefficient_is_the_fits_own(source):
    for name, scale in (("A", np.log), ("alpha", np.asarray), ("B", np.log), ("beta", np.asarray)):
        low, high = interval_over_draws(source, lambda c, n=name, s=scale: s(c[n]), 0.9)
        own = scale(source.interval.coefficients[name])
        assert [float(low[0]), float(high[0])] == pytest.approx(list(own), rel=1e-4)


def test_the_coefficients_are_a_table_with_intervals_of_any_level(source):
    own = source.frame()
    assert list(own.columns) == ["estimate", "se", "low", "high", "flat_with"]
    for name, bounds in source.interval.coefficients.items():
        assert tuple(own.loc[name, ["low", "high"]]) == bounds
        assert own.loc[name, "estimate"] == source.coefficients[name]
    assert own.loc["A", "flat_with"] == "alpha" and own.loc["E", "flat_with"] == ""
    # As if the fit had been asked for that level, by the same draws.
    wide = source.again(source.table, level=0.98)
    pd.testing.assert_frame_equal(source.frame(level=0.98), wide.frame(), rtol=1e-6)
    assert (source.frame(level=0.5)["low"] > own["low"]).all()
    with pytest.raises(Refusal, match=r"level = 1.5 is not between 0 and 1"):
        source.frame(level=1.5)


def test_what_is_held_is_exact_at_any_level_and_what_has_no_interval_has_none(source):
    held = source.again(source.table, fixed={"beta": 0.5}, bootstrap=50)
    assert tuple(held.frame(level=0.5).loc["beta", ["se", "low", "high"]]) == (0.0, 0.5, 0.5)
    assert held.frame().loc["A", "flat_with"] == "alpha"
    bare = source.again(source.table, fixed={"beta": 0.5}, bootstrap=0).frame(level=0.5)
    assert bare["low"].isna().tolist() == [True, True, True, True, False]


def test_each_quantity_is_as_uncertain_as_its_own_clusters_leave_it(source):
    bases = support_of(source).coefficients(CHINCHILLA)
    assert bases["alpha"].clusters < bases["beta"].clusters
    wider = []
    for name in ("alpha", "beta"):
        low, high = interval_over_draws(source, lambda c, n=name: c[n], 0.9)
        wider.append(float(high[0] - low[0]) / np.ptp(np.percentile(source.draws[name], [5, 95])))
    assert 1 < wider[1] < wider[0]


def test_rows_in_other_trunks_make_another_interval_of_the_same_draws(source):
    def length(trunks):
        fitted = replace(source, table=source.table.assign(trunk_id=trunks))
        low, high = interval_over_draws(fitted, log_loss, 0.9)
        return float(high[0] - low[0])

    own = np.arange(len(source.table)).astype(str)
    assert length(own) < length(source.table["trunk_id"])


def test_a_quantity_that_no_draw_has_is_infinite_and_of_one_known_beforehand_there_is_no_doubt(
    source,
):
    assert interval_over_draws(source, lambda c: np.inf + 0 * c["E"], 0.9)[0] == np.inf
    held = source.again(source.table, fixed={"beta": 0.5}, bootstrap=50)
    low, high = interval_over_draws(held, lambda c: 2 * c["beta"], 0.9)
    assert (float(low[0]), float(high[0])) == pytest.approx((1.0, 1.0), rel=1e-12)


@pytest.mark.slow
def test_the_interval_of_the_loss_covers_the_truth_and_is_not_skewed_upwards():
    truth, hits, skew = float(log_loss(TRUTH)), 0, []
    for seed in range(30):
        source = fit(CHINCHILLA, study(seed), bootstrap=400, checks=False)
        low, high = (float(end[0]) for end in interval_over_draws(source, log_loss, 0.9))
        hits += low <= truth <= high
        centre = float(log_loss(source.coefficients))
        skew.append((high - centre) / (centre - low))
    assert 22 <= hits <= 30  # nominal 27, of which three sd are 5; of 60 tables 55 did
    assert 0.7 < np.median(skew) < 1.4  # percentiles of a linear cloud of coefficients: 10


def test_an_infinite_draw_is_an_extreme_and_a_missing_one_is_left_out():
    values = np.array([[np.nan, 1.0, 1.0], [np.nan, 3.0, np.inf], [np.nan, 2.0, 2.0]])
    low, high = percentiles(values, 0.9)
    assert np.isnan([low[0], high[0]]).all()
    assert (low[1], high[1]) == pytest.approx((1.1, 2.9))
    assert (low[2], high[2]) == pytest.approx((1.1, np.inf))
