"""Simulated studies scatter as their noise says, repeat exactly, and refuse what cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.design.noise import REFERENCE, Noise, noise_of
from analysis.design.result import Key
from analysis.design.simulate import COUNTS, params_column, simulate
from analysis.fitting.fit import Status, fit
from analysis.laws.catalogue import law
from analysis.laws.published import PUBLISHED, Published, published
from analysis.runs.table import read_runs, usable
from scaling.store.records import Refusal

TRUTH = published("besiroglu-2024")
REFERENCES = Path("results/reference")


def grid(sizes: int = 6, budgets: int = 4) -> pd.DataFrame:
    """Each size a trunk whose branches are the token counts."""
    params, ratio = np.meshgrid(np.geomspace(5e7, 5e9, sizes), np.geomspace(5, 100, budgets))
    design = pd.DataFrame({"params": params.ravel(), "tokens": (params * ratio).ravel()})
    return design.assign(trunk_id=np.tile([f"trunk {i}" for i in range(sizes)], budgets))


def many_trunks() -> pd.DataFrame:
    """Three seeds of the grid: a bootstrap over 18 trunks."""
    seeds = pd.concat([grid().assign(seed=seed) for seed in "012"], ignore_index=True)
    return seeds.assign(trunk_id=seeds["trunk_id"] + ", seed " + seeds["seed"])


# --- noise --------------------------------------------------------------------------------------


def test_branches_of_a_trunk_share_its_noise_and_no_other() -> None:
    trunks = np.repeat([0, 1], 4000)
    errors = Noise(shared=0.03, own=0.01).deviations(
        np.full(8000, 3.0), trunks, np.random.default_rng(1)
    )
    first, second = errors[:4000], errors[4000:]
    assert first.std() == pytest.approx(0.01, rel=0.05)
    assert abs(first.mean() - second.mean()) > 0.002


def test_noise_falls_as_the_given_power_of_the_loss() -> None:
    # What Porian et al. 2024 have in their configs.py for RefinedWeb: .05 nats at 7, .002 at 3.
    losses = np.tile([7.0, 3.0], 20_000)
    errors = Noise(shared=0.0, own=0.05 / 7, power=2.8).deviations(
        losses, np.zeros(40_000, dtype=int), np.random.default_rng(0)
    )
    assert errors[::2].std() * 7 == pytest.approx(0.05, rel=0.02)
    assert errors[1::2].std() * 3 == pytest.approx(0.002, rel=0.03)


def test_noise_is_recovered_from_replicates_whatever_seeds_they_have() -> None:
    design = many_trunks().drop(index=[1, 5, 30])  # cells of two seeds and of three
    losses = TRUTH.predict({c: design[c].to_numpy() for c in ("params", "tokens")})
    trunks = pd.factorize(design["trunk_id"])[0]
    true, squares = Noise(0.006, 0.004), []
    for seed in range(100):
        errors = true.deviations(losses, trunks, np.random.default_rng(seed))
        found = noise_of(design.assign(loss=losses * np.exp(errors)))
        squares.append((found.shared**2, found.own**2))
    assert found.source == f"from {len(design) - 24} replicates of these runs"
    assert np.sqrt(np.mean(squares, axis=0)) == pytest.approx([0.006, 0.004], rel=0.06)


def test_the_default_noise_is_that_of_the_shipped_reference() -> None:
    rows = usable(read_runs(REFERENCES / "isoflop/runs.csv")).rows
    noise = noise_of(rows)
    assert (noise.shared, noise.own) == pytest.approx((REFERENCE.shared, REFERENCE.own), abs=6e-5)


def test_replicates_without_branches_leave_the_split_to_the_reference() -> None:
    found = noise_of(usable(read_runs(Path(__file__).parents[1] / "two_long_trunks.csv")).rows)
    assert found.source.endswith(", divided as in results/reference/isoflop")
    assert found.shared / found.own == pytest.approx(REFERENCE.shared / REFERENCE.own)
    assert np.hypot(found.shared, found.own) == pytest.approx(0.009, abs=2e-4)


def test_runs_without_replicates_tell_no_noise() -> None:
    with pytest.raises(Refusal, match=r"no N and D was trained with two seeds.*--noise"):
        noise_of(grid().assign(loss=3.0))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.006, 0.0), "noise = 0 is no"),
        ((0.006, -0.1), "noise = -0.1 is no"),
        ((-0.1, 0.004), "seed_noise = -0.1 is no"),
        ((0.006, 0.004, -1.0), "noise_power = -1 is no power"),
    ],
)
def test_noise_that_is_none_is_refused(values: tuple[float, ...], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        Noise(*values)


# --- studies ------------------------------------------------------------------------------------


def test_almost_without_noise_every_study_tells_the_truth() -> None:
    noise = Noise(1e-6, 1e-6)
    found = simulate(TRUTH, many_trunks(), noise=noise, flops=[1e22], repeats=2, draws=0)
    best = TRUTH.coefficients
    for name, value in best.items():
        assert found.summary(Key(name)).median == pytest.approx(value, rel=1e-3)
    told = found.json()
    assert told["status"]["converged"]["share"] == 1
    share = best["beta"] / (best["alpha"] + best["beta"])
    assert told["allocation"]["params_exponent"]["truth"] == pytest.approx(share)
    assert told["allocation"]["tokens_exponent"]["median"] == pytest.approx(1 - share, abs=1e-4)
    (at,) = told["recommendations"]
    assert 6 * at["params"]["truth"] * at["tokens"]["truth"] == pytest.approx(1e22)
    assert 0 <= at["excess_loss"] < 1e-9


def test_a_study_is_the_real_fit_of_a_function_of_seed_and_number() -> None:
    design = many_trunks()
    three = simulate(TRUTH, design, flops=[1e22], repeats=3, seed=7)
    order = simulate(TRUTH, design, flops=[1e22], repeats=3, seed=7, watch=reversed)
    other = simulate(TRUTH, design, flops=[1e22], repeats=1, seed=8)
    for key, values in three.studies.items():
        np.testing.assert_array_equal(values, order.studies[key])
    assert three.studies[Key("E")][0, 0] != other.studies[Key("E")][0, 0]
    losses = TRUTH.predict({c: design[c].to_numpy() for c in ("params", "tokens")})
    errors = REFERENCE.deviations(
        losses, pd.factorize(design["trunk_id"])[0], np.random.default_rng([7, 2])
    )
    table = design.assign(loss=losses * np.exp(errors))
    again = fit(TRUTH.law, table, bootstrap=200, seed=2, checks=False)
    assert three.studies[Key("alpha")][2, 0] == again.coefficients["alpha"]
    assert tuple(three.studies[Key("alpha")][2, 1:]) == again.interval.coefficients["alpha"]


def test_a_plan_is_a_frame_of_params_and_tokens_and_its_result_a_frame_and_a_text() -> None:
    plan = grid().drop(columns="trunk_id")
    found = simulate(TRUTH, plan, law="chinchilla", noise=Noise(0.0, 0.001), repeats=3, draws=50)
    largest = 6 * (plan["params"] * plan["tokens"]).max()
    (budget,) = found.flops  # the power of ten above the largest run
    assert budget == pytest.approx(1e23) and 1e22 < largest < budget
    rows = found.frame().set_index("name")
    assert rows["flops"].isna().sum() == 5 and list(rows.index[-4:]) == [
        "params_exponent", "params", "tokens", "loss"
    ]  # fmt: skip
    summary = found.summary(Key("params", budget))
    assert rows.loc["params", "median"] == summary.median
    assert (rows.loc["params", "low"], rows.loc["params", "high"]) == summary.spread
    assert rows.loc["E", "truth"] == TRUTH.coefficients["E"]
    text = str(found)
    assert "Plan: 24 runs on 24 trunks" in text and "0.00% of a trunk, 0.10% of a run" in text
    assert "N*, 1e23" in text and "coverage" in text and "This plan would" in text
    with pytest.raises(Refusal, match="no column 'tokens'"):
        simulate(TRUTH, plan.drop(columns="tokens"))


def test_another_law_than_the_truths_shows_its_error_of_form() -> None:
    found = simulate(
        TRUTH, many_trunks(), law=law("chinchilla_tied"), noise=Noise(1e-4, 1e-4),
        flops=[1e24], repeats=3,
    )  # fmt: skip
    assert found.misspecified
    assert found.summary(Key("alpha")).truth is None  # of the same name, not the same number
    told = found.summary(Key("params_exponent", 1e24))
    assert (told.median, told.coverage) == (pytest.approx(0.5), 0)
    assert told.truth == pytest.approx(0.5126, abs=1e-4)


def test_weak_studies_are_counted_with_their_reason() -> None:
    found = simulate(TRUTH, grid(4, 3), noise=Noise(0.1, 0.1), repeats=2, draws=50)
    status = found.json()["status"]
    assert sum(each["share"] for each in status.values()) == 1
    assert status["converged"]["share"] < 1
    for name in ("weakly_identified", "at_bound", "failed"):
        assert sum(status[name]["reasons"].values()) == 2 * status[name]["share"]


# --- what N counts, and refusals ----------------------------------------------------------------


def test_every_published_law_of_params_and_tokens_says_what_its_n_counts() -> None:
    for entry in PUBLISHED.values():
        if set(entry.law.features) == {"params", "tokens"}:
            assert entry.params_column in COUNTS
    assert params_column(published("kaplan-2020")) == "params_non_embedding"
    assert params_column(TRUTH) == "params_total"


def test_what_cannot_be_simulated_is_refused() -> None:
    design = many_trunks()
    with pytest.raises(Refusal, match="kaplan_n predicts from params"):
        simulate(published("kaplan-2020-n"), design)
    with pytest.raises(Refusal, match="kaplan_n predicts from params"):
        simulate(TRUTH, design, law=law("kaplan_n"))
    with pytest.raises(Refusal, match="5 free coefficients and needs at least 7"):
        simulate(TRUTH, grid(2, 2))
    with pytest.raises(Refusal, match="below every run of the plan"):
        simulate(TRUTH, design, flops=[1e10])
    with pytest.raises(Refusal, match="repeats = 0"):
        simulate(TRUTH, design, repeats=0)
    below = Published(
        "sunk", TRUTH.law, {**TRUTH.coefficients, "E": -3.0}, "all parameters", "nobody"
    )
    with pytest.raises(Refusal, match=r"sunk gives a loss of -.* at params"):
        simulate(below, design)


def test_a_failed_fit_is_no_truth() -> None:
    table = many_trunks()
    losses = TRUTH.predict({c: table[c].to_numpy() for c in ("params", "tokens")})
    found = fit(TRUTH.law, table.assign(loss=losses), bootstrap=0)
    with pytest.raises(Refusal, match="the fit of chinchilla has status = failed"):
        simulate(replace(found, status=Status.FAILED), table)
