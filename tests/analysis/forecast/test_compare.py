from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from analysis.fitting.fit import fit
from analysis.forecast.compare import compare
from analysis.forecast.comparison import Comparison
from analysis.forecast.predict import predictions
from analysis.laws.catalogue import law
from analysis.laws.published import published
from scaling.store.records import Refusal

Simulate = Callable[..., pd.DataFrame]
CUTS = [1e20, 1e21]  # of FLOPs
LAWS = [law(name) for name in ("chinchilla", "kaplan_nd", "kaplan_n")]


@pytest.fixture(scope="module")
def runs(grid: pd.DataFrame, simulate: Simulate) -> pd.DataFrame:
    return simulate(published("chinchilla-2022"), grid, noise=0.003)


def test_the_law_that_made_the_runs_forecasts_them_best(runs: pd.DataFrame) -> None:
    found = compare(runs, LAWS, bootstrap=200)
    assert found.best == "chinchilla"
    for cut in found.cuts:
        error = {score.law: score.mean_abs_rel_error for score in cut.laws}
        assert error["chinchilla"] < 0.01
        assert error["kaplan_n"] > 5 * error["chinchilla"]


def test_what_is_scored_was_not_fitted(runs: pd.DataFrame) -> None:
    compute = 6 * runs["params"] * runs["tokens"]
    cut = float(compute.quantile(0.6))
    above = compute > cut
    spoilt = runs.assign(loss=runs["loss"].where(~above, runs["loss"] * 2))
    score = compare(spoilt, LAWS[:1], cuts=[cut], bootstrap=0).cuts[0].laws[0]
    assert (score.n_fit, score.n_test) == (int((~above).sum()), int(above.sum()))
    assert score.mean_abs_rel_error == pytest.approx(0.5, abs=0.02)


def test_the_interval_of_the_right_law_mostly_covers_what_noise_leaves(
    grid: pd.DataFrame, simulate: Simulate
) -> None:
    quiet = simulate(published("chinchilla-2022"), grid, noise=0.003)
    at = {name: grid[name].to_numpy() for name in ("params", "tokens")}
    truth = published("chinchilla-2022").predict(at)
    compute = 6 * grid["params"] * grid["tokens"]
    cut = float(compute.median())
    mixed = quiet.assign(loss=np.where(compute > cut, truth, quiet["loss"]))
    right = compare(mixed, LAWS[:1], cuts=[cut], bootstrap=400).cuts[0].laws[0]
    wrong = compare(mixed, LAWS[1:2], cuts=[cut], bootstrap=400).cuts[0].laws[0]
    assert right.curve_coverage > 0.6
    assert wrong.curve_coverage < right.curve_coverage


def test_a_law_that_cannot_be_fitted_is_listed_with_the_reason(runs: pd.DataFrame) -> None:
    few = runs.sort_values("params").head(12)
    found = compare(few, [law("kaplan_n"), law("bnsl_3")], cuts=[5.5e19], bootstrap=0)
    by_name = {score.law: score for score in found.cuts[0].laws}
    assert np.isnan(by_name["bnsl_3"].mean_abs_rel_error)
    assert "needs at least" in by_name["bnsl_3"].reason
    assert found.best is None and found.verdict.startswith("kaplan_n alone was scored")


def test_the_json_has_the_agreed_keys(runs: pd.DataFrame) -> None:
    value = compare(runs, LAWS[:1], bootstrap=0).to_json()
    assert {"cuts", "best", "warnings"} <= set(value)
    assert {"law", "n_fit", "n_test", "mean_abs_rel_error", "coverage"} <= set(
        value["cuts"][0]["laws"][0]
    )


def test_one_law_is_the_best_of_nothing(runs: pd.DataFrame) -> None:
    for laws in (LAWS[:1], [*LAWS[:1], *LAWS[:1]]):
        alone = compare(runs, laws, bootstrap=0)
        assert alone.best is None and alone.to_json()["best"] is None
        assert alone.verdict.startswith("chinchilla alone was scored (0.")


@pytest.fixture(scope="module")
def compared(runs: pd.DataFrame) -> Comparison:
    return compare(runs, LAWS[:2], cuts=CUTS, bootstrap=50)


def test_the_frame_has_one_row_for_each_law_at_each_cut(compared: Comparison) -> None:
    frame = compared.frame()
    assert len(frame) == len(compared.cuts) * len(compared.cuts[0].laws)
    assert frame["law"].iloc[0] == compared.cuts[0].laws[0].law
    assert frame["flops"].iloc[-1] == compared.cuts[-1].flops


def test_the_verdict_says_by_how_much_and_from_how_many_runs(compared: Comparison) -> None:
    assert compared.best == "chinchilla" and compared.rivals[0].separated
    assert "chinchilla, 0." in compared.verdict and "(kaplan_nd 7." in compared.verdict
    assert "The error of kaplan_nd is larger by 7." in compared.verdict
    assert compared.verdict.endswith("from 21 independent later runs.")


def test_a_difference_is_of_later_runs_each_counted_once_and_surer_without_the_fits_own_error(
    runs: pd.DataFrame, compared: Comparison
) -> None:
    compute = (6 * runs["params"] * runs["tokens"]).to_numpy()
    errors = np.full((len(CUTS), 2, len(runs)), np.nan)
    for i, cut in enumerate(CUTS):
        for j, each in enumerate(LAWS[:2]):
            made = fit(each, runs[compute <= cut], bootstrap=0).predict(runs)
            errors[i, j] = np.where(compute > cut, np.abs(made / runs["loss"] - 1), np.nan)
    more = np.diff(np.nanmean(errors[:, :, compute > CUTS[0]], axis=0), axis=0)[0]
    [rival] = compared.rivals
    assert rival.excess == pytest.approx(more.mean(), rel=1e-6)
    of_runs = ttest_1samp(more, 0).confidence_interval(0.9)
    assert rival.interval[0] < of_runs.low and of_runs.high < rival.interval[1]


def test_two_laws_whose_difference_may_be_chance_are_not_separated_and_neither_is_best(
    runs: pd.DataFrame,
) -> None:
    rough = runs.assign(loss=runs["loss"] * np.exp(np.random.default_rng(1).normal(0, 0.1, 48)))
    found = compare(rough, LAWS[:2], cuts=CUTS[:1], bootstrap=50)
    assert found.best is None and found.to_json()["best"] is None
    assert f"cannot separate it from {found.rivals[0].law}. The error of" in found.verdict
    fewest = "Take kaplan_nd, with the fewest coefficients, or train larger runs"
    assert f"{fewest} and compare again" in found.verdict


def test_later_runs_that_share_a_trunk_say_less_about_a_difference(
    runs: pd.DataFrame, compared: Comparison
) -> None:
    trunks = runs.assign(trunk_id=runs["tokens"].astype(str))
    shared = compare(trunks, LAWS[:2], cuts=CUTS, bootstrap=50)
    (low, high), (under, over) = compared.rivals[0].interval, shared.rivals[0].interval
    assert (compared.clusters, shared.clusters) == (21, 5)
    assert over - under > 1.3 * (high - low)


def test_of_fewer_than_three_independent_later_runs_nothing_is_best(runs: pd.DataFrame) -> None:
    found = compare(runs, LAWS[:2], cuts=[3e22], bootstrap=50)
    assert found.clusters < 3 and found.best is None
    assert "no interval of that, which takes 3 independent later runs" in found.verdict


def test_an_interval_that_holds_too_few_of_the_later_runs_is_named(runs: pd.DataFrame) -> None:
    said = compare(runs, LAWS[2:], bootstrap=100).warnings
    assert any("90% forecast interval of kaplan_n held " in each for each in said)


def test_runs_are_held_by_the_interval_that_predict_gives_them(runs: pd.DataFrame) -> None:
    compute = 6 * runs["params"] * runs["tokens"]
    cut = float(compute.quantile(0.6))
    score = compare(runs, LAWS[1:2], cuts=[cut], bootstrap=100).cuts[0].laws[0]
    source = fit(LAWS[1], runs[compute <= cut], bootstrap=100, checks=False)
    later = runs[compute > cut]
    told = list(zip(predictions(source, later), later["loss"], strict=True))
    assert score.coverage == np.mean([e.interval[0] <= y <= e.interval[1] for e, y in told])
    assert score.curve_coverage == np.mean([e.curve[0] <= y <= e.curve[1] for e, y in told])
    assert score.curve_coverage < score.coverage


def test_laws_are_given_by_name_too(runs: pd.DataFrame) -> None:
    by_name = compare(runs, ["chinchilla"], cuts=CUTS[:1], bootstrap=0)
    same = compare(runs, [law("chinchilla")], cuts=CUTS[:1], bootstrap=0)
    pd.testing.assert_frame_equal(by_name.frame(), same.frame())


def test_what_cannot_be_compared_is_refused(runs: pd.DataFrame) -> None:
    with pytest.raises(Refusal, match="one side"):
        compare(runs, LAWS, cuts=[1e30])
    with pytest.raises(Refusal, match="nothing is left to score"):
        compare(runs.assign(tokens=1e20 / runs["params"]), LAWS)
    with pytest.raises(Refusal, match=r"at any cut\. chinchilla up to 1e\+18: .*needs at least"):
        compare(runs, LAWS[:1], cuts=[1e18])
    with pytest.raises(Refusal, match="different columns"):
        compare(runs, [law("chinchilla"), law("steplaw_lr")])
    with pytest.raises(Refusal, match="at least one law"):
        compare(runs, [])


def test_laws_are_compared_at_the_cuts_that_they_share_and_the_others_are_named(
    runs: pd.DataFrame, compared: Comparison
) -> None:
    compute = 6 * runs["params"] * runs["tokens"]
    low = float(compute.nsmallest(4).iloc[-1])  # four runs: too few for five coefficients
    found = compare(runs, LAWS[:2], cuts=[low, *CUTS], bootstrap=50)
    assert found.shared == compared.shared
    assert (found.rivals, found.error) == (compared.rivals, compared.error)
    [said] = [each for each in found.warnings if "not compared at the cut" in each]
    assert f"{low:.3g} FLOPs" in said and "(chinchilla: " in said and "needs at least" in said
    assert found.to_json()["cuts_compared"] == CUTS


def test_a_law_that_shares_no_cut_is_named_and_the_others_are_compared(runs: pd.DataFrame) -> None:
    few = runs.sort_values("params").head(12)
    found = compare(few, [law("bnsl_3"), *LAWS[1:]], cuts=[5.5e19], bootstrap=0)
    assert {found.least, found.rivals[0].law} == {"kaplan_nd", "kaplan_n"}
    assert any("bnsl_3 is not compared" in e and "needs at least" in e for e in found.warnings)


def test_laws_of_equally_many_coefficients_are_not_told_apart_by_their_number(
    runs: pd.DataFrame,
) -> None:
    rough = runs.assign(loss=runs["loss"] * np.exp(np.random.default_rng(1).normal(0, 0.1, 48)))
    found = compare(rough, [*LAWS[2:], law("kaplan_d")], cuts=CUTS[:1], bootstrap=0)
    assert found.best is None
    assert "They have equally many coefficients: train larger runs and" in found.verdict


def test_a_comparison_prints_its_table_and_ends_with_the_verdict(runs: pd.DataFrame) -> None:
    found = compare(runs, ["chinchilla", "kaplan_n"], bootstrap=50)
    assert repr(found) == str(found) == found.text()
    assert found.text().startswith("fitted up to")
    last = found.text().split("\n\n")[-1]
    assert last.replace("\n  ", " ") == found.verdict


def test_a_long_reason_is_a_note_below_the_table_that_is_printed(runs: pd.DataFrame) -> None:
    found = compare(runs, ["chinchilla"], bootstrap=0)
    long = "no answer, " * 10 + "which is a long reason"
    scores = [replace(cut, laws=tuple(replace(s, reason=long) for s in cut.laws))
              for cut in found.cuts]  # fmt: skip
    table, note = replace(found, cuts=tuple(scores)).text().split("\n\n")[:2]
    assert long not in table and table.count("note 1") == len(scores)
    assert note.replace("\n  ", " ") == f"note 1: {long}"
