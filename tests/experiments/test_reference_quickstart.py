"""What the quickstart is for: its committed run table shows a real law."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.effective_clusters import MANY
from analysis.fitting.fit import Status, fit
from analysis.forecast.leave_out import leave_out_largest
from analysis.forecast.scatter import seed_scatter
from analysis.laws.catalogue import law
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


def test_the_grid_is_wide_enough(points):
    assert points["params_non_embedding"].nunique() >= 4
    spread = points["params_non_embedding"].max() / points["params_non_embedding"].min()
    assert spread >= 16
    assert points["tokens"].nunique() >= 4
    assert (points.groupby(["params_total", "tokens"])["seed"].nunique() >= 5).all()


def test_every_coefficient_rests_on_twelve_trunks_or_more(fitted):
    assert set(fitted.effective_clusters) == set(fitted.coefficients)
    assert min(fitted.effective_clusters.values()) >= MANY


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


def test_every_coefficient_has_an_interval_and_none_reaches_zero(fitted):
    assert np.isfinite(list(fitted.interval.coefficients.values())).all()
    assert fitted.interval.coefficients["E"].low > 0.1
    assert fitted.interval.coefficients["alpha"].low > 0.05
    assert fitted.interval.coefficients["beta"].low > 0.3


def test_the_largest_run_is_forecast_from_the_smaller_ones(fitted):
    held_out = leave_out_largest(fitted)
    # The forecast carries its own error beside the seed's; three seeds' worth is what both allow.
    assert abs(held_out.error_in_seed_sds) < 3


def test_the_saved_fit_is_the_fit_of_the_saved_table(fitted):
    from analysis.fitting.files import load_fit

    saved = load_fit(REFERENCE / "fits" / "chinchilla.json")
    assert saved.coefficients == pytest.approx(fitted.coefficients, rel=1e-6)


def test_the_reference_runs_are_the_runs_that_the_study_plans(table, refuse_other_runs):
    from experiments.cli.join.plan import plan_study
    from scaling.study import read_study

    plan = plan_study(read_study(ROOT / "experiments" / "quickstart.toml")).plan
    refuse_other_runs(plan, table)
