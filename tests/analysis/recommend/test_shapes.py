"""A budget counted exactly buys a shape its tokens, and the best shape is the one of least loss."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import Fit, fit
from analysis.fitting.source import Source
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.recommend.by_law import answer
from analysis.recommend.choose import answer_as_chosen, choose
from analysis.recommend.question import FlopCount, Question
from analysis.recommend.recommendation import Recommendation
from analysis.recommend.shapes import Built, Candidate, answer_exactly, shapes_for
from scaling.store.records import Refusal

SOURCE = published("besiroglu-2024")
ASK = Question(flops=1e22)


def shapes(cost: float = 1.0, step: float = 1.02) -> list[Built]:
    """A fine ladder around N*, at `cost` times 6N FLOPs a token."""
    best = answer(SOURCE, ASK).params
    sizes = best * step ** np.arange(-40, 41)
    shape = {"shape": "1 × 64 × 1", "dimensions": "layers × width × heads"}
    return [Built(float(n), 6 * cost * float(n), shape) for n in sizes]


def exactly(
    source: Source, offered: list[Built], ask: Question = ASK, by: str | None = None
) -> Recommendation:
    smooth = answer_as_chosen(source, ask, choose(source, by))
    return answer_exactly(source, smooth, shapes_for(source, smooth, offered, "exact"))


def candidates(offered: list[Built], count: FlopCount = "exact") -> tuple[Candidate, ...]:
    return shapes_for(SOURCE, answer(SOURCE, ASK), offered, count).candidates


@pytest.fixture(scope="module")
def fitted() -> Fit:
    grid = [(n, d) for n in np.geomspace(1e8, 1e10, 5) for d in np.geomspace(2e9, 2e11, 5)]
    table = pd.DataFrame(grid, columns=["params", "tokens"])
    noise = np.exp(0.005 * np.random.default_rng(0).normal(size=len(table)))
    loss = SOURCE.predict({name: table[name].to_numpy() for name in table}) * noise
    return fit(law("chinchilla"), table.assign(loss=loss), bootstrap=100)


def test_where_a_shape_costs_6N_the_exact_answer_is_that_of_6ND():
    exact, smooth = exactly(SOURCE, shapes()), answer(SOURCE, ASK)
    assert exact.params == pytest.approx(smooth.params, rel=0.01)
    assert exact.tokens == pytest.approx(smooth.tokens, rel=0.01)
    assert exact.loss == pytest.approx(smooth.loss, rel=1e-5)


def test_a_budget_buys_exactly_its_flops_of_every_shape():
    for count, cost in (("exact", 1.2), ("6nd", 1.2)):
        for each in candidates(shapes(cost), count):
            flops = each.exact_flops if count == "exact" else 6 * each.built.params * each.tokens
            assert flops == pytest.approx(1e22, rel=1e-12)


def test_shapes_a_fifth_dearer_are_trained_as_by_a_sixth_less_compute():
    dear = exactly(SOURCE, shapes(1.2))
    less = answer(SOURCE, Question(flops=1e22 / 1.2))
    assert dear.params == pytest.approx(less.params, rel=0.011)
    assert dear.loss == pytest.approx(less.loss, rel=1e-5)
    assert dear.flops == 1e22


def test_no_other_shape_has_a_lower_loss_and_excess_is_measured_from_the_best():
    offered = shapes_for(SOURCE, answer(SOURCE, ASK), shapes(1.3), "exact")
    found = offered.candidates
    best = exactly(SOURCE, shapes(1.3))
    assert min(each.loss for each in found) == best.loss
    assert min(each.excess for each in found) == 0
    first = found[0]
    assert first.excess == pytest.approx(first.loss / best.loss - 1)
    assert "best" in offered.text()
    assert len(offered.json()) == len(found)


def test_a_best_shape_at_the_end_of_the_ladder_is_refused():
    with pytest.raises(Refusal, match="is the smallest of the 41 offered"):
        exactly(SOURCE, shapes()[40:])
    with pytest.raises(Refusal, match="no shape"):
        candidates([])
    with pytest.raises(Refusal, match="Give --flops alone"):
        shapes_for(SOURCE, answer(SOURCE, Question(loss=2.1)), shapes(), "exact")


def test_the_interval_moves_with_the_shape_and_keeps_its_width(fitted):
    exact, smooth = exactly(fitted, shapes(1.2), by="law"), answer(fitted, ASK)
    for name in ("params", "tokens"):
        ours, theirs = getattr(exact.interval, name), getattr(smooth.interval, name)
        assert ours[1] / ours[0] == pytest.approx(theirs[1] / theirs[0])
        assert ours[0] < getattr(exact, name) < ours[1]


def test_by_the_runs_the_best_shape_lies_at_the_bottom_of_their_valley(fitted):
    valley = choose(fitted, "runs").valley
    best = exactly(fitted, shapes(1.2), by="runs")
    bought = 6 * best.params * best.tokens
    assert best.by == "runs"
    assert bought == pytest.approx(1e22 / 1.2)
    assert best.params == pytest.approx(valley.params(bought), rel=0.011)
    assert best.loss == answer(fitted, Question(params=best.params, tokens=best.tokens)).loss


def test_by_the_runs_a_shape_pays_for_the_compute_it_loses(fitted):
    smooth = answer_as_chosen(fitted, ASK, choose(fitted, "runs"))
    valley = smooth.valley
    at = valley.params(1e22)

    def built(times: float, cost: float) -> Built:
        return Built(times * at, 6 * cost * times * at, shapes()[0].shape)

    dear = built(valley.params(1e22 / 1.3) / at, 1.3)  # at the bottom, with less compute
    cheap = built(1.15, 1.0)
    small, large = built(1 / 3, 1.0), built(3.0, 1.0)
    found = shapes_for(fitted, smooth, [small, dear, cheap, large], "exact").candidates
    assert [each.excess == 0 for each in found] == [False, False, True, False]
    lost = answer(fitted, Question(flops=1e22 / 1.3)).law_loss / answer(fitted, ASK).law_loss
    assert found[1].excess == pytest.approx(lost / (1 + valley.excess(1.15 * at, 1e22)) - 1)


def test_warnings_and_epochs_are_of_the_run_that_is_trained_not_of_6ND(fitted):
    cheap = exactly(fitted, shapes(0.1, step=1.05), ASK)  # buys ten times the 6ND
    assert cheap.decades_beyond_data == pytest.approx(
        np.log10(6 * cheap.params * cheap.tokens / fitted.data.flops_max)
    )
    assert any("beyond the data" in text for text in cheap.warnings)
    assert not any("beyond the data" in text for text in answer(fitted, ASK).warnings)
    scarce = Question(flops=1e22, unique_tokens=1e11)
    repeated = exactly(published("muennighoff-2023"), shapes(0.5, step=1.05), scarce)
    run = answer(
        published("muennighoff-2023"),
        Question(params=repeated.params, tokens=repeated.tokens, unique_tokens=1e11),
    )
    assert repeated.epochs == run.epochs == repeated.tokens / 1e11
    assert repeated.worth_of_last_token == run.worth_of_last_token < 1
