"""Published answers are shown with one's own, each as its own source gives it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import fit
from analysis.laws.catalogue import A, B, D, E, N, alpha, beta, law
from analysis.laws.law import Law
from analysis.laws.published import published
from analysis.recommend.recommend import recommend
from analysis.recommend.rivals import by_count, refits, rival_answers
from analysis.runs.table import standardise
from scaling.store.records import Refusal


def test_each_row_is_what_its_source_recommends():
    rows = rival_answers([], 5.76e23).others
    for row in rows[:2]:
        [best] = recommend(published(row.name), [5.76e23])
        assert (row.params, row.tokens, row.loss) == (best.params, best.tokens, best.loss)


# Hoffmann et al. 2022, D.4: "From Kaplan et al. (2020), we find that the optimal model size should
# be 4.68 billion parameters" for 1e21 FLOPs. Kaplan's own table 6 gives 7.8B non-embedding.
def test_kaplans_row_is_table_6_and_not_what_hoffmann_read_from_it():
    kaplan = rival_answers([], 1e21).others[-1]
    assert kaplan.params == pytest.approx(1.3e9 * (1e21 / 8.64e19) ** 0.73)
    assert kaplan.params == pytest.approx(7.76e9, rel=0.01)
    assert kaplan.loss is None


def test_ones_own_sources_come_first_and_count_in_the_spread():
    own = published("kaplan-2020")
    everyone = rival_answers([own], 1e24)
    assert everyone.others[0].name == "kaplan-2020"
    sizes = [each.params for each in everyone.others]
    assert everyone.params == (min(sizes), max(sizes))


@pytest.fixture(scope="module")
def fitted():
    truth = published("chinchilla-2022")
    grid = [(n, d) for n in np.geomspace(1e8, 1e10, 5) for d in np.geomspace(2e9, 2e11, 5)]
    table = pd.DataFrame(grid, columns=["params", "tokens"])
    loss = truth.predict({name: table[name] for name in table})
    return fit(law("chinchilla"), table.assign(loss=loss), bootstrap=0)


def test_other_laws_are_fitted_to_the_same_rows_and_their_spread_is_the_laws_own(fitted):
    again = refits(fitted)
    assert [each.law.name for each in again] == [
        "chinchilla_tied", "chinchilla_coupled", "kaplan_nd",
    ]  # fmt: skip
    assert {each.data.sha256 for each in again} == {fitted.data.sha256}
    everyone = rival_answers([fitted, *again], 1e23)
    sizes = [float(recommend(each, [1e23], by="law")[0].params) for each in (fitted, *again)]
    assert everyone.own_params == pytest.approx((min(sizes), max(sizes)))
    assert everyone.params[1] >= everyone.own_params[1]
    assert "N* by your own runs spans a factor of" in everyone.text()


def test_a_law_is_not_beside_itself_for_the_order_of_its_terms(fitted):
    turned = Law("mine", B / D**beta + A / N**alpha + E, source="here")
    again = refits(fitted.again(fitted.table, law=turned, bootstrap=0))
    assert [each.law.name for each in again] == [each.law.name for each in refits(fitted)]


def test_the_law_under_other_counts_of_N_stands_beside_by_what_the_fits_file_says(fitted):
    entry = {"column": "params_matmul", "coefficients": dict(fitted.coefficients, A=300.0)}
    [other] = by_count(fitted, [{**entry, "params_exponent": 0.5}])
    [row] = [
        e
        for e in rival_answers([fitted, other], 1e23).others
        if e.params_convention == entry["column"]
    ]
    assert row.own
    assert row.params == pytest.approx(float(recommend(other, [1e23])[0].params))
    assert by_count(fitted, [{**entry, "params_exponent": None}]) == []


def test_a_published_law_has_no_rows_to_fit_others_to(fitted):
    assert refits(replace(fitted, table=fitted.table.iloc[:0])) == []


def test_the_text_and_the_json_say_the_spread():
    everyone = rival_answers([], 5.76e23)
    low, high = everyone.params
    text = everyone.text()
    assert f"N* spans a factor of {high / low:.3g}" in text
    assert "besiroglu-2024" in text
    value = everyone.json()
    assert json.loads(json.dumps(value, allow_nan=False))["params"] == [low, high]


def test_a_source_without_both_features_is_refused():
    with pytest.raises(Refusal, match="kaplan_n predicts from params"):
        rival_answers([published("kaplan-2020-n")], 1e21)


def test_every_row_of_ones_own_fit_calls_n_by_one_name(simulate, grid):
    table = simulate(published("besiroglu-2024"), grid, 0.001).rename(
        columns={"params": "n_params"}
    )
    own = fit(law("chinchilla"), standardise(table, require=["params", "tokens"]), bootstrap=0)
    others = rival_answers([own, *refits(own)], 1e21).others
    assert {each.params_convention for each in others if each.own} == {"n_params"}
