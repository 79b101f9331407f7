"""Files that have not changed are not read again, and every change is noticed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from scaling.data import chunks, shards
from scaling.data.corpus import Corpus, load
from scaling.data.prepare import prepare, remembered
from scaling.data.verified import note_checksums
from scaling.store.records import Refusal, read_json, sealed, write_json
from scaling.study import DataSection

Section = Callable[..., DataSection]


def text(mark: str) -> str:
    """Of one size whatever the mark, and throughout another than that of any other."""
    return f"{mark} people of a union in order to form justice for all " * 9


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_text(text(str(number)))
    return folder


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember files however new they are."""
    monkeypatch.setattr(chunks, "RACY_NS", -(10**18))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, each time."""
    found: list[Path] = []
    text = shards._text

    def noted(path: Path) -> object:
        found.append(path)
        return text(path)

    monkeypatch.setattr(shards, "_text", noted)
    return found


def prepared(section: Section, files: Path, cache: Path) -> Corpus:
    return prepare(section(files / "*.txt"), cache)


@pytest.mark.usefixtures("at_once")
def test_files_that_have_not_changed_are_read_once(
    section: Section, files: Path, tmp_path: Path, reads: list[Path]
) -> None:
    first = prepared(section, files, tmp_path / "cache")
    count = len(reads)
    again = prepared(section, files, tmp_path / "cache")
    assert (again.folder, again.info) == (first.folder, first.info)
    assert len(reads) == count > 0


def same_size_and_time(files: Path) -> None:
    before = (files / "3.txt").stat()
    (files / "3.txt").write_text(text("X"))
    os.utime(files / "3.txt", ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(files: Path) -> None:
    before = (files / "3.txt").stat()
    (files / "new").write_text(text("X"))
    os.utime(files / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (files / "new").rename(files / "3.txt")


def grown(files: Path) -> None:
    with (files / "3.txt").open("a") as file:
        file.write("more")


@pytest.mark.parametrize(
    "change",
    [
        same_size_and_time,
        replaced,
        grown,
        lambda files: (files / "9.txt").write_text("another"),
        lambda files: (files / "3.txt").unlink(),
        lambda files: (files / "3.txt").rename(files / "3.text"),
    ],
    ids=["same size and time", "replaced", "grown", "one more", "one less", "renamed"],
)
@pytest.mark.usefixtures("at_once")
def test_every_change_of_the_files_is_noticed(
    section: Section, files: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    before = prepared(section, files, tmp_path / "cache")
    change(files)
    after = prepared(section, files, tmp_path / "cache")
    assert after.info.fingerprint != before.info.fingerprint
    assert after.info == prepared(section, files, tmp_path / "fresh").info


@pytest.mark.usefixtures("at_once")
def test_other_settings_are_another_memory(section: Section, files: Path, tmp_path: Path) -> None:
    first = prepare(section(files / "*.txt"), tmp_path / "cache")
    other = prepare(section(files / "*.txt", holdout_fraction=0.4), tmp_path / "cache")
    assert first.info.holdout_documents < other.info.holdout_documents


def test_a_file_too_new_to_tell_a_later_write_by_its_time_is_not_remembered(
    section: Section, files: Path, tmp_path: Path, reads: list[Path]
) -> None:
    for _ in range(2):
        prepared(section, files, tmp_path / "cache")
    assert len(reads) == 5 * 8  # to index, to look for overlap, to encode, and the first two again
    assert not (tmp_path / "cache" / "known").exists()


@pytest.mark.usefixtures("at_once")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    section: Section, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shards._text
    monkeypatch.setattr(shards, "_text", lambda path: (path.touch(), *real(path))[1:])
    prepared(section, files, tmp_path / "cache")
    assert not (tmp_path / "cache" / "known").exists()


@pytest.mark.parametrize("damage", ["note", "corpus"])
@pytest.mark.usefixtures("at_once")
def test_what_is_lost_of_a_memory_is_made_again(
    section: Section, files: Path, tmp_path: Path, damage: str
) -> None:
    first = prepared(section, files, tmp_path / "cache")
    (note,) = (tmp_path / "cache" / "known").iterdir()
    if damage == "note":
        note.write_text("{}")
    else:
        (first.folder / "info.json").unlink()
        for file in first.folder.iterdir():
            file.unlink()
        first.folder.rmdir()
    assert prepared(section, files, tmp_path / "cache").info == first.info


def sections(section: Section, files: Path) -> dict[str, DataSection]:
    """A section of each kind of corpus."""
    tokens = np.resize(np.arange(1, 60), 4000).astype("<u2")
    tokens[::97] = 0
    (files / "tokens.bin").write_bytes(tokens.tobytes())
    two = [{"source": str(files / f"{name}.txt"), "weight": 1} for name in ("[0-3]", "[4-7]")]
    named = {"vocab_size": 64, "end_token": 0, "token_dtype": "uint16"}
    return {
        "text": section(files / "*.txt"),
        "mixture": section(sources=two),
        "tokens": section(files / "tokens.bin", **named),
    }


@pytest.mark.parametrize("kind", ["text", "mixture", "tokens"])
@pytest.mark.usefixtures("at_once")
def test_no_plan_is_made_on_a_cache_in_which_a_bit_flipped(
    section: Section, files: Path, tmp_path: Path, kind: str
) -> None:
    cache, asked = tmp_path / "cache", sections(section, files)[kind]
    truth = prepare(asked, cache).info
    small = [file for file in cache.rglob("*.json") if file.name != "checksums.json"]
    random = np.random.default_rng(0)
    for file in small:
        written = file.read_bytes()
        for bit in random.integers(8 * len(written), size=40).tolist():
            damaged = bytearray(written)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            with suppress(Refusal):
                assert remembered(asked, cache) in (None, Corpus(cache / truth.fingerprint, truth))
            with suppress(Refusal):
                assert load(truth.fingerprint, cache).info.vocab_size == truth.vocab_size
        file.write_bytes(written)


@pytest.mark.usefixtures("at_once")
def test_a_memory_of_an_earlier_version_is_made_again_and_its_corpora_are_used(
    section: Section, files: Path, tmp_path: Path
) -> None:
    for kind, asked in sections(section, files).items():
        cache = tmp_path / kind
        truth = prepare(asked, cache)
        for file in cache.rglob("*.json"):
            if "sha256" in (said := read_json(file)):
                del said["sha256"]
                write_json(file, said)
        for noted in cache.glob("*/checksums.json"):
            note_checksums(noted.parent)
        assert load(truth.info.fingerprint, cache).info == truth.info
        assert remembered(asked, cache) is None
        assert prepare(asked, cache).info == truth.info
        assert remembered(asked, cache) == truth


def test_a_corpus_of_an_earlier_version_is_compared_with_what_was_noted_of_it(
    section: Section, files: Path, tmp_path: Path
) -> None:
    made = prepared(section, files, tmp_path)
    said = read_json(made.folder / "info.json")
    del said["sha256"]
    write_json(made.folder / "info.json", {**said, "vocab_size": 252})
    with pytest.raises(Refusal, match=r"info.json has .* bytes. Delete"):
        load(made.info.fingerprint, tmp_path)


def test_a_mixture_that_names_itself_is_refused(
    section: Section, files: Path, tmp_path: Path
) -> None:
    made = prepare(sections(section, files)["mixture"], tmp_path)
    note = made.folder / "info.json"
    said = read_json(note)
    said["mixture"][0]["fingerprint"] = made.info.fingerprint
    write_json(note, sealed(said))
    with pytest.raises(Refusal, match=r"is a mixture of a mixture\. Delete it"):
        load(made.info.fingerprint, tmp_path)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", "0" * 13])
def test_a_corpus_is_named_by_its_fingerprint_alone(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refusal, match="12 hexadecimal digits"):
        load(name, tmp_path)
