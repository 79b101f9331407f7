from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.compare import compare
from analysis.laws import law
from analysis.published import published
from scaling.store.records import Refusal

Simulate = Callable[..., pd.DataFrame]
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
    assert right.coverage > 0.6
    assert wrong.coverage < right.coverage


def test_a_law_that_cannot_be_fitted_is_listed_with_the_reason(runs: pd.DataFrame) -> None:
    few = runs.sort_values("params").head(12)
    found = compare(few, [law("kaplan_n"), law("bnsl_3")], cuts=[5.5e19], bootstrap=0)
    by_name = {score.law: score for score in found.cuts[0].laws}
    assert np.isnan(by_name["bnsl_3"].mean_abs_rel_error)
    assert "needs at least" in by_name["bnsl_3"].reason
    assert found.best is None and found.verdict.startswith("kaplan_n alone was scored")


def test_the_json_has_the_agreed_keys(runs: pd.DataFrame) -> None:
    value = compare(runs, LAWS[:1], bootstrap=0).to_json()
    assert set(value) == {"cuts", "best", "warnings"}
    assert {"law", "n_fit", "n_test", "mean_abs_rel_error", "coverage"} <= set(
        value["cuts"][0]["laws"][0]
    )


def test_one_law_is_the_best_of_nothing(runs: pd.DataFrame) -> None:
    for laws in (LAWS[:1], [*LAWS[:1], *LAWS[:1]]):
        alone = compare(runs, laws, bootstrap=0)
        assert alone.best is None and alone.to_json()["best"] is None
        assert alone.verdict.startswith("chinchilla alone was scored at every cut (0.")


def test_the_verdict_says_by_how_much_and_how_often(runs: pd.DataFrame) -> None:
    verdict = compare(runs, LAWS[:2], bootstrap=0).verdict
    assert "chinchilla, 0." in verdict and "(kaplan_nd " in verdict
    assert verdict.endswith("the least at 3 of 3 cuts.")


def test_an_interval_that_holds_too_few_of_the_later_runs_is_named(runs: pd.DataFrame) -> None:
    said = compare(runs, LAWS[2:], bootstrap=100).warnings
    assert any("90% interval of kaplan_n's curve held " in each for each in said)


def test_what_cannot_be_compared_is_refused(runs: pd.DataFrame) -> None:
    with pytest.raises(Refusal, match="one side"):
        compare(runs, LAWS, cuts=[1e30])
    with pytest.raises(Refusal, match="nothing is left to score"):
        compare(runs.assign(tokens=1e20 / runs["params"]), LAWS)
    with pytest.raises(Refusal, match=r"at every cut\. chinchilla up to 1e\+18: .*needs at least"):
        compare(runs, LAWS[:1], cuts=[1e18])
    with pytest.raises(Refusal, match="different columns"):
        compare(runs, [law("chinchilla"), law("steplaw_lr")])
    with pytest.raises(Refusal, match="at least one law"):
        compare(runs, [])
