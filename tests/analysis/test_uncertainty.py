from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import uncertainty
from analysis.evaluator import model
from analysis.fit import fit
from analysis.laws import law
from analysis.model import Data, to_coefficients, to_theta
from analysis.objective import objective
from analysis.published import published
from analysis.runs.table import read_runs
from analysis.search import descend
from analysis.uncertainty import clusters_of, resamples

TRUTH = published("besiroglu-2024")


@pytest.fixture(scope="module")
def runs(grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    table = simulate(TRUTH, grid, noise=0.01)
    return table.assign(trunk_id=pd.factorize(table["params"])[0].astype(str))


def test_points_off_one_trunk_are_one_cluster() -> None:
    table = pd.DataFrame({"trunk_id": ["a", "a", None, "b", None]})
    assert clusters_of(table).tolist() == [0, 0, 2, 1, 3]
    assert clusters_of(table.drop(columns="trunk_id")).tolist() == [0, 1, 2, 3, 4]


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


@pytest.mark.parametrize("cluster", ["trunk_id", "none"])
def test_the_draws_have_the_spread_of_the_interval(runs: pd.DataFrame, cluster: str) -> None:
    found = fit(law("chinchilla"), runs, bootstrap=4000, cluster=cluster)
    for name, bounds in found.interval.coefficients.items():
        low, high = np.percentile(found.draws[name], [5, 95])
        assert low == pytest.approx(bounds.low, rel=0.2)
        assert high == pytest.approx(bounds.high, rel=0.2)
        assert bounds.low < found.coefficients[name] < bounds.high


@pytest.mark.parametrize("cluster", ["trunk_id", "none"])
def test_the_same_seed_gives_the_same_draws(runs: pd.DataFrame, cluster: str) -> None:
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
    rows = fit(law("chinchilla"), table, bootstrap=500, cluster="none")
    assert whole.interval.method == "bootstrap"
    assert whole.se["alpha"] > 1.3 * rows.se["alpha"]


def chinchilla_rows(count: int, trunks: int, seed: int = 0) -> pd.DataFrame:
    """Rows at sizes and budgets drawn at random, dealt to trunks in turn."""
    rng = np.random.default_rng([seed, count])
    params = rng.choice(np.geomspace(1e7, 1e10, 8), count)
    tokens = params * np.exp(rng.uniform(1, 6, count))
    loss = TRUTH.predict({"params": params, "tokens": tokens}) * np.exp(rng.normal(0, 0.01, count))
    trunk = (np.arange(count) % trunks).astype(str)
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss, "trunk_id": trunk})


@pytest.mark.slow
def test_intervals_of_ninety_percent_hold_the_truth_about_that_often() -> None:
    # Thirty tables tell .9 from .7; benchmarks/coverage.py counts finely and in many settings.
    held = []
    for seed in range(30):
        table = chinchilla_rows(100, 100, seed)
        found = fit(law("chinchilla"), table, bootstrap=200, checks=False).interval.coefficients
        held.append([found[k].low <= v <= found[k].high for k, v in TRUTH.coefficients.items()])
    coverage = np.mean(held, axis=0)
    assert ((coverage >= 0.75) & (coverage <= 1)).all() and 0.8 <= coverage.mean() <= 0.98


@pytest.mark.parametrize(
    ("rows", "trunks", "warned"),
    [(100, 29, "29 clusters: "), (100, 30, ""), (99, 99, "99 rows: "), (100, 100, "")],
)
def test_small_tables_are_warned_of_by_their_number(rows: int, trunks: int, warned: str) -> None:
    found = fit(law("chinchilla"), chinchilla_rows(rows, trunks), bootstrap=20, checks=False)
    said = [w for w in found.warnings if "percentile intervals" in w]
    assert len(said) == bool(warned)
    assert all(w.startswith(warned) for w in said)


@pytest.fixture(scope="module")
def flat() -> pd.DataFrame:
    """Seventeen runs of tiny models, of which half the refits end in a flat valley: two of twelve
    trunks alone go beyond the smallest number of tokens."""
    return read_runs(Path(__file__).with_name("two_long_trunks.csv"))


def test_refits_in_a_flat_valley_are_followed_to_its_end(flat: pd.DataFrame) -> None:
    found = fit(law("chinchilla"), flat, bootstrap=1000, checks=False)
    assert len(found.draws) == 1000
    assert not any("flat" in warning for warning in found.warnings)
    assert found.interval.coefficients["E"].low < 1e-3  # .37 after forty steps


def test_what_cannot_be_followed_leaves_fewer_draws_and_the_result_says_so(
    flat: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(law("chinchilla"), flat, bootstrap=150, checks=False)
    monkeypatch.setattr(uncertainty, "_FOLLOWED", 0)
    found = fit(law("chinchilla"), flat, bootstrap=150, checks=False)
    assert any("first 100 of 150 draws" in warning for warning in found.warnings)
    # Rounding grows along a valley: a few ends differ by which refits share a batch.
    same = np.isclose(found.draws, whole.draws[:100], rtol=1e-3)
    assert same.all(axis=1).mean() > 0.9


def test_refits_that_never_arrive_are_counted(
    flat: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncertainty, "_LONG", 1)
    found = fit(law("chinchilla"), flat, bootstrap=100, checks=False)
    assert any("of 100" in w and "too narrow" in w for w in found.warnings)


CURVED = {
    "m4": {"E": 1.5, "e_0": 8.0, "alpha": 1.0, "b": 1600.0, "c": 0.3},
    "bnsl_1": {"a": 1.5, "b": 60.0, "c0": 0.15, "c1": 0.4, "d1": 3e9, "f1": 0.3},
}


@pytest.mark.parametrize("name", CURVED)
def test_the_errors_of_a_curved_law_are_those_of_refits_at_their_optimum(name: str) -> None:
    tokens = np.geomspace(1e6, 1e13, 120)
    noise = np.random.default_rng(0).normal(0, 0.01, len(tokens))
    loss = law(name).predict(CURVED[name], {"tokens": tokens}) * np.exp(noise)
    table = pd.DataFrame({"tokens": tokens, "loss": loss})
    found = fit(law(name), table, bootstrap=60, checks=False)
    problem = model(law(name), Data({"x": tokens}, loss), objective("huber_log"))
    point = problem.enter(to_theta(law(name), found.coefficients)[None])
    (weights,) = resamples(np.random.default_rng(0), np.arange(len(tokens)), 60)
    none = np.zeros(point.shape[1], dtype=bool)
    exact = descend(problem, np.repeat(point, 60, 0), weights, none, max_iterations=300)
    assert exact.converged.mean() > 0.95
    refits = to_coefficients(law(name), problem.leave(exact.theta))
    for coefficient, se in found.se.items():
        assert se == pytest.approx(np.std(refits[coefficient], ddof=1), rel=0.05)
