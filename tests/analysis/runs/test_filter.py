"""`--where` keeps the rows that meet every condition, and evaluates nothing."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.runs.filter import meets
from scaling.store.records import Refusal

RUNS = pd.DataFrame(
    {
        "tokens": [1e8, 5e8, 2e9],
        "kind": ["a", "b", "b"],
        "tied": [True, False, False],
        "variant": ["rate=0.5 tied=true", "rate=1 data='c'", None],
    }
)


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        (["tokens>=5e8"], [1, 2]),
        (["tokens < 2B"], [0, 1]),
        (["kind==b", "tokens != 2e9"], [1]),
        (["kind != 'b'"], [0]),
        (["variant==rate=0.5 tied=true"], [0]),
        (["variant == 'rate=1 data='c''"], [1]),
        (["variant==rate=1 data='c'"], [1]),
        (["variant!=rate=0.5 tied=true"], [1, 2]),
        (["tied==true"], [0]),
    ],
)
def test_where_keeps_the_rows_that_meet_every_condition(
    conditions: list[str], kept: list[int]
) -> None:
    assert RUNS[meets(RUNS, conditions)].index.tolist() == kept


@pytest.mark.parametrize(
    "condition",
    ["tokens", "tokens>=", "tokens>>3", "tokens=3", "nothing>1", "kind>b", "tokens==many",
     "tied>0", "tokens>1e30", "__import__('os').system('true')", "@tokens>1"],
)  # fmt: skip
def test_where_evaluates_nothing_and_refuses_the_rest(condition: str) -> None:
    with pytest.raises(Refusal, match="--where"):
        meets(RUNS, [condition])


def test_a_mistyped_operator_is_answered_with_an_example() -> None:
    with pytest.raises(Refusal, match=r"'tokens>>3' is not .*Example: --where 'tokens>=5e8'"):
        meets(RUNS, ["tokens>>3"])
    with pytest.raises(Refusal, match=r"'many' is not a number such as 5e8"):
        meets(RUNS, ["tokens==many"])
