"""Runs that several files test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.laws.published import published

Table = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="session")
def runs(grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """48 runs with a scatter of half a percent."""
    return simulate(published("besiroglu-2024"), grid, noise=0.005)


@pytest.fixture(scope="session")
def seeded() -> Table:
    """Three seeds of every run, whose losses differ."""

    def three(runs: pd.DataFrame) -> pd.DataFrame:
        noise = np.random.default_rng(1).normal(1, 0.003, (3, len(runs)))
        parts = [runs.assign(seed=s, loss=runs["loss"] * noise[s]) for s in range(3)]
        return pd.concat(parts, ignore_index=True)

    return three
