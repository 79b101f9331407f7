"""What the system refuses is no damage: nobody is told to delete or copy a file that is whole."""

from __future__ import annotations

import errno
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.runs.table import read_runs
from experiments.cli.join.devices import DeviceOptions
from scaling.data import prepare as preparing
from scaling.data.chunks import CheckedFile
from scaling.data.corpus import load
from scaling.data.indexing import Indexed, read_part
from scaling.data.shards import read, spans_of
from scaling.data.tokenizer import vocabulary
from scaling.data.tokens import TokenFile
from scaling.data.verified import check_afresh
from scaling.remedies import is_damage, remedy
from scaling.store.records import Refusal, read_json
from scaling.study import DataSection, read_study
from scaling.tasks.jsonl import read_items

SAID = {
    errno.EACCES: "lacks the permission",
    errno.EMFILE: "raise the limit of open ones",
    errno.EIO: "The disk, or the way to it, fails",
}
FOR_DAMAGE = ("Delete", "made again", "Copy it", "copy it", "deleted", "not whole", "TOML", "JSONL")


def section(**given: object) -> DataSection:
    return DataSection(**{"source": "sotu", "sequence_length": 8, "holdout_fraction": 0.2, **given})


def documents(path: Path) -> None:
    list(read(spans_of(path, "text"), "text"))


def tokens_of(path: Path) -> None:
    noted = np.zeros((1, 32), np.uint8)
    file = CheckedFile(path, np.dtype("<u2"), 0, path.stat().st_size // 2, noted, "Delete it.")
    file.check_all()


def index_of(path: Path) -> None:
    read_part(Indexed(TokenFile(path, "uint16", 0, 1, None), path.parent), 0)


READERS: dict[str, Callable[[Path], object]] = {
    "t.txt": documents,
    "t.jsonl": documents,
    "t.jsonl.gz": documents,
    "t.jsonl.zst": documents,
    "t.parquet": documents,
    "t.bin": tokens_of,
    "runs.csv": read_runs,
    "runs.jsonl": read_runs,
    "runs.parquet": read_runs,
    "study.toml": read_study,
    "devices.toml": lambda path: DeviceOptions(("x",), devices=path).named(),
    "tokenizer.json": lambda path: vocabulary(section(tokenizer=str(path))),
    "tasks.jsonl": read_items,
}


def failing(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Opening that file, and no other, fails as the system says."""
    import builtins
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    def instead(known: Callable[..., object]) -> Callable[..., object]:
        def opened(file: object, *args: object, **more: object) -> object:
            if str(file) == str(path):
                raise OSError(number, os.strerror(number), str(path))
            return known(file, *args, **more)

        return opened

    for module, name in ((io, "open"), (builtins, "open"), (os, "open")):
        monkeypatch.setattr(module, name, instead(getattr(module, name)))
    monkeypatch.setattr(pa, "OSFile", instead(pa.OSFile))
    monkeypatch.setattr(pq, "ParquetFile", instead(pq.ParquetFile))
    monkeypatch.setattr(np, "load", instead(np.load))


def refused(read: Callable[[], object], number: int) -> None:
    with pytest.raises(Refusal) as caught:
        read()
    said = str(caught.value)
    assert SAID[number] in said, said
    assert not any(word in said for word in FOR_DAMAGE), said


@pytest.mark.parametrize("number", SAID)
@pytest.mark.parametrize("name", READERS)
def test_what_may_not_be_read_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(64))
    failing(monkeypatch, path, number)
    refused(lambda: READERS[name](path), number)


@pytest.mark.parametrize("number", SAID)
def test_a_cached_index_that_may_not_be_read_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    indexed = Indexed(TokenFile(tmp_path / "t.bin", "uint16", 0, 1, None), tmp_path)
    path = indexed.part(0)
    path.write_bytes(bytes(64))
    failing(monkeypatch, path, number)
    refused(lambda: read_part(indexed, 0), number)
    assert path.exists()


@pytest.mark.parametrize("number", SAID)
@pytest.mark.parametrize("name", ["checksums.json", "train.bin", "train.bin.digests"])
def test_a_cached_corpus_that_may_not_be_read_is_not_to_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    (tmp_path / "t.txt").write_text("\0".join(f"text {each}" for each in range(60)))
    made = preparing.prepare(section(source=str(tmp_path / "t.txt")), tmp_path / "cache")
    fingerprint, cache = made.info.fingerprint, made.folder.parent

    def all_of_it() -> None:
        corpus = load(fingerprint, cache)
        check_afresh(corpus)

    all_of_it()
    failing(monkeypatch, made.folder / name, number)
    refused(all_of_it, number)


def test_damage_keeps_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 999)[:-9])
    with pytest.raises(Refusal, match=r"Copy it again"):
        documents(tmp_path / "t.jsonl.gz")
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-9])
    with pytest.raises(Refusal, match=r"copy it again"):
        documents(tmp_path / "t.parquet")


def test_the_systems_error_is_found_behind_others(tmp_path: Path) -> None:
    error = FileNotFoundError(errno.ENOENT, "no")
    assert is_damage(error) and remedy(error, "Restore it.") == "Restore it."
    assert is_damage(json.JSONDecodeError("x", "", 0))
    with pytest.raises(Refusal) as caught:
        read_json(tmp_path)  # a folder
    assert is_damage(caught.value)
