"""With few unique tokens the best run is smaller and repeats its data, by a law that knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.fitting.fit import Status, fit
from analysis.forecast.predict import forecast_warnings, predictions
from analysis.laws.catalogue import law
from analysis.laws.inverse import solve
from analysis.laws.published import published
from analysis.laws.repeated import epochs_at_worth, limit, otherwise, worth_of_last_token
from analysis.recommend.by_law import answer
from analysis.recommend.question import Question
from analysis.recommend.recommend import recommend
from analysis.runs.table import read_runs
from analysis.text import human
from scaling.store.records import Refusal

MUENNIGHOFF = published("muennighoff-2023")
BUDGET = 9.2e21


# Muennighoff et al. 2023, figure 1, 25B unique tokens and about 9.2e21 FLOPs: 6.34B parameters
# and 242B tokens (9.7 epochs), where plenty of data would ask for 8.67B and 178B (7.1 epochs).
# The printed constants give 6.8B and 226B, and 8.8B and 173B.
def test_muennighoffs_allocation_for_25e9_unique_tokens():
    limited = answer(MUENNIGHOFF, Question(flops=BUDGET, unique_tokens=25e9))
    plenty = answer(MUENNIGHOFF, Question(flops=BUDGET, unique_tokens=1e15))
    assert limited.params == pytest.approx(6.34e9, rel=0.08)
    assert limited.epochs == pytest.approx(9.7, rel=0.08)
    assert plenty.params == pytest.approx(8.67e9, rel=0.03)
    assert plenty.epochs < 1


def test_the_limited_optimum_beats_the_unlimited_allocation_on_repeated_data():
    scarce = limit(MUENNIGHOFF.law, 25e9)
    best = answer(MUENNIGHOFF, Question(flops=BUDGET, unique_tokens=25e9))
    plenty = answer(MUENNIGHOFF, Question(flops=BUDGET, unique_tokens=1e15))
    naive = scarce.predict(
        MUENNIGHOFF.coefficients, {"params": plenty.params, "tokens": plenty.tokens}
    )
    assert best.loss < float(naive)
    assert best.loss > plenty.loss


def test_data_that_is_never_short_changes_nothing():
    source = published("besiroglu-2024")
    free = answer(source, Question(flops=1e21))
    plenty = answer(source, Question(flops=1e21, unique_tokens=1e15))
    # The law bends at the very optimum, where parameters begin to be in excess.
    assert plenty.params == pytest.approx(free.params, rel=1e-5)
    assert plenty.loss == pytest.approx(free.loss, rel=1e-12)
    assert (plenty.worth_of_last_token, plenty.warnings) == (1.0, ())


def test_less_data_means_a_smaller_model_more_epochs_and_tokens_worth_less():
    source = published("besiroglu-2024")
    runs = [answer(source, Question(flops=1e22, unique_tokens=u)) for u in (1e11, 3e10, 1e10)]
    assert [run.epochs for run in runs] == sorted(run.epochs for run in runs)
    for name in ("params", "worth_of_last_token"):
        values = [getattr(run, name) for run in runs]
        assert values == sorted(values, reverse=True)


def test_borrowed_constants_are_said_to_be_borrowed_and_open_by_a_factor_of_six():
    source, ask = published("besiroglu-2024"), Question(flops=1e22, unique_tokens=1e10)
    best = answer(source, ask)
    [warning] = best.warnings
    assert "not these runs', and their runs leave it open by a factor of 6" in warning
    law = limit(source.law, 1e10)
    other = solve(otherwise(law), source.coefficients, ask)
    for constants, run in (("R_D = 15.4, R_N = 5.31", best), ("R_D = 95.4, R_N = 1.71", other)):
        n, d, loss = float(run.params), float(run.tokens), float(run.loss)
        told = f"N = {human(n)}, D = {human(d)} and a loss of {loss:.3f} with {constants}"
        assert told in warning
    assert float(other.params) < 0.7 * best.params
    assert answer(MUENNIGHOFF, Question(flops=1e22, unique_tokens=1e10)).warnings == ()


def test_the_prediction_of_a_run_that_repeats_gives_the_loss_by_both_constants():
    source = published("besiroglu-2024")
    limited = replace(source, law=limit(source.law, 1e9))
    rows = pd.DataFrame({"params": [1e9], "tokens": [2e10]})
    [told], [said] = predictions(limited, rows), forecast_warnings(limited, rows, [])
    other = float(otherwise(limited.law).predict(source.coefficients, rows)[0])
    assert f"a loss of {told.loss:.4f} with R_D = 15.4" in said
    assert f"a loss of {other:.4f} with R_D = 95.4" in said


def test_repeats_fade_with_R_D():
    scarce = limit(MUENNIGHOFF.law, 1e9)
    assert worth_of_last_token(scarce, MUENNIGHOFF.coefficients, 1e9) == 1
    after = worth_of_last_token(scarce, MUENNIGHOFF.coefficients, 1e9 * (1 + 15.387756))
    assert after == pytest.approx(1 / 2.718281828)
    half = epochs_at_worth(scarce, MUENNIGHOFF.coefficients, 0.5)
    assert worth_of_last_token(scarce, MUENNIGHOFF.coefficients, half * 1e9) == pytest.approx(0.5)


def test_what_repetition_means_is_refused_of_a_law_that_does_not_say():
    with pytest.raises(Refusal, match="kaplan_nd does not say how much a repeated token adds"):
        limit(law("kaplan_nd"), 1e9)
    with pytest.raises(Refusal, match="give --unique-tokens"):
        answer(MUENNIGHOFF, Question(flops=1e22))
    with pytest.raises(Refusal, match="unique_tokens = 0"):
        Question(flops=1e22, unique_tokens=0.0)


def test_the_table_gives_epochs_and_their_worth():
    text = recommend(MUENNIGHOFF, BUDGET, unique_tokens=25e9).text()
    assert "9.2e21 FLOPs, 25B unique tokens" in text
    assert "9.04" in text
    assert "59%" in text
    assert "half a fresh one's worth after 11.7 epochs, a tenth after 36.4" in text


def test_a_law_of_repetition_at_a_bound_is_not_swapped_for_one_without() -> None:
    runs = read_runs(Path(__file__).parents[3] / "results" / "reference" / "repeat" / "runs.csv")
    # All of them leave R_N open; without the five largest losses it ends at its bound.
    smaller = runs[runs["run_kind"] == "cooldown"].nsmallest(55, "loss")
    found = fit(law("data_constrained"), smaller, bootstrap=0, checks=False)
    assert found.status is Status.AT_BOUND
    assert "hold R_N at a value known from other runs (fixed)" in found.reason
    assert "use chinchilla" not in found.reason


def test_a_limited_law_keeps_the_law_it_was_made_of_and_can_be_limited_anew() -> None:
    chinchilla = law("chinchilla")
    scarce = limit(limit(chinchilla, 1e9), 2e9)
    assert scarce.features == chinchilla.features and scarce.fitted is chinchilla
    assert scarce.given == {"unique_tokens": 2e9, "R_D": 15.387756, "R_N": 5.309743}
    assert set(scarce.coefficients) == set(chinchilla.coefficients)
    own = limit(MUENNIGHOFF.law, 2e9)
    assert own.given == {"unique_tokens": 2e9} and otherwise(own) is None
