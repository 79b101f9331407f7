from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import load_fit, save, save_fit
from analysis.fitting.fit import Settings, fit
from analysis.fitting.json import to_json
from analysis.forecast.leave_out import leave_out_largest
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.solver.priors import Prior
from scaling.store.records import Refusal

TRUTH = published("besiroglu-2024")


@pytest.fixture(scope="module")
def runs(grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    return simulate(TRUTH, grid, noise=0.01)


def test_a_fixed_coefficient_stays_and_the_others_are_best_given_it(runs: pd.DataFrame) -> None:
    for name in ("E", "A", "beta"):
        value = TRUTH.coefficients[name]
        held = fit(law("chinchilla"), runs, fixed={name: value}, bootstrap=0)
        free = fit(law("chinchilla"), runs, bootstrap=0)
        assert held.coefficients[name] == pytest.approx(value, rel=1e-12)
        assert held.objective.value > free.objective.value
        again = fit(law("chinchilla"), runs, fixed={name: free.coefficients[name]}, bootstrap=0)
        assert again.objective.value == pytest.approx(free.objective.value, rel=1e-9)


def test_a_fixed_coefficient_has_no_error(runs: pd.DataFrame) -> None:
    held = fit(law("chinchilla"), runs, fixed={"alpha": 0.35}, bootstrap=200)
    assert held.se["alpha"] == 0
    assert held.se["beta"] > 0
    assert held.fixed == ("alpha",)


def test_a_prior_pulls_from_the_data_towards_its_value_as_it_tightens(runs: pd.DataFrame) -> None:
    pulled = [
        fit(law("chinchilla"), runs, prior={"alpha": Prior(0.5, sd)}, bootstrap=0).coefficients
        for sd in (1e3, 0.05, 0.01, 1e-6)
    ]
    free = fit(law("chinchilla"), runs, bootstrap=0).coefficients["alpha"]
    values = [c["alpha"] for c in pulled]
    assert values[0] == pytest.approx(free, rel=1e-4)
    assert values == sorted(values)
    assert values[-1] == pytest.approx(0.5, abs=1e-4)


def test_a_prior_means_the_same_as_an_observation_under_least_squares() -> None:
    # One coefficient, Gaussian: the posterior mean is known.
    rng = np.random.default_rng(0)
    x = np.geomspace(1e6, 1e9, 20)
    table = pd.DataFrame({"tokens": x, "loss": 40 / x**0.1 * np.exp(rng.normal(0, 0.02, 20))})
    free = fit(law("m1"), table, objective="log_l2", fixed={"c": 0.1}, bootstrap=0)
    residual = np.log(table["loss"] / free.predict({"tokens": x}))
    variance = float(np.mean(residual**2))
    pulled = fit(
        law("m1"), table, objective="log_l2", fixed={"c": 0.1},
        prior={"b": Prior(50.0, 0.01)}, bootstrap=0,
    )  # fmt: skip
    data, prior = 20 / variance, 1 / 0.01**2
    expected = (data * np.log(free.coefficients["b"]) + prior * np.log(50)) / (data + prior)
    assert np.log(pulled.coefficients["b"]) == pytest.approx(expected, abs=1e-9)


def test_a_weight_of_two_is_a_row_twice(runs: pd.DataFrame) -> None:
    double = np.arange(len(runs)) % 3 == 0
    weighted = fit(
        law("chinchilla"), runs.assign(w=np.where(double, 2.0, 1.0)), weights="w", bootstrap=0
    )
    repeated = fit(
        law("chinchilla"),
        pd.concat([runs.assign(seed=0), runs[double].assign(seed=1)]),
        bootstrap=0,
    )
    assert weighted.coefficients == pytest.approx(repeated.coefficients, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"fixed": {"gamma": 1.0}}, "'gamma' is no coefficient"),
        ({"fixed": {"alpha": -1.0}}, "alpha = -1.0"),
        ({"fixed": {"A": 0.0}}, "A = 0.0"),
        ({"prior": {"beta": Prior(0.3, 0.0)}}, r"sd = 0\.0"),
        ({"prior": {"z": Prior(0.3, 0.1)}}, "'z' is no coefficient"),
        ({"weights": "nothing"}, "'nothing'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    runs: pd.DataFrame, settings: dict[str, object], named: str
) -> None:
    with pytest.raises(Refusal, match=named):
        fit(law("chinchilla"), runs, bootstrap=0, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["huber_log", "log_l2", "l2", "huber", "asymmetric"])
def test_every_objective_recovers_an_exact_law(
    objective: str, grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]
) -> None:
    found = fit(law("chinchilla"), simulate(TRUTH, grid), objective=objective, bootstrap=0)
    assert found.coefficients == pytest.approx(TRUTH.coefficients, rel=1e-6)


def test_the_asymmetric_objective_follows_the_lower_edge(
    grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]
) -> None:
    rng = np.random.default_rng(0)
    unlucky = simulate(TRUTH, grid).assign(
        loss=lambda t: t["loss"] * np.exp(rng.exponential(0.02, len(t)))
    )
    at = {name: grid[name].to_numpy() for name in grid}
    over = {
        name: float(np.mean(np.log(fit(law("chinchilla"), unlucky, objective=name, bootstrap=0)
                                   .predict(at) / TRUTH.predict(at))))
        for name in ("huber_log", "asymmetric")
    }  # fmt: skip
    assert 0 < over["asymmetric"] < 0.7 * over["huber_log"]


def test_the_largest_run_is_left_out_of_the_fit_that_was_made(runs: pd.DataFrame) -> None:
    """Prior and weights too."""
    prior = {"beta": Prior(0.5, 1e-4)}
    made = {"weights": "w", "prior": prior}
    table = runs.assign(w=np.where(runs["tokens"] > runs["tokens"].median(), 3.0, 1.0))
    fitted = fit(law("chinchilla"), table, bootstrap=0, **made)
    found = leave_out_largest(fitted)
    size = table["params"] * table["tokens"]
    again = fit(law("chinchilla"), table[size < size.max()], bootstrap=0, **made)
    assert found.forecast == pytest.approx(float(again.predict(found.features)), rel=1e-9)
    bare = leave_out_largest(fit(law("chinchilla"), table, bootstrap=0))
    assert found.forecast != pytest.approx(bare.forecast, rel=1e-5)


def test_a_fit_is_made_again_from_other_rows_as_it_was(runs: pd.DataFrame, tmp_path: Path) -> None:
    """By all of its settings, from memory and from its file alike."""
    table = runs.assign(
        w=np.where(runs["tokens"] > runs["tokens"].median(), 3.0, 1.0),
        batch=np.arange(len(runs)) % 14,
    )
    made: dict[str, Any] = {
        "objective": "log_l2", "level": 0.8, "seed": 3, "bootstrap": 100, "cluster": "batch",
        "weights": "w", "prior": {"beta": Prior(0.5, 1e-3)}, "fixed": {"E": 1.7}, "checks": False,
    }  # fmt: skip
    fitted = fit(law("chinchilla"), table, **made)
    save_fit(fitted, tmp_path / "fit.json")
    back = load_fit(tmp_path / "fit.json")
    assert back.settings == fitted.settings and back.fixed == ("E",)
    some = np.arange(len(runs)) % 5 > 0
    straight = fit(law("chinchilla"), table[some], **made)
    for one in (fitted, back):
        again = one.again(one.table[some])
        assert again.coefficients == pytest.approx(straight.coefficients, rel=1e-9)
        assert again.data.clusters == straight.data.clusters == 14
        assert (again.interval.level, again.interval.method) == (0.8, "bootstrap")
        pd.testing.assert_frame_equal(again.draws, straight.draws, rtol=1e-6)
    other = fitted.again(fitted.table, law=law("kaplan_nd"), bootstrap=0)
    assert other.settings.weights == "w" and not other.fixed and not other.settings.prior
    # Rows as they were read have a trunk_id of their own, which is not what was asked for.
    raw = table.assign(trunk_id=(np.arange(len(runs)) % 20).astype(str))
    assert fit(law("chinchilla"), raw, **made).again(raw).data.clusters == 14
    with pytest.raises(Refusal, match=r"'levle' is no setting of a fit.* Did you mean level"):
        fitted.again(fitted.table, levle=0.5)
    with pytest.raises(Refusal, match=r"rows is 'runs.csv', not a table of runs. Give a DataFrame"):
        fitted.again("runs.csv")  # type: ignore[arg-type]


def test_the_clusters_behind_each_coefficient_are_kept_with_the_fit(
    runs: pd.DataFrame, tmp_path: Path
) -> None:
    table = runs.assign(trunk_id=(np.arange(len(runs)) % 8).astype(str))
    fitted = fit(law("chinchilla"), table, bootstrap=50, checks=False, fixed={"E": 1.8})
    assert set(fitted.effective_clusters) == {
        "A",
        "alpha",
        "B",
        "beta",
    }  # what is held rests on none
    save_fit(fitted, tmp_path / "fit.json")
    assert load_fit(tmp_path / "fit.json").effective_clusters == fitted.effective_clusters


@pytest.mark.parametrize("method", ["bootstrap", "jackknife"])
def test_a_fit_of_before_with_intervals_and_no_clusters_behind_each_coefficient_is_refused(
    method: str, runs: pd.DataFrame, tmp_path: Path
) -> None:
    fitted = fit(law("chinchilla"), runs, bootstrap=50, checks=False)
    value = to_json(fitted)
    del value["effective_clusters"]
    value["interval"]["method"] = method
    path = tmp_path / "fit.json"
    save(value, {"draws": fitted.draws, "rows": runs}, path)
    with pytest.raises(Refusal, match=r"intervals of an earlier version, .* Fit again"):
        load_fit(path)


def test_a_fit_of_before_whose_weights_are_not_in_its_file_is_refused(
    runs: pd.DataFrame, tmp_path: Path
) -> None:
    fitted = fit(law("chinchilla"), runs, bootstrap=0, fixed={"E": 1.7}, level=0.5)
    value = to_json(fitted)
    del value["settings"], value["effective_clusters"]
    path = tmp_path / "fit.json"
    for words in ([], ["weights w"]):
        save({**value, "constrained": words}, {"draws": fitted.draws, "rows": runs}, path)
        if words:
            with pytest.raises(Refusal, match=r"fitted with weights w by an earlier version, .* F"):
                load_fit(path)
        else:
            assert load_fit(path).settings == replace(Settings(level=0.5), fixed={"E": 1.7})


def test_a_law_held_whole_is_set_against_the_rows(runs: pd.DataFrame) -> None:
    held = fit(law("chinchilla"), runs, fixed=TRUTH.coefficients, bootstrap=100)
    assert (held.status.value, held.coefficients) == ("converged", dict(TRUTH.coefficients))
    assert "every coefficient is held" in held.reason and held.rmse_log < 0.015
    assert set(held.se.values()) == {0.0} and len(held.draws) == 100
    assert not any("starts" in each or "percentile" in each for each in held.warnings)
    assert held.summary().count("held") == 5
    one = fit(law("chinchilla"), runs.head(3), fixed=TRUTH.coefficients, bootstrap=0)
    assert one.status.value == "converged" and one.data.n == 3


def test_all_but_one_may_be_held(runs: pd.DataFrame) -> None:
    for free in TRUTH.law.coefficients:
        rest = {name: value for name, value in TRUTH.coefficients.items() if name != free}
        found = fit(law("chinchilla"), runs, fixed=rest, bootstrap=0)
        assert found.coefficients[free] == pytest.approx(TRUTH.coefficients[free], rel=0.02)


def test_a_floor_may_be_held_at_nothing(runs: pd.DataFrame) -> None:
    found = fit(law("chinchilla"), runs, fixed={"E": 0.0}, bootstrap=100, checks=False)
    assert found.coefficients["E"] == 0.0 and set(found.draws["E"]) == {0.0}
    assert found.status.value == "converged" and found.at_bound == ()
    with pytest.raises(Refusal, match=r"fixed A = 0.0 is outside .* not 0\). Give a value within"):
        fit(law("chinchilla"), runs, fixed={"A": 0.0})
    with pytest.raises(Refusal, match=r"fixed E = -1.0 is outside .* \(0 to inf\)\. Give a value"):
        fit(law("chinchilla"), runs, fixed={"E": -1.0})


def test_what_is_held_has_no_prior_too(runs: pd.DataFrame) -> None:
    with pytest.raises(Refusal, match=r"E is held and has a prior\. Give one of the two"):
        fit(law("chinchilla"), runs, fixed={"E": 1.8}, prior={"E": Prior(1.8, 0.1)})


def test_a_fit_says_which_priors_it_used_and_warns_of_one_that_the_rows_contradict(
    runs: pd.DataFrame,
) -> None:
    """E is 1.82 in these runs."""
    agreed = fit(law("chinchilla"), runs, prior={"E": Prior(1.8, 0.1)}, bootstrap=0)
    assert "prior of E: 1.8, sd 0.1 relative; the estimate lies 0." in agreed.summary()
    assert not any("prior" in each for each in agreed.cautions)
    against = fit(law("chinchilla"), runs, prior={"E": Prior(1.0, 0.02)}, bootstrap=0)
    off = np.log(against.coefficients["E"]) / 0.02
    assert off > 3
    (said,) = against.cautions
    assert f"lies {off:.1f} sd from its prior (1, sd 0.02): the rows contradict" in said
    exponent = fit(law("kaplan_n"), runs, prior={"alpha_N": Prior(0.5, 1e-4)}, bootstrap=0)
    assert "prior of alpha_N: 0.5, sd 0.0001; the" in exponent.summary()


def test_a_floor_held_above_losses_is_said_to_be(runs: pd.DataFrame) -> None:
    above = float(runs["loss"].quantile(0.74))
    held = fit(law("chinchilla"), runs, fixed={"E": above}, bootstrap=0)
    under = int((runs["loss"] < above).sum())
    (said,) = (each for each in held.cautions if "held above" in each)
    assert said.startswith(
        f"E = {above:g} is held above the loss of {under} of 48 runs (the least "
    )
    below = fit(law("chinchilla"), runs, fixed={"E": 1.8}, bootstrap=0)
    assert not below.cautions


def test_a_fit_says_that_it_is_weighted(runs: pd.DataFrame) -> None:
    weighted = fit(law("chinchilla"), runs.assign(w=1.0), weights="w", bootstrap=0)
    assert "weights: each row's penalty times w" in weighted.summary()
