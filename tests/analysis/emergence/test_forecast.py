"""Scores above a cut are forecast from those below, with intervals that hold them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import t as student_t

from analysis.emergence.forecast.bounded import curve_warnings, fit_loss
from analysis.emergence.forecast.forecast import forecast_scores
from analysis.emergence.forecast.latent_ability import FORMS, Observations, Posterior
from analysis.emergence.forecast.log_linear import fit_line
from analysis.emergence.forecast.scoring import crps, judge, persistence, plain_logistic
from analysis.emergence.scores.metrics import Metric
from analysis.emergence.scores.read import compute
from analysis.emergence.scores.series import Series
from scaling.store.records import Refusal

ACCURACY = Metric("exact_match", 0.0, 1.0)


def models(
    count: int = 60, spread: float = 0.5, chance: float = 0.0, seed: int = 0, slope: float = 2.0
) -> Series:
    """Models of 1e19 to 1e24 FLOPs, half-way at 1e22, that differ in ability."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(19, 24, count))
    share = chance + (1 - chance) * expit(slope * (t - 22) + spread * rng.standard_normal(count))
    n = np.full(count, 500.0)
    return Series("add", ACCURACY, "flops", 10**t, rng.binomial(500, share) / 500, n=n,
                  chance=chance)  # fmt: skip


def test_a_logistic_is_continued_and_its_threshold_found() -> None:
    found = forecast_scores(models(spread=0.2), 10**21.5)
    ours, flat, plain = found.judged
    assert ours.error < 0.08 and ours.crps < 0.06
    assert ours.crps < flat.crps and ours.crps < plain.crps
    assert found.threshold.interval is not None and found.threshold.interval.holds(1e22)


@pytest.mark.slow
def test_intervals_of_new_models_hold_nine_tenths_of_them() -> None:
    inside = [
        (how.coverage or 0.0)
        for seed in range(40)
        for how in forecast_scores(
            models(spread=0.7, seed=seed, chance=0.25 * (seed % 2)), 1e22
        ).judged[:1]
    ]
    assert 0.85 < np.mean(inside) < 0.97


def test_few_scores_are_said_to_leave_the_spread_to_the_prior() -> None:
    series = models(count=7)
    (said,) = [
        each
        for each in forecast_scores(series, series.x[4]).warnings
        if "mostly the prior's" in each
    ]
    assert said.startswith("from 5 scores")


def test_a_form_of_little_weight_does_not_hide_that_draws_are_few() -> None:
    series = models()
    below = series.x <= 1e22
    seen = Observations(series.t[below], series.value[below], np.full(below.sum(), 500.0), 0.0)
    drawn = np.tile([0.0, 1.0, 0.0, -1.0], (2000, 1))
    names = ("a", "b", "q", "s")
    few = Posterior(FORMS[0], seen, names, drawn[:1900], 20.0)
    many = Posterior(FORMS[2], seen, names, drawn[:100], 900.0)
    assert any(
        "rest on 22 independent draws" in each
        for each in curve_warnings(series, below, [few, many])
    )
    little, much = replace(few, draws=drawn[:100]), replace(many, draws=drawn[:1900])
    assert not curve_warnings(series, below, [little, much])


def test_guessing_below_the_cut_leaves_the_scale_open() -> None:
    series = models(chance=0.25)
    found = forecast_scores(series, 10**20.3, at=[1e26])
    assert found.threshold.interval is not None
    low, high = found.threshold.interval
    assert low > 0 and high / low > 100
    assert "decades beyond" in found.warnings[0]


def test_a_score_that_falls_with_progress_is_forecast_in_its_own_units() -> None:
    up = models()
    down = Series("add", Metric("error", 1.0, 0.0), "flops", up.x, 1 - up.value, n=up.n, chance=1.0)
    one, other = forecast_scores(up, 1e22), forecast_scores(down, 1e22)
    # A median of counts may fall on either of two, by the last bit of a logarithm.
    assert np.allclose(one.median, 1 - other.median, atol=1.001 / np.max(up.n))
    assert np.all(other.low <= other.median) and np.all(other.median <= other.high)


def test_two_steps_go_over_the_loss() -> None:
    series = models(spread=0.1)
    loss = 3 * (series.x / 1e19) ** -0.05
    found = forecast_scores(series, 1e22, method="two_step", loss=loss)
    assert found.judged[0].error < 0.08
    assert found.threshold.value is not None and 3e21 < found.threshold.value < 3e22
    with pytest.raises(Refusal, match="column `loss`"):
        forecast_scores(series, 1e22, method="two_step")
    with pytest.raises(Refusal, match="does not fall"):
        forecast_scores(series, 1e22, method="two_step", loss=1 / loss)


def test_a_forecast_by_parameters_is_the_one_by_their_compute() -> None:
    """A slope a decade of parameters is twice that of FLOPs at 20 tokens a parameter."""
    params = np.geomspace(1e7, 4e9, 12)
    for flops in (120 * params**2, 6e11 * params):
        share = expit(2 * (np.log10(flops) - 21))
        both = [
            Series("add", ACCURACY, name, x, share, n=np.full(12, 1000.0), chance=0.0)
            for name, x in (("flops", flops), ("params", params))
        ]
        one, other = (
            forecast_scores(each, float(each.x[8]), flops=flops, method="logistic") for each in both
        )
        # The same numbers but for rounding: a median of counts may fall on either of two.
        assert other.median == pytest.approx(one.median, abs=2e-3)
        assert other.judged[2].error == pytest.approx(one.judged[2].error, abs=2e-3)
        assert other.judged[2].error < 0.05  # .17 where the bound was 2.5 a decade of parameters
        unsaid = forecast_scores(both[1], float(params[8]), method="logistic")
        alike = np.allclose(unsaid.low, other.low, atol=2e-3)
        assert alike == (flops[1] / flops[0] > 2)  # taken for 20 tokens a parameter
        assert any("taken as 2 of FLOPs" in each for each in unsaid.warnings)
        assert not any("is taken as" in each for each in other.warnings)


def test_compute_is_a_column_or_six_times_parameters_and_tokens() -> None:
    table = pd.DataFrame({"params": [1e8, 1e9], "tokens": [2e9, np.nan]})
    found = compute(table)
    assert found is not None and found[0] == pytest.approx(1.2e18) and np.isnan(found[1])
    known = compute(table.assign(flops=[1e18, 1e20]))
    assert known is not None and known.tolist() == [1e18, 1e20]
    assert compute(table[["params"]]) is None
    usual = compute(table.rename(columns={"params": "params_total", "tokens": "tokens_seen"}))
    assert usual is not None and usual[0] == found[0]


def test_losses_of_one_family_count_for_less_the_more_alike_they_are() -> None:
    """Nine tenths of the scatter is the family's: taken as independent the interval held .83."""
    rng, family = np.random.default_rng(5), np.repeat(np.arange(5), 4)
    t, ahead, inside = rng.uniform(19, 21, 20), np.array([22.0]), []
    for _ in range(200):
        alike, own = rng.standard_normal(5)[family], rng.standard_normal(20)
        scatter = 0.05 * (np.sqrt(0.9) * alike + np.sqrt(0.1) * own)
        series = Series("add", ACCURACY, "flops", 10**t, np.full(20, 0.5), group=family)
        loss = np.exp(1 - 0.115 * (t - 19) + scatter)
        line = fit_loss(series, np.full(20, True), loss).line
        new = np.array([1 - 0.115 * 3 + 0.05 * rng.standard_normal()])
        inside.append(judge("line", line.draws(ahead, 500, rng), new, 0.9).coverage)
    assert 0.9 < np.mean(inside) < 0.99  # .96: few families leave the correlation open


def test_a_power_law_in_log_probability_is_its_own_method() -> None:
    series = models()
    share = np.exp(-6.0 * (series.x / 1e19) ** -0.3)  # -log p = a C^-b, arXiv:2512.08894
    exact = Series("add", ACCURACY, "flops", series.x, np.round(share * 5000) / 5000,
                   n=np.full(len(share), 5000.0), chance=0.0)  # fmt: skip
    found = forecast_scores(exact, 1e22, method="power_log_prob")
    assert found.judged[0].error < 0.02 and found.weights == {"power_log_prob": 1.0}
    assert forecast_scores(exact, 1e22).weights["power_log_prob"] > 0.9


def test_the_score_of_a_distribution_is_the_closed_form_s() -> None:
    # CRPS of a normal at its mean: sd (sqrt 2 - 1) / sqrt pi (Gneiting and Raftery 2007).
    draws = np.random.default_rng(0).standard_normal((200_000, 1))
    assert crps(draws, np.zeros(1))[0] == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi), abs=2e-3)
    assert crps(np.full((5, 1), 0.3), np.array([0.5]))[0] == pytest.approx(0.2)
    how = judge("point", np.full((5, 1), 0.3), np.array([0.5, 0.3]), 0.9)
    assert (how.error, how.brier, how.coverage) == pytest.approx((0.1, 0.02, 0.5))


def test_a_line_s_new_points_are_student_s_t() -> None:
    t, y = np.array([0.0, 1, 2, 3]), np.array([0.0, 1.2, 1.8, 3.0])
    drawn = fit_line(t, y, np.ones(4)).draws(np.array([5.0]), 200_000, np.random.default_rng(0))
    # Least squares by hand: slope .96, start .06, squares left .072 with 2 degrees of freedom.
    error = np.sqrt(0.072 / 2 * (1 + 1 / 4 + 3.5**2 / 5))
    ends = 4.86 + np.array([-1, 1]) * student_t.ppf(0.95, 2) * error
    assert np.quantile(drawn, [0.05, 0.95]) == pytest.approx(ends, abs=0.02)


def test_log_probabilities_go_on_as_a_power_law() -> None:
    series = models()
    noise = np.exp(0.1 * np.random.default_rng(1).standard_normal(len(series.x)))
    nats = -6.0 * (series.x / 1e19) ** -0.2 * noise
    log = Series("add", Metric("answer_logprob", -np.inf, 0.0), "flops", series.x, nats)
    found = forecast_scores(log, 10**21.5)
    assert found.judged[0].crps < 0.5 * found.judged[1].crps
    assert found.threshold.value is None and np.all(found.high < 0)
    few = forecast_scores(log, float(np.sort(series.x)[3]))  # Student's t has no mean in nats
    assert few.judged[0].crps < 3 and few.judged[0].brier < 30 and np.all(few.mean > -100)
    with pytest.raises(Refusal, match="Use --method power_log_prob"):
        forecast_scores(log, 1e22, method="logistic")


def test_a_rise_that_no_published_task_has_is_said_to_be_missed() -> None:
    x = np.geomspace(1e8, 7e10, 14)
    value = 0.95 * expit(4.4 / 0.13 * (np.log10(x) - 9.46))
    sudden = Series("sudden", Metric("exact_match", 0.0, 1.0), "flops", x, value, chance=0.0)
    assert any(
        "misses the scores up to the cutoff" in each
        for each in forecast_scores(sudden, 3e10).warnings
    )
    assert not any("misses" in each for each in forecast_scores(models(), 10**21.5).warnings)


def test_models_of_one_family_count_for_less_the_more_alike_they_are() -> None:
    rng = np.random.default_rng(3)
    family = np.repeat(np.arange(8), 6)
    t = np.tile(np.linspace(19, 21.5, 6), 8)
    ability = 1.5 * (t - 22) + rng.standard_normal(8)[family]  # all of a family share theirs
    one = Series("add", ACCURACY, "flops", 10**t, expit(ability), n=np.full(48, 500.0), chance=0.0)
    known = forecast_scores(replace(one, group=family), 1e22, at=[1e23])
    unknown = forecast_scores(one, 1e22, at=[1e23])
    # Both reach up to 1, so that the width shows in the odds of the lower end.
    assert known.high >= unknown.high
    assert known.low / (1 - known.low) < 0.7 * unknown.low / (1 - unknown.low)


def test_what_cannot_be_forecast_is_refused() -> None:
    with pytest.raises(Refusal, match="needs 4 at two"):
        forecast_scores(models(), 1e19)
    loss = Series("text", Metric("loss", np.inf, 0.0), "flops", models().x, models().value + 1)
    with pytest.raises(Refusal, match="has no bound"):
        forecast_scores(loss, 1e22)


@pytest.mark.parametrize(
    ("line", "decades"),
    [
        ((-2.0, 2.0, 0.0), 1.0),
        ((-2.0, 1.0, 1.0), 1.0),  # 1 + 1 = 2
        ((-2.0, -1.0, 1.0), 2.0),  # falls first: -2 + 4 = 2
        ((1.0, 2.0, 0.0), -0.5),
        ((-2.0, -1.0, 0.0), np.inf),
        ((-2.0, 1.0, -1.0), np.inf),  # bends down before it is there
    ],
)
def test_a_line_s_first_way_up_is_where_it_emerges(
    line: tuple[float, float, float], decades: float
) -> None:
    seen = Observations(np.array([19.0, 22.0]), np.zeros(2), np.full(2, 100.0), 0.0)
    draws = np.array([[*line, -50.0]])  # no spread between models
    found = Posterior(FORMS[0], seen, ("a", "b", "q", "s"), draws, 1.0)
    assert found.thresholds(np.random.default_rng(0))[0] == pytest.approx(21.0 + decades)


def test_a_logistic_near_chance_does_not_run_away() -> None:
    """Scores as of Pythia on ARC: an unbounded fit followed the last one to .999 at 2.8B."""
    t = np.log10([7e7, 1.6e8, 4.1e8, 1e9, 1.4e9])
    share = np.array([0.250, 0.251, 0.250, 0.253, 0.270])
    seen = Observations(t, share, np.full(5, 1172.0), 0.25)
    drawn = plain_logistic(seen, np.log10([2.8e9, 1.2e10]), np.random.default_rng(0))
    assert np.median(drawn, axis=0).max() < 0.35


# Of 30 scores .004 off their curve the interval held .80 where no curve came as near as they lie.
@pytest.mark.parametrize(("count", "error"), [(8, 0.03), (30, 0.004)])
def test_a_logistic_s_interval_holds_what_it_does_not_know(count: int, error: float) -> None:
    rng, ahead, inside = np.random.default_rng(0), np.array([23.0]), []
    for _ in range(100):
        t = np.sort(rng.uniform(20, 22, count))
        share = np.clip(expit(1.5 * (t - 22)) + error * rng.standard_normal(count), 0, 1)
        drawn = plain_logistic(Observations(t, share, np.full(count, 1e6), 0.0), ahead, rng)
        new = expit(1.5 * (ahead - 22)) + error * rng.standard_normal(1)
        inside.append(judge("plain", drawn, np.clip(new, 0, 1), 0.9).coverage)
    assert 0.82 <= np.mean(inside) <= 0.97  # 100 tables: two and a half standard deviations


def test_persistence_is_the_scores_of_the_largest_scale_seen() -> None:
    t, scores = np.array([1.0, 2.0, 2.0]), np.array([0.1, 0.5, 0.7])
    assert persistence(t, scores).ravel().tolist() == [0.5, 0.7]


def emergent(reference: Callable[[str], Path]) -> list[Series]:
    """The eight emergent tasks of Ruan et al. 2024 (arXiv:2405.10938), BLEU as a share."""
    scores = pd.read_csv(reference("obs-scaling/base_llm_emergent_capability_eval.csv"))
    models = pd.read_csv(reference("obs-scaling/base_llm_benchmark_eval.csv"))
    table = scores.merge(models[["Model", "FLOPs (1E21)"]], on="Model").dropna(
        subset="FLOPs (1E21)"
    )
    found = []
    for task in scores.columns[1:]:
        rows = table.dropna(subset=task)
        metric = Metric("bleu", 0.0, 100.0) if "bleu" in task else ACCURACY
        questions = 1050 if "parsinlu" in task else 1003 if "ipa" in task else 2000
        found.append(
            Series(task, metric, "flops", rows["FLOPs (1E21)"].to_numpy(float),
                   rows[task].to_numpy(float), n=np.full(len(rows), float(questions)),
                   chance=0.25 if "parsinlu" in task else 0.0)
        )  # fmt: skip
    return found


def test_larger_models_of_published_tasks_are_forecast_well_and_by_a_bounded_logistic_too(
    reference: Callable[[str], Path],
) -> None:
    found = [forecast_scores(each, 84.0) for each in emergent(reference)]
    assert sum(each.n for each in found) == 44 * 5 + 43 + 40 + 40
    ours, last, plain = (np.mean([each.judged[i].crps for each in found]) for i in range(3))
    assert ours < 0.085  # .076
    assert ours < 0.5 * last  # .171: the scores of the largest scale seen
    assert ours < 1.1 * plain < 0.1  # .078: a logistic of bounded slope forecasts as well
    inside = sum((each.judged[0].coverage or 0) * each.judged[0].n for each in found)
    assert 0.82 < inside / sum(each.judged[0].n for each in found) < 0.98


def test_the_threshold_by_way_of_the_loss_holds_the_scatter_of_losses() -> None:
    """Score follows loss without scatter, so that all of the threshold's is the loss's."""
    rng = np.random.default_rng(0)
    series, fall = models(), 0.05 * np.log(10)
    own = 0.05 * rng.standard_normal(len(series.x))
    loss = 3 * np.exp(own - fall * (series.t - 19))
    share = expit(2 * (series.t - own / fall - 22))
    series = replace(series, value=rng.binomial(500, share) / 500)
    interval = forecast_scores(series, 1e22, method="two_step", loss=loss).threshold.interval
    assert interval is not None
    low, high = interval
    # 1.645 standard deviations of .05 in log loss on either side, at .115 a decade
    assert np.log10(high / low) == pytest.approx(2 * 1.645 * 0.05 / fall, rel=0.25)


def test_a_new_model_gets_to_a_value_where_its_own_line_has_it() -> None:
    t, y = np.array([0.0, 1, 2, 3]), np.array([0.0, -1.2, -1.8, -3.0])
    line = fit_line(t, y, np.ones(4))
    there = line.reaches(np.full(200_000, -4.86), np.random.default_rng(0))
    beyond = line.draws(np.array([6.0]), 200_000, np.random.default_rng(0))
    # A falling line is at -4.86 by t = 6 exactly where its y there is below it.
    assert np.mean(there <= 6.0) == pytest.approx(np.mean(beyond <= -4.86), abs=0.01)
    assert line.reaches(np.array([-np.inf]), np.random.default_rng(0))[0] == np.inf
