"""The sizes around an optimum that are nearly as good, and what the others cost."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.allocation.valley import Valley
from analysis.laws.published import published
from analysis.recommend.by_law import answer
from analysis.recommend.flat_bottom import flat_bottom
from analysis.recommend.question import Question
from scaling.store.records import Refusal

SOURCE = published("besiroglu-2024")
FLOPS = 1e21


def test_the_ends_of_a_range_are_exactly_as_far_from_the_best_as_they_say():
    flat = flat_bottom(SOURCE, FLOPS)
    for each in flat.ranges:
        for params in each.by_loss:
            run = answer(SOURCE, Question(flops=FLOPS, params=params))
            assert run.loss / flat.loss - 1 == pytest.approx(each.share, rel=1e-6)
        for params in each.by_compute:
            run = answer(SOURCE, Question(loss=flat.loss, params=params))
            assert run.flops / FLOPS - 1 == pytest.approx(each.share, rel=1e-6)


def test_ranges_hold_the_optimum_and_each_holds_the_one_before():
    ranges = flat_bottom(SOURCE, FLOPS).ranges
    best = flat_bottom(SOURCE, FLOPS).params
    spans = [each.by_loss for each in ranges], [each.by_compute for each in ranges]
    for narrow, middle, wide in spans:
        assert wide[0] < middle[0] < narrow[0] < best < narrow[1] < middle[1] < wide[1]


def test_the_price_of_a_factor_is_that_of_the_run_itself():
    flat = flat_bottom(SOURCE, FLOPS)
    for price in flat.prices:
        params = price.factor * flat.params
        same_compute = answer(SOURCE, Question(flops=FLOPS, params=params))
        same_loss = answer(SOURCE, Question(loss=flat.loss, params=params))
        assert price.excess_loss == pytest.approx(same_compute.loss / flat.loss - 1)
        assert price.compute_ratio == pytest.approx(same_loss.flops / FLOPS)
        assert same_loss.compute_ratio == pytest.approx(price.compute_ratio)


def test_a_factor_of_two_in_size_costs_some_compute_and_the_smaller_side_more():
    # Kaplan et al. 2020, B.4, has 20% at 0.6 and at 2.2 times the best size by another law.
    half, double = flat_bottom(SOURCE, FLOPS).prices
    assert half.compute_ratio == pytest.approx(1.26, abs=0.01)
    assert double.compute_ratio == pytest.approx(1.15, abs=0.01)


def test_a_size_too_small_for_the_loss_costs_without_end(monkeypatch):
    monkeypatch.setattr("analysis.recommend.flat_bottom.FACTORS", (1e-3,))
    [price] = flat_bottom(SOURCE, FLOPS).prices
    assert price.compute_ratio == math.inf


def test_a_budget_that_is_none_is_refused():
    with pytest.raises(Refusal, match="flops = 0"):
        flat_bottom(SOURCE, 0.0)


def test_the_text_names_the_ranges_in_the_users_units():
    text = flat_bottom(SOURCE, FLOPS).text()
    assert text.startswith("1e21 FLOPs: sizes nearly as good as N*\nBy the law, N* = 2.78B")
    assert "within 1.0%  of the loss 1." in text


def test_by_a_valley_the_ends_of_a_range_lose_the_share_they_say():
    valley = Valley(46.0, 21.0, 0.5, 0.03, 20, 0.01, 0.01, 48.0, np.empty((0, 2)))
    flat = flat_bottom(SOURCE, FLOPS, valley)
    runs = flat.by_runs
    assert runs.params == valley.params(FLOPS)
    for share, ends in runs.by_loss:
        assert [valley.excess(n, FLOPS) for n in ends] == pytest.approx([share, share])
    half, double = runs.excess_loss
    assert half[1] == pytest.approx(double[1])
    assert "By the runs' own minima" in flat.text()


def test_the_ranges_of_whom_the_answer_follows_come_first_with_the_reason():
    valley = Valley(46.0, 21.0, 0.5, 0.03, 20, 0.01, 0.01, 48.0, np.empty((0, 2)))
    for by, first in (("law", "By the law"), ("runs", "By the runs")):
        text = flat_bottom(SOURCE, FLOPS, valley, by).text("as asked")
        assert text.index(first) == min(text.index("By the law"), text.index("By the runs"))
        assert "(as asked)" in text


def test_a_valley_is_carried_as_far_as_it_was_checked_and_beyond_that_the_price_is_the_laws():
    for decades, carried in ((2.3, True), (2.5, False), (10, False)):
        top = math.log(FLOPS) - decades * math.log(10)
        valley = Valley(46.0, 21.0, 0.5, 0.03, 20, 0.01, 0.01, top, np.empty((0, 2)))
        flat = flat_bottom(SOURCE, FLOPS, valley, "runs")
        text = flat.text()
        assert bool(flat.by_runs.excess_loss) == carried
        assert text.count("× N* loses") == (4 if carried else 2)
        assert ("there is none at this budget" in " ".join(text.split())) != carried
