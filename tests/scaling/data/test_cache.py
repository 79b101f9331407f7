"""A corpus is named by its content and settings, and is whole or absent."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaling.data import chunks, sources, verified
from scaling.data import prepare as preparing
from scaling.data.corpus import Corpus, CorpusInfo, load
from scaling.data.documents import SourceMissing
from scaling.data.making import Making
from scaling.data.prepare import declared, prepare
from scaling.data.progress import unwatched
from scaling.data.reading import read_first
from scaling.data.sources import open_sources
from scaling.data.split import held_out
from scaling.data.verified import check, check_afresh
from scaling.store.checksums import Damaged
from scaling.store.records import Refusal, read_json
from scaling.study import DataSection

Section = Callable[..., DataSection]
DOCUMENTS = [f"document {number} ".encode() * (5 + number % 7) for number in range(60)]


def write(path: Path, documents: list[bytes]) -> Path:
    path.write_bytes(b"\0".join(documents))
    return path


def test_the_cache_holds_the_texts_with_a_nul_after_each(
    section: Section, corpus_source: str, tmp_path: Path
) -> None:
    corpus = prepare(section(corpus_source), tmp_path)
    (source,) = open_sources(section(corpus_source))
    texts = list(source.read())
    made = Making(tmp_path, None, unwatched)
    (divided,) = read_first([source], 0.2, False, made, preparing.ALONE, unwatched)
    (held,) = held_out([divided.index], 0.2)
    train, holdout = (
        [text for text, out in zip(texts, held, strict=True) if out == side]
        for side in (False, True)
    )
    assert bytes(corpus.train[:]) == b"".join(bytes(text) + b"\0" for text in train)
    assert [bytes(text) for text in corpus.holdout] == [bytes(text) + b"\0" for text in holdout]
    assert corpus.info.train_tokens == len(corpus.train)
    assert corpus.info.holdout_tokens == sum(map(len, corpus.holdout))
    assert corpus.info.holdout_bytes == sum(map(len, holdout))
    documents = (corpus.info.train_documents, corpus.info.holdout_documents)
    assert documents == (len(train), len(holdout))


def test_a_single_file_is_cut_so_that_a_part_can_be_held_out(
    section: Section, tmp_path: Path
) -> None:
    paragraphs = [f"Paragraph {i} " + "word " * 40 for i in range(500)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    info = prepare(section(tmp_path / "book.txt", 0.05), tmp_path / "cache").info
    assert info.holdout_bytes is not None
    assert 0.05 <= info.holdout_bytes / (tmp_path / "book.txt").stat().st_size < 0.07


def test_the_cache_is_keyed_by_content_and_split_not_by_name(
    section: Section, tmp_path: Path
) -> None:
    for name, text in (("a", b"one two"), ("b", b"one two"), ("c", b"one too")):
        write(tmp_path / f"{name}.txt", [text, b"three", b"four"])

    def info(name: str, fraction: float = 0.4) -> CorpusInfo:
        return prepare(section(tmp_path / f"{name}.txt", fraction), tmp_path / "cache").info

    assert info("a").fingerprint == info("b").fingerprint
    assert info("b").source == str(tmp_path / "b.txt")  # not where it was first seen
    assert len({info("a").fingerprint, info("c").fingerprint, info("a", 0.6).fingerprint}) == 3


def test_where_documents_are_divided_is_part_of_the_content(
    section: Section, tmp_path: Path
) -> None:
    files = (
        write(tmp_path / "1.txt", [b"ab", b"c", b"d"]),
        write(tmp_path / "2.txt", [b"a", b"bc", b"d"]),
    )
    keys = {prepare(section(file, 0.3), tmp_path / "cache").info.fingerprint for file in files}
    assert len(keys) == 2


def test_the_embedded_corpus_keeps_its_name_and_split(section: Section, cache: Path) -> None:
    """So that finished runs on it are found again."""
    info = prepare(section("sotu", 0.05), cache / "corpora").info
    assert info.fingerprint == "52af5c63f8a8"
    assert (info.train_documents, info.train_tokens) == (233, 11553866)
    assert (info.holdout_documents, info.holdout_tokens) == (16, 632134)
    assert info.bytes_per_token == 632118 / 632134


def test_a_corpus_that_lost_its_note_is_made_again(section: Section, tmp_path: Path) -> None:
    """Its folder stood in the way, and the advice was to free space."""
    source = section(write(tmp_path / "text.txt", DOCUMENTS), 0.2)
    made = prepare(source, tmp_path / "cache")
    train = bytes(made.train[:])
    (made.folder / "info.json").unlink()
    again = prepare(source, tmp_path / "cache")
    assert (again.info, bytes(again.train[:])) == (made.info, train)


def test_processes_that_prepare_the_same_corpus_at_once_agree(tmp_path: Path) -> None:
    source = write(tmp_path / "text.txt", DOCUMENTS * 500)
    code = (
        "import sys; from pathlib import Path; from scaling.data.prepare import *\n"
        "data = DataSection(source=sys.argv[1], sequence_length=16, holdout_fraction=0.2)\n"
        "input(); print(prepare(data, Path(sys.argv[2])).info)"
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
    # One corpus, perhaps a note of its files, and nothing half-made.
    assert len({each.name for each in (tmp_path / "cache").iterdir()} - {"known"}) == 1


def test_a_lost_race_leaves_the_winners_corpus(
    section: Section, corpus_source: str, tmp_path: Path
) -> None:
    won = prepare(section(corpus_source), tmp_path)
    before = (won.folder / "train.bin").stat().st_mtime_ns
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "train.bin").write_bytes(b"late")
    preparing._publish(tmp_path / "late", won.folder)
    shutil.rmtree(tmp_path / "late")
    assert (won.folder / "train.bin").stat().st_mtime_ns == before
    assert {each.name for each in tmp_path.iterdir()} <= {won.folder.name, "known"}


# --- loading ---


def test_a_corpus_is_loaded_by_its_fingerprint(corpus: Corpus) -> None:
    loaded = load(corpus.info.fingerprint, corpus.folder.parent)
    # The folder may have been made from the same text elsewhere, by another process of the tests.
    assert replace(loaded.info, source=corpus.info.source) == corpus.info
    assert (loaded.train[:] == corpus.train[:]).all()


def test_a_corpus_that_is_not_there_or_not_whole_is_refused(
    section: Section, corpus_source: str, tmp_path: Path
) -> None:
    with pytest.raises(Refusal, match=r"corpus 012345678901 is not in .*`scaling run`"):
        load("012345678901", tmp_path)
    made = prepare(section(corpus_source), tmp_path)
    with (made.folder / "train.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(Refusal, match=r"is not whole. Delete it"):
        load(made.info.fingerprint, tmp_path)
    (made.folder / "info.json").write_text("{}")
    with pytest.raises(Refusal, match=r"describes no corpus. Delete"):
        load(made.info.fingerprint, tmp_path)


def test_any_note_of_a_corpus_that_is_no_text_is_refused_with_what_makes_it_again(
    section: Section, corpus_source: str, tmp_path: Path
) -> None:
    np.random.default_rng(0).integers(0, 50, 9000).astype("<u2").tofile(tmp_path / "t.bin")
    tokens = {"vocab_size": 50, "end_token": 49, "token_dtype": "uint16"}
    for given in (section(corpus_source), section(tmp_path / "t.bin", **tokens)):
        made = prepare(given, tmp_path / "cache")
        index = [] if made.index is None else [*made.index.glob("*.json")]
        notes = [*made.folder.glob("*.json"), *index]
        assert len(notes) > 1
        for note in notes:
            content = bytearray(note.read_bytes())
            content[len(content) // 2] = 0xB6
            note.write_bytes(content)
            with pytest.raises((Refusal, Damaged), match=f"Delete {made.folder}: it is made"):
                check(load(made.info.fingerprint, tmp_path / "cache"))
            shutil.rmtree(made.folder)
            made = prepare(given, tmp_path / "cache")
            check(load(made.info.fingerprint, tmp_path / "cache"))


def test_a_bit_that_flips_in_the_cache_is_found_before_it_is_trained_on(
    section: Section, corpus_source: str, tmp_path: Path
) -> None:
    made = prepare(section(corpus_source), tmp_path)
    check_afresh(made)
    path = made.folder / "train.bin"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    for look in (check, check_afresh):
        with pytest.raises(Refusal, match=r"train\.bin has changed since it was written. Delete"):
            look(load(made.info.fingerprint, tmp_path))


def test_a_corpus_that_was_hashed_is_not_read_again_until_it_changes(
    section: Section, corpus_source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "RACY_NS", -(10**18))  # however new it is
    made = prepare(section(corpus_source), tmp_path)
    check_afresh(made)
    hashed: list[object] = []
    monkeypatch.setattr(verified, "verify", lambda *given: hashed.append(given))
    check(made)
    assert hashed == []
    (made.folder / "train.bin").touch()
    check(made)
    assert len(hashed) == 1


# --- declared ---


def test_a_corpus_can_be_planned_where_it_is_not(section: Section, tmp_path: Path) -> None:
    away = section(tmp_path / "away.txt", 0.05, train_tokens="10B", tokenizer="bpe:4096")
    with pytest.raises(SourceMissing):
        prepare(away, tmp_path)
    info = declared(away)
    assert info.declared and info.fingerprint.startswith("declared-")
    assert (info.train_tokens, info.vocab_size) == (10**10, 4096)
    assert info.holdout_tokens == pytest.approx(10**10 * 0.05 / 0.95)
    assert info.bytes_per_token is None
    smaller = section(tmp_path / "away.txt", 0.05, train_tokens="1B", tokenizer="bpe:4096")
    assert declared(smaller).fingerprint != info.fingerprint


def test_of_a_declared_mixture_each_source_is_as_large_as_its_weight(section: Section) -> None:
    several = ({"source": "a.txt", "weight": 0.7}, {"source": "b.txt", "weight": 0.3})
    info = declared(section(sources=several, train_tokens=1e9))
    assert [share.train_tokens for share in info.mixture] == [700_000_000, 300_000_000]
    assert info.source == "0.7 a.txt + 0.3 b.txt"


def test_a_corpus_much_smaller_than_declared_is_refused(
    section: Section, corpus_source: str, corpus: Corpus, tmp_path: Path
) -> None:
    tokens = corpus.info.train_tokens
    assert prepare(section(corpus_source, train_tokens=tokens * 1.009), tmp_path).info.train_tokens
    with pytest.raises(Refusal, match=r"train_tokens = .* is declared, but .* has"):
        prepare(section(corpus_source, train_tokens=tokens * 1.02), tmp_path)


@pytest.mark.parametrize(
    "more, words",
    [
        ({}, "train_tokens is missing"),
        ({"train_tokens": 1e9, "vocab_size": 300}, "vocab_size = 300, but tokenizer = 'bytes' has"),
        ({"train_tokens": 1e9, "tokenizer": "bpe:100"}, "size of the vocabulary, above 256"),
        ({"train_tokens": 1e9, "tokenizer": "away.json"}, "cannot read it"),
        ({"train_tokens": 1e9, "token_dtype": "uint16"}, "vocab_size is missing"),
    ],
)
def test_a_declaration_that_says_too_little_is_refused(
    section: Section, more: dict[str, object], words: str
) -> None:
    with pytest.raises(Refusal, match=words):
        declared(section("away.bin", **more))


def test_a_tokeniser_that_is_away_can_be_declared_by_its_vocabulary(section: Section) -> None:
    away = section("away.txt", train_tokens=1e9, tokenizer="away.json", vocab_size=32000)
    assert declared(away).vocab_size == 32000


# --- the embedded corpus ---


def test_the_embedded_corpus_is_the_one_its_manifest_describes(section: Section) -> None:
    manifest = read_json(sources.CORPORA / "sotu.json")
    documents = [bytes(text) for text in open_sources(section("sotu"))[0].read()]
    text = b"\0".join(documents)
    assert hashlib.sha256(text).hexdigest() == manifest["sha256"]
    assert (len(documents), len(text)) == (manifest["documents"], manifest["bytes"])
    assert all(document.decode("utf-8").strip() for document in documents)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-100], lambda raw: raw[:99] + b"x" + raw[100:]]
)
def test_a_damaged_embedded_corpus_is_refused(
    section: Section,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[bytes], bytes],
) -> None:
    packed = (sources.CORPORA / "sotu.txt.xz").read_bytes()
    (tmp_path / "sotu.json").write_bytes((sources.CORPORA / "sotu.json").read_bytes())
    (tmp_path / "sotu.txt.xz").write_bytes(damage(packed))
    monkeypatch.setattr(sources, "CORPORA", tmp_path)
    with pytest.raises(Refusal, match=r"does not match its SHA-256.*build_sotu"):
        list(open_sources(section("sotu"))[0].read())


# --- refusals ---


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "names no file"),
        (b"", "holds no text"),
        (b" \n\0\n ", "holds no text"),
        (b"caf\xe9", r"not UTF-8 text \(byte 3\)"),
        (b"a" * (1 << 20) + b"\xe9", r"not UTF-8 text \(byte 1048576\)"),
        (b"x", "nothing to hold out"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_refused(
    section: Section, tmp_path: Path, content: bytes | None, words: str
) -> None:
    source = tmp_path / "text.txt"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(Refusal, match=words):
        prepare(section(source, 0.1), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_refused(
    section: Section, corpus_source: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Refusal, match="cannot write the token cache"):
        prepare(section(corpus_source), tmp_path / "file" / "cache")


def test_a_corpus_without_its_checksums_is_none_of_an_earlier_version(
    section: Section, tmp_path: Path
) -> None:
    made = prepare(section(write(tmp_path / "text.txt", DOCUMENTS), 0.2), tmp_path / "cache")
    (made.folder / "checksums.json").unlink()
    with pytest.raises(Refusal, match=r"checksums\.json: No such file.*it is made again"):
        check_afresh(load(made.info.fingerprint, tmp_path / "cache"))


@pytest.mark.parametrize(
    "name", ["holdout.bin", "train.bin", "train.bin.digests", "holdout.bin.digests"]
)
def test_a_pipe_in_a_corpus_blocks_nobody(section: Section, tmp_path: Path, name: str) -> None:
    made = prepare(section(write(tmp_path / "text.txt", DOCUMENTS), 0.2), tmp_path / "cache")
    (made.folder / name).unlink()
    os.mkfifo(made.folder / name)
    with pytest.raises(Refusal, match="Delete"):
        check_afresh(load(made.info.fingerprint, tmp_path / "cache"))
