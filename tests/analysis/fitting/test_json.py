"""What the screen of a fit shows is in its JSON at full precision, and comes back from the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import load_fit, save_fit
from analysis.fitting.fit import Fit, Status, fit
from analysis.fitting.json import from_json, to_json
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.runs.table import read_runs
from scaling.store.records import Refusal

BENT = {"E": 0.0, "A": 40.0, "alpha": 0.2, "B": 40.0, "beta": 0.2}
Simulate = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def twice(grid: pd.DataFrame, simulate: Simulate) -> Fit:
    """Two seeds of every point, another count of N, and two rows that belong to no law."""
    runs = simulate(published("besiroglu-2024"), pd.concat([grid, grid]), noise=0.01)
    runs["params_matmul"] = 0.8 * runs["params"] ** 1.01
    runs["status"] = "completed"
    runs.loc[runs.index[[2, 5]], "status"] = "diverged"
    return fit(law("chinchilla"), runs.reset_index(drop=True), bootstrap=100)


@pytest.fixture(scope="module")
def saved(twice: Fit) -> dict[str, Any]:
    return json.loads(json.dumps(to_json(twice)))


def test_numbers_of_the_screen_are_in_the_json_in_full(twice: Fit, saved: dict[str, Any]) -> None:
    for name, value in twice.coefficients.items():
        assert saved["coefficients"][name] == value
        assert saved["se"][name] == twice.se[name]
        assert saved["interval"]["coefficients"][name] == list(twice.interval.coefficients[name])
    assert saved["objective"] == {
        "name": "huber_log", "delta": 1e-3, "value": twice.objective.value
    }  # fmt: skip
    assert (saved["status"], saved["reason"]) == (twice.status.value, twice.reason)
    assert saved["rmse_log"] == twice.rmse_log
    assert saved["condition_number"] == twice.condition_number
    assert saved["at_bound"] == list(twice.at_bound)
    assert saved["diagnostics"]["lack_of_fit"]["replicates"] == 46
    changes = {row["change"] for row in saved["diagnostics"]["sensitivity"]}
    assert {"delta 0.0001", "delta 0.01", "N = params_matmul"} <= changes
    assert {"without the 5 largest losses", "without params 1e+07"} <= changes
    held = [row["E"] for row in saved["diagnostics"]["profile"]]
    assert len(held) == 11 and held == sorted(held) and twice.coefficients["E"] in held


def test_words_of_the_screen_are_in_the_json(twice: Fit, saved: dict[str, Any]) -> None:
    screen = " ".join(twice.summary().split())
    for words in (*saved["doubts"], *saved["warnings"]):
        assert " ".join(words.split()) in screen
    assert len(saved["doubts"]) >= 3  # profile, sensitivity, lack of fit
    pairs = {frozenset(flat["coefficients"]) for flat in saved["flat_directions"]}
    assert {frozenset(("A", "alpha")), frozenset(("B", "beta"))} == pairs
    for flat in saved["flat_directions"]:
        assert 0.95 < flat["correlation"] <= 1 and "rise and fall together" in flat["words"]
        assert f"({flat['correlation']:.3f})".replace("0.", ".") in screen


def test_rows_left_out_are_numbered_and_come_back(
    twice: Fit, saved: dict[str, Any], tmp_path: Path
) -> None:
    assert saved["excluded"] == {"status diverged": 4}  # the grid's labels repeat
    assert saved["excluded_rows"] == {"status diverged": [3, 6, 51, 54]}
    save_fit(twice, tmp_path / "a.json")
    back = load_fit(tmp_path / "a.json")
    assert back.summary() == twice.summary()
    assert to_json(back) == to_json(twice)


def test_rows_left_out_have_the_numbers_that_warnings_call_them_by(
    grid: pd.DataFrame, simulate: Simulate, tmp_path: Path
) -> None:
    table = simulate(published("besiroglu-2024"), grid, noise=0.01)
    table = pd.concat([table, table.iloc[[2]]]).assign(state="finished", lr=1.0)
    table.iloc[5, table.columns.get_loc("state")] = "crashed"
    table.to_csv(tmp_path / "runs.csv", index=False)
    found = fit(law("chinchilla"), read_runs(tmp_path / "runs.csv"), bootstrap=0)
    assert "line 50 repeats line 4: each run counts once" in found.warnings
    rows = {"repeats of other rows": [50], "state crashed": [7]}
    assert to_json(found)["excluded_rows"] == rows
    save_fit(found, tmp_path / "a.json")
    assert to_json(load_fit(tmp_path / "a.json"))["excluded_rows"] == rows


def test_what_rows_leave_open_is_a_flat_direction(grid: pd.DataFrame, simulate: Simulate) -> None:
    two = grid[grid["params"].isin(sorted(grid["params"].unique())[:2])]
    runs = simulate(published("besiroglu-2024"), two, noise=0.001)
    found = fit(law("chinchilla"), runs, bootstrap=20)
    written = to_json(found)
    assert found.status is Status.WEAKLY_IDENTIFIED
    assert written["open"] == list(found.open) == ["E", "A", "alpha"]
    (flat,) = (f for f in written["flat_directions"] if f["correlation"] is None)
    assert flat["coefficients"] == written["open"]
    assert "can change together" in flat["words"]


def test_a_loss_below_zero_is_fitted_where_no_logarithm_is_taken() -> None:
    tokens, rng = np.geomspace(1e6, 1e10, 40), np.random.default_rng(0)
    loss = 200 / tokens**0.5 + rng.normal(0, 0.01, 40)
    assert (loss < 0).any()
    runs = pd.DataFrame({"tokens": tokens, "loss": loss})
    for name in ("m1", "m2"):
        found = fit(law(name), runs, objective="l2", bootstrap=50)
        assert found.coefficients["c"] == pytest.approx(0.5, abs=0.05)
        assert "rms log residual" not in found.summary()


def test_one_loss_below_zero_opens_no_floor() -> None:
    params, tokens = (
        x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6))
    )
    loss = 1.8 + 400 / params**0.34 + 400 / tokens**0.28
    loss *= np.exp(np.random.default_rng(0).normal(0, 1e-3, len(loss)))
    loss[0] = -1e-4
    runs = pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})
    found = fit(law("chinchilla"), runs, objective="huber", bootstrap=100)
    assert found.status.value == "converged", found.reason
    assert not any("may be 0" in warning for warning in found.warnings)


def test_a_fit_without_its_draws_or_with_others_is_refused(twice: Fit, tmp_path: Path) -> None:
    save_fit(twice, tmp_path / "fit.json")
    (draws,) = tmp_path.glob("fit.draws-*.parquet")
    twice.draws.iloc[::-1].to_parquet(draws)
    with pytest.raises(Refusal, match=r"fit.draws-.* has changed since .*fit.json was written"):
        load_fit(tmp_path / "fit.json")
    draws.unlink()
    with pytest.raises(Refusal, match=r"names 'fit.draws-.*', which is not in its folder"):
        load_fit(tmp_path / "fit.json")


def test_a_floor_at_its_bound_has_neither_dust_nor_an_interval(
    grid: pd.DataFrame, simulate: Simulate
) -> None:
    """Losses that bend down, as towards a floor below nothing: E ends at 1e-14 or so."""
    runs = simulate(replace(published("besiroglu-2024"), coefficients=BENT), grid, noise=0.01)
    runs["loss"] -= 0.2
    found = fit(law("chinchilla"), runs.assign(trunk_id=grid["params"].astype(str)), bootstrap=100)
    assert found.at_bound == ("E",) and found.coefficients["E"] == 0.0
    floors = found.diagnostics.profile["E"]
    assert floors.min() == 0.0 and floors[floors > 0].min() > 0.01 * runs["loss"].min()
    (line,) = (line for line in found.summary().splitlines() if line.startswith("E  "))
    assert "not known" in line and "at its bound" in line
    rows = fit(law("chinchilla"), runs, bootstrap=100)  # by bootstrap, whose draws are dust
    assert rows.at_bound == ("E",) and np.isnan(rows.interval.coefficients["E"].low)


def test_the_rows_saved_do_not_say_whose_folder_they_came_from(twice: Fit, tmp_path: Path) -> None:
    twice.table.attrs["file"] = "/home/someone/runs.csv"
    save_fit(twice, tmp_path / "a.json")
    assert not any(b"someone" in file.read_bytes() for file in tmp_path.iterdir())
    assert twice.table.attrs.pop("file") == "/home/someone/runs.csv"


@pytest.mark.parametrize(
    "place, value",
    [
        ("objective.delta", "small"), ("data.params_column", {}), ("data.params.0", [0, 0]),
        ("data.tokens.1", "1e999"), ("data.tokens.0", 10**400), ("data.n", None),
        ("warnings", "a text"), ("cautions", [1]), ("settings.level", "x"), ("settings.seed", 1.5),
        ("diagnostics.lack_of_fit.p_value", "0.1"), ("diagnostics.profile.3.E", "$x$"),
        ("diagnostics.sensitivity.2.change", [[]]), ("interval.coefficients.E.0", {}),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_than_its_field_is_no_fit(
    saved: dict[str, Any], twice: Fit, place: str, value: Any
) -> None:
    mutated = json.loads(json.dumps(saved))
    *parents, name = [int(part) if part.isdigit() else part for part in place.split(".")]
    inner = mutated
    for part in parents:
        inner = inner[part]
    inner[name] = value
    with pytest.raises((LookupError, TypeError, ValueError, ArithmeticError, Refusal)):
        from_json(mutated, twice.law, twice.draws, twice.table, "fit.json")
