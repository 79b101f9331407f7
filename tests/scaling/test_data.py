"""The data are fixed by their content, and their order by arithmetic."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.data import corpus as corpus_module
from scaling.data import sources
from scaling.data.batches import Batches, permute, unique_tokens
from scaling.data.corpus import Corpus, CorpusInfo, DataSpec, prepare
from scaling.data.holdout import (
    HoldoutWindows,
    holdout_windows,
    iterate_windows,
    summarise_holdout,
)
from scaling.data.sources import read_documents
from scaling.data.split import cut_large, split_holdout
from scaling.records import Refusal, read_json

DOCUMENTS = [f"document {number} ".encode() * (5 + number % 7) for number in range(60)]


def order(size: int, seed: int, epoch: int) -> list[int]:
    return permute(np.arange(size), size, seed, np.full(size, epoch)).tolist()


# --- order ---


@pytest.mark.parametrize("size", [*range(1, 70), 97, 127, 128, 129, 1009, 4096, 4097, 10007])
def test_every_epoch_visits_every_sequence_once(size: int) -> None:
    for seed, epoch in ((0, 0), (0, 1), (2**32 - 1, 5)):
        assert sorted(order(size, seed, epoch)) == list(range(size))


def test_a_trillion_sequences_need_no_table() -> None:
    index = np.array([0, 1, 10**12 - 1])
    assert len(set(permute(index, 10**12, 0, np.zeros(3, int)).tolist())) == 3


def test_epochs_and_seeds_are_visited_in_different_orders() -> None:
    orders = {tuple(order(101, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_the_order_is_that_of_a_shuffle() -> None:
    """Where the first sequence goes over 4,000 epochs: uniform, by a chi-squared of 49 degrees."""
    places = permute(np.zeros(4000, int), 50, 3, np.arange(4000))
    observed = np.bincount(places, minlength=50)
    assert ((observed - 80) ** 2 / 80).sum() < 49 + 5 * np.sqrt(2 * 49)


@given(first=st.integers(0, 500), count=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_a_span_is_its_batches_stacked(first: int, count: int, seed: int) -> None:
    batches = Batches(np.arange(256, dtype=np.uint8).repeat(4), 7, 5, seed)
    stacked = np.stack([batches.at(step) for step in range(first, first + count)])
    assert (batches.span(first, count) == stacked).all()


def test_a_batch_is_a_function_of_the_step_alone() -> None:
    stream = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
    forward = [Batches(stream, 16, 4, 1).at(step) for step in range(200)]
    one = Batches(stream, 16, 4, 1)
    assert all((one.at(step) == forward[step]).all() for step in reversed(range(200)))


def test_an_epoch_trains_every_target_once() -> None:
    """Positions as tokens: 25 sequences of 10, each target the token after its input."""
    stream = np.arange(256, dtype=np.uint8)
    batches = Batches(stream, 10, 5, 0).span(0, 5).reshape(-1, 11)
    assert (batches[:, 1:] == batches[:, :-1] + 1).all()
    assert sorted(batches[:, 1:].ravel().tolist()) == list(range(1, 251))


@pytest.mark.parametrize("train_tokens", [17, 100, 161])
def test_unique_tokens_are_the_distinct_targets_that_were_trained(train_tokens: int) -> None:
    T, B = 16, 2
    batches = Batches(np.arange(train_tokens, dtype=np.uint8), T, B, 0)
    for steps in range(1, 12):
        distinct = len(np.unique(batches.span(0, steps)[..., 1:]))
        assert unique_tokens(steps * B * T, train_tokens, T) == distinct


# --- held-out split ---


def test_the_split_keeps_whole_documents_once_each() -> None:
    train, holdout = split_holdout(DOCUMENTS, 0.2)
    assert sorted(train + holdout) == sorted(DOCUMENTS)
    assert sum(map(len, holdout)) >= 0.2 * sum(map(len, DOCUMENTS))
    assert sum(map(len, holdout)) - max(map(len, holdout)) < 0.2 * sum(map(len, DOCUMENTS))


def test_the_split_does_not_depend_on_the_order_of_documents() -> None:
    shuffled = [DOCUMENTS[i] for i in np.random.default_rng(0).permutation(len(DOCUMENTS))]
    assert set(split_holdout(shuffled, 0.2)[1]) == set(split_holdout(DOCUMENTS, 0.2)[1])


@given(st.binary(min_size=1, max_size=3000))
def test_adding_a_document_moves_others_to_one_side_only(document: bytes) -> None:
    before = set(split_holdout(DOCUMENTS, 0.2)[1])
    after = set(split_holdout([*DOCUMENTS, document], 0.2)[1]) - {document}
    assert before <= after or after <= before


def test_equal_texts_are_on_the_same_side() -> None:
    for document in DOCUMENTS:
        train, holdout = split_holdout([*DOCUMENTS, document], 0.3)
        assert not set(train) & set(holdout)


# --- cache ---


def test_the_cache_holds_the_texts_with_a_nul_after_each(
    corpus_source: str, tmp_path: Path
) -> None:
    corpus = prepare(DataSpec(corpus_source, 0.2), tmp_path)
    train, holdout = split_holdout(read_documents(corpus_source), 0.2)
    assert bytes(corpus.train) == b"".join(text + b"\0" for text in train)
    assert [bytes(text) for text in corpus.holdout] == [text + b"\0" for text in holdout]
    assert corpus.info.train_tokens == len(corpus.train)
    assert corpus.info.holdout_tokens == sum(map(len, corpus.holdout))
    assert corpus.info.holdout_bytes == sum(map(len, holdout))
    assert (corpus.info.train_documents, corpus.info.holdout_documents) == (
        len(train),
        len(holdout),
    )


def test_the_cache_is_keyed_by_content_and_split_not_by_name(tmp_path: Path) -> None:
    for name, text in (("a", "one two"), ("b", "one two"), ("c", "one too")):
        (tmp_path / f"{name}.txt").write_bytes(b"\0".join([text.encode(), b"three", b"four"]))

    def info(name: str, fraction: float = 0.4) -> CorpusInfo:
        return prepare(DataSpec(str(tmp_path / f"{name}.txt"), fraction), tmp_path / "cache").info

    assert info("a").fingerprint == info("b").fingerprint
    assert info("b").source == str(tmp_path / "b.txt")  # not where it was first seen
    assert len({info("a").fingerprint, info("c").fingerprint, info("a", 0.6).fingerprint}) == 3


def test_where_documents_are_divided_is_part_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes(b"ab\0c\0d")
    (tmp_path / "two.txt").write_bytes(b"a\0bc\0d")
    keys = {
        prepare(DataSpec(str(tmp_path / name), 0.3), tmp_path / "cache").info.fingerprint
        for name in ("one.txt", "two.txt")
    }
    assert len(keys) == 2


def test_processes_that_prepare_the_same_corpus_at_once_agree(tmp_path: Path) -> None:
    source = tmp_path / "text.txt"
    source.write_bytes(b"\0".join(DOCUMENTS * 500))
    code = (
        "import sys; from pathlib import Path; from scaling.data.corpus import *\n"
        "input(); print(prepare(DataSpec(sys.argv[1], 0.2), Path(sys.argv[2])).info)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(source), str(tmp_path / "cache")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:  # imports take longest: start together once they are done
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate()[0] for process in processes}
    assert len(answers) == 1 and "CorpusInfo" in answers.pop()
    assert len(list((tmp_path / "cache").iterdir())) == 1  # nothing half-made is left


def test_a_lost_race_leaves_the_winners_corpus(
    corpus_source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = DataSpec(corpus_source, 0.2)
    won = prepare(spec, tmp_path)
    before = (won.folder / "train.bin").stat().st_mtime_ns
    train, holdout = split_holdout(read_documents(corpus_source), 0.2)
    corpus_module._publish(won.folder, train, holdout, won.info)
    assert (won.folder / "train.bin").stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == [won.folder]


# --- the embedded corpus ---


def test_the_embedded_corpus_is_the_one_its_manifest_describes() -> None:
    manifest = read_json(sources.CORPORA / "sotu.json")
    documents = read_documents("sotu")
    text = b"\0".join(documents)
    assert hashlib.sha256(text).hexdigest() == manifest["sha256"]
    assert (len(documents), len(text)) == (manifest["documents"], manifest["bytes"])
    assert all(document.decode("utf-8").strip() for document in documents)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-100], lambda raw: raw[:99] + b"x" + raw[100:]]
)
def test_a_damaged_embedded_corpus_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: object
) -> None:
    packed = (sources.CORPORA / "sotu.txt.xz").read_bytes()
    (tmp_path / "sotu.json").write_bytes((sources.CORPORA / "sotu.json").read_bytes())
    (tmp_path / "sotu.txt.xz").write_bytes(damage(packed))  # type: ignore[operator]
    monkeypatch.setattr(sources, "CORPORA", tmp_path)
    with pytest.raises(Refusal, match=r"does not match its SHA-256.*build_sotu"):
        read_documents("sotu")


# --- refusals ---


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "names no file"),
        (b"", "holds no text"),
        (b" \n\0\n ", "holds no text"),
        (b"caf\xe9", r"not UTF-8 text \(byte 3\)"),
        (b"x", "nothing to hold out"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    source = tmp_path / "text.txt"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(Refusal, match=words):
        prepare(DataSpec(str(source), 0.1), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_refused(corpus_source: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Refusal, match="cannot write the token cache"):
        prepare(DataSpec(corpus_source, 0.2), tmp_path / "file" / "cache")


def test_held_out_documents_shorter_than_a_sequence_are_refused(corpus: Corpus) -> None:
    with pytest.raises(Refusal, match="every held-out document is shorter"):
        holdout_windows(corpus, 100_000, 1000)


# --- held-out loss ---


def test_windows_hold_consecutive_held_out_text_without_overlap(corpus: Corpus) -> None:
    windows = holdout_windows(corpus, 16, 10**9)
    for number, document in enumerate(corpus.holdout):
        own = windows.tokens[windows.document == number]
        n = (len(document) - 1) // 16
        assert own[:, 1:].ravel().tolist() == document[1 : n * 16 + 1].tolist()


def test_fewer_windows_are_shared_among_all_documents(corpus: Corpus) -> None:
    every, some = (holdout_windows(corpus, 16, tokens) for tokens in (10**9, 600))
    assert set(some.document) == set(every.document)
    assert abs(some.tokens[:, 1:].size - 600) < 16 * len(corpus.holdout)
    assert {*map(bytes, some.tokens)} < {*map(bytes, every.tokens)}


def test_batches_of_windows_have_one_size_and_lose_none(corpus: Corpus) -> None:
    windows = holdout_windows(corpus, 16, 10**9)
    parts = list(iterate_windows(windows, 7))
    assert {len(part) for part in parts} == {7}
    assert (np.concatenate(parts)[: len(windows.tokens)] == windows.tokens).all()


def test_the_standard_error_is_that_of_resampling_documents() -> None:
    random = np.random.default_rng(0)
    document = np.repeat(np.arange(40), random.integers(1, 9, 40))
    losses = 2 + random.normal(size=40)[document, None] + random.normal(size=(len(document), 8))
    windows = HoldoutWindows(np.zeros((len(document), 9), np.int32), document)
    total = np.bincount(document, losses.sum(1))
    count = np.bincount(document) * 8
    draws = random.integers(0, 40, (20_000, 40))
    resampled = total[draws].sum(1) / count[draws].sum(1)
    got = summarise_holdout(losses, windows, bytes_per_token=1.0)
    assert got.loss == pytest.approx(losses.mean())
    # The linearised error and the bootstrap's agree to second order in 1/sqrt(40).
    assert got.stderr == pytest.approx(resampled.std() * np.sqrt(40 / 39), rel=0.05)


def test_bits_per_byte_counts_bytes_not_tokens() -> None:
    windows = HoldoutWindows(np.zeros((2, 5), np.int32), np.zeros(2, int))
    got = summarise_holdout(np.full((2, 4), np.log(2)), windows, bytes_per_token=4.0)
    assert got.bits_per_byte == pytest.approx(0.25)
    assert got.stderr is None  # one document says nothing about another


def test_a_single_file_is_cut_at_blank_lines_so_that_a_part_can_be_held_out(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i} " + "word " * 40 for i in range(500)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    info = prepare(DataSpec(str(tmp_path / "book.txt"), 0.05), tmp_path / "cache").info
    share = info.holdout_bytes / (tmp_path / "book.txt").stat().st_size
    assert 0.05 <= share < 0.07
    pieces = cut_large([(tmp_path / "book.txt").read_bytes()], 0.05)
    assert b"".join(pieces) == (tmp_path / "book.txt").read_bytes()
    assert all(piece.startswith(b"Paragraph") for piece in pieces)


def test_documents_no_larger_than_the_held_out_share_stay_whole() -> None:
    documents = [b"a" * 100] * 30
    assert cut_large(documents, 0.05) == documents


def test_many_short_documents_are_not_all_read_at_every_evaluation(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_bytes(b"\0".join(b"%05d" % i * 20 for i in range(4000)))
    corpus = prepare(DataSpec(str(tmp_path / "short.txt"), 0.5), tmp_path / "cache")
    windows = holdout_windows(corpus, 64, 6400)
    assert len(windows.tokens) == 100
    assert len(np.unique(windows.document)) == 100
