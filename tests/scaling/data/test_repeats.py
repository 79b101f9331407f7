"""Exact copies are counted, dropped on request, and never on both sides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.data import documents, repeats, split
from scaling.data.corpus import Corpus
from scaling.data.documents import KEY
from scaling.data.prepare import prepare
from scaling.data.repeats import repeats as repeats_of
from scaling.data.split import Index, held_out
from scaling.study import DataSection

Section = Callable[..., DataSection]


def lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


# Keys of few first bytes, so that many begin alike and yet differ.
KEYS = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2), st.integers(0, 2)), max_size=60)


@given(KEYS, st.integers(1, 20), st.integers(1, 20))
def test_each_but_the_first_of_the_same_keys_is_a_repeat(
    found: list[tuple[int, int, int]], group: int, rows: int
) -> None:
    keys = np.zeros((len(found), KEY), np.uint8)
    for row, (first, eighth, last) in enumerate(found):
        keys[row, [0, 7, KEY - 1]] = first, eighth, last
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "GROUP", group)
        patch.setattr(repeats, "ROWS", rows)
        again = repeats_of(keys)
    assert again.tolist() == [each in found[:row] for row, each in enumerate(found)]


TEXTS = [f"{number} " + "we the people " * (1 + number % 9) for number in range(300)]
COPIES = [*TEXTS[10:60], TEXTS[10], TEXTS[299]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "t.jsonl"
    path.write_bytes(lines(TEXTS + COPIES))
    return path


def trained(corpus: Corpus) -> list[bytes]:
    return bytes(corpus.train[:]).split(b"\0")[:-1]


def held(corpus: Corpus) -> list[bytes]:
    return [bytes(document)[:-1] for document in corpus.holdout]


def test_copies_are_counted_and_lie_on_the_side_of_the_first(
    section: Section, file: Path, tmp_path: Path
) -> None:
    corpus = prepare(section(file), tmp_path / "cache")
    assert corpus.info.repeated_documents == len(COPIES)
    assert corpus.info.repeated_size == sum(map(len, COPIES))
    assert sorted(trained(corpus) + held(corpus)) == sorted(t.encode() for t in TEXTS + COPIES)
    assert not set(trained(corpus)) & set(held(corpus))


def test_a_corpus_without_its_copies_is_that_of_the_first_ones(
    section: Section, file: Path, tmp_path: Path
) -> None:
    dropped = prepare(section(file, drop_duplicates=True), tmp_path / "cache")
    (tmp_path / "once.jsonl").write_bytes(lines(TEXTS))
    once = prepare(section(tmp_path / "once.jsonl"), tmp_path / "other")
    assert dropped.info.fingerprint == once.info.fingerprint
    assert (dropped.train[:] == once.train[:]).all()
    assert dropped.info.repeated_documents == len(COPIES) and once.info.repeated_documents == 0
    # What the cache has of the same content does not say how often the files had it.
    without = prepare(section(tmp_path / "once.jsonl"), tmp_path / "cache")
    assert without.folder == dropped.folder and without.info.repeated_documents == 0


def test_a_study_that_drops_nothing_has_the_corpus_it_always_had(
    section: Section, tmp_path: Path
) -> None:
    (tmp_path / "once.jsonl").write_bytes(lines(TEXTS))
    infos = {
        prepare(section(tmp_path / "once.jsonl", **more), tmp_path / "cache").info.fingerprint
        for more in ({}, {"drop_duplicates": False}, {"drop_duplicates": True})
    }
    assert infos == {"c0f725587de1"}


def test_sources_are_freed_of_their_own_copies_alone(section: Section, tmp_path: Path) -> None:
    for name, texts in (("a", TEXTS[:200] + COPIES[:30]), ("b", TEXTS[100:])):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(texts))
    several = tuple({"source": str(tmp_path / f"{n}.jsonl"), "weight": 1.0} for n in "ab")
    corpus = prepare(section(sources=several, drop_duplicates=True), tmp_path / "cache")
    a, b = corpus.parts
    assert (a.info.repeated_documents, b.info.repeated_documents) == (30, 0)
    assert corpus.info.repeated_documents == 30
    assert sorted(trained(b) + held(b)) == sorted(t.encode() for t in TEXTS[100:])
    # What one holds out, no other trains on.
    assert not (set(trained(a)) | set(trained(b))) & (set(held(a)) | set(held(b)))


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=1, max_size=80),
    st.floats(0.001, 0.999),
    st.integers(1, 9),
)
def test_the_threshold_is_where_the_sorted_sizes_reach_the_fraction(
    found: list[tuple[float, int]], fraction: float, rows: int
) -> None:
    lots, sizes = np.array([lot for lot, _ in found]), np.array([size for _, size in found])
    order = np.argsort(lots, kind="stable")
    cumulated = np.cumsum(sizes[order])
    last = np.searchsorted(cumulated, fraction * cumulated[-1])
    known = Index("", 0.0, {}, lots, sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "ROWS", rows)
        assert known.threshold(fraction) == lots[order[last]]
        both = held_out([known, Index("", 0.0, {}, lots[::-1], sizes)], fraction)
    assert (both[0] == both[1][::-1]).all()


def test_what_is_remembered_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text.encode() for text in TEXTS]
    (whole,) = documents.remembered(texts)
    monkeypatch.setattr(documents, "ROWS", 7)
    blocks = list(documents.remembered(texts))
    assert len(blocks) == 43 and (np.concatenate(blocks) == whole).all()
