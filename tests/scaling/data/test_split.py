"""Whole documents are held out, by their content alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.data.documents import Document
from scaling.data.split import held_out, index, pieces, verified
from scaling.store.records import Refusal

Documents = Sequence[Document]

DOCUMENTS: list[Document] = [
    f"document {number} ".encode() * (5 + number % 7) for number in range(60)
]


def together(sources: Sequence[Documents], fraction: float) -> tuple[list[bytes], list[bytes]]:
    """(training, held-out) pieces of several sources."""
    indices = index([own.__iter__ for own in sources], fraction)
    train: list[bytes] = []
    holdout: list[bytes] = []
    for own, known, held in zip(sources, indices, held_out(indices, fraction), strict=True):
        for piece, out in zip(known.pieces(own), held, strict=True):
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
    whole, small = index([DOCUMENTS.__iter__, few.__iter__], 0.1)
    (alone,) = index([few.__iter__], 0.1)
    assert small.lots.tolist() == alone.lots.tolist() and not small.shared
    assert list(whole.pieces(DOCUMENTS))[-55:] == DOCUMENTS[5:]
    assert len(list(whole.pieces(DOCUMENTS))) > 60


def test_tokens_are_held_out_alike_whatever_width_they_are_stored_in() -> None:
    documents = [np.arange(n, n + 30) for n in range(50)]
    narrow, wide = index(
        [[d.astype(kind) for d in documents].__iter__ for kind in ("<u2", "<u4")], 0.2
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
    (known,) = index([DOCUMENTS.__iter__], 0.2)
    assert list(verified(DOCUMENTS, known.digest)) == DOCUMENTS
    with pytest.raises(Refusal, match="changed while it was read"):
        list(verified(DOCUMENTS[1:], known.digest))
