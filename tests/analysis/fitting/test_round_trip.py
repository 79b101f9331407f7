"""Recommend, plan, simulate, fit, recommend: the second recommendation's interval holds the first.

The published law says where to train, the planner makes buildable shapes and whole batches of it,
the simulated losses go through the real fit, and its recommendation is compared with the law's.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from analysis.design.noise import Noise
from analysis.design.result import Key, Simulation
from analysis.design.simulate import simulate
from analysis.laws.published import published
from analysis.recommend.recommend import recommend
from analysis.recommend.recommendation import By
from experiments.cli.join.plan import plan_study
from experiments.cli.simulate import design_of
from scaling.study import parse_study

TRUTH = published("besiroglu-2024")
FLOPS = 1e20
QUANTITIES = ("params", "tokens", "loss", "params_exponent")


def round_trip(repeats: int, seeds: list[int], by: By | None = None) -> Simulation:
    raw = tomllib.loads(Path("experiments/accelerator.toml").read_text())
    budgets = [FLOPS * factor for factor in (0.01, 0.05, 0.2, 1.0, 4.0)]
    del raw["grid"]["center_tokens_per_param"], raw["grid"]["replicate_seeds"]
    raw["grid"]["budgets"] = budgets
    raw["grid"]["center_params"] = [each.params for each in recommend(TRUTH, budgets)]
    raw["grid"] |= {"sizes": 5, "seeds": seeds}
    planned = plan_study(parse_study(raw, "the round trip"))
    design = design_of(planned, "params_total")
    noise = Noise(shared=0.003, own=0.002)
    return simulate(TRUTH, design, noise=noise, flops=[FLOPS], repeats=repeats, by=by)


def test_what_is_recommended_comes_back_from_the_plan_made_of_it() -> None:
    found = round_trip(20, seeds=[0])
    (wanted,) = recommend(TRUTH, [FLOPS])
    for name in QUANTITIES:
        told = found.summary(Key(name, FLOPS))
        assert told.truth == getattr(wanted, name)
        assert told.median == pytest.approx(told.truth, rel=0.05)
        assert told.coverage is not None and told.coverage >= 0.75  # of 20; below it by chance: 1%
    assert found.excess_loss(FLOPS) < 0.002


@pytest.mark.slow
def test_intervals_hold_what_was_recommended_as_often_as_they_say() -> None:
    # 125 runs: with fewer than 100 the intervals are wider than they say, as their warning has it
    # (by 31% for the loss of 50).
    # The law's: those of the runs' own minima also allow for errors of form, which there are none.
    found = round_trip(200, seeds=[0, 1, 2, 3, 4], by="law")
    for name in QUANTITIES:
        told = found.summary(Key(name, FLOPS))
        assert told.coverage == pytest.approx(0.9, abs=0.06)
        # What a study says of itself is what studies really do: 90% of a normal either way.
        spread = told.spread[1] - told.spread[0]
        assert told.interval_width == pytest.approx(spread, rel=0.3)
