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
    summarise_holdout,
)
from scaling.data.prepare import prepare
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]


def test_windows_lie_evenly_over_all_held_out_text(corpus: Corpus) -> None:
    stream = corpus.holdout.stream[:]
    whole = holdout_windows(corpus, 16, 10**9)
    assert len(whole.tokens) == (len(stream) - 1) // 16
    assert whole.tokens[0].tolist() == stream[:17].tolist()
    assert whole.tokens[-1].tolist() == stream[-17:].tolist()
    some = holdout_windows(corpus, 16, 16 * 7 + 15)
    assert some.tokens[:, 1:].size == 16 * 7  # no more than was asked for
    last = (len(stream) - 17) / 6
    for number, row in enumerate(some.tokens):
        first = int(number * last)
        assert row.tolist() == stream[first : first + 17].tolist()


def test_windows_do_not_overlap(corpus: Corpus) -> None:
    length = len(corpus.holdout.stream)
    for sequence_length in (1, 2, 3, 7, 16, 61, length // 2, length - 1):
        windows = holdout_windows(corpus, sequence_length, 10**9)
        assert len(windows.tokens) == (length - 1) // sequence_length
        n = len(windows.tokens)
        first = np.arange(n) * (length - 1 - sequence_length) // max(1, n - 1)
        assert n == 1 or np.diff(first).min() >= sequence_length


def test_a_token_knows_its_document(corpus: Corpus) -> None:
    windows = holdout_windows(corpus, 16, 10**9)
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
    windows = holdout_windows(corpus, 64, 10**9)
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
    windows = holdout_windows(corpus, 32, 640)
    scored = windows.tokens[:, 1:]
    assert windows.bytes_per_token == pytest.approx((scored != 0).mean(), rel=1e-12)
    assert windows.bytes_per_token != pytest.approx(corpus.info.bytes_per_token, rel=1e-6)


def test_a_held_out_text_shorter_than_a_window_is_refused(corpus: Corpus) -> None:
    held = len(corpus.holdout.stream)
    with pytest.raises(Refusal, match=rf"is {held:,} tokens in all, less than one") as caught:
        holdout_windows(corpus, held, 1000)
    fits = re.search(r"Give sequence_length = (\d+) or more text, or", str(caught.value))
    assert fits is not None and len(holdout_windows(corpus, int(fits[1]), 1000).tokens)


def test_what_is_judged_is_counted(corpus: Corpus) -> None:
    whole, some = (judged(corpus, 16, tokens) for tokens in (10**9, 600))
    assert whole.documents == whole.held_out == corpus.info.holdout_documents
    assert whole.held_out_tokens - 16 <= whole.tokens < whole.held_out_tokens
    assert whole.held_out_tokens == corpus.info.holdout_tokens and whole.set is None
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
