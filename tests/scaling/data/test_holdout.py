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
