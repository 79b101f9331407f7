"""What a run reads is what its plan names, and nothing is read that is not used."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scaling.data import chunks, verified
from scaling.data.chunks import CHUNK, CorpusChanged
from scaling.data.corpus import Corpus, load
from scaling.data.prepare import prepare
from scaling.data.verified import check, check_afresh, digest_of
from scaling.store.checksums import Damaged
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]
RAW = {"vocab_size": 1000, "end_token": 999, "token_dtype": "uint16"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two files of ten chunks each, of documents of a hundred tokens."""
    for name in ("a.bin", "b.bin"):
        tokens = np.random.default_rng(ord(name[0])).integers(0, 999, 10 * CHUNK // 2)
        tokens[99::100] = 999
        tokens.astype("<u2").tofile(tmp_path / name)
    return tmp_path / "*.bin"


@pytest.fixture
def corpus(section: Section, source: Path, tmp_path: Path) -> Corpus:
    return prepare(section(source, 0.01, **RAW), tmp_path / "cache")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The chunks that are hashed, by the end of their file's name."""
    found: list[tuple[str, int]] = []
    is_good = chunks.CheckedFile._is_good

    def noted(self: chunks.CheckedFile, file: int, chunk: int) -> bool:
        found.append((self.path.name, chunk))
        return is_good(self, file, chunk)

    monkeypatch.setattr(chunks.CheckedFile, "_is_good", noted)
    return found


def fresh(corpus: Corpus) -> Corpus:
    """As another process loads it."""
    chunks._checked.cache_clear()
    return load(corpus.info.fingerprint, corpus.folder.parent)


def age(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let its files be older than the granularity of any file system."""
    monkeypatch.setattr(chunks, "RACY_NS", -(10**18))


def flip(path: Path, byte: int, keep_times: bool = False) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(byte)
        (old,) = file.read(1)
        file.seek(byte)
        file.write(bytes([old ^ 1]))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_only_the_chunks_that_are_used_are_read_and_once(
    corpus: Corpus, read: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    age(corpus, monkeypatch)
    corpus = fresh(corpus)
    assert read == []
    batches = corpus.batches(64, 1, 0)
    batches.at(0)
    assert 1 <= len(read) <= 2
    for step in range(300):
        batches.at(step)
    again = load(corpus.info.fingerprint, corpus.folder.parent)  # for the next run, say
    again.batches(64, 1, 0).span(0, 300)
    assert len(read) == len(set(read)) == 20


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_chunk_that_changed_is_found_before_it_is_used(corpus: Corpus, keep_times: bool) -> None:
    path = corpus.files[1].path
    flip(path, 3 * CHUNK + 5, keep_times)
    stream = fresh(corpus).train
    first_of_b = np.searchsorted(stream.segments.place, corpus.files[0].tokens)
    starts = stream.segments.first[first_of_b] + np.array([2, 5]) * CHUNK // 2
    stream.rows(starts, 64)
    words = (
        r"chunk 3 \(bytes 786432 to 1048576\) of .*b\.bin has changed since it was written\. Res"
    )
    with pytest.raises(CorpusChanged, match=words):
        stream.rows(np.array([0, starts[0] + CHUNK // 2 + 100]), 64)


def test_a_file_that_changes_after_it_was_checked_is_checked_again(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = fresh(corpus).train
    before = stream[:1000]
    time.sleep(0.01)
    flip(corpus.files[0].path, 100, keep_times=True)
    with pytest.raises(CorpusChanged, match="chunk 0 "):
        stream.rows(np.array([0]), 1000)
    flip(corpus.files[0].path, 100)
    assert (stream[:1000] == before).all()


def test_a_write_while_rows_are_copied_is_noticed(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = fresh(corpus).train
    copied = type(stream)._copied

    def written(self: object, *given: object) -> np.ndarray:
        found = copied(self, *given)  # type: ignore[arg-type]
        flip(corpus.files[0].path, 100)
        return found

    monkeypatch.setattr(type(stream), "_copied", written)
    with pytest.raises(Damaged, match=r"chunk 0 |is written while"):
        stream.rows(np.array([0]), 1000)


def test_a_file_replaced_by_another_is_not_read_from_its_old_mapping(corpus: Corpus) -> None:
    stream = fresh(corpus).train
    stream.rows(np.array([0]), 100)
    path = corpus.files[0].path
    content = bytearray(path.read_bytes())
    content[8 * CHUNK] ^= 1
    (path.parent / "new").write_bytes(content)
    (path.parent / "new").replace(path)
    stream.rows(np.array([0]), 100)  # which did not change
    with pytest.raises(CorpusChanged, match="chunk 8 "):
        stream.rows(np.array([9 * CHUNK // 2 - 200]), 10)
        stream.rows(np.array([8 * CHUNK // 2 - CHUNK // 8]), CHUNK // 4)


@pytest.mark.parametrize("large", [False, True])
def test_a_launch_reads_a_small_corpus_and_of_a_large_one_its_index_alone(
    corpus: Corpus, read: list[tuple[str, int]], large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(verified, "WHOLE", 1 << 20)
    corpus = fresh(corpus)
    check_afresh(corpus)
    assert len(read) == (0 if large else 20)
    flip(corpus.files[0].path, 5)
    if large:
        check_afresh(fresh(corpus))
        with pytest.raises(CorpusChanged):
            fresh(corpus).train.rows(np.array([0]), 10)
    else:
        with pytest.raises(CorpusChanged, match="chunk 0 "):
            check_afresh(fresh(corpus))


def test_a_worker_reads_no_corpus_that_the_launch_has_checked(
    corpus: Corpus, read: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    age(corpus, monkeypatch)
    check_afresh(fresh(corpus))
    done = len(read)
    check(fresh(corpus))
    assert len(read) == done
    corpus.files[0].path.touch()
    check(fresh(corpus))
    assert len(read) == done + 20


@pytest.mark.parametrize("name", ["digests", "train.first", "train.place", "files.json"])
def test_an_index_that_is_damaged_is_refused(corpus: Corpus, name: str) -> None:
    assert corpus.index is not None
    flip(corpus.index / name, 5)
    with pytest.raises(Refusal, match=rf"{name} has changed since.*made again|is not whole"):
        check_afresh(fresh(corpus))


@pytest.mark.parametrize("large", [False, True])
def test_text_in_the_cache_is_checked_by_chunks_too(
    section: Section,
    corpus_source: str,
    tmp_path: Path,
    large: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = prepare(section(corpus_source), tmp_path)
    if large:
        monkeypatch.setattr(verified, "WHOLE", 0)
    check_afresh(fresh(made))
    flip(made.folder / "train.bin", 1000)
    if large:
        check_afresh(fresh(made))
    with pytest.raises(
        Damaged, match=r"chunk 0 .*train\.bin has changed.*made again from its text"
    ):
        fresh(made).batches(16, 4, 0).at(0)


def test_a_corpus_of_before_there_were_chunks_is_still_checked_whole(
    section: Section, corpus_source: str, tmp_path: Path
) -> None:
    made = prepare(section(corpus_source), tmp_path)
    for name in verified.CHUNKED:
        (made.folder / f"{name}.digests").unlink()
    files = {file.name: file for file in made.folder.iterdir() if file.name != "checksums.json"}
    verified.write_json(made.folder / "checksums.json", {"files": verified.checksums(files)})
    check_afresh(fresh(made))
    assert fresh(made).batches(16, 4, 0).at(0).shape == (4, 17)
    flip(made.folder / "train.bin", 1000)
    with pytest.raises(Damaged, match=r"train\.bin has changed since it was written\. Delete"):
        check_afresh(fresh(made))


def test_which_documents_are_held_out_follows_from_bytes_that_are_checked(
    corpus_source: Path, section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them: an end token more or less would move every window, also of a large corpus."""
    monkeypatch.setattr(verified, "WHOLE", 0)
    made = prepare(section(corpus_source), tmp_path)
    flip(made.folder / "holdout.bin", made.info.holdout_tokens - 1)
    check_afresh(fresh(made))
    with pytest.raises(CorpusChanged, match=r"holdout\.bin has changed since it was written"):
        _ = fresh(made).holdout


def test_what_a_run_was_checked_against_has_a_name(corpus: Corpus, section: Section) -> None:
    assert digest_of(corpus) == digest_of(fresh(corpus)) != ""
    flip(corpus.files[0].path, 2 * 60)  # another token
    folder = corpus.files[0].path.parent
    other = prepare(section(folder / "*.bin", 0.01, **RAW), corpus.folder.parent)
    assert digest_of(other) != digest_of(corpus)
