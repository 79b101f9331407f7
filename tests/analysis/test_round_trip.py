"""From a recommendation to a plan of small runs, simulated, fitted, and back again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.fit import Fit, fit
from analysis.published import Published, published
from analysis.recommend import recommend

TARGET = 1e22


def plan(source: Published) -> pd.DataFrame:
    """IsoFLOP-like runs one and a half to four decades below the target, around their optima."""
    small = recommend(source, list(TARGET / np.array([1e4, 3e3, 1e3, 3e2, 1e2, 3e1])))
    rows = [
        (best.params * factor, best.tokens / factor)
        for best in small
        for factor in (0.25, 0.5, 1, 2, 4)
    ]
    return pd.DataFrame(rows, columns=["params", "tokens"])


def simulate(source: Published, runs: pd.DataFrame, noise: float, seed: int) -> Fit:
    exact = source.predict({name: runs[name].to_numpy() for name in ("params", "tokens")})
    error = noise * np.random.default_rng(seed).normal(size=len(runs))
    table = runs.assign(loss=exact * np.exp(error))
    return fit(source.law, table, bootstrap=400, checks=False)


@pytest.mark.parametrize("name", ["chinchilla-2022", "besiroglu-2024"])
def test_the_recommendation_comes_back_within_its_own_interval(name):
    source = published(name)
    [asked] = recommend(source, [TARGET])
    runs = plan(source)
    inside = {"params": 0, "tokens": 0, "loss": 0}
    for seed in range(8):
        [back] = recommend(simulate(source, runs, noise=0.003, seed=seed), [TARGET])
        assert back.decades_beyond_data == pytest.approx(np.log10(30), abs=1e-6)
        for field in inside:
            low, high = getattr(back.interval, field)
            inside[field] += low <= getattr(asked, field) <= high
    assert min(inside.values()) >= 5  # nominal 7.2 of 8


def test_without_noise_it_comes_back_exactly():
    source = published("besiroglu-2024")
    [asked] = recommend(source, [TARGET])
    [back] = recommend(simulate(source, plan(source), noise=0.0, seed=0), [TARGET])
    assert back.params == pytest.approx(asked.params, rel=1e-3)
    assert back.loss == pytest.approx(asked.loss, rel=1e-5)


def test_less_noise_makes_a_narrower_interval():
    source = published("besiroglu-2024")
    runs = plan(source)
    widths = []
    for noise in (0.001, 0.003, 0.01):
        [back] = recommend(simulate(source, runs, noise, seed=1), [TARGET])
        widths.append(np.log(back.interval.params[1] / back.interval.params[0]))
    assert widths == sorted(widths)
