"""A tokenizer that does not know the text is refused, and what it leaves out is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.data.prepare import prepare
from scaling.data.tokenizer import library
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]
WORDS = ["one", "two", "three", "four", "rare"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A fiftieth of its words is the word `rare`."""
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(WORDS, 60, p=[*[0.245] * 4, 0.02])) for _ in range(100)]
    (tmp_path / "t.txt").write_text("\0".join(texts))
    return tmp_path / "t.txt"


def by_words(file: Path, known: list[str], **changes: Any) -> Path:
    """A tokenizer of words."""
    names = [*known, "[UNK]", "<|endoftext|>"]
    model = library().models.WordLevel({each: i for i, each in enumerate(names)}, unk_token="[UNK]")
    made = library().Tokenizer(model)
    made.pre_tokenizer = library().pre_tokenizers.Whitespace()
    file.write_text(json.dumps(json.loads(made.to_str()) | changes))
    return file


def test_unknown_words_are_counted(section: Section, source: Path, tmp_path: Path) -> None:
    def lost(known: list[str]) -> float | None:
        tokenizer = str(by_words(tmp_path / f"{len(known)}.json", known))
        return prepare(section(source, tokenizer=tokenizer), tmp_path / "cache").info.text_lost

    assert lost(WORDS) == 0
    assert lost(WORDS[:-1]) == pytest.approx(0.02, abs=0.01)
    with pytest.raises(Refusal, match=r"no token for [78].% of the text of .*: [78].% is unknown"):
        lost(WORDS[:1])


def test_a_tokenizer_that_deletes_the_text_is_refused(
    section: Section, source: Path, tmp_path: Path
) -> None:
    nothing = {"type": "Replace", "pattern": {"Regex": "[a-z]+"}, "content": ""}
    tokenizer = by_words(tmp_path / "t.json", WORDS, normalizer=nothing)
    with pytest.raises(Refusal, match=r"100% of the text .* 100% it deletes .*Give one that was"):
        prepare(section(source, tokenizer=str(tokenizer)), tmp_path / "cache")


def test_bytes_are_never_lost(section: Section, source: Path, tmp_path: Path) -> None:
    assert prepare(section(source), tmp_path / "cache").info.text_lost is None
    assert prepare(section(source, tokenizer="bpe:270"), tmp_path / "cache").info.text_lost == 0


def test_a_vocabulary_of_gaps_is_refused(section: Section, source: Path, tmp_path: Path) -> None:
    tokenizer = by_words(tmp_path / "t.json", WORDS)
    written = json.loads(tokenizer.read_text())
    written["model"]["vocab"]["rare"] = 3_000_000
    tokenizer.write_text(json.dumps(written))
    with pytest.raises(Refusal, match=r"has 7 tokens, and 'rare' of them is number 3,000,000"):
        prepare(section(source, tokenizer=str(tokenizer)), tmp_path / "cache")
