"""Law, runs or a mean of both answer, by how they describe runs left out; all are shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import Fit, fit
from analysis.interval import Interval
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.recommend.by_law import answer
from analysis.recommend.choose import choose
from analysis.recommend.question import Question
from analysis.recommend.recommend import Recommendations, recommend
from analysis.recommend.warnings import disagreement
from scaling.store.records import Refusal

ASK = Question(flops=1e21)
CHINCHILLA = law("chinchilla")


def design() -> pd.DataFrame:
    rows = [
        (n, c / 6 / n)
        for c in np.geomspace(1e18, 1e20, 6)
        for n in (c / 120) ** 0.5 * 2.0 ** np.arange(-2.0, 2.5)
    ]
    return pd.DataFrame(rows, columns=["params", "tokens"])


@pytest.fixture(scope="module")
def exact() -> Fit:
    """Runs on the law itself."""
    table = design()
    loss = published("besiroglu-2024").predict({n: table[n].to_numpy() for n in table})
    return fit(CHINCHILLA, table.assign(loss=loss), bootstrap=0)


@pytest.fixture(scope="module")
def bent() -> Fit:
    """Runs in a valley along C^0.7 that no sum of powers has."""
    table = design()
    flops = 6 * table["params"] * table["tokens"]
    off = np.log(table["params"] / (1e9 * (flops / 1e20) ** 0.7))
    noise = 0.001 * np.random.default_rng(0).normal(size=len(table))
    loss = 2.5 * (flops / 1e20) ** -0.05 * np.exp(0.04 * off**2 + noise)
    return fit(CHINCHILLA, table.assign(loss=loss), bootstrap=100)


def test_the_law_that_made_the_runs_answers_to_the_last_digit(exact):
    [best] = recommend(exact, 1e21)
    assert best.by == "law"
    assert best.params == answer(exact, ASK).params
    [other] = best.others
    assert other.params == pytest.approx(best.params, rel=0.15)


def test_where_the_law_misfits_the_runs_answer_and_come_closer(bent):
    [best] = recommend(bent, 1e21)
    true = 1e9 * 10**0.7
    assert best.by == "runs"
    assert best.params == pytest.approx(true, rel=0.15)
    assert best.params_exponent == pytest.approx(0.7, abs=0.06)
    [other] = best.others
    assert other.params == answer(bent, ASK).params
    assert abs(np.log(best.params / true)) < abs(np.log(other.params / true))


def test_answers_whose_intervals_do_not_meet_are_a_warning(bent):
    [best] = recommend(bent, 1e21)
    assert disagreement(best) == []
    [other] = best.others
    elsewhere = replace(other.interval, params=Interval(1e9, 2e9))
    apart = replace(best, others=(replace(other, interval=elsewhere),))
    [said] = disagreement(apart)
    assert "the runs' own minima and the law disagree on N*" in said
    assert "1B … 2B" in said
    without = replace(best, interval=None, others=(replace(other, interval=None),))
    assert disagreement(without) == []
    assert disagreement(replace(without, params=3 * best.params)) != []


def test_the_run_of_the_runs_spends_the_budget_and_has_the_laws_loss_and_a_shape(bent):
    [best] = recommend(bent, 1e21, build=lambda n: {"params": n})
    assert 6 * best.params * best.tokens == pytest.approx(1e21)
    run = answer(bent, Question(params=best.params, tokens=best.tokens))
    assert best.loss == run.loss
    assert best.interval.curve_loss == run.interval.curve_loss
    assert best.shape == {"params": best.params}
    low, high = best.interval.tokens
    assert low < best.tokens < high


def test_either_answers_when_asked_by_name(bent, exact):
    assert recommend(bent, 1e21, by="law")[0].params == answer(bent, ASK).params
    assert recommend(exact, 1e21, by="runs")[0].by == "runs"
    assert recommend(bent, [1e21], by="law")[0].by == "law"


def test_what_runs_cannot_tell_is_the_laws_or_refused(bent):
    for asked in ({"loss": 2.6}, {"params": 1e9}, {"flops": 1e21, "unique_tokens": 1e9}):
        assert recommend(bent, **asked)[0].by == "law"
        assert recommend(bent, **asked)[0].reason.startswith(
            ("the runs' own minima ", "the minima of runs ")
        )
        with pytest.raises(Refusal, match="--by runs divides a budget of fresh data"):
            recommend(bent, **asked, by="runs")
    without = replace(bent, table=bent.table.iloc[:0])
    assert choose(without).by == "law"
    assert choose(without).reason == "the fit's runs are not at hand"  # no remedy: it is done
    with pytest.raises(Refusal, match="not at hand"):
        choose(without, "runs")
    with pytest.raises(Refusal, match="give a fit, not a published law"):
        choose(published("besiroglu-2024"), "runs")


def test_more_unique_tokens_than_the_best_run_takes_change_nothing(bent):
    [plain] = recommend(bent, 1e21)
    both = recommend(bent, 1e21, unique_tokens=[1.01 * plain.tokens, 0.99 * plain.tokens])
    same, other = both
    assert same.by == "runs"
    assert (same.params, same.loss, same.interval) == (plain.params, plain.loss, plain.interval)
    assert other.by == "law"
    assert "tokens repeat there" in other.chosen.reason
    text = " ".join(both.text().split())
    assert f"{same.question}: N* by the runs' own minima (the law predicts left-out runs" in text
    assert f"{other.question}: N* by the law (the runs' own minima are of fresh data" in text


def test_a_law_taken_because_the_runs_have_one_side_says_so(exact):
    best = np.sqrt(exact.table["params"] * exact.table["tokens"] / 20)
    smaller = replace(exact, table=exact.table[exact.table["params"] < 0.99 * best])
    assert "almost no runs" in choose(smaller).reason
    assert "almost no runs" not in choose(exact).reason


def test_runs_answer_where_the_law_has_no_optimum(bent):
    flat = replace(bent, coefficients={**bent.coefficients, "A": 0.0})
    [best] = recommend(flat, 1e21)
    assert best.by == "runs"
    assert best.others == ()
    [best] = recommend(flat, 1e21, chosen=replace(choose(bent), by="law"))
    assert best.by == "runs"
    assert best.chosen.reason == "the law has no optimum there"
    with pytest.raises(Refusal, match="no optimum"):
        recommend(flat, 1e21, by="law")


def test_text_and_json_say_who_answered_and_what_the_other_would_have_said(bent):
    advice = recommend(bent, 1e21)
    text = " ".join(advice.text().split())
    ratio = advice[0].others[0].params / advice[0].params
    assert "N* by the runs' own minima (the law predicts left-out runs" in text
    assert f"({ratio:.2f} ×; --by law)" in text
    value = advice.json()
    [entry] = value["recommendations"]
    assert value["by"] == entry["by"] == "runs"
    assert entry["beside"]["by"] == "law"
    assert entry["beside"]["params"] == answer(bent, ASK).params
    assert "N* by the law." in Recommendations(bent, (answer(bent, ASK),)).text()  # asked alone


def test_json_says_why_and_how_well_both_describe_the_runs_near_the_optimum(bent):
    valley = choose(bent).valley
    misfits = {"law_misfit": valley.law_misfit, "misfit": valley.misfit}
    [entry] = recommend(bent, 1e21).json()["recommendations"]
    priors = entry["decided"].pop("priors")
    runs = {"by": "runs", "reason": choose(bent).reason, "law_weight": 0.0}
    assert entry["decided"] == {**runs, **misfits}
    assert [each["of"] for each in priors] == ["exponent", "curvature"]
    assert priors[0]["params_without"] == pytest.approx(entry["params"], rel=0.2)
    [entry] = recommend(bent, 1e21, by="law").json()["recommendations"]
    law = {"by": "law", "reason": "as asked", "law_weight": 1.0, "priors": priors}
    assert entry["decided"] == {**law, **misfits}
    [entry] = recommend(bent, loss=2.6).json()["recommendations"]
    nothing = {"law_misfit": None, "misfit": None, "priors": []}
    said = "the minima of runs answer only questions about a budget"
    assert entry["decided"] == {"by": "law", "reason": said, "law_weight": 1.0, **nothing}


def test_where_neither_is_clearly_better_the_answer_is_a_mean_that_covers_both(bent):
    chosen = choose(bent)
    shared = replace(chosen, by="both", law_weight=0.3)
    [both] = recommend(bent, 1e21, chosen=shared)
    law, runs = both.others
    assert (both.by, law.by, runs.by) == ("both", "law", "runs")
    logs = np.log([law.params, runs.params])
    assert np.log(both.params) == pytest.approx(np.dot([0.3, 0.7], logs))
    assert both.params_exponent == pytest.approx(
        0.3 * law.params_exponent + 0.7 * runs.params_exponent
    )
    assert 6 * both.params * both.tokens == pytest.approx(1e21)
    low, high = both.interval.params
    assert low < min(law.params, runs.params) < max(law.params, runs.params) < high
    assert both.interval.tokens == pytest.approx((1e21 / 6 / high, 1e21 / 6 / low))
    for weight, alone in ((1e-9, runs), (1 - 1e-9, law)):
        [near] = recommend(bent, 1e21, chosen=replace(shared, law_weight=weight))
        assert near.params == pytest.approx(alone.params, rel=1e-6)
        assert near.interval.params == pytest.approx(alone.interval.params, rel=1e-3)


def test_a_mean_of_both_is_said_with_what_either_would_train(bent):
    shared = replace(choose(bent), by="both", law_weight=0.3)
    advice = recommend(bent, 1e21, chosen=shared)
    text = " ".join(advice.text().split())
    assert "N* by law and runs together" in text
    assert "By the law alone: " in text and "; --by law)" in text
    assert "By the runs' own minima alone: " in text and "; --by runs)" in text
    [entry] = advice.json()["recommendations"]
    assert entry["by"] == "both"
    assert entry["decided"]["law_weight"] == 0.3
    assert [each["by"] for each in entry["others"]] == ["law", "runs"]


def test_the_prior_behind_the_runs_minima_is_printed_where_they_answer(bent):
    text = " ".join(recommend(bent, 1e21).text().split())
    assert "two priors from published isoFLOP studies: exponent 0.5 ± 0.1, " in text
    assert "curvature 0.04 ± 0.03, " in text
    assert "without it 0.7" in text
    assert "priors" not in recommend(bent, 1e21, by="law").text()


def test_a_law_that_errs_more_than_the_runs_scatter_warns_of_its_loss(bent):
    chosen = choose(bent)
    for share, warned in ((1.9, False), (2.1, True)):
        off = replace(chosen.valley, law_misfit=share * chosen.valley.misfit)
        for by in ("law", "runs"):
            [best] = recommend(bent, 1e21, chosen=replace(chosen, valley=off, by=by))
            assert (
                any("2.1 × that of a local quadratic" in text for text in best.warnings) == warned
            )


def test_what_the_runs_say_against_their_own_minima_is_said_where_they_answer(bent):
    chosen = choose(bent)
    found = replace(chosen.valley, warnings=("few runs are smaller.",))
    told = recommend(bent, [1e21, 2e21], chosen=replace(chosen, valley=found))
    assert all("few runs are smaller." in best.warnings for best in told)
    assert told.text().count("Warning: few runs are smaller.") == 1
    [law] = recommend(bent, 1e21, chosen=replace(chosen, valley=found, by="law"))
    assert "few runs are smaller." not in law.warnings


def test_what_intervals_cover_is_said_of_whoever_answers(bent):
    def said(by: str, decades: float) -> str:
        return " ".join(recommend(bent, 1e20 * 10**decades, by=by).text().split())

    assert "noise in the runs, not an error in the law's form" in said("law", 1.5)
    assert "widened by the errors that such minima had" in said("runs", 1.5)
    assert "error in the law's form" in said("law", 3)
    assert "error in the law's form" not in said("runs", 3)
    assert "The 90% intervals [low … high] come from 100 draws" in said("law", 1.5)
    resamples = len(choose(bent).valley.draws)
    assert f"N* and D* come from {resamples} resamples of the runs" in said("runs", 1.5)


@pytest.mark.parametrize("clusters", [1, 2])
def test_too_few_clusters_compare_nothing_and_the_runs_answer(bent, clusters):
    table = bent.table[["params", "tokens", "loss"]]
    few = fit(CHINCHILLA, table.assign(trunk_id=np.arange(len(table)) % clusters), bootstrap=50,
              checks=False)  # fmt: skip
    chosen = choose(few)
    assert chosen.by == "runs" and chosen.law_weight == 0
    assert chosen.reason.startswith("the runs are of fewer than 3 clusters, too few to leave one")
    found = recommend(few, 1e21, chosen=chosen)
    [best] = found
    assert best.interval is None
    [entry] = found.json()["recommendations"]
    assert entry["decided"]["law_misfit"] is entry["decided"]["misfit"] is None
    assert not any("misfits" in each or "inf" in each for each in best.warnings)
