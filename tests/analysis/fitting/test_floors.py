"""A floor may be 0: it is judged by what it is, whatever its name, and begins at 0."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import Fit, Status, fit
from analysis.fitting.json import to_json
from analysis.forecast.warnings import floor_warnings
from analysis.laws.catalogue import LAWS, law
from analysis.laws.formula import amplitude, exponent, feature, floor, positive, real
from analysis.laws.law import Law

D = feature("D", "tokens")
# The floor comes last, has a name of its own, and is given as what it is not.
OWN = Law("own", amplitude("b") / D ** exponent("c") + amplitude("L_0"), source="a test")


def runs(noise: float, trunks: int) -> pd.DataFrame:
    tokens, rng = np.geomspace(1e6, 1e9, 16), np.random.default_rng(3)
    loss = (0.3 + 12 / tokens**0.12) * np.exp(rng.normal(0, noise, 16))
    return pd.DataFrame({"tokens": tokens, "loss": loss, "trunk_id": np.arange(16) % trunks})


@pytest.fixture(scope="module")
def loose() -> Fit:
    """Runs that a sixth of the resamples can do without a floor."""
    return fit(law("m2"), runs(0.01, 16), bootstrap=300)


def test_an_interval_begins_at_0_where_the_runs_may_do_without_a_floor(loose: Fit) -> None:
    drawn = loose.draws["E"]
    assert (drawn == 0).mean() > 0.1
    # A search on the scale of logarithms stopped at 1e-16 to 3e-4; a tolerance of a millionth of
    # the objective tells no floor below a thousandth of the loss from nothing.
    assert not ((drawn > 0) & (drawn < 1e-3)).any()
    assert loose.interval.coefficients["E"].low == 0.0 < loose.coefficients["E"]
    assert to_json(loose)["interval"]["coefficients"]["E"][0] == 0.0
    assert loose.diagnostics is not None
    moved = loose.diagnostics.sensitivity["E"]
    assert not ((moved > 0) & (moved < 1e-3)).any()
    row = next(line for line in loose.summary().splitlines() if line.startswith("E "))
    assert row.split()[2:4] == ["0", "…"]
    assert any(w.startswith("E may be 0 (its interval begins at 0)") for w in loose.warnings)


def test_a_resample_ends_without_a_floor_only_where_that_is_best(loose: Fit) -> None:
    from analysis.fitting.effective_clusters import clusters_of
    from analysis.fitting.intervals import resamples

    blocks = resamples(np.random.default_rng(0), clusters_of(loose.table), 300)
    weights = np.concatenate(list(blocks))
    for i in np.flatnonzero(loose.draws["E"] == 0)[:3]:
        table = loose.table.assign(w=weights[i])[weights[i] > 0]
        best = fit(law("m2"), table, weights="w", bootstrap=0)
        none = fit(law("m2"), table, weights="w", bootstrap=0, fixed={"E": 0.0})
        assert none.objective.value <= best.objective.value * (1 + 2e-6)


@pytest.mark.parametrize("trunks", [16, 8])
def test_a_floor_given_as_an_amplitude_is_judged_as_one(trunks: int) -> None:
    table = runs(0.05, trunks)
    shipped, own = (fit(each, table, bootstrap=200, checks=False) for each in (law("m2"), OWN))
    assert OWN.floors == ("L_0",)
    assert shipped.status is own.status is Status.WEAKLY_IDENTIFIED
    assert "leave E" in shipped.reason and "L_0 open" in own.reason
    assert own.interval.coefficients["L_0"].low == 0.0
    assert any(each.startswith("L_0 may be 0") for each in own.warnings)
    high = own.interval.coefficients["L_0"].high
    (said,) = floor_warnings(own, high / 2, 0.9)
    assert "interval of L_0, 0 … " in said and not floor_warnings(own, high * 2, 0.9)


def test_moves_and_the_profile_are_of_the_floor_by_its_name() -> None:
    found = fit(OWN, runs(0.01, 16), bootstrap=300)
    assert found.diagnostics is not None
    held = found.diagnostics.profile["L_0"]
    assert held.iloc[0] == 0.0 and held.is_monotonic_increasing
    text = " ".join(found.summary().split())
    assert "huber_log if L_0 is fixed: 0 +" in text and "b is fixed" not in text
    assert "L_0 moves from" in text or "moves L_0 by" in text


def test_a_coefficient_of_either_sign_is_no_floor_and_keeps_its_scale() -> None:
    """Its logarithm is not what is fitted."""
    mine = Law(
        "mine", real("E", -1.0, 2.0, lower=-5.0, upper=5.0) + amplitude("b") / D ** exponent("c"),
        source="a test",
    )  # fmt: skip
    found = fit(mine, runs(0.002, 8), bootstrap=200, checks=False)
    shipped = fit(law("m2"), runs(0.002, 8), bootstrap=200, checks=False)
    assert mine.floors == ()
    low, high = found.interval.coefficients["E"]
    assert (low, high) == pytest.approx(shipped.interval.coefficients["E"], abs=0.02)
    assert low < found.coefficients["E"] < high


def test_every_shipped_law_of_an_irreducible_loss_has_one_floor() -> None:
    assert {name for name, each in LAWS.items() if each.floors} == {
        "chinchilla", "chinchilla_tied", "chinchilla_coupled", "chinchilla_power", "overtraining",
            "data_constrained",
        "kaplan_n_floor", "kaplan_d_floor", "kaplan_c_floor", "bnsl_1", "bnsl_2", "bnsl_3", "m2",
        "m4",
    }  # fmt: skip
    assert all(len(each.floors) < 2 for each in LAWS.values())
    assert floor("E") is positive("E") is not amplitude("E")


def test_a_table_has_one_line_for_the_floor_however_many_rows_it_reaches(loose: Fit) -> None:
    high = loose.interval.coefficients["E"].high
    (said,) = floor_warnings(loose, [high / 2, high * 0.9, high * 2], 0.9)
    assert "reaches the predicted loss of 2 of 3 runs (the least is " in said


def test_a_floor_without_an_interval_is_said_to_have_none() -> None:
    """Too few clusters, or no draws; one that is held needs none."""
    few, none = (
        fit(law("m2"), runs(0.01, 3), checks=False),
        fit(law("m2"), runs(0.01, 16), bootstrap=0),
    )
    assert np.isnan(few.interval.coefficients["E"].high)
    for found, remedy in ((few, "Train more runs."), (none, "Fit with --bootstrap 4000.")):
        (said,) = floor_warnings(found, 1.0, 0.9)
        assert said.startswith("THE FLOOR IS NOT KNOWN WELL ENOUGH: E has no interval")
        assert said.endswith(remedy)
    assert not floor_warnings(
        fit(law("m2"), runs(0.01, 16), fixed={"E": 0.3}, bootstrap=0), 1.0, 0.9
    )
