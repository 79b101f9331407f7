"""Held-out text that is trained on is found, wherever it stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scaling.data import overlap
from scaling.data.overlap import Sample, seen
from scaling.data.prepare import prepare
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]


def words(n: int, seed: int = 0) -> str:
    """So many words of some letters."""
    letters = np.random.default_rng(seed).integers(97, 123, (n, 6)).astype(np.uint8)
    return " ".join(bytes(word).decode() for word in letters)


@pytest.mark.parametrize("length", [7, 50, 333])
def test_a_text_that_repeats_itself_is_refused_wherever_it_is_cut(
    section: Section, tmp_path: Path, length: int
) -> None:
    line = words(length).replace(" ", "-") + "-"  # of no spaces, and so cut anywhere
    (tmp_path / "t.txt").write_text(line * (400_000 // len(line)))
    with pytest.raises(Refusal, match=r"t\.txt': 100% of the held-out text is in the training"):
        prepare(section(tmp_path / "t.txt", 0.05), tmp_path / "cache")


def test_what_one_text_has_of_others_is_said(section: Section, tmp_path: Path) -> None:
    again = words(300)
    texts = [f"{words(100, seed)} {again * (seed % 3 == 0)}" for seed in range(1, 200)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    info = prepare(section(tmp_path / "t.jsonl"), tmp_path / "cache").info
    assert info.holdout_seen is not None and 0.3 < info.holdout_seen < overlap.MOST_SEEN


def test_texts_that_differ_share_no_window(section: Section, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(words(60_000))
    assert prepare(section(tmp_path / "t.txt"), tmp_path / "cache").info.holdout_seen == 0


@pytest.mark.parametrize("shift", [0, 1, 1000])
def test_of_two_texts_it_is_said_how_much_one_has_of_the_other(
    shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "_BLOCK", 1 << 12)
    own, other = words(4000, 1).encode(), words(4000, 2).encode()
    train = [words(10, 3).encode(), b"x" * shift + own[: len(own) // 4]]
    assert seen(Sample(train, [own])) == pytest.approx(0.25, abs=0.01)
    assert seen(Sample(train, [other])) == 0
    assert seen(Sample(train, [b"short"])) is None
    halves = [own[at : at + 40] for at in range(0, len(own), 40)]
    assert seen(Sample(halves, [own])) == 0  # a window that two texts make together is none


def test_of_a_large_source_some_of_every_piece_is_looked_at(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Sample] = []
    monkeypatch.setattr(overlap, "TRAIN", 10_000)
    monkeypatch.setattr(overlap, "HELD", 2_000)
    monkeypatch.setattr(
        "scaling.data.prepare.seen", lambda sample: looked.append(sample) or seen(sample)
    )
    (tmp_path / "t.txt").write_text(words(60_000))
    prepare(section(tmp_path / "t.txt", 0.05), tmp_path / "cache")
    (sample,) = looked
    assert 10_000 <= sum(map(len, sample.train)) < 10_000 + len(sample.train)
    assert 2_000 <= sum(map(len, sample.held)) < 2_000 + len(sample.held)
