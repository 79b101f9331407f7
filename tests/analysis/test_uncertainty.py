from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fit import fit
from analysis.laws import law
from analysis.published import published
from analysis.quality import read_runs
from analysis.uncertainty import clusters_of, resamples

TRUTH = published("besiroglu-2024")
REFERENCE = Path(__file__).resolve().parents[2] / "results/reference"


@pytest.fixture(scope="module")
def runs(grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    table = simulate(TRUTH, grid, noise=0.01)
    return table.assign(trunk_id=pd.factorize(table["params"])[0].astype(str))


def test_points_off_one_trunk_are_one_cluster() -> None:
    table = pd.DataFrame({"trunk_id": ["a", "a", None, "b", None]})
    assert clusters_of(table).tolist() == [0, 0, 2, 1, 3]
    assert clusters_of(table, None).tolist() == [0, 1, 2, 3, 4]


def test_a_resample_draws_whole_clusters() -> None:
    clusters = np.array([0, 0, 1, 2, 2, 2])
    weights = np.concatenate(list(resamples(np.random.default_rng(0), clusters, 500)))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.15)


def test_few_clusters_are_jackknifed_and_the_result_says_so(runs: pd.DataFrame) -> None:
    found = fit(law("chinchilla"), runs, bootstrap=500)
    assert found.data.clusters == 8
    assert found.interval.method == "jackknife"
    assert any("8 clusters" in w and "t(5)" in w for w in found.warnings)


def test_rows_without_trunks_are_independent_and_the_result_says_so(runs: pd.DataFrame) -> None:
    found = fit(law("chinchilla"), runs.drop(columns="trunk_id"), bootstrap=500)
    assert found.interval.method == "bootstrap"
    assert any("independent" in w for w in found.warnings)


@pytest.mark.parametrize("cluster", ["trunk_id", None])
def test_the_draws_have_the_spread_of_the_interval(runs: pd.DataFrame, cluster: str | None) -> None:
    found = fit(law("chinchilla"), runs, bootstrap=4000, cluster=cluster)
    for name, bounds in found.interval.coefficients.items():
        low, high = np.percentile(found.draws[name], [5, 95])
        assert low == pytest.approx(bounds.low, rel=0.2)
        assert high == pytest.approx(bounds.high, rel=0.2)
        assert bounds.low < found.coefficients[name] < bounds.high


@pytest.mark.parametrize("cluster", ["trunk_id", None])
def test_the_same_seed_gives_the_same_draws(runs: pd.DataFrame, cluster: str | None) -> None:
    one, same, other = (
        fit(law("chinchilla"), runs, bootstrap=200, cluster=cluster, seed=s) for s in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(one.draws, same.draws)
    assert not one.draws.equals(other.draws)


def test_two_clusters_give_no_interval_rather_than_a_wrong_one(runs: pd.DataFrame) -> None:
    halves = runs.assign(trunk_id=np.where(runs["params"] < 1e9, "small", "large"))
    found = fit(law("chinchilla"), halves, bootstrap=500)
    assert found.interval.method == "none"
    assert all(np.isnan(b.low) for b in found.interval.coefficients.values())
    assert any("2 clusters" in w for w in found.warnings)


def test_shared_noise_widens_the_interval(
    grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]
) -> None:
    # 24 trunks with one error each: rows taken as independent look twice as sure as they are.
    design = pd.concat([grid.assign(copy=i) for i in range(3)], ignore_index=True)
    trunk = pd.factorize(design["params"].astype(str) + design["copy"].astype(str))[0]
    error = np.random.default_rng(3).normal(0, 0.02, trunk.max() + 1)[trunk]
    table = simulate(TRUTH, design).assign(trunk_id=trunk)
    table["loss"] *= np.exp(error)
    whole = fit(law("chinchilla"), table, bootstrap=500)
    rows = fit(law("chinchilla"), table, bootstrap=500, cluster=None)
    assert whole.interval.method == "bootstrap"
    assert whole.se["alpha"] > 1.3 * rows.se["alpha"]


def test_a_prediction_has_an_interval_that_holds_the_truth(runs: pd.DataFrame) -> None:
    found = fit(law("chinchilla"), runs, bootstrap=500)
    at = {"params": [1e9, 7e10], "tokens": [2e10, 1.4e12]}
    low, high = found.predict_interval(at)
    truth = TRUTH.predict({k: np.array(v) for k, v in at.items()})
    assert ((low < truth) & (truth < high)).all()
    assert high[1] - low[1] > 0


@pytest.mark.parametrize(("study", "late"), [("isoflop", False), ("quickstart", True)])
def test_late_refits_are_followed_where_they_are_few_and_warned_of_where_not(
    study: str, late: bool
) -> None:
    runs = read_runs(REFERENCE / study / "runs.csv")
    found = fit(law("chinchilla"), runs, bootstrap=1000, checks=False)
    assert any("too narrow" in warning for warning in found.warnings) == late
