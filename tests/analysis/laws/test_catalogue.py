"""Every law of the registry is recovered from runs it made."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from analysis.fitting.fit import Status, fit
from analysis.laws.catalogue import LAWS, bnsl, law
from analysis.laws.law import Law
from analysis.laws.published import PUBLISHED
from scaling.store.records import Refusal

TRUTHS: dict[str, dict[str, float]] = {
    **{entry.law.name: dict(entry.coefficients) for entry in PUBLISHED.values()},
    **{f"kaplan_{x}_floor": {"E": 1.7, "A": 90.0, f"alpha_{x.upper()}": 0.22} for x in "ndc"},
    "chinchilla_tied": {"E": 1.7, "A": 400, "alpha": 0.33, "B": 800},
    "chinchilla_coupled": {"E": 1.7, "A": 400, "alpha": 0.33, "beta": 0.3, "B": 800},
    "chinchilla_power": {"E": 1.7, "A": 900, "alpha": 0.4, "B": 2e4, "beta": 0.5, "gamma": 0.7},
    "overtraining": {"E": 1.8, "a": 150, "eta": 0.15, "b": 190},
    "allocation_d": {"k": 5.0, "a": 0.5},
    "m1": {"b": 20, "c": 0.1},
    "m2": {"E": 1.5, "b": 200, "c": 0.25},
    "m3": {"b": 200, "c": 0.25, "gamma": 1e-11},
    "m4": {"E": 1.5, "e_0": 4.0, "alpha": 1.5, "b": 400, "c": 0.25},
    "bnsl_1": {"a": 1.5, "b": 60, "c0": 0.15, "c1": 0.4, "d1": 3e10, "f1": 0.3},
    "bnsl_2": {"a": 1.5, "b": 60, "c0": 0.15, "c1": 0.4, "d1": 3e10, "f1": 0.3,
               "c2": -0.2, "d2": 3e11, "f2": 0.2},
    "bnsl_3": {"a": 1.5, "b": 60, "c0": 0.15, "c1": 0.4, "d1": 8e9, "f1": 0.2,
               "c2": -0.3, "d2": 6e10, "f2": 0.2, "c3": 0.5, "d3": 4e11, "f3": 0.1},
}  # fmt: skip
LONG = {"bnsl_3"}  # twelve coefficients: seconds


def runs_of(chosen: Law, coefficients: dict[str, float], budgets: int = 6) -> pd.DataFrame:
    """Noise-free runs over a grid of 8 sizes, or along one axis for a law of one variable."""
    rng, count = np.random.default_rng(0), 8 * budgets
    params, tokens = (
        axis.ravel()
        for axis in np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, budgets))
    )
    if chosen.features == ("tokens",):
        tokens = np.geomspace(1e9, 1e12, count)
    columns = {
        "params": params,
        "tokens": tokens,
        "flops": 6 * params * tokens,
        "steps": tokens / 1e6 * rng.uniform(0.5, 2, count),
        "experts": np.resize([1.0, 2, 4, 8, 32, 128], count),
        "unique_tokens": tokens / np.resize([1.0, 2, 4, 8, 16, 1], count),
        "loss": 1.7 + 400 / params**0.34 + 400 / tokens**0.28,
    }
    runs = pd.DataFrame({name: columns[name] for name in chosen.features})
    return runs.assign(**{chosen.target: chosen.predict(coefficients, columns)})


def test_every_law_has_a_truth_to_recover() -> None:
    assert set(TRUTHS) == set(LAWS)


@pytest.mark.parametrize("name", [name for name in TRUTHS if name not in LONG])
def test_a_law_is_recovered_from_its_own_runs(name: str) -> None:
    runs = runs_of(law(name), TRUTHS[name])
    found = fit(law(name), runs, bootstrap=0)
    assert found.objective.value < 1e-25
    assert found.coefficients == pytest.approx(TRUTHS[name], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LONG))
def test_a_long_law_reproduces_its_own_runs(name: str) -> None:
    runs = runs_of(law(name), TRUTHS[name])
    assert fit(law(name), runs, bootstrap=0).rmse_log < 1e-3


@pytest.mark.parametrize(
    "name",
    ["kaplan_nd", "kaplan_ns", "chinchilla_coupled", "chinchilla_power", "overtraining", "m3", "m4",
     "bnsl_1", "routed", "data_constrained", pytest.param("bnsl_2", marks=pytest.mark.slow)],
)  # fmt: skip
def test_scipy_started_at_the_truth_finds_the_same_minimum(name: str) -> None:
    chosen, rng = law(name), np.random.default_rng(2)
    runs = runs_of(chosen, TRUTHS[name], budgets=15)
    runs["loss"] *= np.exp(rng.normal(0, 0.003, len(runs)))
    found = fit(chosen, runs, objective="log_l2", bootstrap=0)
    columns = {c: runs[c].to_numpy() for c in chosen.features}
    logs = np.array([chosen.symbols[c].positive for c in chosen.coefficients])

    def residual(theta: np.ndarray) -> np.ndarray:
        values = np.where(logs, np.exp(np.where(logs, theta, 0)), theta)
        with np.errstate(all="ignore"):
            predicted = chosen.predict(dict(zip(chosen.coefficients, values, strict=True)), columns)
            return np.nan_to_num(np.log(predicted / runs["loss"].to_numpy()), nan=9.0)

    truth = np.array([TRUTHS[name][c] for c in chosen.coefficients])
    start = np.where(logs, np.log(np.where(logs, truth, 1)), truth)
    start = start + rng.normal(0, 0.02, len(start))
    other = least_squares(residual, start, jac="3-point", x_scale="jac", xtol=1e-15, ftol=1e-15,
                          gtol=1e-15, max_nfev=2000)  # fmt: skip
    assert not found.at_bound  # scipy knows no bounds
    assert found.objective.value == pytest.approx(other.cost, rel=1e-9)


def test_a_separable_law_over_any_columns_is_fitted_and_named() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({c: 10 ** rng.uniform(1, 4, 60) for c in ("width", "depth", "data")})
    chosen = law("separable:width,depth,data")
    truth = {"E": 1.2, "A_width": 5.0, "alpha_width": 0.4, "A_depth": 2.0, "alpha_depth": 0.7,
             "A_data": 9.0, "alpha_data": 0.3}  # fmt: skip
    table["loss"] = chosen.predict(truth, {c: table[c].to_numpy() for c in chosen.features})
    found = fit(chosen, table, bootstrap=0)
    assert found.coefficients == pytest.approx(truth, rel=1e-6)
    assert "A_width/width^alpha_width" in chosen.formula


def test_a_broken_law_can_run_over_any_column() -> None:
    chosen = bnsl(1, column="rows")
    assert chosen.features == ("rows",)
    table = pd.DataFrame({"rows": np.geomspace(1e2, 1e6, 30)})
    truth = {"a": 0.3, "b": 4.0, "c0": 0.1, "c1": 0.8, "d1": 1e4, "f1": 0.2}
    table["loss"] = chosen.predict(truth, {"rows": table["rows"].to_numpy()})
    assert fit(chosen, table, bootstrap=0).coefficients == pytest.approx(truth, rel=1e-6)


def test_a_separable_law_without_columns_is_refused() -> None:
    for name in ("separable:", "separable:params,,tokens", "separable:params,params"):
        with pytest.raises(Refusal, match="distinct columns"):
            law(name)


def test_a_law_that_asks_too_much_of_the_rows_says_so() -> None:
    # A pure power law has no break to find.
    runs = runs_of(law("m1"), TRUTHS["m1"])
    runs["loss"] *= np.exp(np.random.default_rng(0).normal(0, 0.003, len(runs)))
    found = fit(law("bnsl_1"), runs, bootstrap=40, checks=False)
    assert found.status in (Status.WEAKLY_IDENTIFIED, Status.AT_BOUND)


def test_m4_on_runs_of_its_limit_names_the_limit() -> None:
    # Alabdulmohsin et al. 2022, section 3: at alpha = 0, M4 is M2.
    runs = runs_of(law("m2"), TRUTHS["m2"])
    runs["loss"] *= np.exp(np.random.default_rng(0).normal(0, 0.003, len(runs)))
    found = fit(law("m4"), runs, bootstrap=40, checks=False)
    assert found.status is Status.AT_BOUND
    assert "use m2" in found.reason
    assert found.coefficients["e_0"] <= 100
    assert found.objective.value <= 1.001 * fit(law("m2"), runs, bootstrap=0).objective.value
