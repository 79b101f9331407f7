"""The bytes of tokens are those of the text that was held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scaling.data.corpus import Corpus
from scaling.data.prepare import prepare
from scaling.data.token_bytes import token_bytes
from scaling.data.tokenizer import plain_tokenizer
from scaling.study import DataSection

Section = Callable[..., DataSection]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Documents with letters of one, two and three bytes, none of them alike."""
    random = np.random.default_rng(1)
    words = ["the", "żółw", "日本語", "of", "people", "naïve"]
    made = [" ".join(random.choice(words, 60)) for _ in range(60)]
    (tmp_path / "texts.txt").write_text("\0".join(made))
    return tmp_path / "texts.txt"


def held_out(corpus: Corpus) -> list[tuple[np.ndarray, int]]:
    """The tokens of each held-out document with its end token, and the bytes of its text."""
    file = corpus.folder / "tokenizer.json"
    if not file.exists():
        return [(tokens, len(tokens) - 1) for tokens in corpus.holdout]
    decode = plain_tokenizer(file.read_text()).decode
    return [(tokens, len(decode(tokens[:-1].tolist()).encode())) for tokens in corpus.holdout]


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:280"])
def test_the_tokens_of_a_text_have_its_bytes(
    section: Section, source: Path, tmp_path: Path, tokenizer: str
) -> None:
    corpus = prepare(section(source, tokenizer=tokenizer), tmp_path / "cache")
    each = token_bytes(corpus)
    assert each is not None and each[corpus.info.end_token] == 0
    for tokens, size in held_out(corpus):
        assert each[tokens].sum() == pytest.approx(size, rel=1e-12)


def test_those_of_a_sentencepiece_tokenizer_have_the_bytes_of_the_held_out_text(
    section: Section, source: Path, tmp_path: Path
) -> None:
    vocab: dict[str, int] = {"</s>": 0, "▁the": 1, "▁of": 2, "▁": 3}
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab |= {name: len(vocab) + number for number, name in enumerate(names)}
    model = {
        **{"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": True, "unk_token": None},
        "ignore_merges": True,
    }
    written = {
        **{"version": "1.0", "added_tokens": [], "post_processor": None},
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": "▁"},
            "behavior": "MergedWithNext",
            "invert": False,
        },
        "decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        "model": model,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(written))
    given = str(tmp_path / "tokenizer.json")
    corpus = prepare(section(source, tokenizer=given), tmp_path / "cache")
    each = token_bytes(corpus)
    assert each is not None
    counts = np.bincount(corpus.holdout.stream[:], minlength=len(each))
    assert counts[1] and counts[4:].sum()  # words, and bytes of letters that are no token
    assert counts @ each == pytest.approx(corpus.info.holdout_bytes, rel=1e-12)
    # Of each text the tokenizer makes one byte more, a space before it.
    assert 0.99 < each[4] < 1 and each[1] == pytest.approx(4 * each[4])


def test_the_bytes_of_tokens_without_a_text_are_not_known(section: Section, tmp_path: Path) -> None:
    documents = np.random.default_rng(0).integers(1, 4, (50, 20)).astype(np.uint16)
    documents[:, -1] = 0
    documents.tofile(tmp_path / "tokens.bin")
    made = section(tmp_path / "tokens.bin", token_dtype="uint16", vocab_size=4, end_token=0)
    assert token_bytes(prepare(made, tmp_path / "cache")) is None
