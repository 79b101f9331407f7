"""What a per-token metric predicts of exact match."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.emergence.exact_match import (
    all_right,
    fitted_length,
    predict_exact_match,
)
from scaling.store.records import Refusal


def table(token: np.ndarray, exact: np.ndarray, metric: str = "token_accuracy") -> pd.DataFrame:
    x = np.geomspace(1e6, 1e9, len(token))
    one = pd.DataFrame({"task": "add", "metric": metric, "value": token, "x": x})
    return pd.concat([one, one.assign(metric="exact_match", value=exact)], ignore_index=True)


def test_independent_tokens_give_the_power_of_the_length() -> None:
    rng = np.random.default_rng(0)
    right = rng.random((200_000, 4)) < 0.8
    assert right.all(axis=1).mean() == pytest.approx(float(all_right(0.8, 4)), abs=0.003)


def test_exact_match_that_is_the_power_of_token_accuracy_is_predicted_whole() -> None:
    token = np.linspace(0.1, 0.99, 12)
    found = predict_exact_match(table(token, token**5), "add", length=5)
    assert found is not None and found.explained == pytest.approx(1.0)
    assert found.error == pytest.approx(0.0, abs=1e-12)
    assert found.length_from == "given" and "token_accuracy^5 predicts" in found.sentence


def test_the_length_is_recovered_where_it_is_not_given() -> None:
    token = np.linspace(0.3, 0.99, 20)
    assert fitted_length(token, token**7) == pytest.approx(7, rel=1e-3)
    found = predict_exact_match(table(token, token**7), "add")
    assert found is not None and found.length == pytest.approx(7, rel=1e-3)
    assert "fitted" in found.sentence


def test_the_mean_over_questions_predicts_too_little() -> None:
    token = np.array([0.5, 0.7, 0.9])
    assert all_right(token, 4).mean() > all_right(token.mean(), 4)  # Jensen


def test_repeats_without_names_are_averaged_and_not_crossed() -> None:
    token = np.linspace(0.3, 0.99, 8)
    one = predict_exact_match(table(token, token**3), "add", length=3)
    twice = pd.concat([table(token - 0.01, token**3), table(token + 0.01, token**3)])
    two = predict_exact_match(twice, "add", length=3)
    assert one is not None and two is not None
    assert np.allclose(one.predicted, two.predicted)


def test_log_probabilities_of_whole_answers_need_no_length() -> None:
    log = np.log(np.linspace(0.05, 0.9, 10))
    found = predict_exact_match(table(log, np.exp(log), "answer_logprob"), "add")
    assert found is not None and found.length is None and found.error == pytest.approx(0)


def test_a_task_with_one_metric_has_no_pair() -> None:
    assert predict_exact_match(table(np.ones(3), np.ones(3), "bleu"), "add") is None


def test_a_probability_beyond_one_is_refused() -> None:
    with pytest.raises(Refusal, match=r"1\.2 is not in 0 to 1"):
        all_right(1.2, 3)
