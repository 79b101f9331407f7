"""Whole documents are held out, by their content alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.data.documents import Document, as_remembered, remembered
from scaling.data.making import Making
from scaling.data.prepare import ALONE, prepare
from scaling.data.progress import unwatched
from scaling.data.reading import read_first
from scaling.data.sources import Source
from scaling.data.split import Index, held_out, pieces, refuse_crumbs, refuse_excess
from scaling.store.records import Refusal
from scaling.study import DataSection

Documents = Sequence[Document]

DOCUMENTS: list[Document] = [
    f"document {number} ".encode() * (5 + number % 7) for number in range(60)
]


def index(sources: Sequence[Documents], fraction: float) -> list[Index]:
    """The index of each source as it is read first; nothing so small is written."""
    named = [Source(str(number), own.__iter__, None) for number, own in enumerate(sources)]
    made = Making(Path("/dev/null"), None, unwatched)
    return [each.index for each in read_first(named, fraction, False, made, ALONE, unwatched)]


def cut(known: Index, documents: Documents) -> list[Document]:
    """The documents as they were indexed."""
    return list(pieces(documents, known.longest, known.shared))


def together(sources: Sequence[Documents], fraction: float) -> tuple[list[bytes], list[bytes]]:
    """(training, held-out) pieces of several sources."""
    indices = index(sources, fraction)
    train: list[bytes] = []
    holdout: list[bytes] = []
    for own, known, held in zip(sources, indices, held_out(indices, fraction), strict=True):
        for piece, out in zip(cut(known, own), held, strict=True):
            (holdout if out else train).append(bytes(piece))
    return train, holdout


def sides(documents: Documents, fraction: float) -> tuple[list[bytes], list[bytes]]:
    """(training, held-out) documents of one source."""
    return together([documents], fraction)


def test_the_split_keeps_whole_documents_once_each() -> None:
    train, holdout = sides(DOCUMENTS, 0.2)
    assert sorted(train + holdout) == sorted(map(bytes, DOCUMENTS))
    assert sum(map(len, holdout)) >= 0.2 * sum(map(len, DOCUMENTS))
    assert sum(map(len, holdout)) - max(map(len, holdout)) < 0.2 * sum(map(len, DOCUMENTS))


def test_the_split_does_not_depend_on_the_order_of_documents() -> None:
    shuffled = [DOCUMENTS[i] for i in np.random.default_rng(0).permutation(len(DOCUMENTS))]
    assert set(sides(shuffled, 0.2)[1]) == set(sides(DOCUMENTS, 0.2)[1])


@given(st.binary(min_size=1, max_size=3000).filter(lambda raw: not raw.isspace()))
def test_adding_a_document_moves_others_to_one_side_only(document: bytes) -> None:
    before = set(sides(DOCUMENTS, 0.2)[1])
    after = set(sides([*DOCUMENTS, document], 0.2)[1])
    moved = after - {document}
    # A document larger than the share is cut, and its pieces are none of the others.
    moved &= set(map(bytes, DOCUMENTS))
    assert before <= moved or moved <= before


def test_equal_texts_are_on_the_same_side() -> None:
    for document in DOCUMENTS:
        train, holdout = sides([*DOCUMENTS, document], 0.3)
        assert not set(train) & set(holdout)


def test_what_one_source_holds_out_no_other_trains_on() -> None:
    other: list[Document] = [b"elsewhere %d " % i * 5 for i in range(20)]
    trained, out = together([DOCUMENTS, [*DOCUMENTS[:40], *other]], 0.2)
    assert not set(trained) & set(out)
    assert set(sides(DOCUMENTS, 0.2)[1]) <= set(out)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_held_out_whole_is_trained_on_in_no_piece(seed: int) -> None:
    """The smaller source has to cut its documents, the larger has not."""
    random = np.random.default_rng(seed)

    def text(words: int) -> Document:
        return " ".join(map(str, random.integers(0, 10**9, words))).encode()

    texts = [text(60) for _ in range(60)]
    large = [*texts[30:], text(2000)]  # which cuts but the last
    for sources in ([texts, texts[:5]], [texts[:5], texts[:20], large, texts]):
        trained, out = together(sources, 0.1)
        assert out and not any(piece in text or text in piece for piece in trained for text in out)


def test_documents_of_one_source_alone_are_cut_as_it_needs() -> None:
    few: list[Document] = [*DOCUMENTS[:5], b"word " * 5]
    whole, small = index([DOCUMENTS, few], 0.1)
    (alone,) = index([few], 0.1)
    assert small.lots.tolist() == alone.lots.tolist() and not small.shared
    assert cut(whole, DOCUMENTS)[-55:] == DOCUMENTS[5:]
    assert len(cut(whole, DOCUMENTS)) > 60


def test_tokens_are_held_out_alike_whatever_width_they_are_stored_in() -> None:
    documents = [np.arange(n, n + 30) for n in range(50)]
    narrow, wide = index([[d.astype(kind) for d in documents] for kind in ("<u2", "<u4")], 0.2)
    assert narrow.digest == wide.digest
    assert narrow.lots.tolist() == wide.lots.tolist()


def test_documents_no_larger_than_the_held_out_share_stay_whole() -> None:
    documents: list[Document] = [b"a" * 100] * 30
    assert list(pieces(documents, 0.05 * 3000)) == documents


def test_large_documents_are_cut_at_blank_lines() -> None:
    book = "\n\n".join(f"Paragraph {i} " + "word " * 40 for i in range(500)).encode()
    parts = [bytes(part) for part in pieces([book], 0.05 * len(book))]
    assert b"".join(parts) == book
    assert all(part.startswith(b"Paragraph") for part in parts)


@given(st.text(alphabet="aéあ𝒳", min_size=1, max_size=300), st.floats(0.1, 60))
def test_text_without_spaces_is_cut_between_characters(text: str, longest: float) -> None:
    parts = [bytes(part) for part in pieces([text.encode()], longest)]
    assert "".join(part.decode() for part in parts) == text
    assert max(map(len, parts)) <= longest + 4


@given(st.integers(1, 500), st.floats(0.1, 100))
def test_tokens_are_cut_anywhere_and_lost_nowhere(size: int, longest: float) -> None:
    parts = [np.asarray(part) for part in pieces([np.arange(size)], longest)]
    assert np.concatenate(parts).tolist() == list(range(size))
    assert max(map(len, parts)) <= max(1, longest)


def test_a_source_that_changes_while_it_is_read_is_refused() -> None:
    (known,) = remembered(DOCUMENTS)
    assert list(as_remembered(DOCUMENTS, known)) == DOCUMENTS
    for others in (DOCUMENTS[1:], DOCUMENTS[:-1], [*DOCUMENTS, b"more"]):
        with pytest.raises(Refusal, match="changed while it was read"):
            list(as_remembered(others, known))


# --- far more or less than was asked for ---


def test_a_document_that_repeats_itself_is_not_held_out_whole(
    section: Callable[..., DataSection], tmp_path: Path
) -> None:
    (tmp_path / "again.txt").write_text("the same words again, and again. " * 20_000)
    with pytest.raises(
        Refusal, match=r"0\.05 would hold out 9[0-9]% of '.*again\.txt', [0-9,]+ of 660,000"
    ):
        prepare(section(tmp_path / "again.txt", 0.05), tmp_path / "cache")


def test_a_text_of_some_bytes_is_too_little_and_no_repeat(
    section: Callable[..., DataSection], tmp_path: Path
) -> None:
    (tmp_path / "t.txt").write_text("aaaab")
    with pytest.raises(Refusal, match=r"t\.txt' has 5 bytes or tokens, too few to hold out 0\.05"):
        prepare(section(tmp_path / "t.txt", 0.05), tmp_path / "cache")


@given(st.lists(st.integers(50, 5000), min_size=20, max_size=60), st.sampled_from([0.05, 0.1, 0.3]))
def test_documents_that_differ_are_never_held_out_in_excess(
    sizes: list[int], fraction: float
) -> None:
    random = np.random.default_rng(len(sizes))
    (found,) = index([[random.bytes(size).hex().encode() for size in sizes]], fraction)
    (out,) = held_out([found], fraction)
    refuse_excess("them", found, out, fraction)


def test_a_share_of_some_bytes_cuts_nothing_to_crumbs() -> None:
    with pytest.raises(Refusal, match=r"holdout_fraction = 1e-06 of .* is 0\.29 of 290,000 "):
        index([[b"%d " % number * 1000 for number in range(100)]], 1e-6)
    (small,) = index([[b"few words", b"and few more"]], 1e-3)
    assert small.longest < 1
    refuse_crumbs("small", small, 1e-3)  # a handful of crumbs is no harm
