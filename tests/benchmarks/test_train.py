"""The programs that are compared on a CPU train the same model."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from models.decoder.sizes import count_params

Script = Callable[[str], ModuleType]


@pytest.mark.slow
def test_all_contenders_have_the_parameters_that_are_counted(script: Script) -> None:
    train = script("train")
    size = train.Size(1, 32, 256)
    counted = count_params(size.config).total
    for contender in (train.ours(size), train.nanodo(size)):
        assert contender.params == counted
        contender.train(train.STEPS_PER_CALL)


def test_ratios_are_medians_over_rounds(script: Script) -> None:
    train = script("train")
    made = {"ours": [4.0, 6.0, 5.0], "torch": [2.0, 2.0, 5.0]}
    rows = [{"size": "s", "contender": name, "rounds": r} for name, r in made.items()]
    assert train.ratios_of(rows) == {"s: ours / torch": 2.0}
