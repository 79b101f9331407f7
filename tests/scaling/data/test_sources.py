"""The same documents come out of every kind of source."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from scaling.data import tokens
from scaling.data.documents import SourceMissing
from scaling.data.holdout import holdout_windows
from scaling.data.prepare import prepare
from scaling.data.sources import open_sources
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]
TEXTS = [f"Text {number}: café, 本, \n{'word ' * (number % 9)}" for number in range(200)]
BIN = {"token_dtype": "uint16", "vocab_size": 1000, "end_token": 999}


def read(section: DataSection) -> list[object]:
    (source,) = open_sources(section)
    return [text.decode() if isinstance(text, bytes) else text.tolist() for text in source.read()]


def lines(texts: list[str], field: str = "text") -> bytes:
    return b"".join(json.dumps({"id": 1, field: text}).encode() + b"\n" for text in texts)


def zstd(raw: bytes) -> bytes:
    return bytes(pa.compress(raw, codec="zstd", asbytes=True))


def packed(raw: bytes) -> dict[str, bytes]:
    return {"t.jsonl": raw, "t.jsonl.gz": gzip.compress(raw), "t.jsonl.zst": zstd(raw)}


# --- JSON lines ---


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.jsonl.zst"])
def test_json_lines_give_a_document_a_line_compressed_or_not(
    section: Section, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(packed(lines(TEXTS, "content"))[name])
    assert read(section(tmp_path / name, text_field="content")) == TEXTS


def test_a_corpus_has_one_name_however_it_is_packed(section: Section, tmp_path: Path) -> None:
    files = packed(lines(TEXTS)) | {"t.txt": "\0".join(TEXTS).encode()}
    keys = set()
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
        keys.add(prepare(section(tmp_path / name), tmp_path / "cache").info.fingerprint)
    assert len(keys) == 1


def test_compressed_parts_put_one_after_another_are_all_read(
    section: Section, tmp_path: Path
) -> None:
    halves = lines(TEXTS[:100]), lines(TEXTS[100:])
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(map(zstd, halves)))
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(map(gzip.compress, halves)))
    assert read(section(tmp_path / "a.jsonl.zst")) == TEXTS
    assert read(section(tmp_path / "a.jsonl.gz")) == TEXTS


def test_empty_lines_and_texts_are_passed_over_and_nul_divides(
    section: Section, tmp_path: Path
) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\n" + lines(["", " ", "one\0two"]) + b"\n \n")
    assert read(section(tmp_path / "t.jsonl")) == ["one", "two"]


@pytest.mark.parametrize(
    "line, words",
    [
        (b'{"text": "a', r"t.jsonl, line 3 is not valid JSON"),
        (b'{"text": "caf\xe9"}', r"t.jsonl, line 3 is not valid JSON"),
        (b'{"body": "a", "id": 1}', r"'text': .*t.jsonl, line 3 has 'body', 'id'"),
        (b"{}", r"line 3 has "),
        (b"[1]", r"line 3 is no object"),
        (b'{"text": 3}', r"line 3 has '3' there, not a string"),
        (b'{"text": null}', r"line 3 has 'None' there, not a string"),
        (b'{"text": "\\ud800"}', r"line 3 is not valid Unicode"),
        (b"[" * 100_000, r"line 3 is not valid JSON"),
    ],
)
def test_a_line_that_holds_no_text_is_refused_by_file_and_line(
    section: Section, tmp_path: Path, line: bytes, words: str
) -> None:
    (tmp_path / "t.jsonl").write_bytes(lines(TEXTS[:1]) + b"\n" + line + b"\n")
    with pytest.raises(Refusal, match=words):
        read(section(tmp_path / "t.jsonl"))


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.jsonl.zst"])
@pytest.mark.parametrize("damage", [lambda raw: raw[:-20], lambda raw: b"no such format" + raw])
def test_a_damaged_compressed_file_is_refused(
    section: Section, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(damage(packed(lines(TEXTS))[name]))
    with pytest.raises(Refusal, match=rf"cannot read .*{name} beyond line [0-9]+: "):
        read(section(tmp_path / name))


# --- tokens ---


def documents(n: int = 120) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 999, random.integers(1, 60)).tolist() for _ in range(n)]


def write(path: Path, found: list[list[int]], dtype: str = "<u2", last: bool = True) -> Path:
    flat = [token for document in found for token in [*document, 999]]
    np.array(flat if last else flat[:-1], dtype).tofile(path)
    return path


@pytest.mark.parametrize("chunk", [7, 1 << 24])
@pytest.mark.parametrize("last", [True, False])
def test_token_files_are_divided_at_the_end_token(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, last: bool
) -> None:
    monkeypatch.setattr(tokens, "CHUNK", chunk)
    found = documents()
    file = write(tmp_path / "t.bin", [*found[:60], [], *found[60:]], last=last)
    assert read(section(file, **BIN)) == found


@pytest.mark.parametrize("vocab_size, dtype", [(1000, np.uint16), (70_000, np.uint32)])
def test_a_token_corpus_keeps_the_tokens_in_the_smallest_type(
    section: Section, tmp_path: Path, vocab_size: int, dtype: type
) -> None:
    found = documents()
    given = {**BIN, "token_dtype": "uint32", "vocab_size": vocab_size}
    corpus = prepare(section(write(tmp_path / "t.bin", found, "<u4"), **given), tmp_path / "cache")
    assert corpus.train.dtype == dtype
    kept = [document.tolist() for document in corpus.holdout]
    ends = np.flatnonzero(corpus.train[:] == 999) + 1
    kept += [document.tolist() for document in np.split(corpus.train[:], ends[:-1])]
    assert sorted(kept) == sorted([*document, 999] for document in found)
    assert corpus.info.vocab_size == vocab_size
    assert corpus.info.holdout_bytes is None and corpus.info.bytes_per_token is None
    assert holdout_windows(corpus, 16, 100).tokens.max() < 1000


def test_token_files_of_either_width_are_one_corpus(section: Section, tmp_path: Path) -> None:
    narrow = write(tmp_path / "n.bin", documents())
    wide = write(tmp_path / "w.bin", documents(), "<u4")
    keys = {
        prepare(section(file, **{**BIN, "token_dtype": kind}), tmp_path / "c").info.fingerprint
        for file, kind in ((narrow, "uint16"), (wide, "uint32"))
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    "change, words",
    [
        ({"token_dtype": None}, "token_dtype is missing, which a .bin source needs"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"end_token": None}, "end_token is missing"),
        ({"end_token": "</s>"}, "has numbers, not text"),
        ({"end_token": 1000}, "end_token = 1000 is not below vocab_size = 1000"),
        ({"vocab_size": 900, "end_token": 5}, r"t.bin has token \d+ at position [\d,]+, but vocab"),
        ({"vocab_size": 1001, "end_token": 1000}, "end_token = 1000 does not occur in .*t.bin"),
        ({"token_dtype": "uint32"}, "no whole number of uint32"),
        ({"tokenizer": "bpe:300"}, "no use for a .bin source"),
    ],
)
def test_a_token_file_that_is_not_what_is_said_is_refused(
    section: Section, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    file = write(tmp_path / "t.bin", [[998, 1, 2], *documents(), [1, 2, 3]][: -1 or None])
    if file.stat().st_size % 4 == 0:
        write(file, [[998, 1, 2, 3], *documents()])
    with pytest.raises(Refusal, match=words):
        prepare(section(file, **{**BIN, **change}), tmp_path / "cache")


def test_the_position_of_a_token_beyond_the_vocabulary_is_named(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "CHUNK", 100)
    write(tmp_path / "t.bin", [[0] * 1233, [1500]])
    with pytest.raises(Refusal, match="has token 1500 at position 1,234, but vocab_size = 1000"):
        read(section(tmp_path / "t.bin", **BIN))


def test_kinds_of_source_do_not_mix(section: Section, tmp_path: Path) -> None:
    write(tmp_path / "t.bin", documents())
    (tmp_path / "t.txt").write_text("text")
    with pytest.raises(Refusal, match=r"matches .bin files of tokens and others"):
        open_sources(section(tmp_path / "t.*", **BIN))
    both = tuple({"source": str(tmp_path / name), "weight": 1.0} for name in ("t.bin", "t.txt"))
    with pytest.raises(Refusal, match=r"mixes text and .bin"):
        open_sources(section(sources=both, **BIN))
    with pytest.raises(Refusal, match=r"token_dtype = 'uint16' is for .bin files"):
        open_sources(section(tmp_path / "t.txt", token_dtype="uint16"))


def test_source_and_sources_exclude_each_other(section: Section) -> None:
    for given in ({}, {"source": "a", "sources": ({"source": "b", "weight": 1.0},)}):
        with pytest.raises(Refusal, match="either source or sources"):
            open_sources(section(**given))


# --- Hugging Face ---


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """The library, offline and with a cache of its own."""
    library = pytest.importorskip("datasets", reason="the extra hf is not installed")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    library.disable_progress_bars()
    return library


def test_a_folder_of_data_files_is_a_data_set(
    section: Section, tmp_path: Path, datasets: object
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(lines(TEXTS))
    (tmp_path / "set" / "test.jsonl").write_bytes(lines(TEXTS[:3]))
    assert read(section(f"hf:{tmp_path / 'set'}")) == TEXTS
    assert read(section(f"hf:{tmp_path / 'set'}", split="test")) == TEXTS[:3]
    with pytest.raises(Refusal, match=r"text_field = 'body': .* has id, text"):
        read(section(f"hf:{tmp_path / 'set'}", text_field="body"))
    with pytest.raises(Refusal, match=r"'id': hf:.*, row 0 has '1' there, not a string"):
        read(section(f"hf:{tmp_path / 'set'}", text_field="id"))
    with pytest.raises(Refusal, match=r"split = 'dev': .*Correct them"):
        read(section(f"hf:{tmp_path / 'set'}", split="dev"))


def test_a_saved_data_set_is_read_as_it_is(
    section: Section, tmp_path: Path, datasets: object
) -> None:
    rows = datasets.Dataset.from_dict({"text": TEXTS})  # type: ignore[attr-defined]
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"dev": rows}).save_to_disk(tmp_path / "two")  # type: ignore[attr-defined]
    assert read(section(f"hf:{tmp_path / 'one'}")) == TEXTS
    assert read(section(f"hf:{tmp_path / 'two'}", split="dev")) == TEXTS


def test_a_data_set_that_cannot_be_had_is_missing(
    section: Section, tmp_path: Path, datasets: object
) -> None:
    with pytest.raises(SourceMissing, match="cannot be had"):
        open_sources(section(f"hf:{tmp_path / 'nowhere'}"))


def test_without_the_library_the_extra_is_named(
    section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(SourceMissing, match=r"pip install 'scaling-laws\[hf\]'"):
        open_sources(section("hf:some/set"))


def test_a_foreign_header_is_named_and_not_read_as_tokens(section: Section, tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.arange(300, dtype="<u2"))
    (tmp_path / "array.npy").rename(tmp_path / "array.bin")
    with pytest.raises(Refusal, match=r"the header of numpy\.save.* at position 0"):
        prepare(section(tmp_path / "array.bin", **BIN), tmp_path / "cache")
