"""Results do not depend on how a processor rounds: a change of 1e-14 in the scores changes none.

Scores often leave a choice among curves that fit equally well, and rounding must not make it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from analysis.emergence.inference.analyse import Curve, analyse
from analysis.emergence.inference.replicates import midpoints
from analysis.emergence.response.deviance import SHAPES, Curves, data_of
from analysis.emergence.scores.metrics import metric
from analysis.emergence.scores.query import ScoreQuery
from analysis.emergence.scores.read import read_scores
from analysis.emergence.scores.series import Series

ROOT = Path(__file__).parents[3]
NEXT = 2e-14


def shipped() -> Series:
    """Copying in the shipped study, as README shows it: four of its runs never rise."""
    query = ScoreQuery(
        scale="tokens", metrics=("exact_match",), tasks=("copy length=10",), steps="all",
        conditions=("n_layers==2", "shots==0"),
    )  # fmt: skip
    return read_scores(ROOT / "results" / "reference" / "emergence", query).series[0]


def step() -> Series:
    """A step between two scales: every steep curve between them fits equally well."""
    t = np.linspace(7, 11, 8)
    value = (t > 9).astype(float)
    return Series("t", metric("acc"), "params", 10**t, value, np.full(8, 100), chance=0.0)


def step_of_a_loss() -> Series:
    """The same of an unbounded metric, which nothing is left of."""
    t = np.linspace(7, 11, 16)
    return Series("t", metric("loss"), "params", 10**t, 5 - 3.0 * (t > 9), chance=None)


def rise_above_chance() -> Series:
    """A rise whose mesh has curves at the edges of the bins that it is profiled by."""
    t = np.linspace(7, 11, 16)
    right = np.random.default_rng(1).binomial(100, 0.25 + 0.5 * expit((t - 9) * 9))
    return Series("t", metric("acc"), "params", 10**t, right / 100, np.full(16, 100), chance=0.25)


def risen_before() -> Series:
    """Runs of which two have risen before their first scale."""
    t, own = 7 + 0.25 * np.arange(12), np.array([8.2, 8.4, 8.3, 2, 2, 8.25])
    right = np.random.default_rng(0).binomial(50, 0.9 * expit((t - own[:, None]) / 0.1))
    run = np.repeat(np.arange(len(own)).astype(str), len(t))
    return Series(
        "t", metric("exact_match"), "tokens", np.tile(10**t, len(own)), right.ravel() / 50,
        np.full(len(run), 50), chance=0.0, run=run, group=run,
    )  # fmt: skip


def changed(series: Series, seed: int) -> Series:
    """The series with its scores and scales changed by about 1e-14 of themselves."""
    rng = np.random.default_rng(seed)
    scales, of = np.unique(series.x, return_inverse=True)
    scales = scales * (1 + rng.uniform(-NEXT, NEXT, len(scales)))
    value = series.value * (1 - rng.uniform(0, NEXT, len(series.value)))
    return replace(series, x=scales[of], value=value)


def numbers(curve: Curve) -> list[float]:
    """Thresholds and width with their intervals, and the p-value."""
    estimates = [*curve.thresholds.values(), curve.width_decades]
    found = [[each.value, *(each.interval or (None, None))] for each in estimates]
    flat = [np.nan if each is None else each for three in found for each in three]
    return [*flat, np.nan if curve.p_sharp is None else curve.p_sharp]


@pytest.mark.parametrize("table", [shipped, step, step_of_a_loss, rise_above_chance, risen_before])
def test_no_number_follows_the_rounding(table: Callable[[], Series]) -> None:
    series = table()
    found = numbers(analyse(series, bootstrap=33))
    for seed in range(3):
        again = numbers(analyse(changed(series, seed), bootstrap=33))
        assert again == pytest.approx(found, rel=1e-4, nan_ok=True)


def of_one_run(score: Callable[[np.ndarray], np.ndarray]) -> Series:
    t = np.linspace(7, 9, 11)
    count = len(t)
    return Series(
        "t", metric("exact_match"), "tokens", 10**t, score(t), np.full(count, 100), chance=0.0,
        run=np.full(count, "a"),
    )  # fmt: skip


@pytest.mark.parametrize("form", ["logistic", "power_log_prob", "hinge", "hinge_power"])
@pytest.mark.parametrize("level, end", [(0.0, 10.0), (1.0, 6.0)])
def test_a_run_without_a_rise_has_its_threshold_at_an_end(
    form: str, level: float, end: float
) -> None:
    series = of_one_run(lambda t: np.full(len(t), level))
    assert midpoint(series, form, 0.3) == pytest.approx(end)


@pytest.mark.parametrize("form", ["logistic", "power_log_prob", "hinge"])
def test_a_step_has_its_threshold_midway_between_two_scales(form: str) -> None:
    series = of_one_run(lambda t: (t > 8.1).astype(float))
    assert midpoint(series, form, 0.01) == pytest.approx(8.1, abs=0.011)


def midpoint(series: Series, form: str, width: float) -> float:
    """The threshold of the one run by a curve of that form from 0 to 1."""
    shape = [each.form for each in SHAPES].index(form)
    columns = [np.array([each]) for each in (shape, 8.0, width, 0.0, 1.0, 0)]
    (found,) = midpoints(data_of(series), Curves(*columns), np.asarray(series.run))
    return float(found)
