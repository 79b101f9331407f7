"""Whole documents are held out, by their content alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.data.documents import Document
from scaling.data.split import held_out, index, pieces, verified
from scaling.records import Refusal

DOCUMENTS: list[Document] = [
    f"document {number} ".encode() * (5 + number % 7) for number in range(60)
]


def sides(documents: Iterable[Document], fraction: float) -> tuple[list[bytes], list[bytes]]:
    """(training, held-out) documents."""
    known = index(lambda: iter(documents), fraction)
    (held,) = held_out([known], fraction)
    cut = list(pieces(documents, known.longest))
    assert len(cut) == len(held)
    train, holdout = [], []
    for document, out in zip(cut, held, strict=True):
        (holdout if out else train).append(bytes(document))
    return train, holdout


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
    shared, other = DOCUMENTS[:40], [b"elsewhere %d " % i * 5 for i in range(20)]
    sources = [DOCUMENTS, [*shared, *other]]
    indices = [index(lambda own=own: iter(own), 0.2) for own in sources]
    held = held_out(indices, 0.2)
    trained, out = (
        {
            d
            for own, mask in zip(sources, held, strict=True)
            for d, m in zip(own, mask, strict=True)
            if m == side
        }
        for side in (False, True)
    )
    assert not trained & out
    alone = held_out(indices[:1], 0.2)[0]
    assert set(np.flatnonzero(alone)) <= set(np.flatnonzero(held[0]))


def test_tokens_are_held_out_alike_whatever_width_they_are_stored_in() -> None:
    documents = [np.arange(n, n + 30) for n in range(50)]
    narrow, wide = (
        index(lambda kind=kind: iter([d.astype(kind) for d in documents]), 0.2)
        for kind in ("<u2", "<u4")
    )
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
    known = index(lambda: iter(DOCUMENTS), 0.2)
    assert list(verified(DOCUMENTS, known.digest)) == DOCUMENTS
    with pytest.raises(Refusal, match="changed while it was read"):
        list(verified(DOCUMENTS[1:], known.digest))
