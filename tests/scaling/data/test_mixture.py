"""A mixture is its sources, each as it would be alone, in the proportion of their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scaling.data.corpus import Corpus, load
from scaling.data.holdout import holdout_windows
from scaling.data.prepare import prepare
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]
SOURCES = {"upper": 60, "lower": 200}  # documents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One source in capitals, one in small letters, so that a token says where it is from."""
    random = np.random.default_rng(2)
    for name, documents in SOURCES.items():
        first = ord("A") if name == "upper" else ord("a")
        made = [bytes(random.integers(first, first + 26, 170).tolist()) for _ in range(documents)]
        (tmp_path / f"{name}.txt").write_bytes(b"\0".join(made))
    return tmp_path


@pytest.fixture
def mixed(section: Section, folder: Path) -> Callable[..., Corpus]:
    def make(upper: float, lower: float, **more: object) -> Corpus:
        weights = {"upper": upper, "lower": lower}
        several = tuple(
            {"source": str(folder / f"{name}.txt"), "weight": weight}
            for name, weight in weights.items()
        )
        return prepare(section(sources=several, **more), folder / "cache")

    return make


def is_upper(tokens: np.ndarray) -> np.ndarray:
    """By the first letter of each row that is no end of a document."""
    return np.array([row[row > 0][0] < ord("a") for row in tokens])


def test_a_batch_has_its_sources_in_proportion(mixed: Callable[..., Corpus]) -> None:
    corpus = mixed(0.3, 0.7)
    batches = corpus.batches(16, 5, 0)
    for step in range(0, 40, 2):
        assert is_upper(batches.span(step, 2).reshape(10, -1)).sum() == 3


def test_held_out_windows_are_in_proportion_and_no_more_than_asked(
    mixed: Callable[..., Corpus],
) -> None:
    corpus = mixed(0.25, 0.75)
    windows = holdout_windows(corpus, 16, 16 * 83)
    assert (is_upper(windows.tokens).sum(), len(windows.tokens)) == (20, 82)
    upper = set(windows.document[is_upper(windows.tokens)].flat)
    assert not upper & set(windows.document[~is_upper(windows.tokens)].flat)


def test_the_scarcer_source_limits_the_windows(mixed: Callable[..., Corpus]) -> None:
    windows = holdout_windows(mixed(0.9, 0.1), 16, 10**9)
    assert is_upper(windows.tokens).mean() == pytest.approx(0.9, abs=0.01)


def test_parts_are_the_corpora_they_would_be_alone(
    section: Section, mixed: Callable[..., Corpus], folder: Path
) -> None:
    corpus = mixed(1, 2)
    for part, name in zip(corpus.parts, SOURCES, strict=True):
        alone = prepare(section(folder / f"{name}.txt"), folder / "cache")
        assert part.info.fingerprint == alone.info.fingerprint
    assert corpus.info.train_tokens == sum(len(part.train) for part in corpus.parts)
    assert corpus.info.source.startswith("0.333 ")


def test_other_weights_are_another_corpus_of_the_same_files(
    mixed: Callable[..., Corpus], folder: Path
) -> None:
    one, two = mixed(1, 2), mixed(1, 3)
    assert one.info.fingerprint != two.info.fingerprint
    assert len(list((folder / "cache").glob("*/train.bin"))) == 2


def test_a_mixture_is_loaded_by_its_fingerprint(mixed: Callable[..., Corpus]) -> None:
    made = mixed(1, 2)
    loaded = load(made.info.fingerprint, made.folder.parent)
    assert loaded.info == made.info
    same = loaded.batches(16, 4, 1).span(0, 9) == made.batches(16, 4, 1).span(0, 9)
    assert same.all()


def test_a_mixture_shares_one_tokeniser(mixed: Callable[..., Corpus]) -> None:
    corpus = mixed(0.5, 0.5, tokenizer="bpe:300")
    files = {(part.folder / "tokenizer.json").read_bytes() for part in corpus.parts}
    assert len(files) == 1
    assert corpus.info.vocab_size == 300
    expected = np.mean([part.info.bytes_per_token for part in corpus.parts])
    assert corpus.info.bytes_per_token == pytest.approx(float(expected))


def test_a_text_in_both_sources_is_held_out_of_both(
    section: Section, mixed: Callable[..., Corpus], folder: Path
) -> None:
    upper, lower = ((folder / f"{name}.txt").read_bytes() for name in SOURCES)
    (folder / "lower.txt").write_bytes(lower + b"\0" + b"\0".join(upper.split(b"\0")[:30]))
    corpus = mixed(1, 1)
    held = {bytes(text) for part in corpus.parts for text in part.holdout}
    trained = b"".join(bytes(part.train[:]) for part in corpus.parts)
    assert held and not any(text in trained for text in held)
    alone = prepare(section(folder / "lower.txt"), folder / "cache")
    assert corpus.parts[1].info.fingerprint != alone.info.fingerprint


def test_what_is_cut_for_another_source_is_part_of_the_fingerprint(
    section: Section, mixed: Callable[..., Corpus], folder: Path
) -> None:
    upper = (folder / "upper.txt").read_bytes().split(b"\0")
    (folder / "lower.txt").write_bytes(b"\0".join(upper[:3]))  # of which each must be cut
    corpus = mixed(1, 1)
    alone = [
        prepare(section(folder / f"{name}.txt"), folder / "cache").info.fingerprint
        for name in SOURCES
    ]
    assert corpus.parts[0].info.fingerprint != alone[0]
    held = [bytes(text).strip(b"\0") for part in corpus.parts for text in part.holdout]
    trained = b"".join(bytes(part.train[:]) for part in corpus.parts)
    assert held and not any(text in trained for text in held)


def test_sources_of_the_same_text_are_refused(mixed: Callable[..., Corpus], folder: Path) -> None:
    (folder / "lower.txt").write_bytes((folder / "upper.txt").read_bytes())
    with pytest.raises(Refusal, match=r"'.*upper.txt' and '.*lower.txt' hold the same text"):
        mixed(1, 1)


def test_a_source_without_anything_to_hold_out_is_named(section: Section, folder: Path) -> None:
    (folder / "one.txt").write_bytes(b"x")
    several = tuple({"source": str(folder / f), "weight": 1.0} for f in ("one.txt", "upper.txt"))
    with pytest.raises(Refusal, match=r"1 documents of '.*one.txt' leaves nothing to train on"):
        prepare(section(sources=several), folder / "cache")
