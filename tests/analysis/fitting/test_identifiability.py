"""What a design leaves open is found the same wherever in the valley a search stopped."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import Prior, fit
from analysis.fitting.identifiability import design_at, refuse_line
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.solver.problem import Data, to_theta
from scaling.store.records import Refusal

NOTHING = np.zeros(5, dtype=bool)


@pytest.mark.parametrize("exponent", [0.01, 0.1, 0.37, 1.0, 1.5, 1.99])
@pytest.mark.parametrize("few", ["params", "tokens"])
def test_two_values_of_a_feature_leave_its_term_and_the_floor_open(
    few: str, exponent: float
) -> None:
    many = "tokens" if few == "params" else "params"
    values = {few: np.array([1e9, 1e11])[:, None], many: np.geomspace(1e8, 1e9, 15)}
    at = dict(zip(values, (a.ravel() for a in np.broadcast_arrays(*values.values())), strict=True))
    # Every point of the valley gives the same losses: the term falls by 0.9 from one to the other.
    fall = 1e9**-exponent - 1e11**-exponent
    amplitude, floor = 0.9 / fall, 3.0 - 0.9 * 1e9**-exponent / fall
    names = ("A", "alpha", "B", "beta") if few == "params" else ("B", "beta", "A", "alpha")
    other = dict(zip(names, (amplitude, exponent, 400.0, 0.34), strict=True))
    theta = to_theta(law("chinchilla"), {"E": max(floor, 1e-3), **other})
    data = Data({"N": at["params"], "D": at["tokens"]}, np.ones(30))
    assert set(design_at(law("chinchilla"), data, theta, NOTHING, NOTHING).open) == {
        "E", *names[:2]
    }  # fmt: skip


def test_a_grid_leaves_nothing_open_and_a_law_that_nothing_moves_everything() -> None:
    params, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 4), [1e9, 3e9, 1e10]))
    data = Data({"N": params, "D": tokens}, np.ones(12))
    grid = {"E": 1.8, "A": 400.0, "alpha": 0.34, "B": 400.0, "beta": 0.28}
    theta = to_theta(law("chinchilla"), grid)
    assert design_at(law("chinchilla"), data, theta, NOTHING, NOTHING).open == ()
    dust = to_theta(law("chinchilla"), {**grid, "A": 1e-60})
    everything_else = np.array([True, False, False, True, True])
    found = design_at(law("chinchilla"), data, dust, everything_else, everything_else)
    assert found.open == ("A", "alpha")
    everything = np.ones(5, dtype=bool)
    assert design_at(law("chinchilla"), data, theta, everything, everything).open == ()


def repeated(unique: float | None) -> pd.DataFrame:
    """Runs on repeated data; `unique` tokens everywhere, or several amounts."""
    truth = published("muennighoff-2023")
    grid = np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 4e10, 7))
    rows = pd.DataFrame({"params": grid[0].ravel(), "tokens": grid[1].ravel()})
    several = np.where(np.arange(len(rows)) % 2, 1e9, 2e9)
    rows["unique_tokens"] = several if unique is None else unique
    noise = np.exp(np.random.default_rng(0).normal(0, 0.001, len(rows)))
    return rows.assign(loss=truth.predict({c: rows[c].to_numpy() for c in rows}) * noise)


@pytest.mark.parametrize("unique", [None, 1e9])
def test_one_number_of_unique_tokens_tells_what_a_repeat_is_worth(unique: float | None) -> None:
    """R_D is told by tokens over unique tokens, which vary whatever unique tokens do."""
    truth = published("muennighoff-2023")
    found = fit(truth.law, repeated(unique), bootstrap=0)
    assert found.coefficients["R_D"] == pytest.approx(truth.coefficients["R_D"], rel=0.2)
    assert found.open == ()


def test_what_needs_two_values_of_a_feature_is_named_with_what_it_leaves_open() -> None:
    rows = repeated(None).drop_duplicates(["tokens", "unique_tokens"]).assign(params=1e8)
    said = r"^params has one distinct value .* cannot determine .*R_N.* Give runs at two or more"
    with pytest.raises(Refusal, match=said):
        fit(law("data_constrained"), rows, bootstrap=0)


def test_held_coefficients_need_no_two_values() -> None:
    truth = published("besiroglu-2024")
    params = np.geomspace(1e7, 1e10, 12)
    rows = pd.DataFrame({"params": params, "tokens": 1e10})
    rows["loss"] = truth.predict({"params": params, "tokens": np.full(12, 1e10)})
    with pytest.raises(Refusal, match=r"cannot determine E, B and beta\. Give .* two or more tok"):
        fit(truth.law, rows, bootstrap=0)
    given = {name: truth.coefficients[name] for name in ("B", "beta")}
    found = fit(truth.law, rows, fixed=given, bootstrap=0)
    assert found.coefficients == pytest.approx(truth.coefficients, rel=1e-6)
    one = fit(truth.law, rows.assign(params=1e9, tokens=params), bootstrap=0,
              fixed={"A": 482.01}, prior={"alpha": Prior(0.3478, 0.01)}, checks=False)  # fmt: skip
    assert one.open == ()


def test_the_remedy_for_a_ray_is_in_the_words_of_its_columns() -> None:
    width = np.geomspace(1e2, 1e4, 9)
    with pytest.raises(Refusal, match="10, 20 and 40 tokens per parameter"):
        refuse_line({"params": width, "tokens": 20 * width})
    with pytest.raises(Refusal) as refused:
        refuse_line({"width": width, "depth": width / 64})
    assert "other ratios of depth to width." in str(refused.value)
    with pytest.raises(Refusal, match=r"surface of width, depth and steps, .* in which one of"):
        refuse_line({"width": width, "depth": width / 64, "steps": width[::-1]})


@pytest.mark.parametrize("name", ["chinchilla", "data_constrained", "m4"])
def test_to_hold_a_coefficient_never_raises_the_condition_number(name: str) -> None:
    """Holding E made it 300 times as large: the others were seen from another origin."""
    chosen = law(name)
    truths = {**published("muennighoff-2023").coefficients, "b": 1600.0, "c": 0.3, "e_0": 8.0}
    values = {"E": 1.5, "alpha": 0.9} if name == "m4" else {}
    data = Data(
        {n: repeated(None)[s.column].to_numpy() for n, s in chosen.symbols.items() if s.feature},
        np.ones(42),
    )
    theta = to_theta(chosen, {n: {**truths, **values}[n] for n in chosen.coefficients})
    free = np.zeros(len(theta), dtype=bool)
    whole = design_at(chosen, data, theta, free, free).condition
    for i in range(len(theta)):
        held = np.arange(len(theta)) == i
        assert 1 <= design_at(chosen, data, theta, held, held).condition <= whole * (1 + 1e-6)
    assert design_at(chosen, data, theta, ~free, ~free).condition == 1
