"""What a design leaves open is found the same wherever in the valley a search stopped."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.identifiability import design_at
from analysis.laws import law
from analysis.model import Data, to_theta

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
