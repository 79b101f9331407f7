"""Every question about a run is answered where the law says, closed form and numeric alike."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from analysis.laws.catalogue import A, B, D, E, N, alpha, beta, law
from analysis.laws.inverse import cheapest, solve
from analysis.laws.law import Law
from analysis.laws.optimum import Optimum, compute_optimal
from analysis.laws.published import published
from analysis.recommend.question import Question
from scaling.store.records import Refusal

CHINCHILLA = law("chinchilla")
# The same law with a term that is there twice in part, which has no closed form here.
TERM = A / N**alpha
NUMERIC = Law("chinchilla, numeric", E + 0.4 * TERM + B / D**beta + 0.6 * TERM, source="test")
HOFFMANN = published("chinchilla-2022").coefficients
# Exponents that round to the printed .34 and .28.


def flops(point: Optimum) -> float:
    return float(6 * point.params * point.tokens)


ASKS = [
    Question(flops=1e21),
    Question(loss=2.1),
    Question(loss=2.1, served=2e12),
    Question(params=7e9),
    Question(tokens=1e12),
    Question(params=7e9, flops=1e22),
    Question(tokens=1e12, flops=1e22),
    Question(params=7e9, tokens=1e12),
    Question(loss=2.1, params=7e9),
    Question(loss=2.1, tokens=1e12),
]


@pytest.mark.parametrize("ask", ASKS, ids=str)
def test_an_answer_meets_every_condition_and_numeric_agrees_with_closed_form(ask):
    closed, numeric = (solve(each, HOFFMANN, ask) for each in (CHINCHILLA, NUMERIC))
    got = {"flops": flops(closed), "loss": float(closed.loss)}
    got |= {"params": float(closed.params), "tokens": float(closed.tokens)}
    for name, value in ask.given.items():
        assert got[name] == pytest.approx(value, rel=1e-12)
    assert float(numeric.params) == pytest.approx(got["params"], rel=1e-6)
    assert float(numeric.tokens) == pytest.approx(got["tokens"], rel=1e-6)


@pytest.mark.parametrize("ask", ASKS[1:5], ids=str)
@pytest.mark.parametrize(
    "name",
    ["chinchilla_tied", "chinchilla_coupled", "chinchilla_power", "kaplan_nd", "overtraining"],
)
def test_closed_forms_of_other_laws_meet_the_conditions_as_numeric_ones_do(name, ask):
    formula = law(name).loss
    other = Law("renamed", formula + 0.1 * formula - 0.1 * formula, source="the same, unrecognised")
    constants = {**HOFFMANN, "N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
    constants |= {"gamma": 0.7, "a": 150.0, "b": 190.0, "eta": 0.14}
    own = {key: constants[key] for key in law(name).coefficients}
    closed, numeric = (solve(each, own, ask) for each in (law(name), other))
    for got in ("params", "tokens", "loss"):
        assert float(getattr(numeric, got)) == pytest.approx(float(getattr(closed, got)), rel=1e-6)


def test_answers_are_found_for_every_draw_at_once():
    noise = np.random.default_rng(0)
    draws = {k: v * np.exp(0.05 * noise.normal(size=(40, 1))) for k, v in HOFFMANN.items()}
    for ask in ASKS:
        together = solve(CHINCHILLA, draws, ask)
        alone = solve(CHINCHILLA, {k: v[7, 0] for k, v in draws.items()}, ask)
        assert together.params.shape == (40, 1)
        assert together.params[7, 0] == pytest.approx(float(alone.params), rel=1e-6, nan_ok=True)


def test_the_cheapest_run_to_a_loss_is_the_best_run_of_its_budget():
    point = cheapest(CHINCHILLA, HOFFMANN, 2.1)
    best = compute_optimal(CHINCHILLA, HOFFMANN, flops(point))
    assert float(best.loss) == pytest.approx(2.1, rel=1e-12)
    assert float(best.params) == pytest.approx(float(point.params), rel=1e-9)


@pytest.mark.parametrize("served", [1e11, 2e12, 1e14])
def test_no_other_run_of_that_loss_costs_less_to_train_and_serve(served):
    point = cheapest(CHINCHILLA, HOFFMANN, 2.1, served)
    sizes = float(point.params) * np.geomspace(0.3, 3, 2001)
    rest = 2.1 - HOFFMANN["E"] - HOFFMANN["A"] / sizes ** HOFFMANN["alpha"]
    with np.errstate(invalid="ignore"):
        tokens = np.where(rest > 0, (HOFFMANN["B"] / rest) ** (1 / HOFFMANN["beta"]), np.inf)
    least = float(6 * point.params * point.tokens + 2 * point.params * served)
    assert (6 * sizes * tokens + 2 * sizes * served).min() >= least * (1 - 1e-12)


def test_the_more_is_served_the_smaller_and_longer_trained_the_model():
    runs = [cheapest(CHINCHILLA, HOFFMANN, 2.1, served) for served in (0.0, 1e11, 1e12, 1e13)]
    assert all(a.params > b.params for a, b in pairwise(runs))
    assert all(a.tokens < b.tokens for a, b in pairwise(runs))


def test_a_loss_that_is_never_reached_has_no_answer():
    small = {"params": 7e8}, {"tokens": 1e9}
    for ask in (
        Question(loss=1.69),
        Question(loss=1.0),
        *(Question(loss=1.8, **fixed) for fixed in small),
    ):
        for each in (CHINCHILLA, NUMERIC):
            assert not solve(each, HOFFMANN, ask).interior


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        ({}, "nothing is given"),
        ({"flops": 1e20, "loss": 2.0}, "one follows from the other"),
        ({"flops": 1e20, "params": 1e9, "tokens": 1e9}, "one or two"),
        ({"params": -1.0}, "params = -1"),
        ({"loss": float("nan")}, "loss = nan"),
        ({"flops": 1e20, "served": 1e12}, "give loss alone"),
        ({"loss": 2.0, "served": -1.0}, "served = -1"),
    ],
)
def test_a_question_that_is_none_is_refused(ask, words):
    with pytest.raises(Refusal, match=words):
        Question(**ask)


def test_a_question_reads_as_it_was_asked():
    assert str(Question(flops=5.76e23)) == "5.76e23 FLOPs"
    assert str(Question(loss=2.1, served=2e12)) == "loss 2.1, 2T tokens served"
