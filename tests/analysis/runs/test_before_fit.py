"""What a fit says of rows far off and of budgets that N and D contradict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import fit
from analysis.forecast.scatter import scatter_of
from analysis.forecast.warnings import source_warnings
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.runs.checks.before_fit import suspicious
from analysis.runs.checks.compute import contradictions, declared_flops

LAW = law("chinchilla")
TRUTH = published("besiroglu-2024")


def test_one_absurd_loss_is_named_and_does_not_widen_forecasts(runs: pd.DataFrame) -> None:
    typo = runs.copy()
    typo.loc[20, "loss"] = typo.loc[20, "loss"] * 10
    right, wrong = (fit(LAW, t, bootstrap=0) for t in (runs, typo))
    (caution,) = wrong.cautions
    assert caution.startswith("row 21 (loss ") and "Perplexity" not in caution
    assert f"--where 'loss!={float(typo.loc[20, 'loss'])!r}'" in caution
    assert scatter_of(wrong).sd < 3 * scatter_of(right).sd
    assert f"instead of {wrong.rmse_log:.2g}, " in caution
    assert f"rms log residual {wrong.rmse_log:.2g}" in wrong.summary()
    assert fit(LAW, runs, bootstrap=0).cautions == ()


def test_all_outliers_are_left_out_where_only_some_are_named(runs: pd.DataFrame) -> None:
    table = pd.concat([runs] * 8, ignore_index=True)
    table["loss"] *= 1 + 1e-6 * np.arange(len(table))  # rows that are equal are left out
    wrong = table.index[:4]
    table.loc[wrong, "loss"] *= [10.0, 11.0, 12.0, 13.0]
    (caution,) = fit(LAW, table, bootstrap=0).cautions
    assert "and 1 more are off by" in caution
    for at in wrong:
        assert f"'loss!={float(table.loc[at, 'loss'])!r}'" in caution


@pytest.mark.parametrize("wrong", [[3, 9], [3, 9, 14, 20, 27]])
def test_mistakes_do_not_hide_each_other(wrong: list[int], runs: pd.DataFrame) -> None:
    table = runs.copy()
    table.loc[wrong, "loss"] = np.exp(table.loc[wrong, "loss"])  # perplexities
    right, found = (fit(LAW, each, bootstrap=0) for each in (runs, table))
    (caution,) = found.cautions
    assert "% of the rows, too many for slips: did they diverge" in caution
    assert all(f"'loss!={float(loss)!r}'" in caution for loss in table.loc[wrong, "loss"])
    assert scatter_of(found).sd < 6 * scatter_of(right).sd


def test_so_many_mistakes_that_no_option_lists_them_are_counted(runs: pd.DataFrame) -> None:
    table = pd.concat([runs] * 2, ignore_index=True)
    table["loss"] *= 1 + 1e-6 * np.arange(len(table))  # rows that are equal are left out
    table.loc[::5, "loss"] *= 3
    (caution,) = fit(LAW, table, bootstrap=0).cautions
    assert f"and {len(table[::5]) - 3} more are off by" in caution
    assert caution.endswith("or leave them out with --where.")


def test_budgets_that_6nd_contradicts_lead_to_the_tokens_that_do_not(grid: pd.DataFrame) -> None:
    budget = 6 * grid["params"] * grid["tokens"]
    wrong = grid.assign(flops_budget=budget, tokens_true=grid["tokens"])
    wrong["tokens"] *= np.where(grid["params"] < 1e9, 4, 1)
    (said,) = contradictions(wrong, declared_flops(wrong))
    assert said.startswith("6 N D is not flops_budget in ") and "by a factor of up to 4 " in said
    assert said.endswith("--tokens-column tokens_true")
    near = grid.assign(budget_flops=budget * 1.3)
    assert contradictions(near, declared_flops(near)) == []


def test_recommend_says_first_that_budgets_are_contradictions(runs: pd.DataFrame) -> None:
    budget = 6 * runs["params"] * runs["tokens"] / np.where(runs["params"] < 1e9, 4, 1)
    typo = runs.assign(budget_flops=budget).copy()
    typo.loc[20, "loss"] *= 10
    said = source_warnings(fit(LAW, typo, bootstrap=0))
    assert said[0].startswith("Of the runs: 6 N D is not budget_flops")
    assert said[1].startswith("Of the runs: row 21 (loss ")


def test_sizes_whose_rate_no_sweep_brackets_are_named() -> None:
    rows = pd.DataFrame(
        {"params": [2e6, 2e6, 3e7], "tokens": 1e9, "loss": [3.0, 2.9, 2.8],
         "rate_bracketed": [False, True, None]}
    )  # fmt: skip
    (said,) = [each for each in suspicious(rows, ["params", "tokens"]) if "bracketed" in each]
    assert said.startswith("rate_bracketed is false in 1 run, of 2M parameters")
    rows["rate_bracketed"] = ["True", "", None]
    assert not [each for each in suspicious(rows, ["params", "tokens"]) if "bracketed" in each]
