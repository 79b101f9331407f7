"""Other questions than a budget: their intervals, their price and their refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import Fit, fit
from analysis.forecast.predict import predictions
from analysis.laws.catalogue import law
from analysis.laws.formula import amplitude, exponent, feature, floor
from analysis.laws.law import Law
from analysis.laws.published import published
from analysis.recommend.by_law import answer
from analysis.recommend.question import Question
from analysis.recommend.recommend import Recommendations, recommend
from scaling.store.records import Refusal

CHINCHILLA = law("chinchilla")
TRUTH = {"E": 0.8, "A": 12.0, "alpha": 0.31, "B": 620.0, "beta": 0.53}


@pytest.fixture(scope="module")
def fitted() -> Fit:
    sizes, budgets = np.geomspace(2.5e4, 8e5, 6), np.geomspace(5e5, 4e6, 4)
    table = pd.DataFrame([(n, d) for n in sizes for d in budgets], columns=["params", "tokens"])
    exact = CHINCHILLA.predict(TRUTH, {"params": table["params"], "tokens": table["tokens"]})
    noise = 0.005 * np.random.default_rng(0).normal(size=len(table))
    return fit(CHINCHILLA, table.assign(loss=exact * np.exp(noise)), bootstrap=400)


def test_what_was_given_has_no_width_and_what_was_found_has(fitted):
    found = answer(fitted, Question(loss=1.2)).interval
    assert found.loss == pytest.approx((1.2, 1.2))
    assert found.flops[0] < found.flops[1]
    assert found.params[0] < found.params[1]
    fixed = answer(fitted, Question(params=2e5, flops=1e13)).interval
    assert fixed.params == pytest.approx((2e5, 2e5))
    assert fixed.loss[0] < fixed.loss[1]


@pytest.mark.parametrize(
    "ask", [Question(flops=1e14), Question(flops=1e14, params=3e5), Question(tokens=3e9)]
)
def test_recommend_and_predict_give_the_same_run_the_same_loss_and_intervals(fitted, ask):
    told = answer(fitted, ask, level=fitted.interval.level)
    run = pd.DataFrame({"params": [told.params], "tokens": [told.tokens]})
    [same] = predictions(fitted, run)
    assert told.loss == pytest.approx(same.loss, rel=1e-9)
    assert told.interval.curve_loss == pytest.approx(same.curve, rel=1e-9)
    assert told.interval.loss == pytest.approx(same.interval, rel=1e-9)


def test_asking_for_the_loss_of_a_budget_gives_back_the_budget(fitted):
    there = answer(fitted, Question(flops=1e13))
    back = answer(fitted, Question(loss=there.law_loss))
    assert back.flops == pytest.approx(1e13, rel=1e-9)
    assert back.params == pytest.approx(there.params, rel=1e-9)


def test_a_size_twice_the_best_costs_more_compute_for_its_loss_and_the_best_none(fitted):
    best = answer(fitted, Question(flops=1e13))
    double = answer(fitted, Question(flops=1e13, params=2 * best.params))
    assert best.compute_ratio == pytest.approx(1)
    least = answer(fitted, Question(loss=double.law_loss))
    assert double.compute_ratio == pytest.approx(1e13 / least.flops)
    assert double.compute_ratio > 1.02


def test_serving_is_counted_in_the_total_and_makes_the_model_smaller(fitted):
    plain = answer(fitted, Question(loss=1.2))
    served = answer(fitted, Question(loss=1.2, served=1e9))
    assert plain.total_flops == plain.flops
    assert served.params < plain.params
    assert served.total_flops == served.flops + 2 * served.params * 1e9
    assert served.total_flops < plain.flops + 2 * plain.params * 1e9


def test_a_lopsided_run_warns_though_its_compute_lies_inside_the_data(fitted):
    run = answer(fitted, Question(params=1e3, tokens=4e6 * 100))
    assert run.decades_beyond_data == 0
    assert any("N = 1k lies 1.4 decades outside" in text for text in run.warnings)
    assert any("D = 400M lies 2.0 decades outside" in text for text in run.warnings)


def test_draws_that_never_reach_the_loss_make_the_interval_endless(fitted):
    draws = fitted.draws.copy()
    draws.loc[draws.index[:100], "E"] = 1.3
    run = answer(replace(fitted, draws=draws), Question(loss=1.2))
    assert run.interval.flops[1] == np.inf
    assert any("25% of the draws never reach that loss" in text for text in run.warnings)


@pytest.fixture(scope="module")
def few() -> Fit:
    """Eight trunks of one size each."""
    sizes, budgets = np.geomspace(2.5e4, 8e5, 8), np.geomspace(5e5, 4e6, 4)
    rows = [(n, d, f"trunk {n:.0f}") for n in sizes for d in budgets]
    table = pd.DataFrame(rows, columns=["params", "tokens", "trunk_id"])
    exact = CHINCHILLA.predict(TRUTH, {"params": table["params"], "tokens": table["tokens"]})
    noise = 0.005 * np.random.default_rng(0).normal(size=len(table))
    return fit(CHINCHILLA, table.assign(loss=exact * np.exp(noise)), bootstrap=400, checks=False)


def without(source: Fit, share: float, **coefficients: float) -> Fit:
    """The fit, had that share of its draws come to these coefficients."""
    draws = source.draws.copy()
    for name, value in coefficients.items():
        draws.loc[draws.index[: round(share * len(draws))], name] = value
    return replace(source, draws=draws)


@pytest.mark.parametrize(
    ("share", "said"), [(0.12, "12% of the draws"), (1.0, "100% of the draws")]
)
def test_draws_of_few_clusters_that_never_reach_the_loss_are_counted(few, share, said):
    assert not any("of the draws" in text for text in answer(few, Question(loss=1.2)).warnings)
    run = answer(without(few, share, E=1.3), Question(loss=1.2))
    assert any(text.startswith(said) and "has no upper end" in text for text in run.warnings)
    assert (run.interval.flops[1], run.interval.params[1]) == (np.inf, np.inf)


def test_draws_without_an_optimum_leave_n_between_one_and_the_whole_budget(few):
    run = answer(without(few, 0.25, alpha=1e-12), Question(flops=1e13))
    assert any(text.startswith("25% of the draws have no optimum there") for text in run.warnings)
    assert run.interval.params[0] == 1 < run.interval.params[1] < 1e13 / 6
    assert run.interval.flops == (1e13, 1e13)


def test_a_loss_at_or_below_the_floor_is_refused_with_the_floor():
    with pytest.raises(Refusal, match=r"loss = 1\.6 is not above the floor E = 1\.690"):
        answer(published("chinchilla-2022"), Question(loss=1.6))


def test_a_loss_that_a_size_cannot_reach_is_refused_with_the_size():
    with pytest.raises(Refusal, match=r"loss 1\.8, 700M parameters: .* Give more params"):
        answer(published("chinchilla-2022"), Question(loss=1.8, params=7e8))


def test_a_loss_that_no_run_has_is_refused_by_what_the_question_says():
    """Not by a number of tokens that nobody gave, nor by a floor that must be called E."""
    N, D = feature("N", "params"), feature("D", "tokens")
    mine = Law("mine", floor("L_0") + amplitude("A") / N ** exponent("a")
               + amplitude("B") / D ** exponent("b"), source="a test")  # fmt: skip
    truth = published("chinchilla-2022")
    names = dict(zip(mine.coefficients, truth.coefficients.values(), strict=True))
    own = replace(truth, law=mine, coefficients=names)
    with pytest.raises(Refusal, match=r"not above the floor L_0 = 1\.690 of mine"):
        answer(own, Question(loss=1.6))
    for source in (own, truth):
        with pytest.raises(Refusal, match=r"less than one parameter or one .* a smaller loss"):
            answer(source, Question(loss=4000.0))
    with pytest.raises(Refusal, match=r"no run with these unique_tokens reaches"):
        answer(published("muennighoff-2023"), Question(loss=2.0, unique_tokens=1e6))


def test_a_budget_below_every_run_is_refused(fitted):
    least = 6 * fitted.data.params.low * fitted.data.tokens.low
    answer(fitted, Question(flops=least))
    with pytest.raises(Refusal, match="below every run of the fit"):
        answer(fitted, Question(flops=least / 2))


def test_the_table_names_the_question_and_the_price(fitted):
    source = published("besiroglu-2024")
    asks = [Question(loss=2.1), Question(params=8e9, tokens=15e12), Question(loss=2.1, served=2e12)]
    found = Recommendations(source, tuple(answer(source, ask) for ask in asks))
    lines = found.text().splitlines()
    assert lines[4].split("  ")[0] == "asked"
    assert lines[4].rstrip().endswith("× least compute  FLOPs with serving")
    assert lines[6].split()[:6] == ["8B", "parameters,", "15T", "tokens", "7.2e23", "8B"]
    value = found.json()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert value["recommendations"][2]["asked"] == {"loss": 2.1, "served": 2e12}


def test_what_is_said_of_the_fit_is_said_once(fitted):
    few = replace(fitted, draws=fitted.draws.iloc[:50])
    text = recommend(few, [1e12, 1e13], by="law").text()
    assert text.count("rests on 50 draws") == 1


def test_losses_without_logarithms_have_intervals_in_nats(fitted):
    least = fitted.table["loss"].min()
    signed = fitted.table.assign(loss=fitted.table["loss"] - least - 0.01)  # one is below zero
    source = fit(CHINCHILLA, signed, objective="l2", bootstrap=100)
    assert not np.isfinite(source.rmse_log)
    best = answer(source, Question(flops=1e13))
    (low, high), curve = best.interval.loss, best.interval.curve_loss
    assert low < curve[0] < best.loss < curve[1] < high
    [told] = predictions(source, pd.DataFrame({"params": [best.params], "tokens": [best.tokens]}))
    assert told.loss == pytest.approx(best.loss)
    assert told.interval[0] < told.curve[0] < told.loss < told.curve[1] < told.interval[1]
    found = Recommendations(source, (best,))
    assert "nan" not in found.text()
    json.dumps(found.json(), allow_nan=False)
