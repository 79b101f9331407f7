"""Every law of the registry is recovered from runs it made."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.fit import Status, fit
from analysis.laws import LAWS, Law, bnsl, law, separable
from analysis.published import PUBLISHED
from scaling.records import Refusal

TRUTHS: dict[str, dict[str, float]] = {
    **{entry.law.name: dict(entry.coefficients) for entry in PUBLISHED.values()},
    **{f"kaplan_{x}_floor": {"E": 1.7, "A": 90.0, f"alpha_{x.upper()}": 0.22} for x in "ndc"},
    "chinchilla_tied": {"E": 1.7, "A": 400, "alpha": 0.33, "B": 800},
    "chinchilla_coupled": {"E": 1.7, "A": 400, "alpha": 0.33, "beta": 0.3, "B": 800},
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


def runs_of(chosen: Law, coefficients: dict[str, float]) -> pd.DataFrame:
    """Noise-free runs over a grid, or along one axis for a law of one variable."""
    rng = np.random.default_rng(0)
    params, tokens = (
        axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, 6))
    )
    if chosen.features == ("tokens",):
        tokens = np.geomspace(1e9, 1e12, 48)
    columns = {
        "params": params,
        "tokens": tokens,
        "flops": 6 * params * tokens,
        "steps": tokens / 1e6 * rng.uniform(0.5, 2, 48),
        "experts": np.tile([1.0, 2, 4, 8, 32, 128], 8),
        "unique_tokens": tokens / np.tile([1.0, 2, 4, 8, 16, 1], 8),
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
    assert "E" not in separable(["width"], floor=False).coefficients


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
