"""Where a run's loss should fall: the curve's interval, widened by scatter that grows beyond."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import Status, fit
from analysis.forecast.leave_out import leave_out_largest
from analysis.forecast.predict import forecast_warnings, law_predictions, predict, predictions
from analysis.forecast.scatter import scatter_of
from analysis.forecast.warnings import assumptions
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.recommend.by_law import answer
from analysis.recommend.question import Question
from scaling.store.records import Refusal

TRUTH = published("besiroglu-2024")
NOISE = 0.01


def runs(sizes: np.ndarray, budgets: np.ndarray, seed: int = 0) -> pd.DataFrame:
    grid = [(n, d) for n in sizes for d in budgets]
    table = pd.DataFrame(grid, columns=["params", "tokens"])
    error = NOISE * np.random.default_rng(seed).normal(size=len(table))
    return table.assign(loss=TRUTH.predict({n: table[n].to_numpy() for n in table}) * np.exp(error))


@pytest.fixture(scope="module")
def fitted():
    return fit(law("chinchilla"), runs(np.geomspace(1e8, 3e9, 6), np.geomspace(2e9, 6e10, 6)),
               bootstrap=200)  # fmt: skip


def test_a_laws_own_interval_holds_the_curves_and_is_as_wide_as_both_together(fitted):
    [inside] = law_predictions(fitted, pd.DataFrame({"params": [1e9], "tokens": [1e10]}))
    (low, high), (under, over) = inside.interval, inside.curve
    assert low < under < inside.loss < over < high
    middle = np.log(inside.loss)
    scatter, freedom = scatter_of(fitted)
    assert freedom == pytest.approx(36 - 5)
    assert np.log(high) - middle == pytest.approx(
        np.hypot(np.log(over) - middle, 1.6955188 * scatter),
        rel=1e-6,  # t(31)
    )
    assert inside.decades_beyond == 0


def test_about_nine_in_ten_runs_of_a_true_law_fall_inside(fitted):
    later = runs(np.geomspace(1e8, 3e9, 12), np.geomspace(2e9, 6e10, 12), seed=1)
    held = [
        each.interval[0] <= loss <= each.interval[1]
        for each, loss in zip(predictions(fitted, later), later["loss"], strict=True)
    ]
    assert 0.84 < np.mean(held) < 0.98


def test_the_verdict_says_whether_the_big_run_fell_inside(fitted):
    big = pd.DataFrame({"params": [3e10], "tokens": [6e11]})
    [each] = predictions(fitted, big)
    assert each.decades_beyond == pytest.approx(2, abs=0.01)
    assert "inside the 90% forecast interval" in each.verdict(each.loss * 1.01)
    assert "outside the 90% forecast interval" in each.verdict(each.loss * 1.2)
    assert "2.0 decades beyond the data" in each.sentence
    assert each.to_json()["interval"]["loss"] == list(each.interval)


def test_a_published_law_has_no_interval_to_fall_inside():
    [each] = predictions(TRUTH, pd.DataFrame({"params": [7e10], "tokens": [1.4e12]}))
    assert each.interval is None
    assert "no interval" in each.verdict(2.0)
    assert each.verdict(2.0, "nats/byte").startswith("observed 2.0000 nats/byte, off by ")


# Hoffmann's points below 3e20 FLOPs, then those above: the intervals of the curve alone hold few.
def test_on_hoffmanns_points_the_forecast_holds_nine_in_ten_beyond_the_data(epoch):
    table = epoch.iloc[:-5]  # as Besiroglu et al. filter it
    compute = 6 * table["params"] * table["tokens"]
    source = fit(law("chinchilla"), table[compute <= 3e20], bootstrap=200, checks=False)
    later = table[compute > 3e20]
    found = predictions(source, later)
    held = [e.interval[0] <= y <= e.interval[1] for e, y in zip(found, later["loss"], strict=True)]
    curve = [e.curve[0] <= y <= e.curve[1] for e, y in zip(found, later["loss"], strict=True)]
    assert 0.85 <= np.mean(held) <= 1
    assert np.mean(curve) < 0.7


MUENNIGHOFF = published("muennighoff-2023")


def test_more_unique_tokens_than_tokens_are_the_tokens_and_it_is_said():
    rows = pd.DataFrame({"params": [1e9] * 2, "tokens": [2e10] * 2, "unique_tokens": [2e10, 9e11]})
    fresh, more = predictions(MUENNIGHOFF, rows)
    assert more.loss == fresh.loss
    [said] = forecast_warnings(MUENNIGHOFF, rows, [fresh, more])
    assert "more unique tokens than tokens in 1 of 2 rows" in said


@pytest.mark.parametrize("unique", [0.0, -1e9, float("nan")])
def test_unique_tokens_that_cannot_be_are_refused(unique):
    rows = pd.DataFrame({"params": [1e9], "tokens": [2e10], "unique_tokens": [unique]})
    with pytest.raises(Refusal, match=r"unique_tokens = \S+ in row 1 of 1 is not possible"):
        predictions(MUENNIGHOFF, rows)


@pytest.fixture(scope="module")
def of_compute():
    """A law of compute alone, fitted to 1e18 … 1e20 FLOPs; a table may have nothing else."""
    flops = np.geomspace(1e18, 1e20, 30)
    error = 0.005 * np.random.default_rng(0).normal(size=30)
    table = pd.DataFrame({"flops": flops, "loss": 2 + (1e18 / flops) ** 0.2 * np.exp(error)})
    return fit(law("separable:flops"), table, bootstrap=100, checks=False)


def test_a_law_of_compute_says_how_far_beyond_its_runs_it_is_and_what_it_assumes(of_compute):
    inside, far = predictions(of_compute, pd.DataFrame({"flops": [1e19, 1e23]}))
    assert (inside.decades_beyond, far.decades_beyond) == (0, pytest.approx(3))
    assert "3.0 decades beyond the data" in far.sentence
    assert far.interval[1] - far.interval[0] > 2 * (inside.interval[1] - inside.interval[0])
    assert "how compute is divided between N and D" in assumptions(of_compute)
    assert any(
        "up to 2.4 decades" in each
        for each in forecast_warnings(of_compute, pd.DataFrame({"flops": [1e23]}), [far])
    )


def test_a_law_of_size_alone_is_as_far_out_as_its_size():
    table = runs(np.geomspace(1e8, 3e9, 12), np.array([6e10])).drop(columns="tokens")
    fitted = fit(law("kaplan_n"), table, bootstrap=50, checks=False)
    [each] = predictions(fitted, pd.DataFrame({"params": [3e11]}))
    assert each.decades_beyond == pytest.approx(2)
    assert "decayed at the end, the tokens D." in assumptions(fitted)


def test_what_is_doubtful_about_the_runs_comes_first(fitted):
    rows = pd.DataFrame({"params": [1e14], "tokens": [1e6]})
    doubted = fitted.doubted(["row 3 is off"])
    first, *rest = forecast_warnings(doubted, rows, predictions(doubted, rows))
    assert first == "Of the runs: row 3 is off"
    assert any("N = 100T lies" in each for each in rest)
    assert "row 3 is off" in doubted.warnings
    doubted = fitted.doubted(["row 3 is off. Leave it out: --where 'loss!=3'"])
    assert "!=3' (an option of `scaling fit`)" in forecast_warnings(doubted, rows, [])[0]


def test_a_run_of_the_datas_compute_but_a_thousand_times_as_large_is_not_inside(fitted):
    rows = pd.DataFrame({"params": [1e9, 1e12], "tokens": [1e10, 1e7]})
    inside, lopsided = predictions(fitted, rows)
    assert (inside.decades_beyond, lopsided.decades_beyond) == (0, pytest.approx(2.52, abs=0.01))
    assert "2.5 decades beyond the data" in lopsided.sentence
    small = predictions(fitted, pd.DataFrame({"params": [1e6], "tokens": [1e10]}))[0]
    assert small.decades_beyond == pytest.approx(2)


def test_a_table_has_a_line_for_n_and_one_for_d_however_many_rows_lie_outside(fitted):
    rows = pd.DataFrame({"params": [1e9, 1e11, 1e12], "tokens": [1e10, 1e8, 1e7]})
    said = forecast_warnings(fitted, rows, predictions(fitted, rows))
    n, d = (each for each in said if "decades outside the runs" in each)
    assert n.startswith("2 of 3 rows: N = 1T lies up to 2.5 decades outside the runs (100M … 3B)")
    assert d.startswith("2 of 3 rows: D = 10M lies up to 2.3 decades outside")


def test_a_fit_that_failed_predicts_nothing(fitted):
    failed = replace(fitted, status=Status.FAILED, reason="no start converged")
    with pytest.raises(Refusal, match=r"status = failed \(no start converged\).* Fit again"):
        predictions(failed, pd.DataFrame({"params": [1e9], "tokens": [1e10]}))


def test_a_scatter_that_rests_on_few_residuals_says_on_how_many():
    few = runs(np.geomspace(1e8, 3e9, 3), np.geomspace(2e9, 6e10, 3))
    source = fit(law("chinchilla"), few, bootstrap=50, checks=False)
    rows = pd.DataFrame({"params": [1e9], "tokens": [1e10]})
    said = "The scatter of runs about the curve rests on 4 independent residuals (9 runs in 9 "
    assert any(
        w.startswith(said) for w in forecast_warnings(source, rows, predictions(source, rows))
    )


def test_a_weak_fit_says_so_before_it_predicts():
    two_sizes = runs(np.array([1e8, 3e9]), np.geomspace(2e9, 6e10, 8))
    weak = fit(law("chinchilla"), two_sizes, bootstrap=50, checks=False)
    rows = pd.DataFrame({"params": [1e9], "tokens": [1e10]})
    assert forecast_warnings(weak, rows, predictions(weak, rows))[0].startswith(
        "The fit is weakly identified"
    )


def test_a_law_of_a_rate_forecasts_that_by_name_and_to_the_digits_it_has():
    n, d = (
        each.ravel() for each in np.meshgrid(np.geomspace(1e8, 3e9, 5), np.geomspace(2e9, 6e10, 4))
    )
    off = np.exp(0.02 * np.random.default_rng(0).normal(size=20))
    rates = pd.DataFrame(
        {"params": n, "tokens": d, "learning_rate": 1.79 * n**-0.713 * d**0.307 * off}
    )
    fitted = fit(law("steplaw_lr"), rates, bootstrap=50, checks=False)
    [each] = predictions(fitted, pd.DataFrame({"params": [1e9], "tokens": [2e10]}))
    assert ": learning_rate 0.00" in each.sentence or ": learning_rate 9." in each.sentence
    assert "learning_rate" in each.to_json() and "loss" not in each.to_json()
    said = leave_out_largest(fitted).sentence
    assert "learning_rate forecast" in said and "off by -0.0000" not in said


def test_beyond_points_that_do_not_outnumber_the_coefficients_there_is_no_interval():
    """Two sizes of five runs each: a power law passes through both, and misses a third by 0.3."""
    sizes = np.repeat([1e7, 1e8], 5)
    off = 0.002 * np.random.default_rng(0).normal(size=10)
    table = pd.DataFrame({"params": sizes, "loss": (2.4 + 800 / sizes**0.36) * np.exp(off)})
    two = fit(law("kaplan_n"), table, bootstrap=100, checks=False)
    rows = pd.DataFrame({"params": [5e7, 1e9]})
    inside, beyond = predictions(two, rows)
    assert inside.interval is not None
    assert (beyond.interval, beyond.curve) == (None, None)
    assert beyond.sentence.endswith("no interval, 1.0 decades beyond the data")
    assert beyond.to_json()["interval"] is None
    assert "no interval holds beyond them" in forecast_warnings(two, rows, [inside, beyond])[0]


def test_nor_has_a_recommendation_an_interval_there():
    five = pd.concat([runs(np.geomspace(1e8, 3e9, 2), np.geomspace(2e9, 6e10, 2), seed=s)
                      for s in range(5)])  # fmt: skip
    more = five.assign(params=five["params"] * 3).iloc[:1]
    source = fit(law("chinchilla"), pd.concat([five, more], ignore_index=True), bootstrap=100,
                 cluster="none", checks=False)  # fmt: skip
    assert answer(source, Question(flops=1e21)).interval is None


def test_a_mapping_or_a_table_gives_a_table_with_both_intervals(fitted):
    table = pd.DataFrame({"params": [1e9, 3e11], "tokens": [2e10, 1e13]}, index=["near", "far"])
    found = predict(fitted, table, level=0.5)
    assert list(found.index) == ["near", "far"]
    for row, each in zip(found.itertuples(), predictions(fitted, table, level=0.5), strict=True):
        assert (row.params, row.tokens) == (each.features["params"], each.features["tokens"])
        assert (row.loss, row.decades_beyond) == (each.loss, each.decades_beyond)
        assert (row.curve_low, row.curve_high) == each.curve
        assert (row.run_low, row.run_high) == each.interval
    assert found.attrs["level"] == 0.5
    assert any("decades" in said for said in found.attrs["warnings"])
    by_columns = predict(fitted, {"params": 1e9, "tokens": [2e10, 1e11]})
    assert by_columns["params"].tolist() == [1e9, 1e9]
    one = predict(fitted, {"params": 1e9, "tokens": 2e10}, level=0.5)
    assert one.iloc[0].tolist() == found.iloc[0].tolist()


def test_what_a_published_law_does_not_know_is_not_a_number():
    [row] = predict(TRUTH, {"params": 7e10, "tokens": 1.4e12}).itertuples()
    assert np.isnan([row.curve_low, row.run_high, row.decades_beyond]).all()
    assert row.loss == pytest.approx(1.93, abs=0.1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"params": "100M", "tokens": 1e10}, "params = '100M' in row 1 of 1 is not possible: give"),
        ({"params": [1e9, 1e9], "tokens": [1e10, np.nan]}, "tokens = nan in row 2 of 2 is not"),
        ({"params": [1e9, 0.0], "tokens": 1e10}, "params = 0 in row 2 of 2 is not possible"),
        (
            {"params": 1e9, "tokens": -1e10},
            r"tokens = -1e\+10 in row 1 .* number, such as 1e9",
        ),
        ({"params": [1e9, 2e9], "tokens": [1e10]}, "2 of params and 1 of tokens are given: give"),
        (
            {"params": 1e9},
            r"needs tokens. Give a --table with it \(in Python: rows with such",
        ),
    ],
)
def test_a_cell_that_is_no_positive_number_is_refused_by_column_and_row(fitted, rows, message):
    for source in (fitted, TRUTH):
        with pytest.raises(Refusal, match=message):
            predict(source, rows)


def test_numbers_that_were_read_as_text_and_columns_of_no_use_are_no_obstacle(fitted):
    rows = pd.DataFrame({"params": ["1e9"], "tokens": [1e10], "note": ["best"]})
    assert predict(fitted, rows)["loss"].item() == pytest.approx(
        predict(fitted, {"params": 1e9, "tokens": 1e10})["loss"].item()
    )
