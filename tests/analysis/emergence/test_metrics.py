"""One list of metrics, whatever their spelling."""

from __future__ import annotations

import pytest

from analysis.emergence.scores.metrics import METRICS, canonical, metric, samples_of
from scaling.store.records import Refusal


@pytest.mark.parametrize("name", ["Accuracy", "ACC", "acc,none", "Acc-Norm", "mc"])
def test_multiple_choice_is_known_by_any_spelling(name: str) -> None:
    found = metric(name)
    assert (found.name, found.guessing, found.question) == (name, "choice", "right")


@pytest.mark.parametrize("name", ["Exact_Match", "exact_match,strict-match", "EM", "rougeL"])
def test_written_answers_are_known_by_any_spelling(name: str) -> None:
    assert metric(name).guessing == "written"


def test_every_pass_at_k_is_one_metric() -> None:
    assert canonical("pass@1") == canonical("pass@16") == canonical("pass_at_k") == "pass_at_k"


@pytest.mark.parametrize("name", ["pass@16", "Pass@16", "pass_at_16", "pass@16,none"])
def test_names_say_how_many_attempts(name: str) -> None:
    assert (samples_of(name), samples_of("exact_match")) == (16, None)


def test_em_is_exact_match_and_can_be_predicted_as_such() -> None:
    assert canonical("em") == canonical("EM") == canonical("Exact_Match") == "exact_match"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(Refusal, match=r"--range WORST,BEST.*Did you mean exact_match\?"):
        metric("exactmatch")


def test_a_name_that_only_begins_like_a_metric_is_not_it() -> None:
    assert metric("embedding_sim", (0.0, 1.0)).guessing == "unknown"
    assert metric("bleu", (0.0, 1.0)).guessing == "written"


def test_every_probability_of_an_answer_can_be_paired_with_exact_match() -> None:
    paired = {name for name, each in METRICS.items() if each.probability_of}
    assert {canonical("token_prob"), "answer_probability", "answer_logprob"} <= paired
