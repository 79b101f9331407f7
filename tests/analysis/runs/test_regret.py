"""What a rate costs: recovered where it is known, and held by intervals from paired seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.runs.regret import Regret, regrets
from analysis.runs.sweep import Best

RATES = np.geomspace(1e-3, 1.6e-2, 9)
SIZES = (1e5, 4e5, 1.6e6)
BEND = 0.04


def best_rate(params: float) -> float:
    return 4e-3 * (params / 4e5) ** -0.3


def swept(seeds: int = 1, noise: float = 0.0, shared: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """SIZES × RATES × seeds; `shared` is what a seed does to all its runs of one size."""
    rng = np.random.default_rng(seed)
    rows = [
        {"params": n, "tokens": 1e7, "learning_rate": rate, "seed": s,
         "loss": 3.0 + BEND * np.log(rate / best_rate(n)) ** 2 + own + noise * rng.normal()}
        for n in SIZES for s, own in enumerate(shared * rng.standard_normal(seeds))
        for rate in RATES
    ]  # fmt: skip
    return pd.DataFrame(rows)


def double(best: Best) -> float:
    return 2 * best_rate(best.params)


def test_the_regret_of_a_rate_is_what_it_costs_above_the_least() -> None:
    for each in regrets(swept(), "learning_rate", double):
        assert each.nats == pytest.approx(BEND * np.log(2) ** 2, rel=1e-6)
        assert each.share == pytest.approx(BEND * np.log(2) ** 2 / 3.0, rel=1e-6)
        assert each.interval is None or each.interval.width < 1e-9  # no noise


def test_the_optimum_costs_nothing_and_what_was_tried_far_off_costs_what_it_did() -> None:
    for each in regrets(swept(), "learning_rate", lambda best: best_rate(best.params)):
        assert each.nats == pytest.approx(0, abs=1e-9)
    far = regrets(swept(), "learning_rate", [RATES[-1]] * 3)  # outside the curve's window
    for each in far:
        cost = BEND * np.log(RATES[-1] / best_rate(each.params)) ** 2
        assert each.nats == pytest.approx(cost, rel=1e-6)


def test_what_no_run_shows_has_no_regret() -> None:
    beyond = regrets(swept(), "learning_rate", [3e-2, 4e-3, 5e-4])
    assert [each.nats is None for each in beyond] == [True, False, True]
    assert "beyond what was tried" in beyond[0].reason
    low = swept().query("learning_rate < 3e-3")  # the best of the smallest lies above
    first = regrets(low, "learning_rate", [2e-3] * 3)[0]
    assert first.nats is None and "at or beyond an end" in first.reason


def test_what_seeds_do_to_all_their_runs_alike_changes_no_interval() -> None:
    table = swept(seeds=3, noise=0.004)
    shifted = table.assign(loss=table["loss"] + 0.2 * table["seed"])
    for one, other in zip(
        regrets(table, "learning_rate", double), regrets(shifted, "learning_rate", double),
        strict=True,
    ):  # fmt: skip
        assert one.interval is not None and other.interval is not None
        assert one.nats == pytest.approx(other.nats, abs=1e-9)
        assert [*one.interval] == pytest.approx([*other.interval], abs=1e-9)


def held(each: Regret, truth: float) -> bool:
    assert each.interval is not None
    return each.interval.holds(truth)


@pytest.mark.parametrize(("seeds", "shared"), [(3, 0.02), (2, 0.0)])
@pytest.mark.parametrize("off", [0.0, 0.7])
def test_intervals_hold_what_a_rate_costs(seeds: int, shared: float, off: float) -> None:
    found = [
        held(each, BEND * off**2)
        for seed in range(40)
        for each in regrets(
            swept(seeds, 0.004, shared, seed),
            "learning_rate",
            lambda best: best_rate(best.params) * np.exp(off),
        )
        if each.nats is not None
    ]
    assert len(found) > 100
    assert np.mean(found) >= 0.85  # nominal .9


def test_a_rate_that_costs_much_more_than_noise_is_seen_to_cost_something() -> None:
    for each in regrets(swept(3, 0.002, 0.02), "learning_rate", double):
        assert each.interval is not None and each.interval.low > 0


def test_where_one_run_diverged_the_others_still_speak() -> None:
    table = swept(3, 0.004, 0.01)
    lost = table["learning_rate"].eq(RATES[-1]) & table["seed"].eq(1)
    for each in regrets(table[~lost], "learning_rate", double):
        assert each.interval is not None and 0 <= each.interval.low < each.interval.high < 0.1
