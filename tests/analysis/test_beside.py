"""Published answers stand beside one's own, each as its own source gives it."""

from __future__ import annotations

import json

import pytest

from analysis.beside import beside, to_json, to_text
from analysis.published import published
from analysis.recommend import recommend
from scaling.records import Refusal


def test_each_row_is_what_its_source_recommends():
    rows = beside([], 5.76e23).others
    for row in rows[:2]:
        [best] = recommend(published(row.name), [5.76e23])
        assert (row.params, row.tokens, row.loss) == (best.params, best.tokens, best.loss)


# Hoffmann et al. 2022, D.4: "From Kaplan et al. (2020), we find that the optimal model size should
# be 4.68 billion parameters" for 1e21 FLOPs. Kaplan's own table 6 gives 7.8B non-embedding.
def test_kaplans_row_is_table_6_and_not_what_hoffmann_read_from_it():
    kaplan = beside([], 1e21).others[-1]
    assert kaplan.params == pytest.approx(1.3e9 * (1e21 / 8.64e19) ** 0.73)
    assert kaplan.params == pytest.approx(7.76e9, rel=0.01)
    assert kaplan.loss is None


def test_ones_own_sources_come_first_and_count_in_the_spread():
    own = published("kaplan-2020")
    everyone = beside([own], 1e24)
    assert everyone.others[0].name == "kaplan-2020"
    sizes = [each.params for each in everyone.others]
    assert everyone.params == (min(sizes), max(sizes))


def test_the_text_and_the_json_say_the_spread():
    everyone = beside([], 5.76e23)
    low, high = everyone.params
    text = to_text(everyone)
    assert f"N* spans a factor of {high / low:.3g}" in text
    assert "besiroglu-2024" in text
    value = to_json(everyone)
    assert json.loads(json.dumps(value, allow_nan=False))["params"] == [low, high]


def test_a_source_without_both_features_is_refused():
    with pytest.raises(Refusal, match="kaplan_n predicts from params"):
        beside([published("kaplan-2020-n")], 1e21)
