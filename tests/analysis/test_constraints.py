from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.constraints import Prior
from analysis.fit import fit
from analysis.forecast import leave_out_largest
from analysis.laws import law
from analysis.published import published
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
    """Prior and weights too, which a fit does not hold."""
    prior = {"beta": Prior(0.5, 1e-4)}
    made = {"weights": "w", "prior": prior}
    table = runs.assign(w=np.where(runs["tokens"] > runs["tokens"].median(), 3.0, 1.0))
    fitted = fit(law("chinchilla"), table, bootstrap=0, **made)
    found = leave_out_largest(fitted, **made)
    size = table["params"] * table["tokens"]
    again = fit(law("chinchilla"), table[size < size.max()], bootstrap=0, **made)
    assert found.forecast == pytest.approx(float(again.predict(found.features)), rel=1e-9)
    assert found.forecast != pytest.approx(leave_out_largest(fitted).forecast, rel=1e-5)


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


def test_what_is_held_has_no_prior_too(runs: pd.DataFrame) -> None:
    with pytest.raises(Refusal, match=r"E is held and has a prior\. Give one of the two"):
        fit(law("chinchilla"), runs, fixed={"E": 1.8}, prior={"E": Prior(1.8, 0.1)})
