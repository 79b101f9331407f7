"""Held to scipy's curves, which cost too much to import."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

from analysis.cubic import akima, pchip


def points(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=size)
    return np.cumsum(rng.uniform(0.1, 2.0, size)), y.round(1) if seed % 2 else y  # with ties


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [2, 3, 5, 12])
def test_pchip_is_scipys(size: int, seed: int) -> None:
    x, y = points(size, seed)
    at = np.linspace(x[0], x[-1], 201)
    assert pchip(x, y)(at) == pytest.approx(PchipInterpolator(x, y)(at), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [5, 6, 12])
def test_akima_is_scipys_and_nothing_on_it_is_below_its_least(size: int, seed: int) -> None:
    x, y = points(size, seed)
    at = np.linspace(x[0], x[-1], 2001)
    expected = Akima1DInterpolator(x, y)(at)
    curve = akima(x, y)
    assert curve(at) == pytest.approx(expected, abs=1e-12)
    least = curve.least()
    assert least.value <= expected.min() + 1e-12
    assert least.value == pytest.approx(float(curve(np.array(least.at))), abs=1e-12)


def test_a_curve_ends_with_its_points_and_says_when_its_least_is_an_end() -> None:
    x = np.arange(6.0)
    assert np.isnan(pchip(x, x)(np.array([-0.1, 5.1]))).all()
    assert [akima(x, y).least().end for y in (x, -x, (x - 2.4) ** 2)] == [-1, 1, 0]
    assert akima(x, (x - 2.5) ** 2).least().at == pytest.approx(2.5)
