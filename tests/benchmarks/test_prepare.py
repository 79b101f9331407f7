"""Making a corpus is measured beside the tokenizers library on the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]


def test_ratios_are_of_tokens_a_second_and_core_to_the_library_alone(script: Script) -> None:
    prepare = script("prepare")
    rows = [
        prepare._row("bpe", prepare.ALONE, 1, 1000, 2.0),
        prepare._row("bpe", prepare.MANY, 4, 1000, 1.0),
    ]
    assert prepare.ratios_of(rows) == {"bpe: prepare, all / tokenizers alone": 0.5}


@pytest.mark.slow
def test_every_way_makes_the_same_number_of_tokens(script: Script, tmp_path: Path) -> None:
    rows = script("prepare").measured(200_000, 2, tmp_path)
    assert len(rows) == 6
    for name in ("bytes", "bpe"):
        assert len({row["tokens"] for row in rows if row["tokenizer"] == name}) == 1
