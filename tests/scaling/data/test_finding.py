"""A source's name leads to each of its files once, however many names a file has."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.cli.render.prepare import once_text
from scaling.data.finding import listed
from scaling.data.prepare import prepare
from scaling.data.sources import open_sources
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]
NAMES = ["a.txt", "b.txt", "b.md", ".hidden.txt", "[x].txt"]
FOLDERS = ["one", "one/two", "one/two/three", ".shut", "br[1]"]
PATTERNS = [
    *("**", "**/*.txt", "**/*", "*/**", "one/**/*.txt", "**/two/**/*.txt", "**/**/a*", "*.txt"),
    *("one/*/a.txt", "**/[[]x].txt", "br[[]1]/*", "a.txt", "none", "o**e/*", "**/.h*", "one/**/"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of files, none of which has two names."""
    top = tmp_path_factory.mktemp("tree")
    for folder in ["", *FOLDERS]:
        (top / folder).mkdir(exist_ok=True)
        for name in NAMES:
            (top / folder / name).write_text(f"{folder} {name} " * 50)
    return top


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("absolute", [True, False])
def test_a_glob_matches_what_it_matches_elsewhere(
    tree: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, absolute: bool
) -> None:
    monkeypatch.chdir(tree)
    full = f"{glob.escape(str(tree))}/{pattern}" if absolute else pattern
    every = {Path(each) for each in glob.glob(full, recursive=True)}  # noqa: PTH207
    assert listed(full).paths == sorted(each for each in every if not each.is_dir())


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(["**", "*", "one", "two", "?.txt", "*.txt", "a*"]), max_size=4))
def test_so_does_every_pattern(tree: Path, parts: list[str]) -> None:
    pattern = "/".join([glob.escape(str(tree)), *parts])
    every = {Path(each) for each in glob.glob(pattern, recursive=True)}  # noqa: PTH207
    # Before a last **, glob names what is not there too.
    files = sorted(each for each in every if each.exists() and not each.is_dir())
    assert Path(pattern).is_dir() or listed(pattern).paths == files


def texts(folder: Path, n: int = 12) -> list[str]:
    folder.mkdir(parents=True)
    found = [f"text {number} " * (30 + number) for number in range(n)]
    for number, text in enumerate(found):
        (folder / f"{number:02d}.txt").write_text(text)
    return found


def read(section: DataSection) -> list[str]:
    (source,) = open_sources(section)
    return [text.decode() for text in source.read() if isinstance(text, bytes)]


def test_a_link_to_a_folder_above_is_entered_once(section: Section, tmp_path: Path) -> None:
    found = texts(tmp_path / "c" / "sub")
    (tmp_path / "c" / "sub" / "up").symlink_to("..")
    (tmp_path / "c" / "sub" / "here").symlink_to(".")
    for pattern in ("c/**/*.txt", "c/**", "**/*.txt", "c/*/**/*.txt"):
        assert read(section(tmp_path / pattern)) == found


def test_other_names_of_a_file_are_passed_over_and_said(section: Section, tmp_path: Path) -> None:
    found = texts(tmp_path / "c")
    os.link(tmp_path / "c" / "03.txt", tmp_path / "c" / "hard.txt")
    (tmp_path / "c" / "soft.txt").symlink_to("04.txt")
    for source in (tmp_path / "c", tmp_path / "c" / "*.txt", tmp_path / "**" / "*.txt"):
        assert read(section(source)) == found
    corpus = prepare(section(tmp_path / "c"), tmp_path / "cache")
    assert corpus.info.other_names == 2
    assert "once: 2 further names" in once_text(corpus.info)
    # What it is called is no part of what it is, nor is that it was called otherwise before.
    for name in ("hard.txt", "soft.txt"):
        (tmp_path / "c" / name).unlink()
    again = prepare(section(tmp_path / "c"), tmp_path / "cache")
    assert again.info.fingerprint == corpus.info.fingerprint
    assert again.info.other_names == 0 and once_text(again.info) == ""


def test_a_file_of_two_sources_is_refused(section: Section, tmp_path: Path) -> None:
    texts(tmp_path / "c")
    sources = [{"source": str(tmp_path / "c" / each), "weight": 1} for each in ("0*.txt", "*.txt")]
    with pytest.raises(Refusal, match=r"00\.txt is of both .*0\*\.txt' and .*unique twice"):
        open_sources(section(sources=sources))


def test_two_fields_of_a_file_are_two_texts(section: Section, tmp_path: Path) -> None:
    row = '{"question": "how", "answer": "so", "n": %d}\n'
    (tmp_path / "a.jsonl").write_text("".join(row % n for n in range(9)))
    (tmp_path / "b.txt").write_text("plain")

    def opened(*given: tuple[str, str]) -> list[list[object]]:
        each = [{"source": str(tmp_path / n), "text_field": f, "weight": 1} for n, f in given]
        return [list(source.read()) for source in open_sources(section(sources=each))]

    texts = opened(("a.jsonl", "question"), ("a.*", "answer"))
    assert texts == [[b"how"] * 9, [b"so"] * 9]
    for name, field in (("a.jsonl", "answer"), ("b.txt", "question")):  # a text has no fields
        with pytest.raises(Refusal, match="is of both"):
            opened((name, "answer"), (f"*{name}", field))


@pytest.mark.parametrize(
    "name", ["/proc/**/status", "/sys/**/uevent", "/proc/self/status", "/**", "/proc", "/"]
)
def test_what_the_kernel_makes_up_is_no_text(section: Section, name: str) -> None:
    with pytest.raises(Refusal, match=r"leads to /(proc|sys), whose files are made up"):
        open_sources(section(name))


def test_a_link_into_what_the_kernel_makes_up_is_found(section: Section, tmp_path: Path) -> None:
    texts(tmp_path / "c")
    (tmp_path / "c" / "more").symlink_to("/proc")
    with pytest.raises(Refusal, match="leads to /proc"):
        open_sources(section(tmp_path / "c" / "**" / "*.txt"))


def test_a_path_with_brackets_that_exists_is_that_file(section: Section, tmp_path: Path) -> None:
    found = texts(tmp_path / "br[1]", 1)
    assert read(section(tmp_path / "br[1]" / "00.txt")) == found
