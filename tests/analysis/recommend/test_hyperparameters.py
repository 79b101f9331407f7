"""Rates are the published formulas at the run asked for, and say where they were not measured."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import fit
from analysis.laws.catalogue import law
from analysis.recommend.hyperparameters import RULES, RatesByRule, rates, rule_named, rule_of
from scaling.store.records import Refusal


# Bi et al. 2024 (arXiv:2401.02954), table 2: 7B with 4.2e-4 and 2304 sequences of 4096 tokens, 67B
# with 3.2e-4 and 4608, both on 2T tokens. Sizes without embeddings: 6.5B and 66B.
@pytest.mark.parametrize(
    ("params", "rate", "sequences"), [(6.5e9, 4.2e-4, 2304), (66e9, 3.2e-4, 4608)]
)
def test_deepseeks_rule_gives_the_settings_of_its_own_two_models(params, rate, sequences):
    found = rates(RULES["deepseek-2024"], params, 2e12, 2.0)
    assert found.learning_rate == pytest.approx(rate, rel=0.03)
    assert found.batch_tokens == pytest.approx(sequences * 4096, rel=0.06)


def test_the_step_law_is_its_printed_equation():
    found = rates(RULES["steplaw-2025"], 1e9, 1e11, 2.0)
    assert found.learning_rate == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert found.batch_tokens == pytest.approx(0.58 * 1e11**0.571)
    assert found.warnings == ()


def test_kaplans_rule_is_equation_D1_and_the_critical_batch_of_equation_1_4():
    found = rates(RULES["kaplan-2020"], 1e9, 1e11, 2.0)
    assert found.learning_rate == pytest.approx(0.003239 - 0.0001395 * math.log(1e9))
    assert found.batch_tokens == pytest.approx(2e8 / 2.0 ** (1 / 0.21))


def test_a_rule_outside_what_it_was_measured_on_warns_by_how_much():
    [first, second] = rates(RULES["steplaw-2025"], 1e11, 1e13, 2.0).warnings
    assert "N = 100B lies 2.0 decades outside" in first
    assert "D = 10T lies 2.0 decades outside" in second


def test_a_rate_that_would_not_be_positive_is_none():
    assert rates(RULES["kaplan-2020"], 1e12, 1e12, 2.0).learning_rate is None


@pytest.fixture(scope="module")
def fitted():
    grid = [(n, d) for n in np.geomspace(1e7, 1e9, 5) for d in np.geomspace(1e9, 1e11, 5)]
    table = pd.DataFrame(grid, columns=["params", "tokens"])
    noise = np.exp(0.02 * np.random.default_rng(0).normal(size=len(table)))
    rate = 2.0 * table["params"] ** -0.6 * table["tokens"] ** 0.2 * noise
    return fit(law("steplaw_lr"), table.assign(learning_rate=rate), bootstrap=100)


def test_a_fit_of_ones_own_sweeps_is_a_rule_with_an_interval(fitted):
    found = rates(rule_of(fitted, "mine"), 1e8, 1e10, 2.0)
    assert found.learning_rate == pytest.approx(2.0 * 1e8**-0.6 * 1e10**0.2, rel=0.05)
    low, high = found.interval["learning_rate"]
    assert low < found.learning_rate < high
    assert found.batch_tokens is None
    table = RatesByRule(1e22, (found,))
    assert json.loads(json.dumps(table.json()))[0]["rule"] == "mine"
    assert "mine" in table.text()


def test_what_is_no_rule_is_refused(fitted):
    with pytest.raises(Refusal, match=r"no rule 'nobody'. Known: steplaw-2025"):
        rule_named("nobody")
    table = fitted.table.assign(loss=fitted.table["learning_rate"])
    with pytest.raises(Refusal, match="predicts loss"):
        rule_of(fit(law("separable:params,tokens"), table, bootstrap=0), "mine")


def test_rates_far_apart_are_said_with_what_each_was_measured_on():
    found = [
        rates(rule_named(name), 8.5e9, 1.8e11, 2.1) for name in ("steplaw-2025", "kaplan-2020")
    ]
    said = " ".join(RatesByRule(1e22, tuple(found)).text().split())
    assert "The peak rates differ by a factor of" in said
    assert "steplaw-2025, N 60M … 1B and D 2B … 100B" in said
    assert "differ" not in RatesByRule(1e22, tuple(found[:1])).text()


def test_a_rule_of_ones_own_repeats_what_is_doubtful_about_its_fit(fitted):
    own = rule_of(fitted.doubted(["rows are no optima"]), "mine")
    assert "rows are no optima" in rates(own, 1e8, 1e10, 2.0).warnings[0]
