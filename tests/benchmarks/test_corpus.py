"""What a corpus of token files costs is measured at two sizes, on files that are as indexed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]


@pytest.mark.slow
def test_a_small_corpus_is_indexed_planned_on_and_read(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = script("corpus")
    monkeypatch.setattr(corpus, "ROUNDS", 1)
    for name in ("indexed", "planned"):
        (tmp_path / name).mkdir()
    rows = corpus.indexing(tmp_path / "indexed", 2_000_000)
    rows += corpus.planning(tmp_path / "planned", 1.0)
    assert [row["what"] for row in rows] == ["index", "sha256", "plan", "check", "batch"]
    assert rows[-1]["read_mb"] > 0
    larger = [{**row, "gigabytes": 4.0, "seconds": 2 * row["seconds"]} for row in rows[2:]]
    ratios = corpus.ratios_of(rows + larger)
    assert ratios.pop("indexing / SHA-256") > 0
    assert set(ratios.values()) == {2.0} and len(ratios) == 3
