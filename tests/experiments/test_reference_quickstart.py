"""What the quickstart is for: its committed run table shows a real law."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fit import Status, fit
from analysis.forecast import leave_out_largest, seed_scatter
from analysis.laws import law
from analysis.runs.table import read_runs

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference" / "quickstart"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return read_runs(REFERENCE / "runs.csv")


@pytest.fixture(scope="module")
def points(table) -> pd.DataFrame:
    assert set(table["status"]) == {"completed"}
    return table[table["run_kind"] == "cooldown"]


@pytest.fixture(scope="module")
def fitted(table):
    return fit(law("chinchilla"), table, bootstrap=1000)


def log_loss(points: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    chinchilla = law("chinchilla")
    features = {name: points[name].to_numpy(float) for name in ("params", "tokens")}
    return np.log(
        chinchilla.predict(dict(zip(chinchilla.coefficients, values, strict=True)), features)
    )


def test_the_grid_is_wide_enough(points):
    assert points["params_non_embedding"].nunique() >= 4
    spread = points["params_non_embedding"].max() / points["params_non_embedding"].min()
    assert spread >= 16
    assert points["tokens"].nunique() >= 4
    assert (points.groupby(["params_total", "tokens"])["seed"].nunique() >= 5).all()


def test_every_coefficient_rests_on_twelve_trunks_or_more(points, fitted):
    # Twelve is where the bootstrap's intervals begin to hold (benchmarks/coverage.py). The design
    # alone decides it: the share of each trunk in a coefficient's variance under equal noise.
    values = np.array(list(fitted.coefficients.values()))
    steps = 1e-5 * values * np.eye(len(values))
    jacobian = np.transpose(
        [log_loss(points, values + h) - log_loss(points, values - h) for h in steps]
    )
    squares = pd.DataFrame(np.linalg.pinv(jacobian).T ** 2)
    shares = squares.groupby(points["trunk_id"].to_numpy()).sum() / squares.sum()
    assert (1 / (shares**2).sum() >= 12).all()


@pytest.mark.parametrize(
    ("along", "level"), [("params_total", "tokens"), ("tokens", "params_total")]
)
def test_loss_falls_with_size_at_each_budget_and_with_budget_at_each_size(points, along, level):
    cells = points.groupby(["params_total", "tokens"], as_index=False)["loss"].mean()
    for _, rows in cells.groupby(level):
        assert (np.diff(rows.sort_values(along)["loss"]) < 0).all()


def test_the_chinchilla_form_fits_to_twice_the_noise_of_a_seed(points, fitted):
    assert fitted.status is Status.CONVERGED
    sd = seed_scatter(points, ["params", "tokens"]).sd
    predicted = fitted.predict({name: points[name].to_numpy() for name in ("params", "tokens")})
    rmse = np.sqrt(np.mean((predicted - points["loss"]) ** 2))
    assert rmse <= 2 * sd


def test_no_interval_reaches_zero(fitted):
    assert fitted.interval.method == "bootstrap"
    assert fitted.interval.coefficients["E"].low > 0.1
    assert fitted.interval.coefficients["alpha"].low > 0.05
    assert fitted.interval.coefficients["beta"].low > 0.3


def test_the_largest_run_is_forecast_from_the_smaller_ones(fitted):
    held_out = leave_out_largest(fitted)
    # The forecast carries its own error beside the seed's; three seeds' worth is what both allow.
    assert abs(held_out.error_in_seed_sds) < 3


def test_the_saved_fit_is_the_fit_of_the_saved_table(fitted):
    from analysis.fit import load_fit

    saved = load_fit(REFERENCE / "fits" / "chinchilla.json")
    assert saved.coefficients == pytest.approx(fitted.coefficients, rel=1e-6)


def test_the_reference_runs_are_the_runs_that_the_study_plans(table, refuse_other_runs):
    from experiments.planning import plan_study
    from scaling.study import read_study

    plan = plan_study(read_study(ROOT / "experiments" / "quickstart.toml")).plan
    refuse_other_runs(plan, table)
