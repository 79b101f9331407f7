"""Published runs, published answers. The objective reached is never above the published one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fit import Fit, Status, fit
from analysis.laws import law


@pytest.fixture(scope="module")
def epoch_fit(epoch: pd.DataFrame) -> Fit:
    return fit(law("chinchilla"), epoch.head(240), bootstrap=4000)


def test_besiroglu_the_optimum_is_below_the_published_one(epoch_fit: Fit) -> None:
    assert epoch_fit.status is Status.CONVERGED
    assert epoch_fit.objective.value <= 0.00101827401780060 * (1 + 1e-9)
    optimum = {"A": 477.826, "B": 2143.417, "E": 1.817218, "alpha": 0.347310, "beta": 0.367172}
    assert epoch_fit.coefficients == pytest.approx(optimum, rel=2e-6)


def test_besiroglu_coefficients_agree_within_a_fifth_of_a_standard_error(epoch_fit: Fit) -> None:
    printed = {"A": 482.0057, "B": 2085.434, "E": 1.816864, "alpha": 0.347813, "beta": 0.365854}
    errors = {"A": 120.42, "B": 1258.92, "E": 0.02462, "alpha": 0.01510, "beta": 0.01977}
    for name, value in printed.items():
        assert abs(epoch_fit.coefficients[name] - value) < 0.2 * errors[name]


@pytest.mark.parametrize(
    ("name", "published", "within"),
    [("A", 120.42, 0.05), ("alpha", 0.01510, 0.05), ("E", 0.02462, 0.08),
     ("beta", 0.01977, 0.08), ("B", 1258.92, 0.20)],
)  # fmt: skip
def test_besiroglu_standard_errors(
    epoch_fit: Fit, name: str, published: float, within: float
) -> None:
    assert epoch_fit.se[name] == pytest.approx(published, rel=within)


def test_besiroglu_five_points_decide_the_answer(epoch: pd.DataFrame, epoch_fit: Fit) -> None:
    everything = fit(law("chinchilla"), epoch, bootstrap=0)
    assert everything.coefficients["beta"] == pytest.approx(0.4530, abs=1e-4)
    assert everything.coefficients["E"] == pytest.approx(1.8913, abs=1e-4)
    assert everything.coefficients["B"] == pytest.approx(12846, rel=1e-3)
    moved = everything.coefficients["beta"] - epoch_fit.coefficients["beta"]
    assert moved > 4 * epoch_fit.se["beta"]


def test_gemstones(reference: Callable[[str], Path]) -> None:
    raw = pd.read_json(reference("gemstones/wandb_df_for_fitting_hot.jsonl"), lines=True)
    runs = pd.DataFrame(
        {"params": raw["params_active_precise"], "tokens": raw["tokens"], "loss": raw["final_loss"]}
    )
    found = fit(law("chinchilla"), runs, bootstrap=200)
    answer = json.loads(
        reference("gemstones/approach_3_parameters_grid_search_0_hot.json").read_text()
    )
    assert len(runs) == 220
    assert found.objective.value <= 0.001981612809 * (1 + 1e-9)
    assert found.objective.value <= answer["loss"]["0"]
    assert found.coefficients["alpha"] == pytest.approx(0.292892, abs=1e-6)
    assert found.coefficients["beta"] == pytest.approx(0.712979, abs=1e-6)
    assert np.log(found.coefficients["E"]) == pytest.approx(0.7622637, abs=1e-4)
