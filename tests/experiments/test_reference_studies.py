"""What the committed studies show, from their run tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.approaches import approaches
from analysis.fit import load_fit
from analysis.quality import read_runs
from experiments.planning import plan_study
from scaling.study import read_study

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"


def points(name: str) -> pd.DataFrame:
    table = read_runs(REFERENCE / name / "runs.csv")
    return table[table["run_kind"] == "cooldown"]


@pytest.mark.parametrize("name", ["isoflop", "repeat"])
def test_the_reference_runs_are_the_runs_that_the_study_plans(name: str) -> None:
    table = read_runs(REFERENCE / name / "runs.csv")
    plan = plan_study(read_study(ROOT / "experiments" / f"{name}.toml")).plan
    assert set(table["status"]) == {"completed"}
    assert {run.run_id for run in plan.runs} == set(table["run_id"])


# --- isoflop ----------------------------------------------------------------------------------


def test_equal_compute_is_equal_within_one_percent_and_has_its_minimum_inside() -> None:
    table = points("isoflop")
    assert (table["flops_6nd"] / table["budget_flops"] - 1).abs().max() < 0.01
    assert (table.groupby("budget_flops")["params"].nunique() == 7).all()
    for _, budget in table.groupby("budget_flops"):
        mean = budget.groupby("params")["loss"].mean()
        assert mean.index[0] < mean.idxmin() < mean.index[-1]


def test_the_three_approaches_agree_on_the_exponent() -> None:
    saved = load_fit(REFERENCE / "isoflop" / "fits" / "chinchilla.json")
    found = approaches(saved)
    exponent = {each.method: each.exponent for each in found.rows}
    # As the study's header says; Akima follows single shapes and is the one that scatters.
    assert exponent["3 law"] == pytest.approx(0.55, abs=0.01)
    assert exponent["2 parabola"] == pytest.approx(0.55, abs=0.01)
    assert exponent["1 envelope"] == pytest.approx(0.51, abs=0.01)
    assert exponent["2 Akima"] == pytest.approx(0.73, abs=0.01)
    assert "agree with the law" in found.sentence
