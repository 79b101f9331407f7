from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares, minimize

from analysis.fitting.files import load_fit, save_fit
from analysis.fitting.fit import Fit, Prior, Status, fit
from analysis.fitting.json import to_json
from analysis.laws.catalogue import law
from analysis.laws.formula import amplitude, exponent, feature
from analysis.laws.law import Law
from analysis.laws.published import Published, published
from analysis.solver.search import BestDescent
from scaling.store.records import Refusal

Simulate = Callable[..., pd.DataFrame]


@pytest.mark.parametrize("name", ["chinchilla-2022", "besiroglu-2024"])
def test_a_fit_recovers_the_law_that_made_the_data(
    name: str, grid: pd.DataFrame, simulate: Simulate
) -> None:
    truth = published(name)
    found = fit(truth.law, simulate(truth, grid), bootstrap=0)
    assert found.status is Status.CONVERGED
    assert found.coefficients == pytest.approx(truth.coefficients, rel=1e-6)


@pytest.mark.parametrize("name", ["kaplan-2020-n", "kaplan-2020-d", "kaplan-2020-c"])
def test_a_pure_power_law_is_recovered(name: str, grid: pd.DataFrame, simulate: Simulate) -> None:
    truth = published(name)
    design = grid.assign(flops=6 * grid["params"] * grid["tokens"])
    found = fit(truth.law, simulate(truth, design), bootstrap=0)
    assert found.coefficients == pytest.approx(truth.coefficients, rel=1e-6)


@pytest.mark.parametrize("name", ["kaplan_n_floor", "kaplan_d_floor", "kaplan_c_floor"])
def test_a_power_law_with_a_floor_is_recovered(
    name: str, grid: pd.DataFrame, simulate: Simulate
) -> None:
    chosen = law(name)
    values = dict(zip(chosen.coefficients, [1.7, 90.0, 0.22], strict=True))
    truth = Published("made up", chosen, values, "all", "this test")
    design = grid.assign(flops=6 * grid["params"] * grid["tokens"])
    assert fit(chosen, simulate(truth, design), bootstrap=0).coefficients == pytest.approx(
        values, rel=1e-6
    )


class Huber(NamedTuple):
    """Hoffmann's objective with its gradient, written independently of the engine."""

    value: float
    gradient: np.ndarray


def huber(theta: np.ndarray, runs: np.ndarray, delta: float = 1e-3) -> Huber:
    """theta: log E, log A and log B at the geometric centre of N and D, alpha, beta."""
    log_n, log_d, log_loss = np.log(runs)
    x, y = log_n - log_n.mean(), log_d - log_d.mean()
    terms = np.exp([theta[0] + 0 * x, theta[1] - theta[3] * x, theta[2] - theta[4] * y])
    share = terms / terms.sum(axis=0)
    residual = np.log(terms.sum(axis=0)) - log_loss
    pull = np.clip(residual, -delta, delta)
    value = np.where(
        np.abs(residual) <= delta, residual**2 / 2, delta * (np.abs(residual) - delta / 2)
    )
    slopes = [share[0], share[1], share[2], -share[1] * x, -share[2] * y]
    return Huber(float(value.sum()), np.array([float(pull @ slope) for slope in slopes]))


def test_an_independent_optimiser_agrees_to_a_part_in_a_billion(
    grid: pd.DataFrame, simulate: Simulate
) -> None:
    runs = simulate(published("besiroglu-2024"), grid, noise=0.01)
    found = fit(law("chinchilla"), runs, bootstrap=0)
    c, rows = found.coefficients, runs[["params", "tokens", "loss"]].to_numpy().T
    middle_n, middle_d = np.log(rows[:2]).mean(axis=1)
    start = np.array([
        np.log(c["E"]), np.log(c["A"]) - c["alpha"] * middle_n,
        np.log(c["B"]) - c["beta"] * middle_d, c["alpha"], c["beta"],
    ])  # fmt: skip
    assert found.objective.value == pytest.approx(huber(start, rows).value, rel=1e-12)
    best = np.inf
    for seed in range(3):
        point = start + np.random.default_rng(seed).normal(0, 0.05, 5)
        for _ in range(6):  # restarts: BFGS forgets its curvature at the kinks
            end = minimize(huber, point, args=(rows,), jac=True, method="BFGS",
                           options={"gtol": 1e-15, "maxiter": 2000})  # fmt: skip
            point = end.x
        best = min(best, end.fun)
    assert best == pytest.approx(found.objective.value, rel=1e-9)


def test_scipy_least_squares_agrees_on_the_sum_of_squares(
    grid: pd.DataFrame, simulate: Simulate
) -> None:
    runs = simulate(published("besiroglu-2024"), grid, noise=0.02)
    n, d, loss = runs[["params", "tokens", "loss"]].to_numpy().T
    found = fit(law("chinchilla"), runs, objective="log_l2", bootstrap=0)

    def residual(theta: np.ndarray) -> np.ndarray:
        log_e, log_a, log_b, alpha, beta = theta
        return np.log(
            np.exp(log_e) + np.exp(log_a) / (n / 1e8) ** alpha + np.exp(log_b) / (d / 1e10) ** beta
        ) - np.log(loss)

    other = least_squares(residual, [0.5, 0, 0, 0.3, 0.3], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert other.cost == pytest.approx(found.objective.value, rel=1e-9)
    assert other.x[3:] == pytest.approx([found.coefficients[k] for k in ("alpha", "beta")], 1e-6)


def test_a_shipped_law_may_be_given_by_its_name(grid: pd.DataFrame, simulate: Simulate) -> None:
    runs = simulate(published("besiroglu-2024"), grid, noise=0.01)
    named = fit("chinchilla", runs, bootstrap=0)
    assert named.coefficients == fit(law("chinchilla"), runs, bootstrap=0).coefficients
    assert named.again(runs, law="kaplan_nd").law == law("kaplan_nd")
    with pytest.raises(Refusal, match="Did you mean chinchilla"):
        fit("chinchila", runs)


def test_the_order_of_the_rows_does_not_matter(grid: pd.DataFrame, simulate: Simulate) -> None:
    runs = simulate(published("besiroglu-2024"), grid, noise=0.01)
    one = fit(law("chinchilla"), runs, bootstrap=0)
    other = fit(law("chinchilla"), runs.iloc[::-1], bootstrap=0)
    # The objective is known to rounding, so its minimiser to the square root of that.
    assert other.coefficients == pytest.approx(one.coefficients, rel=1e-6)
    assert other.objective.value == pytest.approx(one.objective.value, rel=1e-12)


def test_a_law_of_ones_own_is_fitted_without_registration(grid: pd.DataFrame) -> None:
    N, D = feature("N", "params"), feature("D", "tokens")
    mine = Law(
        "mine", amplitude("K") / (N ** exponent("p") * D ** exponent("q")), source="this test"
    )
    truth = {"K": 40.0, "p": 0.05, "q": 0.08}
    runs = grid.assign(loss=mine.predict(truth, {c: grid[c].to_numpy() for c in grid}))
    assert fit(mine, runs, bootstrap=0).coefficients == pytest.approx(truth, rel=1e-6)


def test_a_floor_the_data_do_not_have_is_reported_at_its_bound(
    grid: pd.DataFrame, simulate: Simulate
) -> None:
    pure = published("kaplan-2020-n")
    # Losses that fall ever faster leave no room for a floor.
    runs = simulate(pure, grid).assign(loss=lambda t: t["loss"] - 0.9 * t["loss"].min())
    found = fit(law("kaplan_n_floor"), runs, bootstrap=0)
    assert found.status is Status.AT_BOUND
    assert found.at_bound == ("E",)
    assert found.coefficients["E"] == 0.0
    assert "E" in found.reason


def test_rows_that_carry_no_law_are_not_called_converged(grid: pd.DataFrame) -> None:
    loss = np.random.default_rng(0).uniform(1, 9, len(grid))
    found = fit(law("chinchilla"), grid.assign(loss=loss), bootstrap=50, checks=False)
    assert found.status in (Status.FAILED, Status.AT_BOUND, Status.WEAKLY_IDENTIFIED)


def test_trunk_rows_do_not_enter_and_are_listed(grid: pd.DataFrame, simulate: Simulate) -> None:
    truth = published("chinchilla-2022")
    runs = simulate(truth, grid).assign(run_kind="cooldown", status="completed")
    trunks = runs.head(8).assign(run_kind="trunk", loss=9.0)
    found = fit(truth.law, pd.concat([runs, trunks], ignore_index=True), bootstrap=0)
    assert found.coefficients == pytest.approx(truth.coefficients, rel=1e-6)
    assert found.data.n == len(runs)
    assert len(found.excluded) == 8


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.sample(6, random_state=1), "needs at least 7 usable runs; there are 6"),
        (lambda t: t.assign(tokens=20 * t["params"]), "one ray"),
        (lambda t: t.assign(tokens=1e9), "tokens has one distinct value"),
        (lambda t: t.assign(params=1e8), "params has one distinct value"),
        (
            lambda t: t.assign(loss=-t["loss"]),
            r"loss is not a positive finite number in 48 of 48 rows: row 1 \(-4",
        ),
        (lambda t: t.assign(tokens=np.inf), r"tokens is not .* row 1 \(inf\)"),
        (lambda t: t.drop(columns="tokens"), "no column 'tokens'"),
        (lambda t: t.assign(run_kind="trunk"), "all 48 rows are left out: 48 with a trunk"),
    ],
)  # type: ignore[misc]
def test_what_cannot_be_fitted_is_refused(change, named: str, grid, simulate) -> None:  # type: ignore[no-untyped-def]
    runs = simulate(published("chinchilla-2022"), grid)
    with pytest.raises(Refusal, match=named):
        fit(law("chinchilla"), change(runs), bootstrap=0)


def test_repeats_at_too_few_points_are_refused(simulate: Simulate) -> None:
    cells = pd.DataFrame({"params": [1e8, 1e8, 1e9, 1e9], "tokens": [1e9, 1e10, 1e9, 1e10]})
    runs = simulate(published("besiroglu-2024"), pd.concat([cells] * 5), noise=0.01)
    with pytest.raises(Refusal, match=r"distinct \(params, tokens\); the 20 runs lie at 4"):
        fit(law("chinchilla"), runs)
    line = pd.DataFrame({"tokens": [1e9, 1e10] * 10, "loss": np.linspace(3, 4, 20)})
    with pytest.raises(Refusal, match=r"distinct \(tokens\); the 20 runs lie at 2"):
        fit(law("m2"), line)
    found = fit(
        law("m1"), line.assign(loss=np.tile([4.0, 3.0], 10) + line["loss"] / 100), bootstrap=0
    )
    assert found.status is Status.WEAKLY_IDENTIFIED
    assert "coefficients: m1 fits any such points exactly" in found.reason


@pytest.mark.parametrize(
    ("sizes", "budgets", "open_"),
    [(2, 15, {"E", "A", "alpha"}), (15, 2, {"E", "B", "beta"})],
)
def test_what_no_run_could_tell_is_named_and_given_no_interval(
    sizes: int, budgets: int, open_: set[str], simulate: Simulate
) -> None:
    params, tokens = np.meshgrid(np.geomspace(1e8, 1e9, sizes), np.geomspace(1e9, 1e11, budgets))
    design = pd.DataFrame({"params": params.ravel(), "tokens": tokens.ravel()})
    runs = simulate(published("besiroglu-2024"), design, noise=0.001)
    found = fit(law("chinchilla"), runs, bootstrap=200)
    assert found.status is Status.WEAKLY_IDENTIFIED
    names = set(found.reason.split(" can change")[0].replace(",", "").replace(" and", "").split())
    assert names == open_
    assert "add runs at other " + ("params" if sizes == 2 else "tokens") in found.reason
    assert found.interval.method == "none"
    assert found.reason.split(":")[0][:40] in " ".join(found.summary().split())
    # What is known of them closes the direction.
    closed = fit(law("chinchilla"), runs, fixed={"E": 1.8172}, bootstrap=200, checks=False)
    assert "can change" not in closed.reason and closed.interval.method == "bootstrap"
    prior = {"E": Prior(1.8172, 0.01)}
    assert "can change" not in fit(law("chinchilla"), runs, prior=prior, bootstrap=0).reason


def test_a_coefficient_that_moves_nothing_is_named_alone(simulate: Simulate) -> None:
    # Sizes far below what their unique tokens would train: none has parameters to spare.
    truth = published("muennighoff-2023")
    params, tokens, repeats = (
        a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e8, 6), np.geomspace(2e10, 2e11, 4),
                                       [1.0, 3.0, 10.0, 30.0])
    )  # fmt: skip
    design = pd.DataFrame({"params": params, "tokens": tokens * repeats, "unique_tokens": tokens})
    found = fit(truth.law, simulate(truth, design, noise=0.001), bootstrap=0, checks=False)
    assert found.status is Status.WEAKLY_IDENTIFIED
    assert "R_N can take any value" in found.reason


def test_units_that_look_wrong_are_warned_of_by_the_fit(
    grid: pd.DataFrame, simulate: Simulate
) -> None:
    runs = simulate(published("besiroglu-2024"), grid, noise=0.01)
    assert not any("likely" in w for w in fit(law("chinchilla"), runs, bootstrap=0).warnings)
    millions = runs.assign(params=runs["params"] / 1e6)
    assert any(
        "likely millions" in w for w in fit(law("chinchilla"), millions, bootstrap=0).warnings
    )
    swapped = runs.rename(columns={"params": "tokens", "tokens": "params"})
    swapped["params"] *= 1e3
    assert any("swapped" in w for w in fit(law("chinchilla"), swapped, bootstrap=0).warnings)


def test_a_fit_that_failed_says_why(grid: pd.DataFrame, simulate: Simulate) -> None:
    runs = simulate(published("besiroglu-2024"), grid, noise=0.01)
    nowhere = BestDescent(np.zeros(5), np.zeros(5), np.inf, starts=8, reached=0, converged=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.fitting.inputs.optimise", lambda *_: nowhere)
        found = fit(law("chinchilla"), runs)
    assert found.status is Status.FAILED
    assert "none of 8 starts came to rest" in found.reason
    assert "failed: none of 8 starts" in found.summary()
    assert found.draws.empty and found.interval.method == "none" and found.diagnostics is None


@pytest.mark.parametrize(
    "settings", [{"delta": 0.0}, {"objective": "mse"}, {"level": 1.5}, {"bootstrap": -1}]
)
def test_settings_out_of_range_are_refused(
    settings: dict[str, object], grid: pd.DataFrame, simulate: Simulate
) -> None:
    runs = simulate(published("chinchilla-2022"), grid)
    with pytest.raises(Refusal, match=str(next(iter(settings.values())))):
        fit(law("chinchilla"), runs, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def noisy(grid: pd.DataFrame, simulate: Simulate) -> Fit:
    runs = simulate(published("besiroglu-2024"), grid, noise=0.01)
    return fit(law("chinchilla"), runs, bootstrap=300)


def test_a_saved_fit_comes_back_whole(noisy: Fit, tmp_path: Path) -> None:
    save_fit(noisy, tmp_path / "chinchilla.json")
    back = load_fit(tmp_path / "chinchilla.json")
    assert back.coefficients == noisy.coefficients
    assert back.interval == noisy.interval
    assert back.data == noisy.data
    assert back.status is noisy.status
    pd.testing.assert_frame_equal(back.draws, noisy.draws)
    pd.testing.assert_frame_equal(back.frame(level=0.5), noisy.frame(level=0.5))


def test_the_json_has_the_agreed_keys(noisy: Fit, tmp_path: Path) -> None:
    save_fit(noisy, tmp_path / "chinchilla.json")
    saved = json.loads((tmp_path / "chinchilla.json").read_text())
    assert {"law", "coefficients", "se", "interval", "objective", "n", "status", "reason",
            "warnings", "data", "draws"} <= set(saved)  # fmt: skip
    assert set(saved["interval"]) == {
        "level", "method", "basis", "coefficients", "warnings"
    }  # fmt: skip
    assert (tmp_path / saved["draws"]).is_file()


def test_the_json_carries_what_the_fit_is_judged_by(
    grid: pd.DataFrame, simulate: Simulate, tmp_path: Path
) -> None:
    runs = simulate(published("besiroglu-2024"), grid, noise=0.01).assign(status="completed")
    lost = runs.head(3).assign(status="diverged")
    found = fit(law("chinchilla"), pd.concat([runs, lost], ignore_index=True), bootstrap=50)
    save_fit(found, tmp_path / "chinchilla.json")
    saved = json.loads((tmp_path / "chinchilla.json").read_text())
    assert saved["excluded"] == to_json(found)["excluded"] == {"status diverged": 3}
    assert saved["condition_number"] == found.condition_number > 1
    assert 1 <= saved["starts_at_optimum"] == found.starts_at_optimum <= saved["starts"]
    assert {"profile", "sensitivity", "lack_of_fit"} == set(saved["diagnostics"])
    assert saved["diagnostics"]["profile"][0].keys() > {"objective", "E"}
    assert saved["diagnostics"]["sensitivity"][0]["change"] == "as fitted"


def test_a_file_that_is_no_fit_is_refused(noisy: Fit, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(Refusal, match="not a fit"):
        load_fit(tmp_path / "other.json")
    save_fit(noisy, tmp_path / "chinchilla.json")
    next(tmp_path.glob("chinchilla.draws-*.parquet")).unlink()
    with pytest.raises(Refusal, match="draws"):
        load_fit(tmp_path / "chinchilla.json")


def test_the_summary_shows_no_digit_the_interval_does_not_support(noisy: Fit) -> None:
    text = noisy.summary()
    assert "chinchilla on 48 runs" in text
    assert "converged" in text
    assert len(text.splitlines()) < 24
    row = next(line for line in text.splitlines() if line.startswith("alpha"))
    low, high = noisy.interval.coefficients["alpha"]
    assert abs(float(row.split()[1]) - noisy.coefficients["alpha"]) <= (high - low) / 4
    assert len(row.split()[1]) <= 5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("m1", "m1 is a law of tokens alone: .* Fit the runs of the largest models alone"),
        ("bnsl_1", "bnsl_1 is a law of tokens alone: .* Fit the runs of the largest models alone"),
        ("kaplan_n_floor", "law of params alone: .* Fit the runs of most tokens alone"),
        ("kaplan_c", "law of flops alone: .* Fit the run of least loss at each flops alone"),
    ],
)
def test_a_law_of_one_variable_says_what_it_passes_over_and_which_runs_it_is_for(
    name: str, said: str, grid: pd.DataFrame, simulate: Simulate
) -> None:
    runs = simulate(published("besiroglu-2024"), grid, noise=0.01)
    (warning,) = (w for w in fit(law(name), runs, bootstrap=0).warnings if "differ by" in w)
    assert re.search(said, warning) and "chinchilla" in warning
    column = law(name).features[0]
    if name in ("m1", "kaplan_n_floor"):  # its best runs alone are what it is for
        other = "tokens" if column == "params" else "params"
        best = runs[runs[other] == runs[other].max()]
        assert not any("differ by" in w for w in fit(law(name), best, bootstrap=0).warnings)


def test_all_that_stands_in_the_way_is_said_first_what_more_runs_would_not_mend(
    grid: pd.DataFrame,
) -> None:
    runs = grid.head(6).assign(loss=[3.0, 2.9, 2.8, 2.7, 2.6, 2.5], tokens=1e9)
    said = (
        r"^tokens has one distinct value \(1e\+09\).*Give runs at two or more tokens\. "
        r"chinchilla has 5 free coefficients and needs at least 7 usable runs; there are 6\. "
        r"Train more there"
    )
    with pytest.raises(Refusal, match=said):
        fit(law("chinchilla"), runs)


@pytest.mark.parametrize("name", ["steplaw_lr", "steplaw_batch"])
def test_a_law_of_the_best_rate_is_fitted_to_the_best_alone(name: str, grid: pd.DataFrame) -> None:
    column = law(name).target
    tries = pd.concat([grid.assign(**{column: rate}) for rate in (1e3, 2e3, 4e3, 8e3)])
    tries["loss"] = 3 + np.abs(np.log(tries[column] / 1e3) - np.log(tries["tokens"]) / 20)
    with pytest.raises(Refusal, match=rf"4 values of it at .* \(48 such .*--best-of {column}"):
        fit(law(name), tries, bootstrap=0)
    best = tries.sort_values("loss").drop_duplicates(["params", "tokens"])
    assert fit(law(name), best, bootstrap=0, checks=False).data.n == 48
    # Each seed may have a best of its own, and where no loss is known all rows count.
    seeds = pd.concat([best.assign(seed=0), best.assign(seed=1, **{column: best[column] * 2})])
    assert fit(law(name), seeds, bootstrap=0, checks=False).data.n == 96
    assert fit(law(name), tries.drop(columns="loss"), bootstrap=0, checks=False).data.n == 192


def test_a_law_of_the_best_size_is_fitted_to_the_best_of_each_budget_alone() -> None:
    params, flops = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 7), [1e18, 1e19, 1e20]))
    runs = pd.DataFrame({"params": params, "flops": flops, "tokens": flops / (6 * params)})
    with pytest.raises(Refusal, match=r"7 values of it at flops = 1e\+18 \(3 .*--best-of params"):
        fit(law("allocation_n"), runs.assign(loss=3.0))


def test_what_is_no_table_and_a_seed_below_zero_are_refused(noisy: Fit) -> None:
    with pytest.raises(Refusal, match=r"runs is 'runs.csv', not a table of runs. Give a DataFrame"):
        fit("chinchilla", "runs.csv")  # type: ignore[arg-type]
    with pytest.raises(Refusal, match=r"seed = -1 is negative. Give 0, or a larger whole number"):
        fit("chinchilla", noisy.table, seed=-1)
