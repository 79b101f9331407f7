"""Deviances against an independent likelihood."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.emergence.response.deviance import (
    Curves,
    Data,
    basis,
    data_of,
    deviances,
)
from analysis.emergence.scores.metrics import metric
from analysis.emergence.scores.series import Series

X = np.geomspace(1e7, 1e10, 7)
HITS = np.array([1, 3, 10, 40, 70, 88, 99])


def curves(**given) -> Curves:
    columns = {"shape": 0, "midpoint": 8.5, "width": 1.2, "floor": 0.0, "ceiling": 1.0, "free": 0}
    columns |= given
    return Curves(**{name: np.atleast_1d(value) for name, value in columns.items()})


def scored(value, name="acc", **more) -> Data:
    return data_of(Series("task", metric(name), "params", X, np.asarray(value, float), **more))


def test_the_deviance_is_the_binomials():
    data = scored(HITS / 100, n=np.full(7, 100), chance=0.0)
    curve = curves(midpoint=[8.4, 8.6], width=[1.0, 2.0], shape=[0, 0], floor=[0, 0.01],
                 ceiling=[1, 0.99], free=[0, 0])  # fmt: skip
    ours = deviances(data, basis(data, curve), data.observed)[0]
    t = np.log10(X)
    for i, mine in enumerate(ours):
        mean = curve.floor[i] + (curve.ceiling[i] - curve.floor[i]) * curve.rise(t)[i]
        mean = np.clip(mean, 0.005, 0.995)
        best, here = stats.binom.logpmf(HITS, 100, HITS / 100), stats.binom.logpmf(HITS, 100, mean)
        assert mine == pytest.approx(2 * (best - here).sum())


def test_floor_and_ceiling_of_an_unbounded_metric_are_those_of_least_squares():
    value = np.array([5.0, 4.9, 4.0, 2.5, 1.2, 1.0, 0.9])
    data = scored(value, "loss")
    curve = curves(floor=np.nan, ceiling=np.nan)
    design = np.column_stack([np.ones(7), curve.rise(np.log10(X))[0]])
    left = np.linalg.lstsq(design, data.unit, rcond=None)[1][0]
    ours = deviances(data, basis(data, curve), data.observed)[0, 0]
    assert ours == pytest.approx(left)


def test_scores_of_one_scale_count_as_their_sum():
    twice = np.repeat(HITS / 100, 2)
    both = Series("t", metric("acc"), "params", np.repeat(X, 2), twice, np.full(14, 50), chance=0)
    once = scored(HITS / 100, n=np.full(7, 100), chance=0.0)
    two = data_of(both)
    left = [deviances(data, basis(data, curves()), data.observed)[0, 0] for data in (once, two)]
    # Only the resolution differs: half of one answer in 50 instead of 100.
    assert left[1] == pytest.approx(left[0], rel=0.02)
