"""The held-out loss is judged on fixed windows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scaling.data.corpus import Corpus
from scaling.data.holdout import (
    HoldoutWindows,
    holdout_windows,
    iterate_windows,
    judged,
    packed_windows,
    summarise_holdout,
)
from scaling.data.prepare import prepare
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]


def test_windows_hold_consecutive_held_out_text_without_overlap(corpus: Corpus) -> None:
    windows = holdout_windows(corpus, 16, 10**9)
    for number, document in enumerate(corpus.holdout):
        own = windows.tokens[windows.document[:, 0] == number]
        n = (len(document) - 1) // 16
        assert own[:, 1:].ravel().tolist() == document[1 : n * 16 + 1].tolist()


def test_fewer_windows_are_shared_among_all_documents(corpus: Corpus) -> None:
    every, some = (holdout_windows(corpus, 16, tokens) for tokens in (10**9, 600))
    assert set(some.document.flat) == set(every.document.flat)
    assert abs(some.tokens[:, 1:].size - 600) < 16 * len(corpus.holdout)
    assert {*map(bytes, some.tokens)} < {*map(bytes, every.tokens)}


def test_many_short_documents_are_not_all_read_at_every_evaluation(
    section: Section, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_bytes(b"\0".join(b"%05d" % i * 20 for i in range(4000)))
    corpus = prepare(section(tmp_path / "short.txt", 0.5), tmp_path / "cache")
    windows = holdout_windows(corpus, 64, 6400)
    assert len(windows.tokens) == 100
    assert len(np.unique(windows.document)) == 100


def test_held_out_documents_shorter_than_a_sequence_are_refused(corpus: Corpus) -> None:
    with pytest.raises(Refusal, match=r"every held-out document of .* is shorter") as caught:
        holdout_windows(corpus, 100_000, 1000)
    assert "hold out more" not in str(caught.value)  # no text is long enough
    fits = re.search(r"Give sequence_length = (\d+)\.$", str(caught.value))
    assert fits is not None and len(holdout_windows(corpus, int(fits[1]), 1000).tokens)


def test_to_hold_out_more_is_advised_where_texts_are_long_enough(
    section: Section, tmp_path: Path
) -> None:
    texts = [b"%03d " % i * (40 if i % 10 else 400) for i in range(100)]
    (tmp_path / "texts.txt").write_bytes(b"\0".join(texts))
    corpus = prepare(section(tmp_path / "texts.txt", 0.04), tmp_path / "cache")
    lengths = sorted(map(len, corpus.holdout))
    longer = int((np.diff(np.flatnonzero(corpus.train[:] == 0), prepend=-1) > lengths[-1]).sum())
    with pytest.raises(Refusal, match=rf"or hold out more: {longer} of the documents"):
        holdout_windows(corpus, lengths[-1], 1000)


def test_what_is_judged_is_counted(corpus: Corpus) -> None:
    whole, some = (judged(corpus, 16, tokens) for tokens in (10**9, 600))
    assert whole.documents == whole.held_out == corpus.info.holdout_documents
    assert whole.short == 0 and whole.tokens < whole.held_out_tokens == corpus.info.holdout_tokens
    assert some.tokens == holdout_windows(corpus, 16, 600).tokens[:, 1:].size < whole.tokens


def test_batches_of_windows_have_one_size_and_lose_none(corpus: Corpus) -> None:
    windows = holdout_windows(corpus, 16, 10**9)
    parts = list(iterate_windows(windows, 7))
    assert {len(part) for part in parts} == {7}
    assert (np.concatenate(parts)[: len(windows.tokens)] == windows.tokens).all()


def test_the_standard_error_is_that_of_resampling_documents() -> None:
    random = np.random.default_rng(0)
    # Tokens of documents of 20 to 200, one after another and cut into windows of 8.
    document = np.repeat(np.arange(40), random.integers(20, 200, 40))
    document = document[: len(document) // 8 * 8].reshape(-1, 8)
    losses = 2 + random.normal(size=40)[document] + random.normal(size=document.shape)
    windows = HoldoutWindows(np.zeros((len(document), 9), np.int32), document, 1.0)
    total, count = np.bincount(document.flat, losses.flat), np.bincount(document.flat)
    draws = random.integers(0, 40, (20_000, 40))
    resampled = total[draws].sum(1) / count[draws].sum(1)
    got = summarise_holdout(losses, windows)
    assert got.loss == pytest.approx(losses.mean())
    # The linearised error and the bootstrap's agree to second order in 1/sqrt(40).
    assert got.stderr == pytest.approx(resampled.std() * np.sqrt(40 / 39), rel=0.05)


def test_bits_per_byte_counts_bytes_not_tokens() -> None:
    tokens, document = np.zeros((2, 5), np.int32), np.zeros((2, 4), int)
    losses = np.full((2, 4), np.log(2))
    got = summarise_holdout(losses, HoldoutWindows(tokens, document, 4.0))
    assert got.bits_per_byte == pytest.approx(0.25)
    assert got.stderr is None  # one document says nothing about another
    assert summarise_holdout(losses, HoldoutWindows(tokens, document, None)).bits_per_byte is None


# --- packed as the text that is trained on ---


def test_packed_windows_lie_evenly_over_all_held_out_text(corpus: Corpus) -> None:
    stream = corpus.holdout.stream[:]
    whole = packed_windows(corpus, 16, 10**9)
    assert len(whole.tokens) == (len(stream) - 1) // 16
    assert whole.tokens[0].tolist() == stream[:17].tolist()
    assert whole.tokens[-1].tolist() == stream[-17:].tolist()
    some = packed_windows(corpus, 16, 16 * 7 + 15)
    assert some.tokens[:, 1:].size == 16 * 7  # no more than was asked for
    last = (len(stream) - 17) / 6
    for number, row in enumerate(some.tokens):
        first = int(number * last)
        assert row.tolist() == stream[first : first + 17].tolist()


def test_packed_windows_do_not_overlap(corpus: Corpus) -> None:
    length = len(corpus.holdout.stream)
    for sequence_length in (1, 2, 3, 7, 16, 61, length // 2, length - 1):
        windows = packed_windows(corpus, sequence_length, 10**9)
        assert len(windows.tokens) == (length - 1) // sequence_length
        n = len(windows.tokens)
        first = np.arange(n) * (length - 1 - sequence_length) // max(1, n - 1)
        assert n == 1 or np.diff(first).min() >= sequence_length


def test_a_packed_token_knows_its_document(corpus: Corpus) -> None:
    windows = packed_windows(corpus, 16, 10**9)
    read = dict.fromkeys(range(len(corpus.holdout)), b"")
    for row, documents in zip(windows.tokens[:, 1:], windows.document, strict=True):
        for token, number in zip(row, documents, strict=True):
            read[int(number)] += bytes([token])
    for number, document in enumerate(corpus.holdout):
        own = iter(bytes(document.tolist()))
        assert read[number] and all(byte in own for byte in read[number])  # in this order


def test_a_corpus_of_short_texts_is_judged(section: Section, tmp_path: Path) -> None:
    texts = [b"%04d" % number for number in range(400)]
    (tmp_path / "short.txt").write_bytes(b"\0".join(texts))
    corpus = prepare(section(tmp_path / "short.txt", 0.5), tmp_path / "cache")
    windows = packed_windows(corpus, 64, 10**9)
    assert windows.tokens[:, 1:].size > 0.9 * corpus.info.holdout_tokens
    # Of five tokens a document one ends it, and has no bytes.
    assert windows.bytes_per_token == pytest.approx(0.8, abs=0.01)


def test_bits_per_byte_are_over_the_bytes_that_were_scored(
    section: Section, tmp_path: Path
) -> None:
    random = np.random.default_rng(3)
    texts = [bytes(random.integers(97, 123, size).tolist()) for size in [5] * 500 + [2000] * 20]
    (tmp_path / "texts.txt").write_bytes(b"\0".join(texts))
    corpus = prepare(section(tmp_path / "texts.txt", 0.3), tmp_path / "cache")
    windows = packed_windows(corpus, 32, 640)
    scored = windows.tokens[:, 1:]
    assert windows.bytes_per_token == pytest.approx((scored != 0).mean(), rel=1e-12)
    assert windows.bytes_per_token != pytest.approx(corpus.info.bytes_per_token, rel=1e-6)


def test_a_held_out_text_shorter_than_a_window_is_refused(corpus: Corpus) -> None:
    held = len(corpus.holdout.stream)
    with pytest.raises(Refusal, match=rf"is {held:,} tokens in all, less than one") as caught:
        packed_windows(corpus, held, 1000)
    fits = re.search(r"Give sequence_length = (\d+) or more text, or", str(caught.value))
    assert fits is not None and len(packed_windows(corpus, int(fits[1]), 1000).tokens)
