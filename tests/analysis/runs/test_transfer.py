"""The slope of the best rate along width, and what the narrowest's rate costs at the widest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.runs.transfer import Transfer, transfer, transfers
from scaling.store.records import Refusal

WIDTHS = (32, 64, 128, 256)
RATES = np.geomspace(1e-3, 3.2e-2, 6)
BEND = 0.05


def best_rate(width: int, slope: float) -> float:
    return 0.012 * (width / 32) ** slope


def runs(slope: float, noise: float = 0.0, seeds: int = 3, seed: int = 0) -> pd.DataFrame:
    """The rows of one parametrization as experiments/mup.toml leaves them: a seed shares its data
    order over all widths and rates."""
    rng = np.random.default_rng(seed)
    shared = 5 * noise * rng.standard_normal(seeds)
    return pd.DataFrame(
        {"params": 12.0 * width**2, "tokens": 999424, "d_model": width, "learning_rate": rate,
         "seed": s, "loss": 2.5 - 0.1 * np.log(width / 32) + shared[s] + noise * rng.normal()
         + BEND * np.log(rate / best_rate(width, slope)) ** 2}
        for width in WIDTHS for rate in RATES for s in range(seeds)
    )  # fmt: skip


def regret(found: Transfer) -> float:
    assert found.regret is not None and found.regret.nats is not None
    return found.regret.nats


def test_slope_and_regret_of_each_parametrization_are_those_that_made_the_losses() -> None:
    table = pd.concat(
        [
            runs(-0.6).assign(parametrization="standard", variant="a", base_width=np.nan),
            runs(0.0).assign(parametrization="mup", variant="b", base_width=32),
        ]
    )
    found = transfers(table, "parametrization")
    assert [*found] == ["mup", "standard"]
    assert found["mup"].slope == pytest.approx(0, abs=1e-6)
    assert found["standard"].slope == pytest.approx(-0.6, rel=1e-6)
    assert regret(found["mup"]) == pytest.approx(0, abs=1e-9)
    assert regret(found["standard"]) == pytest.approx(BEND * (0.6 * np.log(8)) ** 2, rel=1e-6)
    assert found["mup"].sizes == WIDTHS
    assert found["mup"].optima == pytest.approx([0.012] * 4)


@pytest.mark.parametrize("slope", [0.0, -0.5])
def test_intervals_hold_slope_and_regret(slope: float) -> None:
    cost = BEND * (slope * np.log(8)) ** 2
    held = []
    for seed in range(25):
        found = transfer(runs(slope, 0.004, seed=seed))
        assert found.interval is not None and found.regret is not None
        assert found.regret.interval is not None
        held.append((found.interval.holds(slope), found.regret.interval.holds(cost)))
    of_slope, of_regret = np.mean(held, axis=0)
    assert of_slope >= 0.8 and of_regret >= 0.8  # nominal .9, of 25


def test_a_slope_that_the_runs_show_is_told_from_none() -> None:
    found = transfer(runs(-0.5, 0.002))
    assert found.interval is not None and found.interval.high < 0


def test_a_width_whose_best_is_an_end_is_left_out_and_has_no_regret() -> None:
    table = runs(-0.9).query("learning_rate > 1.5e-3")  # the widest's best is 1.8e-3
    found = transfer(table)
    assert found.optima[-1] is None and found.slope == pytest.approx(-0.9, rel=1e-6)
    assert found.regret is not None and found.regret.nats is None
    assert "at or beyond an end" in found.regret.reason


def test_what_shows_no_transfer_is_refused() -> None:
    with pytest.raises(Refusal, match="no column n_heads"):
        transfer(runs(0.0), along="n_heads")
    both = pd.concat([runs(0.0), runs(0.0).assign(tokens=4e6)])
    with pytest.raises(Refusal, match="several numbers of tokens"):
        transfer(both)
    with pytest.raises(Refusal, match="does not rise with params"):
        transfer(runs(0.0).assign(d_model=64))
