from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import load_fit, save_fit
from analysis.fitting.fit import Fit, Prior, fit
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.runs.table import read_runs

TRUTH = published("besiroglu-2024")
Simulate = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def noisy(grid: pd.DataFrame, simulate: Simulate) -> Fit:
    return fit(law("chinchilla"), simulate(TRUTH, grid, noise=0.01), bootstrap=200)


def test_the_profile_is_lowest_at_the_fit_and_rises_both_ways(noisy: Fit) -> None:
    assert noisy.diagnostics is not None
    profile = noisy.diagnostics.profile
    cost, least = profile["objective"].to_numpy(), int(profile["objective"].argmin())
    assert profile["E"][least] == pytest.approx(noisy.coefficients["E"])
    assert (np.diff(cost[: least + 1]) < 0).all()
    assert (np.diff(cost[least:]) > 0).all()
    assert profile["E"].is_monotonic_increasing


def test_a_profiled_point_is_the_fit_with_the_floor_fixed(noisy: Fit) -> None:
    assert noisy.diagnostics is not None
    row = noisy.diagnostics.profile.iloc[2]
    held = fit(law("chinchilla"), noisy.table, fixed={"E": row["E"]}, bootstrap=0)
    assert row["objective"] == pytest.approx(held.objective.value, rel=1e-6)
    assert row["alpha"] == pytest.approx(held.coefficients["alpha"], rel=1e-3)


def test_a_dropped_size_is_the_fit_without_it(noisy: Fit) -> None:
    assert noisy.diagnostics is not None
    table = noisy.diagnostics.sensitivity.set_index("change")
    rest = noisy.table[noisy.table["params"] > 1.1e7]
    again = fit(law("chinchilla"), rest, bootstrap=0)
    assert table.loc["without params 1e+07", "alpha"] == pytest.approx(
        again.coefficients["alpha"], rel=1e-5
    )
    assert table.loc["without params 1e+07", "n"] == len(rest)
    assert {"delta 0.0001", "delta 0.01", "without the 5 largest losses"} <= set(table.index)


def test_five_points_that_decide_the_answer_are_named_in_the_summary(epoch: pd.DataFrame) -> None:
    text = fit(law("chinchilla"), epoch, bootstrap=400).summary()
    line = next(part for part in text.splitlines() if "without the 5 largest" in part)
    assert "beta moves from 0.453 to 0.367" in line
    assert len(text.splitlines()) <= 30


def test_another_count_of_parameters_is_fitted_beside(
    grid: pd.DataFrame, simulate: Simulate
) -> None:
    runs = simulate(TRUTH, grid, noise=0.005)
    runs["params_non_embedding"] = runs["params"] - 8e6
    found = fit(law("chinchilla"), runs, bootstrap=100)
    assert found.diagnostics is not None
    table = found.diagnostics.sensitivity.set_index("change")
    swapped = runs.assign(params=runs["params_non_embedding"])
    other = fit(law("chinchilla"), swapped, bootstrap=0)
    assert table.loc["N = params_non_embedding", "alpha"] == pytest.approx(
        other.coefficients["alpha"], rel=1e-6
    )
    assert other.coefficients["alpha"] < found.coefficients["alpha"] - 0.02


def test_a_refit_for_another_threshold_or_count_keeps_all_else_of_the_fit(
    grid: pd.DataFrame, simulate: Simulate
) -> None:
    """A prior that moves E from 1.87 to 1.41 was dropped, and the threshold blamed for it."""
    runs = simulate(TRUTH, grid, noise=0.01).assign(w=grid["tokens"] ** 0.3)
    runs["params_matmul"] = 0.9 * runs["params"] - 1e5
    prior = {"E": Prior(1.4, 0.005)}
    found = fit(
        law("chinchilla"), runs, prior=prior, weights="w", fixed={"beta": 0.35}, bootstrap=50
    )
    assert found.diagnostics is not None
    table = found.diagnostics.sensitivity.set_index("change")[list(found.coefficients)]
    swapped = runs.assign(params=runs["params_matmul"])
    for change, again in (
        ("delta 0.0001", found.again(runs, delta=1e-4, bootstrap=0)),
        ("delta 0.01", found.again(runs, delta=1e-2, bootstrap=0)),
        ("N = params_matmul", found.again(swapped, bootstrap=0)),
    ):
        assert table.loc[change].to_dict() == pytest.approx(again.coefficients, rel=1e-4)
        assert abs(table.loc[change, "E"] - 1.4) < 0.03


def test_diagnostics_are_saved_and_come_back(noisy: Fit, tmp_path: Path) -> None:
    save_fit(noisy, tmp_path / "a.json")
    back = load_fit(tmp_path / "a.json")
    assert back.diagnostics is not None and noisy.diagnostics is not None
    pd.testing.assert_frame_equal(back.diagnostics.profile, noisy.diagnostics.profile)
    pd.testing.assert_frame_equal(back.diagnostics.sensitivity, noisy.diagnostics.sensitivity)


def test_another_count_of_parameters_is_in_the_unit_of_the_table(
    noisy: Fit, tmp_path: Path
) -> None:
    table = noisy.table.assign(params_matmul=lambda t: t["params"] - 1e3 * t["params"] ** 0.5)
    found = []
    for unit in (1.0, 1e6):
        counts = table[["params", "params_matmul"]] / unit
        table.assign(**counts).to_csv(tmp_path / "runs.csv", index=False)
        runs = read_runs(tmp_path / "runs.csv", units={"params": unit})
        checked = fit(law("chinchilla"), runs, bootstrap=20).diagnostics
        assert checked is not None
        rows = checked.sensitivity.set_index("change")
        found.append(rows.loc["N = params_matmul"].to_dict())
    assert found[1] == pytest.approx(found[0], rel=1e-4)
