"""From a plan to synthetic losses of a known law, a fit and a recommendation: the truth returns."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from analysis.fitting.fit import fit
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.recommend.recommend import recommend
from experiments.cli.join.plan import plan_study
from models.decoder.sizes import count_params
from scaling.planning.plan import plan_table
from scaling.study import read_study

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.toml"
# The size of the quickstart's own law, so that every term matters on its grid.
TRUTH = {"E": 0.78, "A": 11.7, "alpha": 0.32, "B": 616.0, "beta": 0.53}


@pytest.fixture(scope="module")
def planned():
    return plan_study(read_study(QUICKSTART))


def synthetic(plan, noise: float):
    """The plan's points with losses of the known law; noise is shared by the runs of a trunk."""
    table = plan_table(plan)
    table = table[table["run_kind"] != "trunk"].assign(status="completed")
    features = {"params": table["params_total"].to_numpy(float), "tokens": table["tokens"]}
    random = np.random.default_rng(0)
    trunks = {name: random.normal(0, noise) for name in table["trunk_id"].unique()}
    shocks = table["trunk_id"].map(trunks) + random.normal(0, noise, len(table))
    return table.assign(loss=law("chinchilla").predict(TRUTH, features) * np.exp(shocks))


def test_without_noise_the_law_and_its_optimum_come_back(planned):
    fitted = fit(law("chinchilla"), synthetic(planned.plan, 0.0), bootstrap=0)
    assert fitted.coefficients == pytest.approx(TRUTH, rel=1e-5)
    truth = dataclasses.replace(published("chinchilla-2022"), coefficients=TRUTH)
    (advice,), (best,) = recommend(fitted, [1e15]), recommend(truth, [1e15])
    assert advice.params == pytest.approx(best.params, rel=1e-4)
    assert advice.loss == pytest.approx(best.loss, rel=1e-6)


def test_with_seed_noise_the_truth_lies_inside_the_intervals(planned):
    fitted = fit(law("chinchilla"), synthetic(planned.plan, 0.003))
    truth = dataclasses.replace(published("chinchilla-2022"), coefficients=TRUTH)
    (advice,), (best,) = recommend(fitted, [1e13]), recommend(truth, [1e13])
    low, high = advice.interval.params
    assert low < best.params < high
    low, high = advice.interval.curve_loss
    assert low < best.loss < high


def test_a_plan_and_its_flops_are_inverse(planned):
    for run in planned.plan.runs:
        assert run.tokens == run.flops_6nd / (6 * count_params(run.model).total)
        assert run.tokens % run.batch_tokens == 0
