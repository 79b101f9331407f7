"""Several processes make the same corpus as one, and whoever goes on after a kill does too."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaling.data import making, processes, reading, shards
from scaling.data.corpus import Corpus
from scaling.data.making import Making, half_made
from scaling.data.prepare import prepare
from scaling.data.processes import Processes
from scaling.data.progress import Step, unwatched
from scaling.data.verified import stamps
from scaling.store import claims, leftovers
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]
WORDS = [
    "we",
    "the",
    "people",
    "of",
    "a",
    "union",
    "in",
    "order",
    "to",
    "form",
    "justice",
    "for",
    "all",
]

# What a process of its own runs: a corpus of many small parts, however young the files.
CODE = """
import json, os, resource, sys
from pathlib import Path
from scaling.data import chunks, reading, shards
from scaling.data.prepare import prepare
from scaling.data.processes import Processes
from scaling.store.records import Refusal
from scaling.study import DataSection

if most := os.environ.get("TEST_LARGEST_FILE"):  # as a disk that is full refuses to write more
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
shards.PART, reading.WHOLE, reading.FIRST, chunks.RACY_NS = 4000, 9000, 50, -(10**18)
data = DataSection(**json.loads(sys.argv[1]))
try:
    with Processes(int(sys.argv[3])) as processes:
        print(prepare(data, Path(sys.argv[2]), processes=processes).info.fingerprint)
except Refusal as error:
    sys.exit(str(error))
"""


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PART", 4000)
    monkeypatch.setattr(reading, "WHOLE", 9000)
    monkeypatch.setattr(reading, "FIRST", 50)


@pytest.fixture(scope="module")
def three() -> Iterator[Processes]:
    with Processes(3) as processes:
        yield processes


def texts(n: int = 400) -> list[str]:
    """Texts of which some occur again."""
    random = np.random.default_rng(0)
    found = [f"{i} café " + " ".join(random.choice(WORDS, size=5 + i % 30)) for i in range(n)]
    return [*found, *found[10:90:2], found[3], found[3]]


def lines(some: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in some)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of shards of every kind."""
    made, every = tmp_path / "shards", texts()
    made.mkdir()
    (made / "0.jsonl").write_bytes(lines(every[:150]))
    (made / "1.jsonl.gz").write_bytes(gzip.compress(lines(every[150:230])))
    pq.write_table(pa.table({"text": every[230:350]}), made / "2.parquet", row_group_size=20)
    zst = pa.compress(lines(every[350:400]), codec="zstd", asbytes=True)
    (made / "3.json.zst").write_bytes(zst)
    (made / "4.txt").write_text("\0".join(every[400:]))
    return made


def content(corpus: Corpus) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(corpus.folder.iterdir())}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tokenizer": "bpe:300"},
        {"drop_duplicates": True},
        {"holdout_fraction": 0.005},  # most documents are larger, and cut
        {"holdout_fraction": 0.005, "drop_duplicates": True},
    ],
    ids=["bytes", "bpe", "without copies", "cut", "cut, without copies"],
)
@pytest.mark.usefixtures("small_parts")
def test_three_processes_make_the_very_corpus_of_one(
    section: Section, folder: Path, tmp_path: Path, three: Processes, more: dict[str, object]
) -> None:
    data = section(folder / "*", **more)
    one = prepare(data, tmp_path / "one")
    many = prepare(data, tmp_path / "many", processes=three)
    assert many.info == one.info
    assert content(many) == content(one)
    assert {file.name for file in (tmp_path / "many").iterdir()} - {"tokenizers", "known"} == {
        many.info.fingerprint
    }


@pytest.mark.parametrize("more", [{}, {"holdout_fraction": 0.005}])
def test_how_a_corpus_is_divided_changes_nothing(
    section: Section,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, object],
) -> None:
    """Content of no more than WHOLE bytes keeps the name that it always had."""
    data = section(folder / "*", **more)
    whole = prepare(data, tmp_path / "whole")
    monkeypatch.setattr(shards, "PART", 1500)  # some fifty parts
    monkeypatch.setattr(reading, "FIRST", 7)
    parts = prepare(data, tmp_path / "parts")
    assert parts.info == whole.info
    assert content(parts) == content(whole)


@pytest.mark.usefixtures("small_parts")
def test_large_content_has_one_name_however_it_is_spread_over_files(
    section: Section, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "all.jsonl").write_bytes(lines(texts()))
    one = prepare(section(tmp_path / "all.jsonl"), tmp_path / "cache").info
    assert prepare(section(folder / "*"), tmp_path / "cache").info.fingerprint == one.fingerprint


@pytest.mark.parametrize("part", [1, 7, 50, 4000])
def test_the_spans_of_a_file_have_its_lines_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    file, every = tmp_path / "t.jsonl", texts(60)
    for ending in (b"", b"\n\n"):
        file.write_bytes(b"\n" + lines(every).rstrip(b"\n") + ending)
        monkeypatch.setattr(shards, "PART", part)
        spans = list(shards.spans_of(file, "text"))
        assert len(spans) == -(-file.stat().st_size // part)
        assert [text.decode() for text in shards.read(spans, "text")] == every


def test_the_line_of_a_fault_is_named_wherever_its_span_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PART", 100)
    every = lines(texts(60)).splitlines(keepends=True)
    for number in (0, 1, 30, 59):
        bad = [*every[:number], b'{"text": 3}\n', *every[number + 1 :]]
        (tmp_path / "t.jsonl").write_bytes(b"".join(bad))
        with pytest.raises(Refusal, match=rf"t\.jsonl, line {number + 1} has '3' there"):
            list(shards.read(shards.spans_of(tmp_path / "t.jsonl", "text"), "text"))


# --- killed, and gone on with ---


def started(data: dict[str, object], cache: Path, n: int, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, json.dumps(data), str(cache), str(n)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("failpoint", "number"),
    [
        pytest.param("part-read:2", 2, marks=pytest.mark.slow),
        pytest.param("part-encoded:3", 1, marks=pytest.mark.slow),
        pytest.param("part-appended:2", 2, marks=pytest.mark.slow),
        ("part-joined:4", 1),
        pytest.param("corpus-made", 1, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("small_parts")
def test_what_a_killed_process_had_done_is_kept_and_the_same_comes_out(
    section: Section, folder: Path, tmp_path: Path, failpoint: str, number: int
) -> None:
    expected = prepare(section(folder / "*"), tmp_path / "undisturbed")
    data = {"source": str(folder / "*"), "sequence_length": 16, "holdout_fraction": 0.2}
    cache = tmp_path / "cache"
    killed = started(data, cache, number, SCALING_FAILPOINT=failpoint)
    assert killed.communicate() and killed.returncode == -signal.SIGKILL
    (made,) = cache.glob(".making.*")
    done = {file: file.stat().st_mtime_ns for file in made.glob("*.npy")}
    assert done
    if failpoint == "part-read:2":
        again = started(data, cache, number, SCALING_FAILPOINT="part-encoded")
        again.communicate()
        # Nothing that was read is read again.
        assert {file: file.stat().st_mtime_ns for file in done} == done
    last = started(data, cache, number)
    found, errors = last.communicate()
    assert (found.strip(), last.returncode) == (expected.info.fingerprint, 0), errors
    made_again = Corpus(cache / found.strip(), expected.info)
    assert content(made_again) | {"info.json": b""} == content(expected) | {"info.json": b""}
    assert {file.name for file in cache.iterdir()} <= {found.strip(), "known"}


def test_another_host_whose_locks_are_not_seen_is_waited_for_while_it_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", 3.0)
    lock, said = tmp_path / f".making.{'0' * 12}" / "lock", []
    lock.parent.mkdir()
    lock.write_text("elsewhere\nboot")  # which is killed, so that nothing says that it ended

    def beats() -> None:
        while len(said) < 20:
            said.append("a beat")
            os.utime(lock, ns=(len(said), time.time_ns()))
            time.sleep(0.2)

    other = threading.Thread(target=beats)
    made = Making(tmp_path, "0" * 12, lambda step: other.start() or said.append(step.doing))
    assert made.folder == lock.parent and said.count("a beat") == 19
    assert "waiting for another host that may be preparing this" in said
    made.end(done=False)


def test_who_makes_a_corpus_beats_and_one_that_stood_still_for_long_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    lock = tmp_path / f".making.{'0' * 12}" / "lock"
    lock.parent.mkdir()
    lock.write_text("elsewhere\nboot")
    os.utime(lock, (0, 0))
    made = Making(tmp_path, "0" * 12, lambda step: pytest.fail(step.doing))
    assert made.folder == lock.parent
    os.utime(lock, (0, 0))
    until = time.monotonic() + 30
    while lock.stat().st_mtime == 0 and time.monotonic() < until:
        time.sleep(0.01)
    assert lock.stat().st_mtime > 0
    made.end(done=False)


def test_what_ended_in_order_on_another_host_is_gone_on_with_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Making(tmp_path, "0" * 12, unwatched)
    (first.folder / "part.npy").write_bytes(b"1")
    first.end(done=False)
    monkeypatch.setattr(making, "_MACHINE", "elsewhere")
    second = Making(tmp_path, "0" * 12, lambda step: pytest.fail(step.doing))
    assert (second.folder / "part.npy").exists()
    second.end(done=True)
    assert not first.path.exists()


def test_what_is_half_made_goes_when_nobody_can_go_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, text, other_text = (tmp_path / name for name in ("cache", "text", "other"))
    for file in (text, other_text):
        file.write_text("as it was")

    def begun(key: str | None) -> Making:
        files = (text, other_text)
        made = Making(cache, key, unwatched, files, stamps(files) or ())
        (made.folder / "part.npy").write_bytes(b"1")
        return made

    def left(key: str | None) -> Path:
        made = begun(key)
        assert made.lock is not None
        made.ended.set()
        os.close(made.lock)  # as a kill does
        return made.path

    kept, lost, living = left("0" * 12), left(None), begun(None)
    begun("1" * 12).end(done=True)
    assert lost.exists(), "another host may hold it, whose locks are not seen here"
    monkeypatch.setattr(leftovers, "OLD_SECONDS", 0.0)
    other = begun("1" * 12)
    assert (kept.exists(), lost.exists(), living.path.exists()) == (True, False, True)
    assert half_made(cache) == [kept]  # which `scaling status` names
    other.end(done=True)
    for file, is_kept in ((text, True), (other_text, False)):
        file.write_text("and as it is now")
        begun("1" * 12).end(done=True)
        assert kept.exists() is is_kept and living.path.exists()
    living.end(done=True)
    assert [*cache.iterdir()] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.usefixtures("small_parts")
def test_a_full_disk_is_said_and_what_was_done_is_gone_on_with(
    section: Section, folder: Path, tmp_path: Path, number: int
) -> None:
    expected = prepare(section(folder / "*"), tmp_path / "undisturbed")
    data = {"source": str(folder / "*"), "sequence_length": 16, "holdout_fraction": 0.2}
    cache = tmp_path / "cache"
    full = started(data, cache, number, TEST_LARGEST_FILE="30000")
    _, said = full.communicate()
    assert full.returncode == 1
    assert f"cannot write the token cache {cache}" in said
    assert "Allow larger files there" in said and "or set SCALING_CACHE" in said
    assert len(said.splitlines()) == 1
    assert list(cache.glob(".making.*/*/joined.json"))
    found, errors = started(data, cache, number).communicate()
    assert found.strip() == expected.info.fingerprint, errors
    made = cache / found.strip() / "train.bin"
    assert made.read_bytes() == (expected.folder / "train.bin").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_two_that_prepare_the_same_make_it_once(
    section: Section, folder: Path, tmp_path: Path
) -> None:
    expected = prepare(section(folder / "*"), tmp_path / "undisturbed")
    data = {"source": str(folder / "*"), "sequence_length": 16, "holdout_fraction": 0.2}
    cache = tmp_path / "cache"
    both = [started(data, cache, 2) for _ in range(2)]
    assert {each.communicate()[0].strip() for each in both} == {expected.info.fingerprint}
    assert {file.name for file in cache.iterdir()} <= {expected.info.fingerprint, "known"}


@pytest.fixture
def every_process(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """All that are started from now on."""
    found: list[subprocess.Popen[str]] = []
    start = Processes._started

    def noted(self: Processes) -> subprocess.Popen[str]:
        found.append(start(self))
        return found[-1]

    monkeypatch.setattr(Processes, "_started", noted)
    return found


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("os.kill(os.getpid(), 9)", r"ended by signal 9 \(out of memory sends 9\)\. Give"),
        ("print('{\"changed\": 1}', flush=True)", "changed while it was read"),
    ],
    ids=["killed", "changed"],
)
def test_what_stops_one_process_ends_the_others_before_their_folder_is_let_go(
    section: Section,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every_process: list[subprocess.Popen[str]],
    does: str,
    said: str,
) -> None:
    monkeypatch.setattr(reading, "FIRST", 0)  # one part is read here, and the next stops
    (tmp_path / "t.jsonl").write_bytes(lines(texts()))
    monkeypatch.setattr(processes, "START", tmp_path / "start.py")
    (tmp_path / "start.py").write_text(
        f"import os, sys, time\nif '\"first\": 4000,' in sys.stdin.readline():\n    {does}\n"
        "time.sleep(60)\n"
    )
    with Processes(3) as three:
        with pytest.raises(Refusal, match=said):
            prepare(section(tmp_path / "t.jsonl"), tmp_path / "cache", processes=three)
        assert every_process and all(each.returncode is not None for each in every_process)


@pytest.mark.usefixtures("small_parts")
def test_a_source_that_changes_between_two_readings_is_refused_and_read_anew(
    section: Section, folder: Path, tmp_path: Path, three: Processes
) -> None:
    data, cache = section(folder / "*", tokenizer="bpe:300"), tmp_path / "cache"
    file = folder / "0.jsonl"

    def change(step: Step) -> None:
        if step.doing.startswith("tokenising"):
            file.write_bytes(file.read_bytes().replace(b"justice", b"JUSTICE"))

    with pytest.raises(Refusal, match="changed while it was read"):
        prepare(data, cache, change, three)
    assert not list(cache.glob(".making.*"))
    again = prepare(data, cache)
    assert content(again) == content(prepare(data, tmp_path / "fresh"))


@pytest.mark.parametrize("number", [0, -2])
def test_no_process_at_all_is_refused(number: int) -> None:
    with pytest.raises(Refusal, match=f"--processes {number}"):
        Processes(number)
