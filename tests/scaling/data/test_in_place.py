"""Token files are trained on where they lie, to the bit as if they had been copied."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from scaling.data import chunks, in_place, indexing, streams, tokens
from scaling.data.batches import Batches
from scaling.data.corpus import Corpus, load
from scaling.data.documents import key_of
from scaling.data.holdout import holdout_windows
from scaling.data.prepare import prepare, remembered
from scaling.data.processes import Processes
from scaling.data.progress import Step
from scaling.data.split import pieces
from scaling.store.records import Refusal, read_json
from scaling.study import DataSection

Section = Callable[..., DataSection]
END = 999
BIN = {"vocab_size": 1000, "end_token": END}
RAW = {**BIN, "token_dtype": "uint16"}


def documents(n: int = 120, longest: int = 60, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, END, random.integers(1, longest)) for _ in range(n)]


def flat(found: Sequence[np.ndarray], last: bool = True) -> np.ndarray:
    joined = np.concatenate([np.append(document, END) for document in found])
    return joined if last else joined[:-1]


def raw(path: Path, found: Sequence[np.ndarray], dtype: str = "<u2", last: bool = True) -> Path:
    flat(found, last).astype(dtype).tofile(path)
    return path


def headed(path: Path, found: Sequence[np.ndarray], magic: int, version: int, dtype: str) -> Path:
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(flat(found))
    path.write_bytes(header.tobytes() + flat(found).astype(dtype).tobytes())
    return path


def megatron(
    path: Path, found: Sequence[np.ndarray], dtype: str = "<u2", eod: bool = False
) -> Path:
    """A `.bin` and its `.idx`; every third document is of two sequences."""
    parts, firsts = [], [0]
    for number, document in enumerate(found):
        whole = np.append(document, END) if eod else document
        half = len(whole) // 2
        parts += [whole] if number % 3 else [whole[:half], whole[half:]]
        firsts.append(len(parts))
    lengths = np.array([len(part) for part in parts], "<i4")
    width = np.dtype(dtype).itemsize
    pointers = np.cumsum(lengths.astype(np.int64) * width) - lengths * width
    np.concatenate(parts).astype(dtype).tofile(path)
    code = {2: 8, 4: 4}[width]
    path.with_suffix(".idx").write_bytes(
        tokens.megatron.HEADER.pack(tokens.megatron.MAGIC, 1, code, len(parts), len(firsts))
        + lengths.tobytes()
        + pointers.astype("<i8").tobytes()
        + np.array(firsts, "<i8").tobytes()
    )
    return path


class Copied:
    """A stream as copying made it: every document, an end token after each, in one array."""

    def __init__(self, found: Sequence[np.ndarray], vocab_size: int) -> None:
        kind = np.min_scalar_type(vocab_size - 1)
        self.array = np.concatenate([np.append(each, END) for each in found]).astype(kind)

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, starts: np.ndarray, width: int) -> np.ndarray:
        return self.array[starts[:, None] + np.arange(width)].astype(np.int32)


def copied(found: Sequence[np.ndarray], fraction: float) -> tuple[Copied, Copied]:
    """The streams to train on and to hold out, each document taken as an object."""
    cut = list(pieces(found, fraction * sum(map(len, found))))
    lots = [int.from_bytes(key_of(piece)[:8]) / 2**64 for piece in cut]
    order = sorted(range(len(cut)), key=lots.__getitem__)
    held = np.cumsum([len(cut[at]) for at in order])
    last = lots[order[np.searchsorted(held, fraction * held[-1])]]
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for piece, lot in zip(cut, lots, strict=True):
        sides[int(lot <= last)].append(np.asarray(piece))
    return Copied(sides[0], 1000), Copied(sides[1], 1000)


def agree(corpus: Corpus, found: Sequence[np.ndarray], fraction: float = 0.2) -> None:
    """Every batch, and every held-out document, is what copying gave."""
    train, holdout = copied(found, fraction)
    assert (len(corpus.train), corpus.train.dtype) == (len(train), train.array.dtype)
    assert corpus.info.train_tokens == len(train)
    assert corpus.info.holdout_tokens == len(holdout)
    assert (corpus.train[:] == train.array).all()
    assert (np.concatenate(list(corpus.holdout)) == holdout.array).all()
    for length, seed, cap in ((1, 0, None), (7, 1, 900), (64, 2, None), (600, 3, None)):
        mine = corpus.batches(length, 5, seed, cap).span(3, 4)
        theirs = Batches((train,), (1,), length, 5, seed, cap).span(3, 4)
        assert mine.dtype == np.int32 and (mine == theirs).all()


FILES: dict[str, Callable[[Path, list[np.ndarray]], tuple[str, dict[str, object]]]] = {
    "uint16": lambda at, found: (str(raw(at / "t.bin", found)), RAW),
    "uint32": lambda at, found: (
        str(raw(at / "t.bin", found, "<u4")),
        {**RAW, "token_dtype": "uint32"},
    ),
    "no end": lambda at, found: (str(raw(at / "t.bin", found, last=False)), RAW),
    "shards": lambda at, found: (
        str([raw(at / "a.bin", found[:50], last=False), raw(at / "b.bin", found[50:])][0].parent)
        + "/*.bin",
        RAW,
    ),
    "GPT-2": lambda at, found: (str(headed(at / "t.bin", found, 20240520, 1, "<u2")), BIN),
    "Llama 3": lambda at, found: (str(headed(at / "t.bin", found, 20240801, 7, "<u4")), BIN),
    "Megatron": lambda at, found: (str(megatron(at / "t.bin", found)), BIN),
    "Megatron, int32": lambda at, found: (str(megatron(at / "t.bin", found, "<u4")), BIN),
    "Megatron, --append-eod": lambda at, found: (str(megatron(at / "t.bin", found, eod=True)), BIN),
    "Megatron, a glob": lambda at, found: (
        str(megatron(at / "t.bin", found).with_suffix(".*")),
        BIN,
    ),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("chunk", [64, 1 << 18])
def test_batches_are_to_the_bit_what_copying_gave(
    section: Section, tmp_path: Path, kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    monkeypatch.setattr(indexing, "PART", 16 * chunk)
    source, given = FILES[kind](tmp_path, found := documents())
    corpus = prepare(section(source, **given), tmp_path / "cache")
    agree(corpus, found)
    assert not [*(tmp_path / "cache").rglob("*.bin")], "nothing is copied"
    agree(load(corpus.info.fingerprint, tmp_path / "cache"), found)


@pytest.mark.parametrize("kind", FILES)
def test_a_document_has_one_name_whatever_the_format(
    section: Section, tmp_path: Path, kind: str
) -> None:
    """The fingerprint that a corpus of these documents has had since there were .bin sources."""
    source, given = FILES[kind](tmp_path, documents())
    info = prepare(section(source, **given), tmp_path / "cache").info
    assert info.fingerprint == "ea3815f45a81"


def test_empty_documents_and_long_ones_are_as_they_were(section: Section, tmp_path: Path) -> None:
    found = documents(40)
    found.insert(7, np.arange(900) % END)  # longer than what is held out, so that it is cut
    with_empty = [*found[:3], np.array([], int), np.array([], int), *found[3:], np.array([], int)]
    source = raw(tmp_path / "t.bin", with_empty)
    agree(prepare(section(source, 0.1, **RAW), tmp_path / "cache"), found, 0.1)


def test_a_corpus_of_few_tokens_is_cut_as_it_was(section: Section, tmp_path: Path) -> None:
    found = [np.array([1, 2, 3]), np.array([4])]
    agree_short = copied(found, 0.1)
    corpus = prepare(section(raw(tmp_path / "t.bin", found), 0.1, **RAW), tmp_path / "cache")
    assert (corpus.train[:] == agree_short[0].array).all()
    assert (np.concatenate(list(corpus.holdout)) == agree_short[1].array).all()


def test_parts_find_every_document_wherever_they_are_cut(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents that span several parts, end with one, and begin with one."""
    found = [np.arange(n) for n in (5, 63, 1, 200, 62, 63, 64, 3, 31, 500, 7)] + documents(90)
    for kind in ("uint16", "no end", "GPT-2", "Megatron", "Megatron, --append-eod"):
        for part in (64, 128, 4096):
            monkeypatch.setattr(chunks, "CHUNK", 64)
            monkeypatch.setattr(indexing, "PART", part)
            place = tmp_path / f"{kind}-{part}"
            place.mkdir()
            source, given = FILES[kind](place, found)
            agree(prepare(section(source, **given), place / "cache"), found)


def test_several_processes_find_what_one_does(section: Section, tmp_path: Path) -> None:
    found = documents(200)
    for number in range(5):
        raw(tmp_path / f"{number}.bin", found[40 * number : 40 * (number + 1)])
    with Processes(2) as processes:
        given = section(tmp_path / "*.bin", **RAW)
        corpus = prepare(given, tmp_path / "cache", processes=processes)
        assert len(processes.every) > 0
    agree(corpus, found)


def test_copies_are_counted_and_dropped_on_request(section: Section, tmp_path: Path) -> None:
    found = documents(60)
    again = [*found, found[3], found[40], found[3]]
    source = raw(tmp_path / "t.bin", again)
    kept = prepare(section(source, **RAW), tmp_path / "cache")
    assert kept.info.repeated_documents == 3
    agree(kept, again)
    dropped = prepare(section(source, drop_duplicates=True, **RAW), tmp_path / "cache")
    agree(dropped, found)
    alone = prepare(section(raw(tmp_path / "alone.bin", found), **RAW), tmp_path / "cache")
    assert alone.info.fingerprint == dropped.info.fingerprint != kept.info.fingerprint


def test_documents_of_two_sources_are_held_out_of_both(section: Section, tmp_path: Path) -> None:
    found = documents(100)
    one, two = raw(tmp_path / "1.bin", found), raw(tmp_path / "2.bin", found[:30])
    several = tuple({"source": str(file), "weight": 1.0} for file in (one, two))
    corpus = prepare(section(sources=several, **RAW), tmp_path / "cache")
    trained = {tuple(doc) for part in corpus.parts for doc in _divided(part.train[:])}
    held = {tuple(doc[:-1]) for part in corpus.parts for doc in part.holdout}
    assert held and not trained & held


def _divided(stream: np.ndarray) -> list[list[int]]:
    ends = np.flatnonzero(stream == END) + 1
    return [part[:-1].tolist() for part in np.split(stream, ends[:-1])]


def test_a_large_corpus_is_named_by_the_keys_of_its_documents(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_place, "WHOLE", 10)
    found, names = documents(), set()
    for kind in ("uint16", "uint32", "shards", "Megatron"):
        (tmp_path / kind).mkdir()
        source, given = FILES[kind](tmp_path / kind, found)
        names.add(prepare(section(source, **given), tmp_path / "cache").info.fingerprint)
    other = documents()
    other[5][0] ^= 1
    source = str(raw(tmp_path / "other.bin", other))
    assert len(names) == 1
    assert prepare(section(source, **RAW), tmp_path / "cache").info.fingerprint not in names


def test_windows_are_those_of_a_copy(section: Section, tmp_path: Path) -> None:
    found = documents(300, 90)
    corpus = prepare(section(raw(tmp_path / "t.bin", found), **RAW), tmp_path / "cache")
    windows = holdout_windows(corpus, 16, 400)
    copy = np.concatenate(list(corpus.holdout))
    number = np.repeat(np.arange(len(corpus.holdout)), corpus.holdout.lengths)
    assert len(windows.tokens) == 25
    for row, own, at in zip(
        windows.tokens, windows.document, np.arange(25) * (len(copy) - 17) // 24, strict=True
    ):
        assert (row == copy[at : at + 17]).all() and (own == number[at + 1 : at + 17]).all()


def test_rows_span_files_segments_and_inserted_ends(tmp_path: Path) -> None:
    np.arange(10, dtype="<u2").tofile(tmp_path / "a.bin")
    np.arange(10, 20, dtype="<u4").tofile(tmp_path / "b.bin")
    files = (
        chunks.checked_file(tmp_path / "a.bin", "<u2", 0, 10, None, 0, ""),
        chunks.checked_file(tmp_path / "b.bin", "<u4", 0, 10, None, 0, ""),
    )
    first, place = np.array([0, 3, 4, 9, 13]), np.array([7, 0, 0, 12])
    inserted = np.array([False, True, True, False])
    stream = streams.Stream(
        files, streams.Segments(first, place, inserted), END, np.dtype(np.uint16)
    )
    expected = [7, 8, 9, END, 0, 1, 2, 3, END, 12, 13, 14, 15]
    assert stream[:].tolist() == expected
    for width in range(1, 13):
        starts = np.arange(len(expected) - width + 1)
        rows = [expected[at : at + width] for at in starts]
        assert stream.rows(starts, width).tolist() == rows


def test_what_was_indexed_is_not_read_again(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "RACY_NS", -(10**18))
    read: list[object] = []
    made = indexing.MakePart.do
    monkeypatch.setattr(indexing.MakePart, "do", lambda task: (read.append(task), made(task))[1])
    given = section(raw(tmp_path / "t.bin", documents()), **RAW)
    first = prepare(given, tmp_path / "cache")
    assert len(read) == 1
    again = remembered(given, tmp_path / "cache")
    assert again is not None and again.info == first.info
    prepare(section(tmp_path / "t.bin", 0.4, **RAW), tmp_path / "cache")  # another split
    assert len(read) == 1


def test_what_was_indexed_is_told_of_as_done_before(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate is of what is read now."""
    monkeypatch.setattr(chunks, "RACY_NS", -(10**18))
    given = section(raw(tmp_path / "t.bin", documents()), **RAW)
    prepare(given, tmp_path / "cache")
    steps: list[Step] = []
    prepare(section(tmp_path / "t.bin", 0.4, **RAW), tmp_path / "cache", steps.append)
    last = [step for step in steps if step.doing.startswith("indexing")][-1]
    assert last.done == last.kept == last.of == len(flat(documents()))


def test_a_file_that_is_written_while_it_is_read_is_refused(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = raw(tmp_path / "t.bin", documents())
    indexed = in_place._found

    def found(*given: object) -> object:
        np.full(source.stat().st_size // 2, END, "<u2").tofile(source)
        return indexed(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(in_place, "_found", found)
    with pytest.raises(Refusal, match="changed while it was read"):
        prepare(section(source, **RAW), tmp_path / "cache")


def test_the_same_tokens_elsewhere_are_read_there(section: Section, tmp_path: Path) -> None:
    first = prepare(section(raw(tmp_path / "a.bin", documents()), **RAW), tmp_path / "cache")
    other = raw(tmp_path / "b.bin", documents(), "<u4")
    again = prepare(section(other, **{**RAW, "token_dtype": "uint32"}), tmp_path / "cache")
    assert again.info.fingerprint == first.info.fingerprint
    (tmp_path / "a.bin").unlink()
    agree(load(first.info.fingerprint, tmp_path / "cache"), documents())
    assert again.index is not None
    assert read_json(again.index / "files.json")["files"][0]["path"] == str(other)


def test_a_corpus_that_was_copied_before_stays_a_copy(section: Section, tmp_path: Path) -> None:
    given = section(raw(tmp_path / "t.bin", documents()), **RAW)
    corpus = prepare(given, tmp_path / "cache")
    train, holdout = copied(documents(), 0.2)
    for path in corpus.folder.iterdir():  # as the version before wrote it
        if path.name != "info.json" and path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    (corpus.folder / "place.json").unlink()
    train.array.tofile(corpus.folder / "train.bin")
    holdout.array.tofile(corpus.folder / "holdout.bin")
    again = prepare(given, tmp_path / "cache")
    assert again.index is None
    agree(again, documents())


def test_a_corpus_whose_file_is_gone_is_refused_by_name(section: Section, tmp_path: Path) -> None:
    corpus = prepare(section(raw(tmp_path / "t.bin", documents()), **RAW), tmp_path / "cache")
    (tmp_path / "t.bin").unlink()
    with pytest.raises(Refusal, match=r"t\.bin cannot be read: No such file.*Restore it"):
        load(corpus.info.fingerprint, tmp_path / "cache")


# --- bad input ---


def refused(section: Section, source: object, words: str, **given: object) -> None:
    with pytest.raises(Refusal, match=words) as caught:
        prepare(section(source, **given), Path(str(source)).parent / "cache")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "magic, version, dtype", [(20240520, 1, "<u2"), (20240801, 7, "<u4")], ids=["GPT-2", "Llama"]
)
def test_a_headed_file_that_is_not_what_its_header_says_is_refused(
    section: Section, tmp_path: Path, magic: int, version: int, dtype: str
) -> None:
    path = headed(tmp_path / "t.bin", documents(), magic, version, dtype)
    whole = path.read_bytes()
    wrong = "uint32" if dtype == "<u2" else "uint16"
    refused(section, path, rf"token_dtype = '{wrong}': the header of", **BIN, token_dtype=wrong)
    path.write_bytes(whole[:-2])
    words = rf"t\.bin has {len(whole) - 2} bytes, and its header says {len(whole)}: it is cut short"
    refused(section, path, words, **BIN)
    path.write_bytes(whole[:700])
    refused(section, path, "has 700 bytes, and its header says 1024", **BIN)
    path.write_bytes(whole + b"\0\0")
    refused(section, path, "longer than that. Copy it again", **BIN)
    headed(path, documents(), magic, version + 1, dtype)
    refused(section, path, rf"has version {version + 1} of the header of llm\.c", **BIN)
    for tokens_said in (0, -5):
        header = np.frombuffer(whole[:1024], "<i4").copy()
        header[2] = tokens_said
        path.write_bytes(header.tobytes() + whole[1024:])
        refused(section, path, f"says that it has {tokens_said} tokens", **BIN)


def test_a_file_that_is_empty_missing_or_unreadable_is_refused(
    section: Section, tmp_path: Path
) -> None:
    raw(tmp_path / "a.bin", documents())
    (tmp_path / "b.bin").touch()
    refused(section, tmp_path / "*.bin", r"b\.bin is empty\. Copy it again, or remove it", **RAW)
    (tmp_path / "b.bin").unlink()
    (tmp_path / "a.idx").symlink_to(tmp_path / "nowhere" / "a.idx")
    refused(section, tmp_path / "c.bin", "names no file", **RAW)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "x.idx").write_bytes(b"")
    refused(section, tmp_path / "only" / "*", r"x\.idx has no x\.bin beside it", **RAW)


def hostile(path: Path, change: Callable[[bytearray], object]) -> Path:
    """A file of Megatron's and its index, of which some bytes are changed."""
    megatron(path, documents(30))
    index = bytearray(path.with_suffix(".idx").read_bytes())
    change(index)
    path.with_suffix(".idx").write_bytes(index)
    return path


def put(at: int, value: int, size: int = 8) -> Callable[[bytearray], object]:
    def change(index: bytearray) -> None:
        index[at : at + size] = value.to_bytes(size, "little", signed=True)

    return change


# Of 40 sequences in 30 documents: lengths at 34, pointers at 194, documents at 514.
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda index: index.clear(), "does not begin as an index of Megatron"),
        (lambda index: index.__delitem__(slice(20, None)), "does not begin as an index"),
        (put(0, 7, 1), "does not begin as an index"),
        (put(9, 2), "is of version 2"),
        (put(17, 6, 1), r"has tokens of type 6; 8 \(uint16\) and 4 \(int32\) are read"),
        (put(17, 4, 1), r"has a last sequence of \d+ tokens from byte \d+ on"),
        (put(18, 2**62), "bytes, and 4611686018427387904 sequences with"),
        (put(18, -1), "sequences with 31 entries of documents take"),
        (put(26, 2**40), "entries of documents take"),
        (put(26, 30), "sequences with 30 entries"),
        (lambda index: index.__delitem__(slice(-8, None)), "entries of documents take"),
        (put(34, -3, 4), "has -3 tokens in sequence 0"),
        (put(34, 2**31 - 1, 4), "has sequence|beyond byte"),
        (put(34 + 4 * 39, -3, 4), "has a last sequence of -3 tokens"),
        (put(194, 8), "has sequence 0 at byte 8"),
        (put(194 + 8 * 5, 2**62), "has sequence 5 at byte 4611686018427387904"),
        (put(194 + 8 * 5, -2), "has sequence 5 at byte -2"),
        (put(194 + 8 * 39, 2**62), "bytes, and .*idx says"),
        (put(194 + 8 * 39, -(2**62)), "has a last sequence"),
        (put(194 + 8 * 39, 3), "has a last sequence"),
        (put(514, 1), "has documents from sequence 1 to 40 of 40"),
        (put(514 + 8 * 30, 2**62), "has documents from sequence 0 to 4611686018427387904"),
        (put(514 + 8 * 7, 2**62), "has document 8 before the one before it"),
        (put(514 + 8 * 7, -1), "has document 7 before the one before it"),
    ],
)
def test_a_hostile_index_is_refused(
    section: Section, tmp_path: Path, change: Callable[[bytearray], object], words: str
) -> None:
    refused(section, hostile(tmp_path / "t.bin", change), words, **BIN)


def test_a_file_that_its_index_does_not_fit_is_refused(section: Section, tmp_path: Path) -> None:
    path = megatron(tmp_path / "t.bin", documents(30))
    refused(section, path, r"token_dtype = 'uint32': the header of", **BIN, token_dtype="uint32")
    whole = path.read_bytes()
    path.write_bytes(whole[:-6])
    words = rf"has {len(whole) - 6} bytes, and .*t\.idx says {len(whole)}: it is cut short"
    refused(section, path, words, **BIN)


def test_a_negative_token_is_beyond_every_vocabulary(section: Section, tmp_path: Path) -> None:
    path = megatron(tmp_path / "t.bin", documents(30), "<u4")
    tokens_ = np.fromfile(path, "<i4")
    tokens_[77] = -1
    tokens_.tofile(path)
    refused(section, path, "has token 4294967295 at position 77, but vocab_size = 1000", **BIN)


def test_a_group_may_read_what_one_of_it_prepared(section: Section, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        prepare(section(raw(tmp_path / "t.bin", documents()), **RAW), tmp_path / "cache")
        (tmp_path / "t.txt").write_text("\0".join(f"text {number} " * 9 for number in range(40)))
        plain = section(tmp_path / "t.txt", tokenizer="bytes", end_token=None)
        prepare(plain, tmp_path / "cache")
    finally:
        os.umask(before)
    for path in (tmp_path / "cache").rglob("*"):
        assert path.stat().st_mode & 0o040, path
        assert path.is_file() or path.stat().st_mode & 0o010, path


def test_a_folder_of_shards_is_a_corpus(section: Section, tmp_path: Path) -> None:
    found = documents()
    folder = tmp_path / "shards"
    folder.mkdir()
    megatron(folder / "b.bin", found[70:])
    headed(folder / "a.bin", found[:70], 20240520, 1, "<u2")
    agree(prepare(section(folder, **BIN), tmp_path / "cache"), found)
    (folder / "notes.md").touch()
    refused(section, folder, r"has 'notes\.md', which is none of", **BIN)


def test_work_goes_on_after_a_kill_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 64)
    found = documents(400)
    raw(tmp_path / "t.bin", found)
    code = (
        "import json, sys; from pathlib import Path; from pydantic import TypeAdapter\n"
        "from scaling.data import chunks, indexing; from scaling.data.prepare import prepare\n"
        "from scaling.study import DataSection\n"
        "chunks.RACY_NS, chunks.CHUNK, indexing.PART = -(10**18), 64, 4096\n"
        "section = TypeAdapter(DataSection).validate_json(sys.argv[1])\n"
        "parts = []; do = indexing.MakePart.do\n"
        "indexing.MakePart.do = lambda task: (parts.append(task.number), do(task))[1]\n"
        "prepare(section, Path(sys.argv[2])); print(len(parts))"
    )
    asked = {"source": str(tmp_path / "t.bin"), "sequence_length": 16, "holdout_fraction": 0.2}
    command = [sys.executable, "-c", code, json.dumps({**asked, **RAW}), str(tmp_path / "cache")]
    killed = {**os.environ, "SCALING_FAILPOINT": "part-indexed:3"}
    assert subprocess.run(command, env=killed).returncode == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == -(-(tmp_path / "t.bin").stat().st_size // 4096) - 3 > 0
    agree(
        load(next((tmp_path / "cache").glob("*/info.json")).parent.name, tmp_path / "cache"), found
    )


def test_shards_in_object_storage_are_used_where_they_were_fetched_to(
    section: Section, tmp_path: Path
) -> None:
    found = documents()
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    megatron(bucket / "b.bin", found[70:])
    headed(bucket / "a.bin", found[:70], 20240520, 1, "<u2")
    corpus = prepare(section(bucket.as_uri(), **RAW), tmp_path / "cache")
    for shard in bucket.iterdir():
        shard.unlink()
    agree(load(corpus.info.fingerprint, tmp_path / "cache"), found)


def test_shards_that_were_fetched_before_a_kill_are_kept(section: Section, tmp_path: Path) -> None:
    found = documents()
    bucket, cache = tmp_path / "bucket", tmp_path / "cache"
    bucket.mkdir()
    for name, part in (("a.bin", found[:70]), ("b.bin", found[70:])):
        headed(bucket / name, part, 20240520, 1, "<u2")
    asked = {"source": bucket.as_uri(), "sequence_length": 16, "holdout_fraction": 0.2, **RAW}
    code = (
        "import sys; from pathlib import Path; from pydantic import TypeAdapter\n"
        "from scaling.data.prepare import prepare; from scaling.study import DataSection\n"
        "prepare(TypeAdapter(DataSection).validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, json.dumps(asked), str(cache)]
    killed = {**os.environ, "SCALING_FAILPOINT": "shard-fetched"}
    assert subprocess.run(command, env=killed).returncode == -signal.SIGKILL
    (kept,) = cache.glob("fetched/*/*.bin")
    before = kept.stat().st_ino
    agree(prepare(section(bucket.as_uri(), **RAW), cache), found)
    assert kept.stat().st_ino == before
