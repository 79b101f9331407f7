"""What looks like another unit is warned of by column, likely unit and remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.allocation.approaches import approaches
from analysis.fitting.fit import fit
from analysis.forecast.compare import compare
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.runs.checks.before_fit import UNITS, suspicious
from analysis.runs.table import read_runs


def test_units_that_look_wrong_are_warned_of() -> None:
    odd = pd.DataFrame({"params": [70.0, 4e5, 4e5], "tokens": 1e9, "loss": 20.0})
    assert [w.split()[0] for w in suspicious(odd, ())] == ["params", "loss"]
    for params, tokens in [(1e8, 1e9), (3.4e3, 5e4), (5e4, 5e4)]:
        right = pd.DataFrame({"params": [params], "tokens": [tokens], "loss": [3.0]})
        assert suspicious(right, ()) == ()


@pytest.mark.parametrize(
    ("params", "tokens", "named"),
    [
        (
            [70.0, 10_000.0],
            [1.4e12, 2e11],
            "params from 70 to 10000: likely millions. Read them with --unit params=millions",
        ),
        (
            [7e7, 1e10],
            [1_400.0, 200_000.0],
            "tokens from 1400 to 200000: likely millions. Read them with --unit tokens=millions",
        ),
        ([0.07, 70.0], [1e9, 1e12], "params from 0.07 to 70: likely billions. Read them"),
        ([0.07, 70.0], [1.0, 1400.0], "tokens from 1 to 1400: likely billions. Read them"),
        ([70.0, 10_000.0], [1.4, 200.0], "params from 70 to 10000: likely millions"),
        ([70.0, 10_000.0], [1.4, 200.0], "tokens from 1.4 to 200: likely billions"),
        ([57.0, 1300.0], [1.0, 30.0], "params from 57 to 1300: likely millions"),
        ([57.0, 1300.0], [1.0, 30.0], "tokens from 1 to 30: likely billions"),
        ([1.4e12, 2e11], [7e7, 1e9], "swapped"),
    ],
)
def test_millions_and_swapped_columns_are_suspected(
    params: list[float], tokens: list[float], named: str
) -> None:
    table = pd.DataFrame({"params": params, "tokens": tokens, "loss": [2.0, 3.0]})
    assert any(named in warning for warning in suspicious(table, ()))


@pytest.mark.parametrize("column", ["params", "tokens"])
@pytest.mark.parametrize("unit", [1e6, 1e9])
@pytest.mark.parametrize("wrong", [[1], list(range(0, 30, 2))])
def test_two_units_in_a_column_are_no_unit_of_all_its_rows(
    column: str, unit: float, wrong: list[int]
) -> None:
    N, D = np.meshgrid([2e7, 6e7, 1.25e8, 3.5e8, 7.6e8, 1.3e9], [1e9, 3e9, 1e10, 3e10, 1e11])
    table = pd.DataFrame({"params": N.T.ravel(), "tokens": D.T.ravel(), "loss": 3.0})
    table.loc[wrong, column] /= unit
    (said,) = suspicious(table, ())
    assert said.startswith(f"{column} of row{'s' * (len(wrong) > 1)} {wrong[0] + 1}")
    assert "two units in one column" in said and "--unit" not in said


def test_cells_with_a_unit_and_without_are_in_two(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    rows = [f"{n}M,{d}{'B' * (d > 5)},3" for n in (70, 160, 400) for d in (3, 10, 30)]
    path.write_text("\n".join(["params,tokens,loss", *rows]))
    (said,) = suspicious(read_runs(path), ())
    assert said.startswith("tokens of lines 2, 5 and 8 are 3, the others from 1e+10 to 3e+10: two")


def test_a_sweep_over_a_feature_of_the_law_is_no_mixture() -> None:
    labels = ["data.unique_tokens=1000", "data.unique_tokens=4000"]
    both = [f"{label} training.batch_sequences=8" for label in labels]
    for names, features, warned in [
        (labels, ("params", "unique_tokens"), False),
        (labels, ("params", "tokens"), True),
        (both, ("params", "unique_tokens"), True),
    ]:
        table = pd.DataFrame({"params": [1e8, 1e8], "loss": [3.0, 3.1], "variant": names})
        assert any("variants" in w for w in suspicious(table, features)) == warned


@pytest.fixture
def in_billions(grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    runs = simulate(published("besiroglu-2024"), grid, noise=0.002)
    return runs.assign(params=runs["params"] / 1e9, tokens=runs["tokens"] / 1e9)


def test_fit_and_compare_say_which_column_is_in_billions(in_billions: pd.DataFrame) -> None:
    laws = [law("chinchilla"), law("kaplan_nd")]
    for warnings in (
        fit(laws[0], in_billions, bootstrap=0).warnings,
        compare(in_billions, laws, bootstrap=0).warnings,
    ):
        named = [each for each in warnings if each.endswith(UNITS)]
        assert [each.split()[0] for each in named] == ["params", "tokens"]
        for column, said in zip(("params", "tokens"), named, strict=True):
            assert f"likely billions. Read them with --unit {column}=billions" in said


def test_the_column_is_named_as_the_file_has_it(in_billions: pd.DataFrame) -> None:
    in_billions.attrs["params_column"] = "size"
    assert suspicious(in_billions, ())[0].startswith("size from 0.01 to 10: likely billions")


def test_an_optimum_below_one_parameter_is_called_so(in_billions: pd.DataFrame) -> None:
    small = in_billions.query("params < 0.2 and tokens < 100")
    told = approaches(fit(law("chinchilla"), small, bootstrap=0)).rows[-1]
    assert told.exponent is None
    assert "is one parameter or less (are params and tokens in units?)" in told.reason


def test_a_column_of_text_that_the_law_does_not_need_is_left_alone(grid: pd.DataFrame) -> None:
    runs = grid.assign(params="large", loss=2 + (1e9 / grid["tokens"]) ** 0.3)
    found = fit(law("kaplan_d"), runs, bootstrap=0)
    assert found.data.params is None and found.data.flops_max is None


def test_counts_that_are_unknown_or_nothing_do_not_end_in_a_traceback() -> None:
    for tokens in ([-1.0] * 3, [0.0, 1e9, 1e10], [float("nan")] * 3):
        table = pd.DataFrame({"params": [0.1, 1.0, 10.0], "tokens": tokens, "loss": 3.0})
        assert any("params from 0.1 to 10" in each for each in suspicious(table, ()))
