"""Tokenisers are files: the same file, the same tokens."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.data import tokenizer as tokenizing
from scaling.data.corpus import Corpus
from scaling.data.holdout import holdout_windows
from scaling.data.prepare import prepare
from scaling.data.tokenizer import Json, library, train_bpe, vocabulary
from scaling.store.records import Refusal
from scaling.study import DataSection, Study

Section = Callable[..., DataSection]
WORDS = "we the people of a union in order to form justice for all café naïve 本 <|endoftext|>"


def texts(n: int = 80) -> list[bytes]:
    random = np.random.default_rng(1)
    return [" ".join(random.choice(WORDS.split(), 150)).encode() for _ in range(n)]


@pytest.fixture(scope="module")
def bpe() -> bytes:
    return train_bpe(texts(), 320)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "t.txt").write_bytes(b"\0".join(texts()))
    return tmp_path / "t.txt"


def held_out_texts(corpus: Corpus) -> list[bytes]:
    reader = library().Tokenizer.from_file(str(corpus.folder / "tokenizer.json"))
    return [reader.decode(document[:-1].tolist()).encode() for document in corpus.holdout]


def test_tokens_decode_to_the_text(bpe: bytes) -> None:
    tokenizer = Json(bpe, None, "bpe:320")
    encoded = list(tokenizer.encode(texts()))
    reader = library().Tokenizer.from_str(bpe.decode())
    assert [reader.decode(one[:-1].tolist()).encode() for one in encoded] == texts()
    assert all(one[-1] == tokenizer.end for one in encoded)
    # A text that spells the end token does not end there.
    assert all((one == tokenizer.end).sum() == 1 for one in encoded)
    assert {one.dtype for one in encoded} == {np.dtype(np.uint16)}


def test_a_bpe_is_the_same_file_in_every_process_and_thread(tmp_path: Path, bpe: bytes) -> None:
    (tmp_path / "t.txt").write_bytes(b"\0".join(texts()))
    code = (
        "import sys; from pathlib import Path; from scaling.data.tokenizer import train_bpe\n"
        "texts = Path(sys.argv[1]).read_bytes().split(b'\\0')\n"
        "sys.stdout.buffer.write(train_bpe(texts, 320))"
    )
    for parallel in ("true", "false"):
        made = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, str(tmp_path / "t.txt")],
            env={**os.environ, "TOKENIZERS_PARALLELISM": parallel},
            capture_output=True,
            check=True,
        )
        assert made.stdout == bpe
        assert made.stderr == b""


def test_a_bpe_does_not_depend_on_the_order_of_documents(bpe: bytes) -> None:
    assert train_bpe(texts()[::-1], 320) == bpe


def test_a_bpe_is_trained_on_training_documents_alone(
    section: Section, source: Path, tmp_path: Path
) -> None:
    corpus = prepare(section(source, tokenizer="bpe:320"), tmp_path / "cache")
    held = set(held_out_texts(corpus))
    alone = train_bpe([text for text in texts() if text not in held], 320)
    assert (corpus.folder / "tokenizer.json").read_bytes() == alone
    assert held < set(texts())


def test_a_bpe_corpus_counts_bytes_and_tokens(
    section: Section, source: Path, tmp_path: Path
) -> None:
    corpus = prepare(section(source, tokenizer="bpe:320"), tmp_path / "cache")
    info = corpus.info
    assert (info.vocab_size, info.tokenizer, info.end_token) == (320, "bpe:320", 0)
    assert info.holdout_bytes == sum(map(len, held_out_texts(corpus)))
    assert info.holdout_documents == len(corpus.holdout)
    assert info.bytes_per_token == info.holdout_bytes / info.holdout_tokens > 1.5
    assert corpus.train.dtype == np.uint16
    assert holdout_windows(corpus, 16, 10**6).tokens.max() < 320


def test_a_tokeniser_is_trained_once(
    section: Section, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(section(source, tokenizer="bpe:320"), tmp_path / "cache")
    monkeypatch.setattr(tokenizing, "train_bpe", None)
    assert prepare(section(source, tokenizer="bpe:320"), tmp_path / "cache").info == first.info


def test_a_given_tokeniser_is_part_of_the_corpus(
    section: Section, source: Path, tmp_path: Path, bpe: bytes
) -> None:
    keys = set()
    for name, file in (("a", bpe), ("b", bpe), ("c", bpe + b"\n")):
        (tmp_path / f"{name}.json").write_bytes(file)
        made = prepare(section(source, tokenizer=str(tmp_path / f"{name}.json")), tmp_path / "c")
        keys.add(made.info.fingerprint)
    assert len(keys) == 2
    trained = prepare(section(source, tokenizer="bytes"), tmp_path / "c")
    assert trained.info.fingerprint not in keys


def edited(bpe: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(bpe), **changes}).encode()


def test_what_a_tokeniser_adds_or_cuts_off_is_left_out(bpe: bytes) -> None:
    reader = library().Tokenizer.from_str(bpe.decode())
    reader.enable_truncation(5)
    reader.enable_padding(length=400)
    reader.post_processor = library().processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    altered = Json(reader.to_str().encode(), None, "t.json")
    plain = Json(bpe, None, "t.json")
    for one, other in zip(altered.encode(texts()), plain.encode(texts()), strict=True):
        assert one.tolist() == other.tolist()


def test_a_long_document_is_encoded_whole_in_parts(
    bpe: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"\n".join(texts())
    (whole,) = Json(bpe, None, "t.json").encode([text])
    monkeypatch.setattr(tokenizing, "LONGEST_TEXT", 2000)
    (parts,) = Json(bpe, None, "t.json").encode([text])
    assert parts.tolist() == whole.tolist()


@pytest.mark.parametrize("name", ["</s>", "<|end_of_text|>", "<eos>"])
def test_the_usual_end_tokens_are_found(bpe: bytes, name: str) -> None:
    other = bpe.replace(b"<|endoftext|>", name.encode())
    assert Json(other, None, "t.json").end == 0


def test_the_vocabulary_is_known_from_the_study_where_it_says(
    section: Section, tmp_path: Path, bpe: bytes
) -> None:
    (tmp_path / "t.json").write_bytes(bpe)
    assert vocabulary(section("t.txt")) == 256
    assert vocabulary(section("t.txt", tokenizer="bpe:4096")) == 4096
    assert vocabulary(section("t.txt", tokenizer="bpe:8k")) == 8000
    assert vocabulary(section("t.txt", tokenizer=str(tmp_path / "t.json"))) == 320
    tokens = {"token_dtype": "uint16", "vocab_size": 50257, "end_token": 50256}
    assert vocabulary(section("t.bin", **tokens)) == 50257


@pytest.mark.parametrize(
    "more, words",
    [
        ({"tokenizer": "bpe:256"}, "above 256, such as 'bpe:4096'"),
        ({"tokenizer": "bpe:lots"}, "above 256"),
        ({"tokenizer": "bpe:0.3005k"}, "above 256"),
        ({"tokenizer": "bpe:50000"}, r"yields only \d+ tokens. Give 'bpe:\d+' or less"),
        ({"tokenizer": "a\0b"}, "cannot read it .NUL in its name"),
        ({"tokenizer": "away.json"}, "cannot read it .*'bytes', 'bpe:4096' or the path"),
        ({"tokenizer": "bad.json"}, "is not a tokenizer.json"),
        ({"tokenizer": "good.json", "end_token": "<nil>"}, "has no token '<nil>'"),
        ({"tokenizer": "good.json", "end_token": 0}, "give the text of the token"),
        ({"tokenizer": "good.json", "vocab_size": 5}, "vocab_size = 5, but .* has 320"),
        ({"tokenizer": "unnamed.json"}, r"has none of <\|endoftext\|>, </s>.*by end_token"),
        ({"tokenizer": "bpe:300", "end_token": "</s>"}, "has no use with tokenizer = 'bpe:300'"),
        ({"end_token": "</s>"}, "has no use with tokenizer = 'bytes'"),
    ],
)
def test_a_tokeniser_that_cannot_be_used_is_refused(
    section: Section,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bpe: bytes,
    more: dict[str, object],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.json").write_bytes(bpe)
    Path("unnamed.json").write_bytes(bpe.replace(b"<|endoftext|>", b"<stop>"))
    Path("bad.json").write_bytes(b"{}")
    with pytest.raises(Refusal, match=words):
        prepare(section(source, **more), tmp_path / "cache")


@pytest.mark.parametrize("value", [-1, True, 1.5, ["</s>"]])
def test_an_end_token_that_is_neither_text_nor_an_id_is_told_what_it_may_be(
    study: Callable[..., Study], value: object
) -> None:
    words = f"[data] end_token = {value!r}: must be the text of a token, or a token id of at least"
    with pytest.raises(Refusal, match=re.escape(words)):
        study(data={"end_token": value})
    assert study(data={"end_token": 0}).data.end_token == 0


def test_a_named_end_token_is_taken(bpe: bytes) -> None:
    assert Json(bpe.replace(b"<|endoftext|>", b"<stop>"), "<stop>", "t.json").end == 0


def test_the_hash_of_the_file_identifies_a_tokeniser(bpe: bytes) -> None:
    identity = Json(bpe, None, "t.json").identity
    assert identity == {"sha256": hashlib.sha256(bpe).hexdigest(), "end_token": 0}


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordLevel", "vocab": {"<|endoftext|>": 0}, "unk_token": "[UNK]"},
        {"type": "Unigram", "vocab": [["<|endoftext|>", 0.0]], "unk_id": None},
    ],
)
def test_a_text_that_a_tokeniser_has_no_token_for_is_refused(model: dict[str, Any]) -> None:
    made = Json(
        json.dumps({"version": "1.0", "added_tokens": [], "model": model}).encode(), None, "t"
    )
    with pytest.raises(Refusal, match=r"\[data\] tokenizer = 't' cannot encode the text \("):
        list(made.encode(texts(1)))


@pytest.mark.parametrize("vocab", [{}, {"<|endoftext|>": 4 * 10**9}])
def test_a_tokeniser_of_no_tokens_or_of_billions_is_refused(vocab: dict[str, int]) -> None:
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    with pytest.raises(Refusal, match="has token ids below"):
        Json(json.dumps({"version": "1.0", "added_tokens": [], "model": model}).encode(), None, "t")


@pytest.mark.parametrize("name", ["/dev/zero", "pipe", "."])
def test_a_tokeniser_that_is_no_file_is_not_read(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(Refusal, match=r"cannot read it \((no regular file|Is a dir)"):
        vocabulary(section("sotu", tokenizer=name))
