"""Shards of every kind, whole and damaged, in folders and in buckets."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.data import buckets, shards
from scaling.data.documents import SourceMissing
from scaling.data.prepare import prepare, remembered
from scaling.data.sources import open_sources
from scaling.store.objects import Stat, open_store
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]
TEXTS = [f"Text {number}: café, 本, \n{'word ' * (number % 9)}" for number in range(200)]


def lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def read(section: DataSection) -> list[str]:
    (source,) = open_sources(section)
    return [bytes(text).decode() for text in source.read()]


def parquet(path: Path, column: pa.Array, rows: int = 30) -> Path:
    table = pa.table({"id": range(len(column)), "text": column})
    pq.write_table(table, path, row_group_size=rows)
    return path


# --- Parquet ---


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_a_column_of_strings_gives_a_document_a_row(
    section: Section, tmp_path: Path, kind: pa.DataType
) -> None:
    parquet(tmp_path / "t.parquet", pa.array(["", *TEXTS, "one\0two", " "]).cast(kind))
    assert read(section(tmp_path / "t.parquet")) == [*TEXTS, "one", "two"]


@pytest.mark.parametrize(
    ("table", "field", "said"),
    [
        (pa.table({"meta": [{"text": "a"}]}), "meta.text", "has meta. Name the column"),
        (pa.table([pa.array(["a"])] * 2, ["text", "text"]), "text", "has text, text. Name"),
    ],
    ids=["inside another", "twice"],
)
def test_a_name_that_is_not_one_columns_is_refused(
    section: Section, tmp_path: Path, table: pa.Table, field: str, said: str
) -> None:
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(Refusal, match=said):
        read(section(tmp_path / "t.parquet", text_field=field))


def test_row_groups_are_read_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = parquet(tmp_path / "t.parquet", pa.array(TEXTS))
    assert len(list(shards.spans_of(file, "text"))) == 1  # small ones together
    monkeypatch.setattr(shards, "PART", 1)
    spans = list(shards.spans_of(file, "text"))
    assert len(spans) == 7
    found = [[text.decode() for text in shards.read([span], "text")] for span in spans]
    assert found == [TEXTS[first : first + 30] for first in range(0, 200, 30)]


@pytest.mark.parametrize(
    "column, words",
    [
        (pa.array(["a"] * 40 + [None, "b"]), r"t\.parquet, row 10 of row group 1 is null"),
        (pa.array([b"a", b"b"]), "has binary there, not strings"),
        (pa.array([1, 2]), "has int64 there, not strings"),
        (pa.array([["a"], ["b"]]), "has list<.*string> there, not strings"),
        (pa.array([{"a": "b"}]), "has struct<.*> there, not strings"),
    ],
)
def test_a_column_that_is_no_text_is_refused(
    section: Section, tmp_path: Path, column: pa.Array, words: str
) -> None:
    parquet(tmp_path / "t.parquet", column)
    with pytest.raises(Refusal, match=words):
        read(section(tmp_path / "t.parquet"))


def test_a_column_that_is_not_there_is_told_those_that_are(
    section: Section, tmp_path: Path
) -> None:
    parquet(tmp_path / "t.parquet", pa.array(TEXTS))
    with pytest.raises(Refusal, match=r"text_field = 'body': .*t\.parquet has id, text\. Name"):
        read(section(tmp_path / "t.parquet", text_field="body"))


def test_bytes_that_are_no_utf8_are_refused(section: Section, tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 4], "<i4")), pa.py_buffer(b"caf\xe9")]
    )
    parquet(tmp_path / "t.parquet", bad)
    with pytest.raises(Refusal, match=r"row group 0, row 0: Invalid UTF8"):
        read(section(tmp_path / "t.parquet"))


@given(st.data())
def test_a_damaged_parquet_file_is_refused_or_read_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("damaged") / "t.parquet"
    raw = bytearray(parquet(file, pa.array(TEXTS)).read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(raw)
    try:
        for _ in shards.read(shards.spans_of(file, "text"), "text"):
            pass
    except Refusal as error:
        assert "\n" not in str(error) and str(file) in str(error)


# --- cut short ---


def cut_short(folder: Path, name: str) -> None:
    packed = {
        "2.jsonl.gz": lambda raw: gzip.compress(raw),
        "2.json.zst": lambda raw: bytes(pa.compress(raw, codec="zstd", asbytes=True)),
        "2.jsonl": lambda raw: raw,
    }
    parquet(folder / "whole.parquet", pa.array(TEXTS))
    packed["2.parquet"] = lambda _: (folder / "whole.parquet").read_bytes()
    (folder / name).write_bytes(packed[name](lines(TEXTS))[:-17])
    (folder / "whole.parquet").unlink()


@pytest.mark.parametrize("name", ["2.jsonl", "2.jsonl.gz", "2.json.zst", "2.parquet"])
def test_of_many_shards_the_one_that_is_cut_short_is_named(
    section: Section, tmp_path: Path, name: str
) -> None:
    for number in (0, 1, 3):
        (tmp_path / f"{number}.jsonl").write_bytes(lines(TEXTS))
    cut_short(tmp_path, name)
    with pytest.raises(Refusal) as refused:
        prepare(section(tmp_path), tmp_path / "cache")
    assert str(tmp_path / name) in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "cache").exists()


def test_a_line_without_end_is_refused_before_memory_is_full(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LONGEST_LINE", 1000)
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS) + b" " * 10**6))
    with pytest.raises(Refusal, match=r"has a line of 1,000 bytes or more"):
        read(section(tmp_path / "t.jsonl.gz"))


# --- folders ---


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl.gz", "t.jsonl.zst"])
def test_a_file_that_blows_up_is_refused_by_its_sizes(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(shards, "UNDOUBTED", 1 << 20)
    texts = ["again " * 20_000] * 100  # 12 MB, in some kB
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": texts}), tmp_path / name)
    else:
        codec = {"gz": "gzip", "st": "zstd"}[name[-2:]]
        (tmp_path / name).write_bytes(pa.compress(lines(texts), codec=codec, asbytes=True))
    with pytest.raises(Refusal, match=r"t\..* has [0-9,]+ bytes and holds [0-9,]+ bytes of text"):
        read(section(tmp_path / name))


def test_a_text_that_blows_up_is_refused_by_the_footer(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "UNDOUBTED", 1 << 20)
    table = pa.table({"text": ["x" * 5_000_000]})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(Refusal, match=r"holds 5,000,0[0-9]+ bytes of text or more, over 200 times"):
        list(shards.spans_of(tmp_path / "t.parquet", "text"))


def test_a_folder_of_shards_is_a_corpus_in_the_order_of_their_names(
    section: Section, tmp_path: Path
) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    parquet(tmp_path / "b" / "deep" / "0.parquet", pa.array(TEXTS[50:90]))
    (tmp_path / "c.jsonl").write_bytes(lines(TEXTS[90:]))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(lines(TEXTS[:50])))
    assert read(section(tmp_path)) == TEXTS


@pytest.mark.parametrize("other", ["README.md", "_SUCCESS", ".cache/x.lock", "b.jsonl.tmp"])
def test_another_file_in_a_folder_is_named(section: Section, tmp_path: Path, other: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(TEXTS))
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).write_text("something else")
    with pytest.raises(Refusal, match=rf"has '{other}', which is none of .*or give a glob"):
        open_sources(section(tmp_path))


@pytest.mark.parametrize("pattern", ["", "*.jsonl"])
def test_a_shard_that_is_a_link_to_nothing_is_not_left_out(
    section: Section, tmp_path: Path, pattern: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(TEXTS))
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(Refusal, match=r"b\.jsonl is a link to nothing"):
        open_sources(section(tmp_path / pattern))


def test_a_linked_folder_in_a_folder_is_told_of_and_entered_by_a_glob(
    section: Section, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.jsonl").write_bytes(lines(TEXTS[100:]))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.jsonl").write_bytes(lines(TEXTS[:100]))
    (tmp_path / "here" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refusal, match="has 'more', which is none of"):
        open_sources(section(tmp_path / "here"))
    assert read(section(tmp_path / "here" / "**" / "*.jsonl")) == TEXTS


def test_a_folder_that_may_not_be_read_is_not_left_out(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(TEXTS))
    (tmp_path / "shut").mkdir()
    listed = os.scandir

    def scandir(path: str) -> object:  # as whoever is not root
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(Refusal, match=r"cannot read .*shut: Permission denied"):
        open_sources(section(tmp_path))


def test_shards_are_put_together_in_one_pass_however_many_there_are() -> None:
    looked = 0

    class Shard(shards.Span):
        @property
        def size(self) -> int:  # type: ignore[override]
            nonlocal looked
            looked += 1
            return 500

    made = [Shard.__new__(Shard) for _ in range(2000)]
    assert [len(group) for group in shards.together(made)] == [2000]
    assert looked <= 2 * len(made)


def test_a_cache_that_cannot_be_written_names_what_sets_where_it_is(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.txt").write_text(" ".join(map(str, range(2000))))
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    said = r"below HOME = .*home: .*\. Set SCALING_CACHE to a folder"
    monkeypatch.delenv("SCALING_CACHE")
    with pytest.raises(Refusal, match=said):
        prepare(section(tmp_path / "t.txt"), cache_folder() / "corpora")
    monkeypatch.setenv("SCALING_CACHE", "")  # as if it were not set
    with pytest.raises(Refusal, match=said):
        prepare(section(tmp_path / "t.txt"), cache_folder() / "corpora")
    monkeypatch.setenv("SCALING_CACHE", "~of-nobody/cache")
    with pytest.raises(
        Refusal, match=r"~of-nobody/cache: there is no home folder .* SCALING_CACHE"
    ):
        cache_folder()


def test_an_empty_folder_holds_no_text(section: Section, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="names no file"):
        open_sources(section(tmp_path))


# --- buckets ---


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    """The address of a store with three shards and another file."""
    address = (tmp_path / "bucket").as_uri()
    (tmp_path / "bucket").mkdir()
    store = open_store(address)
    store.write("text/0.jsonl", lines(TEXTS[:60]))
    store.write("text/1.jsonl.gz", gzip.compress(lines(TEXTS[60:150])))
    parquet(tmp_path / "2.parquet", pa.array(TEXTS[150:]))
    store.upload(tmp_path / "2.parquet", "text/deep/2.parquet")
    store.write("README.md", b"about")
    return address


@pytest.mark.parametrize(
    "pattern, found",
    [
        ("text", TEXTS),
        ("text/", TEXTS),
        ("**/*.jsonl*", TEXTS[:150]),
        ("text/[01].*", TEXTS[:150]),
        ("text/*/2.parquet", TEXTS[150:]),
        ("text/0.jsonl", TEXTS[:60]),
    ],
)
def test_an_address_names_what_a_path_does(
    section: Section, tmp_path: Path, bucket: str, pattern: str, found: list[str]
) -> None:
    there = prepare(section(f"{bucket}/{pattern}"), tmp_path / "cache").info
    (tmp_path / "same.jsonl").write_bytes(lines(found))
    here = prepare(section(tmp_path / "same.jsonl"), tmp_path / "cache").info
    assert there.fingerprint == here.fingerprint
    assert there.source == f"{bucket}/{pattern}"


def test_a_bucket_with_another_file_or_with_none_is_refused(
    section: Section, tmp_path: Path, bucket: str
) -> None:
    with pytest.raises(Refusal, match=r"has 'README\.md', which is none of"):
        open_sources(section(bucket))
    with pytest.raises(SourceMissing, match="names no object"):
        open_sources(section(f"{bucket}/none/*.jsonl"))


def test_shards_of_a_bucket_are_fetched_once_and_again_when_they_change(
    section: Section, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    fetch = buckets._fetch

    def noted(store: object, stat: Stat, file: Path) -> None:
        asked.append(stat.key)
        fetch(store, stat, file)  # type: ignore[arg-type]

    monkeypatch.setattr(buckets, "_fetch", noted)
    data, cache = section(f"{bucket}/text"), tmp_path / "cache"
    first = prepare(data, cache)
    assert asked == ["0.jsonl", "1.jsonl.gz", "deep/2.parquet"]
    known = remembered(data, cache)
    assert known is not None and known.info == first.info
    other = prepare(section(f"{bucket}/text", holdout_fraction=0.3), cache)
    assert len(asked) == 3 and other.info.fingerprint != first.info.fingerprint
    open_store(bucket).write("text/0.jsonl", lines(TEXTS[:61]))
    assert remembered(data, cache) is None
    changed = prepare(data, cache)
    assert asked[3:] == ["0.jsonl"] and changed.info.fingerprint != first.info.fingerprint
    (shard,) = cache.glob(f"{buckets.FETCHED}/*/0.jsonl")
    data_ = bytearray(shard.read_bytes())
    data_[9] ^= 1
    shard.write_bytes(data_)
    prepare(section(f"{bucket}/text", holdout_fraction=0.4), cache)
    assert asked[4:] == ["0.jsonl"] and bytes(data_) != shard.read_bytes()


def test_a_shard_that_changes_while_it_is_fetched_is_refused_and_fetched_again(
    section: Section, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = buckets._fetch

    def meanwhile(store: object, stat: Stat, file: Path) -> None:
        fetch(store, stat, file)  # type: ignore[arg-type]
        open_store(bucket).write("text/0.jsonl", lines(TEXTS[:59]))

    data, cache = section(f"{bucket}/text"), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(buckets, "_fetch", meanwhile)
        with pytest.raises(Refusal, match=r"text/0\.jsonl changed while it was fetched"):
            prepare(data, cache)
    made = prepare(data, cache).info
    (tmp_path / "same.jsonl").write_bytes(lines(TEXTS[:59] + TEXTS[60:]))
    same = prepare(section(tmp_path / "same.jsonl"), cache).info
    assert made.fingerprint == same.fingerprint


def test_shards_that_are_deleted_while_they_are_fetched_are_refused(
    section: Section, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = buckets._fetch

    def meanwhile(store: object, stat: Stat, file: Path) -> None:
        fetch(store, stat, file)  # type: ignore[arg-type]
        open_store(bucket).delete(each.key for each in open_store(bucket).list("text/"))

    monkeypatch.setattr(buckets, "_fetch", meanwhile)
    with pytest.raises(Refusal, match=r"0\.jsonl changed while it was fetched"):
        prepare(section(f"{bucket}/text/0.jsonl"), tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_said_before_anything_is_fetched(
    section: Section, tmp_path: Path, bucket: str
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / buckets.FETCHED).write_text("no folder")
    with pytest.raises(Refusal, match=r"cannot write the token cache .*Set SCALING_CACHE"):
        prepare(section(f"{bucket}/text"), tmp_path / "cache")


@pytest.mark.parametrize("key", ["../x.jsonl", "a/../../x.jsonl", "a//x.jsonl", "/etc/x.jsonl"])
def test_a_key_that_leads_out_of_the_cache_is_refused(
    section: Section, bucket: str, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    class Hostile:
        address = bucket

        def list(self, prefix: str) -> list[Stat]:
            return [Stat(key, 3, "1")]

    monkeypatch.setattr(buckets, "open_store", lambda address: Hostile())
    with pytest.raises(Refusal, match="no name of a file"):
        open_sources(section(bucket))
