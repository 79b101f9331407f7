"""Runs of one loss, runs that lie on the law, and floors that may be nothing."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fitting.fit import fit
from analysis.forecast.warnings import floor_warnings
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.text import decimal
from scaling.store.records import Refusal


@pytest.mark.parametrize("noise", [0.0, 1e-15])
def test_runs_of_one_loss_are_refused_for_they_fit_any_law(grid, noise):
    table = grid.assign(loss=3.0 * (1 + noise * np.arange(len(grid)) % 2))
    for name in ("chinchilla", "kaplan_n", "m1"):
        with pytest.raises(Refusal, match="loss is 3 in all 48 rows: it has one value"):
            fit(law(name), table)


def test_of_exact_runs_no_profile_and_no_change_is_reported(grid, simulate):
    said = fit(
        law("chinchilla"), simulate(published("besiroglu-2024"), grid), bootstrap=20
    ).summary()
    for words in ("is fixed:", "answer depends on", "most sensitive"):
        assert words not in said


@pytest.mark.parametrize("clusters", [48, 6])
def test_a_floor_that_may_be_nothing_has_one_interval_in_every_answer(grid, clusters):
    rng = np.random.default_rng(1)
    loss = 0.05 + 482 / grid["params"] ** 0.2 + 285 / grid["tokens"] ** 0.2
    table = grid.assign(loss=loss * np.exp(0.05 * rng.normal(size=48)))
    table["trunk_id"] = np.arange(48) % clusters
    found = fit(law("chinchilla"), table, bootstrap=100, checks=False)
    low, high = found.interval.coefficients["E"]
    assert low == 0
    span = f"{decimal(low, (low, high))} … {decimal(high, (low, high))}"
    assert span in found.summary()
    assert f"interval of E, {span}," in floor_warnings(found, high / 2, found.interval.level)[0]
