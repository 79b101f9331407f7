"""When a rise is called sharp, smooth, none, or not judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from analysis.emergence.inference.analyse import HELD, analyse
from analysis.emergence.response.deviance import data_of
from analysis.emergence.response.dispersion import (
    Fit,
    Noise,
    conditional_bootstrap,
    estimate_dispersion,
    simulate,
)
from analysis.emergence.response.search import search
from analysis.emergence.scores.metrics import metric
from analysis.emergence.scores.series import Series

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "results" / "emergence.json"
T = np.linspace(7, 11, 20)
LN9 = np.log(9)


def analysed(value, t=T, questions: int = 1000, **more):
    n = np.full(len(t), questions)
    series = Series("task", metric("acc"), "params", 10**t, np.asarray(value), n, chance=0.0)
    return analyse(series, bootstrap=60, **more)


def smooth(width: float = 1.5):
    return expit(2 * LN9 * (T - 9) / width)


def drawn(mean, seed: int = 0, spread: float = 0.0):
    rng = np.random.default_rng(seed)
    if spread:
        mean = rng.beta(mean * (1 / spread - 1) + 1e-6, (1 - mean) * (1 / spread - 1) + 1e-6)
    return rng.binomial(1000, mean) / 1000


def test_a_logistic_is_smooth_and_no_break_is_found():
    curve = analysed(drawn(smooth()))
    assert curve.verdict == "smooth"
    assert curve.p_sharp > 0.05
    assert curve.fitted.form.startswith("logistic")


def test_a_jump_is_sharp():
    jump = 0.02 + 0.9 * np.clip(0.5 + 0.8 * (T - 9.05) / 0.2, 0, 1)
    curve = analysed(drawn(jump))
    assert curve.verdict == "sharp"
    assert curve.p_sharp <= 0.05
    assert curve.width_decades.interval[1] < 1


def test_models_that_differ_widely_do_not_make_a_smooth_rise_sharp():
    """Their scatter alone would break any smooth curve by the binomial likelihood."""
    found = [analysed(drawn(smooth(), seed, spread=0.1)) for seed in range(2)]
    assert "sharp" not in {curve.verdict for curve in found}
    assert min(curve.dispersion for curve in found) > 0.03


def test_a_floor_that_is_not_the_chance_level_is_no_break():
    curve = analysed(drawn(0.03 + 0.97 * smooth()))
    assert curve.verdict == "smooth"
    assert curve.fitted.form.endswith("_four")
    assert curve.predict([1e6]) == pytest.approx([0.03], abs=0.01)


def test_the_level_shown_changes_the_intervals_and_not_the_verdict():
    t = np.linspace(7, 10, 10)
    mean, rng = expit(2 * LN9 * (t - 8.5) / 0.8), np.random.default_rng(9)
    value = rng.binomial(200, rng.beta(32 * mean, 32 * (1 - mean))) / 200
    shown = [analysed(value, t, 200, level=at) for at in (0.5, 0.9, 0.99)]
    assert len({curve.verdict for curve in shown}) == 1
    assert len({curve.reason for curve in shown}) == 1
    widths = [np.ptp(np.log(curve.threshold.interval)) for curve in shown]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_seven_scales_are_never_sharp():
    t = np.linspace(7, 11, 7)
    curve = analysed((t > 9.2).astype(float), t)
    assert curve.verdict == "undetermined"
    assert any("7 distinct scales" in warning for warning in curve.warnings)


def test_a_sharp_rise_to_a_plateau_at_seven_scales_is_not_called_smooth():
    t = np.linspace(7, 11, 7)
    plateau = analysed(np.where(t > 9.2, 0.9, 0.1) + np.tile([0.01, -0.01], 4)[:7], t)
    assert plateau.verdict == "undetermined"
    assert plateau.width_decades.interval[0] < 0.2
    assert analysed(expit(2 * LN9 * (t - 9) / 1.5), t).verdict == "smooth"  # as it does to the best


def test_a_dip_before_the_rise_is_said():
    dip = 0.3 + 0.6 * expit(6 * (T - 10)) - 0.25 * np.exp(-(((T - 8.8) / 0.5) ** 2))
    curve = analysed(dip)
    assert curve.verdict != "sharp"
    assert any("before any rise" in warning for warning in curve.warnings)


def test_scores_below_chance_are_questioned():
    series = Series("t", metric("acc"), "params", 10**T, np.full(20, 0.1), chance=0.25)
    curve = analyse(series, bootstrap=99)
    assert curve.verdict == "none"
    assert "worse than chance 0.25" in curve.warnings[0]


def test_the_overdispersion_is_that_of_the_simulation():
    mean, spread = smooth(), 0.05
    series = Series("t", metric("acc"), "params", 10**T, mean, chance=0.0)
    data = data_of(series)
    found = []
    for seed in range(5):
        value = simulate(data, mean, Noise(spread), 1, np.random.default_rng(seed))[0]
        one = data_of(Series("t", metric("acc"), "params", 10**T, value, chance=0.0))
        mesh = search(one, one.observed)
        found.append(estimate_dispersion(one, mesh, np.random.default_rng(0)).value)
    assert np.mean(found) == pytest.approx(spread, rel=0.45)


def test_the_same_seed_gives_the_same_answer_in_plain_json():
    value = drawn(smooth(), spread=0.05)
    first, second = (json.dumps(analysed(value).to_json(), allow_nan=False) for _ in range(2))
    assert first == second
    shape = json.loads(first)
    assert {"task", "metric", "verdict", "threshold", "thresholds", "p_value", "width_decades",
            "warnings"} <= set(shape)  # fmt: skip
    assert {"value", "interval"} <= set(shape["threshold"])
    assert [form["name"] for form in shape["forms"]].count("constant") == 1
    assert all({"aicc", "bic", "cv"} <= set(form) for form in shape["forms"])


def a_rise_over_few_scales(seed: int, spread: float = 0.03):
    """Of .55 decade, over 10 scales and 3 decades: two or three scores lie on the slope."""
    rng = np.random.default_rng([seed, 10, 200])
    t = np.linspace(7, 10, 10)
    mean = expit(2 * LN9 * (t - 8.5 - rng.uniform(-0.5, 0.5)) / 0.55)
    mass = 1 / spread - 1
    models = rng.beta(np.clip(mean, 1e-6, 1) * mass, np.clip(1 - mean, 1e-6, 1) * mass)
    value = rng.binomial(200, models) / 200
    return Series("t", metric("acc"), "params", 10**t, value, np.full(10, 200), chance=0.0)


@pytest.mark.parametrize("seed", [1, 12, 14, 18])
def test_a_spread_that_no_score_shows_is_not_taken_for_none(seed):
    """Some curve passes through these scores, and a test that took its word found a break."""
    curve = analyse(a_rise_over_few_scales(seed), bootstrap=99)
    assert curve.p_sharp > 0.05
    assert curve.verdict != "sharp"


def test_bootstrap_tables_leave_what_the_observed_one_leaves_whatever_their_dispersion():
    series = a_rise_over_few_scales(3)
    data, rng = data_of(series), np.random.default_rng(0)
    mesh = search(data, data.observed)
    dispersion = estimate_dispersion(data, mesh, rng)
    assert dispersion.plausible[0] < 0.01 < 0.1 < dispersion.plausible[1]
    mean = expit(2 * LN9 * (series.t - 8.5) / 0.55)
    left = float(mesh.deviance.min())
    ours = conditional_bootstrap(Fit(data, mesh, dispersion), mean, left, 200, rng)
    offset = 0.3 * dispersion.least
    distance = np.log(ours.best + offset) - np.log(left + offset)
    assert abs(np.median(distance)) < 0.3
    assert np.std(distance) < 0.8


def test_the_page_gives_the_numbers_of_the_benchmark():
    ratios = json.loads(BENCHMARK.read_text())["ratios"]
    hinges = ratios["sharp found of hinges, by scales"]
    narrow = ratios["sharp found at a width of .3, by scales and decades"]
    held, few = (
        ratios[f"coverage of the half-rise{which}, by spread"] for which in ("", " of few scales")
    )
    page = " ".join((BENCHMARK.parents[2] / "docs" / "emergence.md").read_text().split())
    for said in (
        f"Simulated in {ratios['settings']} settings",
        f"a break was found in {ratios['breaks found where smooth']['all']:.1%} of smooth curves",
        "a break was found in at most "
        f"{ratios['greatest pooled share of breaks found where smooth']:.1%}",
        f"`sharp` was said of {ratios['sharp where not sharp']['all']:.2%} of what is not",
        f"{hinges['scales 8']:.0%} with 8 scales, {hinges['scales 12']:.0%} with 12 and "
        f"{hinges['scales 20']:.0%} with 20",
        f"{narrow['scales 10, decades 3']:.0%} with 10 scales and "
        f"{narrow['scales 20, decades 3']:.0%} with 20",
        f"in {ratios['rises found where flat']['all']:.1%} of flat ones",
        f"in {held['spread 0']:.0%} where models do not differ and {held['spread 0.1']:.0%} where "
        f"they differ most ({few['spread 0.1']:.0%} with fewer than 16 scales",
    ):
        assert said in page


def test_what_a_warning_says_of_intervals_is_what_the_benchmark_found():
    ratios = json.loads(BENCHMARK.read_text())["ratios"]
    held = ratios["coverage of the half-rise of few scales, by spread"]
    assert held["spread 0.1"] == pytest.approx(HELD[0], abs=0.005)
    assert held["spread 0"] > HELD[1]
    few = analysed(np.round(smooth()[::2], 3), T[::2])
    assert any(f"held the threshold in {HELD[0]:.0%}" in warning for warning in few.warnings)


def test_a_table_of_many_models_a_scale_is_not_asked_for_more():
    t = np.repeat(np.linspace(7, 11, 8), 3)
    value = expit(2 * LN9 * (t - 9) / 1.5)
    many, few = analysed(value, t), analysed(value[::3], t[::3])
    assert not any("say little" in each for each in many.warnings)
    assert any("8 scores say little" in each for each in few.warnings)


def test_of_fewer_scales_than_were_simulated_no_coverage_is_quoted():
    t = np.repeat([8.0, 8.5, 9.5, 10.0], 6)
    found = analysed(expit(2 * LN9 * (t - 9) / 1.5), t)
    assert any("fewer than 6 scales was not simulated" in e for e in found.warnings)
    assert not any("in simulated tables" in each for each in found.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.03, 0.1])
def test_a_break_is_found_in_a_smooth_rise_over_few_scales_in_at_most_a_twentieth(spread):
    found = [analyse(a_rise_over_few_scales(seed, spread), bootstrap=99) for seed in range(60)]
    # 3 expected at 5%; 7 or more would be said in 3% of the time.
    assert sum(curve.p_sharp <= 0.05 for curve in found) <= 6
    assert sum(curve.verdict == "sharp" for curve in found) <= 3


@pytest.mark.slow
def test_intervals_hold_the_threshold_where_models_of_few_scales_differ():
    t, held = np.linspace(7, 11, 12), []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        mean = expit(2 * LN9 * (t - 9) / 1.5)
        value = rng.binomial(1000, rng.beta(32 * mean + 1e-6, 32 - 32 * mean + 1e-6)) / 1000
        held.append(analysed(value, t).threshold.interval.holds(1e9))
    assert 0.82 <= np.mean(held) <= 0.98


@pytest.mark.slow
def test_sharp_is_said_of_smooth_curves_in_at_most_a_twentieth():
    rng = np.random.default_rng(0)
    mean = smooth(1.0)
    tables = [rng.binomial(1000, rng.beta(20 * mean + 1e-6, 20 - 20 * mean + 1e-6)) / 1000
              for _ in range(60)]  # fmt: skip
    curves = [analysed(value, seed=i) for i, value in enumerate(tables)]
    assert sum(curve.verdict == "sharp" for curve in curves) <= 3
    assert np.mean([curve.p_sharp <= 0.05 for curve in curves]) <= 0.12
    held = [c.threshold.interval.holds(1e9) for c in curves]
    assert 0.82 <= np.mean(held) <= 0.98


def test_a_few_zeros_of_few_questions_are_not_worse_than_chance() -> None:
    x, value = np.geomspace(1e5, 1e6, 4), np.array([0.0, 0.0, 0.0, 1 / 64])
    few = Series("copy", metric("exact_match"), "params", x, value, np.full(4, 64.0), chance=0.012)
    assert not any("worse than chance" in each for each in analyse(few).warnings)
    many = Series(
        "copy", metric("exact_match"), "params", x, value, np.full(4, 6400.0), chance=0.012
    )
    assert any("worse than chance" in each for each in analyse(many).warnings)
