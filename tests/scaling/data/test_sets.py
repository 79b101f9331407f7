"""Validation sets: other texts in a study's own tokens, none of whose documents it trains on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scaling.data import sets
from scaling.data.corpus import Corpus, load
from scaling.data.holdout import holdout_windows
from scaling.data.prepare import prepare
from scaling.data.sets import prepare_sets
from scaling.data.tokenizer import plain_tokenizer
from scaling.data.verified import check, check_afresh, digest_of
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]
WORDS = ("we", "the", "people", "of", "żółw", "a", "union", "in", "order", "to", "form")


def texts(seed: int, n: int, words: int = 60) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, words)) for _ in range(n)]


def write(path: Path, documents: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return str(path)


@pytest.fixture
def own(tmp_path: Path) -> str:
    return write(tmp_path / "own.jsonl", texts(0, 60))


def texts_of(corpus: Corpus) -> list[str]:
    """The documents of a set as text again."""
    file = corpus.folder / "tokenizer.json"
    documents = [tokens[:-1].tolist() for tokens in corpus.holdout]
    if not file.exists():
        return [bytes(tokens).decode() for tokens in documents]
    tokenizer = plain_tokenizer(file.read_text())
    return [tokenizer.decode(tokens) for tokens in documents]


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:270"])
def test_a_set_is_all_its_documents_in_the_tokens_of_the_study(
    section: Section, own: str, tmp_path: Path, tokenizer: str
) -> None:
    asked, cache = section(own, tokenizer=tokenizer), tmp_path / "cache"
    corpus = prepare(asked, cache)
    other = texts(1, 20)
    web = write(tmp_path / "web.jsonl", other)
    made = prepare_sets({"web": web}, asked, corpus, cache)["web"]
    assert texts_of(made) == other
    assert (made.info.vocab_size, made.info.end_token) == (
        corpus.info.vocab_size,
        corpus.info.end_token,
    )
    assert made.info.holdout_bytes == sum(len(text.encode()) for text in other)
    again = load(made.info.fingerprint, cache)
    check_afresh(again)
    check(again)
    assert digest_of(again)
    windows = holdout_windows(again, 16, 10**9)
    read = windows.tokens[:, 1:].size
    assert windows.bytes_per_token == pytest.approx(
        made.info.holdout_bytes / made.info.holdout_tokens, rel=16 / read
    )


def test_a_set_whose_files_have_not_changed_is_not_read_again(
    section: Section, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaling.data.remembered.settled", lambda *_: True)
    asked, cache = section(own), tmp_path / "cache"
    corpus = prepare(asked, cache)
    named = {"web": write(tmp_path / "web.jsonl", texts(1, 20))}
    first = prepare_sets(named, asked, corpus, cache)
    with monkeypatch.context() as patch:
        patch.setattr(sets, "read_first", None)
        assert prepare_sets(named, asked, corpus, cache) == first
    # Beside another corpus it may share documents.
    other = prepare(section(write(tmp_path / "other.jsonl", texts(1, 60))), cache)
    with pytest.raises(Refusal, match="shares"):
        prepare_sets(named, asked, other, cache)


def trained_on(corpus: Corpus) -> list[str]:
    stream = bytes(corpus.train[:].tolist())
    return [text.decode() for text in stream.split(b"\0") if text]


def test_a_set_that_shares_documents_with_the_training_text_is_refused(
    section: Section, own: str, tmp_path: Path
) -> None:
    asked, cache = section(own), tmp_path / "cache"
    corpus = prepare(asked, cache)
    known, new = trained_on(corpus), texts(1, 20)
    mixed = write(tmp_path / "web.jsonl", [*new[:4], *known[:3], *new[4:]])
    said = (
        f"[evaluation] sets: web = {mixed!r} shares 3 of its 23 documents with the text that is "
        "trained on; the first is its document 5. Remove them from the set, or name other text."
    )
    with pytest.raises(Refusal) as caught:
        prepare_sets({"web": mixed}, asked, corpus, cache)
    assert str(caught.value) == said
    # What begins or ends alike is another document.
    near = [text + " more" for text in known] + [text[:-1] for text in known]
    assert prepare_sets({"web": write(tmp_path / "near.jsonl", near)}, asked, corpus, cache)
    # So is what the study holds out.
    held = [bytes(tokens[:-1].tolist()).decode() for tokens in corpus.holdout]
    assert prepare_sets({"web": write(tmp_path / "held.jsonl", held)}, asked, corpus, cache)


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:270"])
def test_a_document_that_is_trained_on_in_pieces_is_shared(
    section: Section, tmp_path: Path, tokenizer: str
) -> None:
    (tmp_path / "one.txt").write_text("\n".join(texts(0, 200)))
    asked, cache = section(tmp_path / "one.txt", tokenizer=tokenizer), tmp_path / "cache"
    corpus = prepare(asked, cache)
    assert corpus.info.train_documents > 1
    with pytest.raises(Refusal, match="shares 1 of its 1 documents"):
        prepare_sets({"own": str(tmp_path / "one.txt")}, asked, corpus, cache)
    (tmp_path / "two.txt").write_text("\n".join(texts(2, 200)))
    assert prepare_sets({"own": str(tmp_path / "two.txt")}, asked, corpus, cache)


def test_shared_documents_are_found_across_chunks_and_sources(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaling.data.sharing._CHUNK", 100)
    files = [write(tmp_path / f"{seed}.jsonl", texts(seed, 40)) for seed in (0, 1)]
    asked = section(sources=tuple({"source": file, "weight": 1.0} for file in files))
    corpus, cache = prepare(asked, tmp_path / "cache"), tmp_path / "cache"
    shared = sum(len(trained_on(part)) for part in corpus.parts)
    every = write(tmp_path / "every.jsonl", [*texts(0, 40), *texts(1, 40)])
    with pytest.raises(Refusal, match=f"shares {shared} of its 80 documents"):
        prepare_sets({"web": every}, asked, corpus, cache)


def tokens(path: Path, seed: int, documents: int = 60) -> str:
    made = np.random.default_rng(seed).integers(1, 1000, (documents, 40)).astype(np.uint16)
    made[:, -1] = 0
    made.tofile(path)
    return str(path)


def test_tokens_are_judged_where_they_lie_and_compared_too(
    section: Section, tmp_path: Path
) -> None:
    asked = section(
        tokens(tmp_path / "own.bin", 0), token_dtype="uint16", vocab_size=1000, end_token=0
    )
    cache = tmp_path / "cache"
    corpus = prepare(asked, cache)
    web = prepare_sets({"web": tokens(tmp_path / "web.bin", 1)}, asked, corpus, cache)["web"]
    again = load(web.info.fingerprint, cache)
    assert again.holdout.stream[:].tobytes() == (tmp_path / "web.bin").read_bytes()
    assert holdout_windows(again, 16, 10**9).bytes_per_token is None
    check_afresh(again)
    with pytest.raises(Refusal, match=rf"shares {corpus.info.train_documents} of its 60"):
        prepare_sets({"own": str(tmp_path / "own.bin")}, asked, corpus, cache)


def test_what_is_wrong_with_sets_is_said_of_each(
    section: Section, own: str, tmp_path: Path
) -> None:
    asked, cache = section(own), tmp_path / "cache"
    corpus = prepare(asked, cache)
    (tmp_path / "empty.txt").write_text("")
    named = {
        "bin": tokens(tmp_path / "web.bin", 1),
        "empty": str(tmp_path / "empty.txt"),
        "gone": "nowhere/*.txt",
    }
    with pytest.raises(Refusal) as caught:
        prepare_sets(named, asked, corpus, cache)
    first, second, third = caught.value.lines
    assert re.fullmatch(
        r"\[evaluation\] sets: bin = '.*' is tokens \(\.bin\), and what the study trains on is "
        r"text\. Give the set as text too\.",
        first,
    )
    assert second.startswith(f"[evaluation] sets: empty = '{tmp_path}/empty.txt'")
    assert third.startswith("[evaluation] sets: gone = 'nowhere/*.txt' names no file. Give 'sotu'")
