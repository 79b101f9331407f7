"""Files that have not changed are not read again, and every change is noticed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.data import sources, verified
from scaling.data.corpus import Corpus, load
from scaling.data.prepare import prepare
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]
TEXT = "we the people of a union in order to form justice for all " * 9


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_text(f"{number} {TEXT}")
    return folder


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember files however new they are."""
    monkeypatch.setattr(verified, "RACY_NS", -(10**18))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, each time."""
    found: list[Path] = []
    text = sources._text

    def noted(path: Path) -> object:
        found.append(path)
        return text(path)

    monkeypatch.setattr(sources, "_text", noted)
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
    (files / "3.txt").write_text(f"X {TEXT}")
    os.utime(files / "3.txt", ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(files: Path) -> None:
    before = (files / "3.txt").stat()
    (files / "new").write_text(f"X {TEXT}")
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
    assert len(reads) == 3 * 8  # to index, to encode, to index again
    assert not (tmp_path / "cache" / "known").exists()


@pytest.mark.usefixtures("at_once")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    section: Section, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sources._text
    monkeypatch.setattr(sources, "_text", lambda path: (path.touch(), *real(path))[1:])
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


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", "0" * 13])
def test_a_corpus_is_named_by_its_fingerprint_alone(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refusal, match="12 hexadecimal digits"):
        load(name, tmp_path)
