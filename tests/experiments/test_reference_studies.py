"""What the committed studies show, from their run tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.allocation.approaches import approaches
from analysis.fitting.files import load_fit
from analysis.fitting.fit import Status
from analysis.laws.published import published
from analysis.runs.equal_loss import equal_loss
from analysis.runs.sweep import sweep
from analysis.runs.table import read_runs
from experiments.cli.join.plan import plan_study
from experiments.cli.join.tuned_regret import regrets_of_rules
from experiments.cli.join.tuning import swept
from scaling.planning.plan import Plan
from scaling.study import read_study

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"


def points(name: str) -> pd.DataFrame:
    table = read_runs(REFERENCE / name / "runs.csv")
    return table[table["run_kind"] == "cooldown"]


@pytest.mark.parametrize("name", ["isoflop", "repeat", "muon", "regularisation"])
def test_the_reference_runs_are_the_runs_that_the_study_plans(
    name: str, refuse_other_runs: Callable[[Plan, pd.DataFrame], None]
) -> None:
    table = read_runs(REFERENCE / name / "runs.csv")
    plan = plan_study(read_study(ROOT / "experiments" / f"{name}.toml")).plan
    assert set(table["status"]) == {"completed"}
    refuse_other_runs(plan, table)


# --- tune -------------------------------------------------------------------------------------


def test_the_tuned_rule_costs_next_to_nothing_at_sizes_and_budgets_it_was_not_fitted_to() -> None:
    found = regrets_of_rules(swept(REFERENCE / "tune", 0.9), 0.9)["learning_rate"]
    shares = [each.share for each in found if each.share is not None]
    assert len(shares) == 6
    smallest, *others = shares
    assert smallest == pytest.approx(0.0041, abs=2e-4) and max(others) < 6e-4
    spans = [each.interval for each in found if each.interval is not None]
    assert len(spans) == 6 and spans[0].low == 0
    assert spans[0].high == pytest.approx(0.052, abs=0.003)
    assert max(span.high for span in spans[2:]) < 0.01


# --- isoflop ----------------------------------------------------------------------------------


def test_equal_compute_is_equal_within_one_percent_and_has_its_minimum_inside() -> None:
    table = points("isoflop")
    assert (table["flops_6nd"] / table["budget_flops"] - 1).abs().max() < 0.01
    assert (table.groupby("budget_flops")["params"].nunique() == 7).all()
    for _, budget in table.groupby("budget_flops"):
        mean = budget.groupby("params")["loss"].mean()
        assert mean.index[0] < mean.idxmin() < mean.index[-1]


def test_the_parabola_agrees_with_the_law_and_akima_cannot_tell() -> None:
    saved = load_fit(REFERENCE / "isoflop" / "fits" / "chinchilla.json")
    found = approaches(saved)
    exponent = {each.method: each.exponent for each in found.rows}
    # As the study's header says; Akima follows single shapes and is the one that scatters.
    assert exponent["3 law"] == pytest.approx(0.51, abs=0.01)
    assert exponent["2 parabola"] == pytest.approx(0.54, abs=0.01)
    assert exponent["1 envelope"] == pytest.approx(0.53, abs=0.01)
    assert exponent["2 Akima"] == pytest.approx(0.74, abs=0.01)
    assert "2 parabola agrees with the law" in found.sentence
    assert "2 Akima cannot be separated from the law" in found.sentence


# --- repeat -----------------------------------------------------------------------------------


def test_four_epochs_are_as_good_as_fresh_tokens_and_sixteen_cost_large_models_more() -> None:
    table = points("repeat")
    capped = table["variant"].str.endswith("=262144")
    mean = {
        repeated: rows.groupby(["params", "tokens"])["loss"].mean()
        for repeated, rows in table.groupby(capped)
    }
    ratio = (mean[True] / mean[False] - 1).reset_index(name="price")
    price = ratio.pivot_table(index="params", columns="tokens", values="price")
    cells = table.groupby(["params", "tokens", "variant"])["loss"]
    squares = (cells.var() / cells.mean() ** 2).groupby("params").mean()
    seeds = np.sqrt(squares)  # relative, of a run; larger models scatter less
    assert seeds.to_numpy() == pytest.approx([0.014, 0.008, 0.005], abs=0.0005)
    # A ratio of two means of two runs has the scatter of one run.
    assert (price[[524288, 1048576]].abs().max(axis=1) < 2 * seeds).all()
    assert price[4194304].is_monotonic_increasing
    assert abs(price[4194304].iloc[0]) < seeds.iloc[0]
    assert price[4194304].iloc[-1] > 10 * seeds.iloc[-1]


def test_the_law_of_repeats_leaves_both_of_its_constants_open_about_the_published_ones() -> None:
    saved = load_fit(REFERENCE / "repeat" / "fits" / "data_constrained.json")
    theirs = published("muennighoff-2023").coefficients
    for name in ("R_D", "R_N"):
        assert saved.interval.coefficients[name].holds(theirs[name])
    assert saved.status is Status.WEAKLY_IDENTIFIED
    assert "leave A, R_N and R_D open" in saved.reason


def test_the_law_of_repeats_forecasts_the_largest_models_sixteen_epochs_too_low() -> None:
    said = load_fit(REFERENCE / "repeat" / "fits" / "data_constrained.json").cautions
    assert any("tokens 4.19M) misses it by -0.0346 (-2.68%), outside" in each for each in said)


# --- muon -------------------------------------------------------------------------------------


def test_adamw_takes_half_as_much_compute_again_as_muon_to_the_same_loss() -> None:
    found = equal_loss(read_runs(REFERENCE / "muon" / "runs.csv"), "optimizer", "adamw", "muon")
    assert found.ratio == pytest.approx(1.47, abs=0.005)
    assert found.interval == pytest.approx((1.42, 1.53), abs=0.005)
    assert [each.ratio for each in found.sizes] == pytest.approx([1.71, 1.43, 1.29], abs=0.005)
    assert found.warnings == ()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_best_rate_of_both_optimisers_lies_inside_its_sweep(optimizer: str) -> None:
    table = read_runs(
        REFERENCE / "muon" / "runs.csv", where=(f"optimizer=={optimizer}", "run_kind!=trunk")
    )
    found = sweep(table, "learning_rate")
    assert len(found.cells) == 9 and not found.bounds


# --- regularisation ---------------------------------------------------------------------------


def test_regularisation_lowers_the_price_of_repeating_and_pays_at_no_number_of_epochs() -> None:
    table = points("regularisation")
    table["fresh"] = table["unique_tokens"] >= 0.99 * table["tokens"]
    settings = ["fresh", "dropout", "weight_decay"]
    loss = table.pivot_table("loss", ["params_total", "tokens"], settings)
    usual = 0.0, 0.1
    price = loss[False] / loss[True] - 1
    most = price.xs(table["tokens"].max(), level="tokens")
    assert most[usual].tolist() == pytest.approx([0.026, 0.052], abs=0.001)
    assert most.drop(columns=[usual]).to_numpy().max() < 0.0135
    for kind in (False, True):
        others = loss[kind].drop(columns=[usual]).div(loss[kind][usual], axis=0)
        assert others.to_numpy().min() > 1.028
