"""Simulated scores have the variance and the correlation that they are given."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.emergence.response.deviance import Data, data_of
from analysis.emergence.response.dispersion import Noise, simulate
from analysis.emergence.scores.metrics import metric
from analysis.emergence.scores.series import Series

X = np.geomspace(1e7, 1e10, 7)


def scored(**more) -> Data:
    return data_of(
        Series("task", metric("acc"), "params", X, np.linspace(0, 1, 7), chance=0.0, **more)
    )


def test_simulated_scores_have_the_variance_of_the_beta_binomial():
    data = scored(n=np.full(7, 100))
    mean, spread = np.full(7, 0.3), 0.05
    drawn = simulate(data, mean, Noise(spread), 20_000, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(0.3, abs=0.002)
    assert drawn.var() == pytest.approx(0.21 * (spread + (1 - spread) / 100), rel=0.03)


def test_models_of_one_group_deviate_together():
    group = np.array(list("aabbccd"))
    data = scored(group=group)
    drawn = simulate(data, np.full(7, 0.5), Noise(0.1, 0.8), 5_000, np.random.default_rng(0))
    assert np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1] == pytest.approx(0.8, abs=0.05)
    assert np.corrcoef(drawn[:, 0], drawn[:, 2])[0, 1] == pytest.approx(0.0, abs=0.05)
