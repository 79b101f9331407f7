"""A corpus of packages is the same wherever they lie, and no other files pass for them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from scaling.data.documents import SourceMissing
from scaling.data.packages import FOLDER, Installed, Wheel, digest_of, find
from scaling.data.prepare import prepare
from scaling.data.sources import most_tokens, open_sources
from scaling.store.records import Refusal
from scaling.study import DataSection

Section = Callable[..., DataSection]

SOURCES = {f"tiny_words/part{n}.py": f"# {n}\n{'word ' * n}é\n".encode() for n in range(40)}
FILES = {
    "tiny_words/__init__.py": b"",
    **SOURCES,
    "tiny_words/data.json": b"{}",  # no source
    "tiny_words-1.2.data/scripts/run.py": b"print()",  # what pip puts elsewhere
    "tiny_words-1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: Tiny.Words\nVersion: 1.2\n",
    "tiny_words-1.2.dist-info/WHEEL": b"Wheel-Version: 1.0\n",
}
WHEEL = "tiny_words-1.2-py3-none-any.whl"


def write_wheel(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name in reversed(files):  # whatever the order in the archive
            wheel.writestr(name, files[name])
    return folder / WHEEL


def install(folder: Path, files: Mapping[str, bytes], version: str = "1.2") -> Path:
    """A folder of site packages, as pip leaves them."""
    names = [name.replace("-1.2.", f"-{version}.") for name in files if ".data/" not in name]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name.replace(f"-{version}.", "-1.2.")])
    info = folder / f"tiny_words-{version}.dist-info"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: Tiny.Words\nVersion: {version}\n")
    record = [*names, "../../../bin/run.py", "tiny_words/__pycache__/part1.cpython-311.pyc"]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in record))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of one package and an empty folder of wheels."""
    digest = digest_of(Wheel(write_wheel(tmp_path / "made", FILES)))
    listed = f'[[package]]\nname = "tiny-words"\nversion = "1.2"\nsha256 = "{digest}"\n'
    (tmp_path / "list.toml").write_text(listed)
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv(FOLDER, str(tmp_path / "wheels"))
    return tmp_path


def read(section: DataSection) -> list[object]:
    (source,) = open_sources(section)
    return list(source.read())


def named(here: Path) -> str:
    return f"packages:{here / 'list.toml'}"


def test_the_source_files_come_by_path_and_empty_ones_are_none(
    section: Section, here: Path
) -> None:
    write_wheel(here / "wheels", FILES)
    assert read(section(named(here))) == [SOURCES[name] for name in sorted(SOURCES)]


def test_a_wheel_and_what_pip_made_of_it_are_one_corpus(
    section: Section, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = write_wheel(here / "wheels", FILES)
    of_wheel = prepare(section(named(here)), here / "cache").info
    wheel.unlink()
    monkeypatch.syspath_prepend(str(install(here / "site", FILES)))
    (found,) = find(named(here)).found
    assert isinstance(found.place, Installed)
    assert prepare(section(named(here)), here / "cache").info == of_wheel
    assert of_wheel.train_documents + of_wheel.holdout_documents >= len(SOURCES)


def test_a_package_that_is_not_here_is_said_with_how_to_get_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(install(here / "site", FILES, version="1.3")))
    with pytest.raises(SourceMissing, match=r"tiny-words 1\.2 .*pip download .*tiny-words==1\.2"):
        find(named(here))


@pytest.mark.parametrize(
    "change",
    [
        {"tiny_words/part1.py": b"# another\n"},
        {"tiny_words/part99.py": b"# more\n"},
        {"other.py": b"# more\n"},
    ],
)
def test_other_files_do_not_pass_for_the_package(
    section: Section, here: Path, change: dict[str, bytes]
) -> None:
    write_wheel(here / "wheels", {**FILES, **change})
    with pytest.raises(Refusal, match=r"are not those of the list .*pip download"):
        prepare(section(named(here)), here / "cache")
    assert not list((here / "cache").glob("*/info.json"))


def test_a_damaged_wheel_is_refused(section: Section, here: Path) -> None:
    wheel = write_wheel(here / "wheels", FILES)
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(Refusal, match=r"tiny-words 1\.2: cannot read it .*pip download"):
        read(section(named(here)))


def test_a_file_that_is_no_text_is_refused_by_its_path(section: Section, here: Path) -> None:
    write_wheel(here / "wheels", {**FILES, "tiny_words/part7.py": b"caf\xe9"})
    with pytest.raises(Refusal, match=r"not UTF-8, tiny_words/part7\.py \(byte 3\)"):
        read(section(named(here)))


@pytest.mark.parametrize(
    "text, words",
    [
        ("", r"package: Field required"),
        ("package = []", r"package: Tuple should have at least 1 item"),
        ('[[package]]\nname = "../x"\nversion = "1"\nsha256 = "00"', r"package\.0\.name: String"),
        ('[[package]]\nname = "x"\nversion = "1"', r"package\.0\.sha256: Field required"),
        ("[[package]", r"is not valid TOML"),
    ],
)
def test_a_list_that_is_none_is_refused(here: Path, text: str, words: str) -> None:
    (here / "list.toml").write_text(text)
    with pytest.raises(Refusal, match=words):
        find(named(here))


def test_a_package_listed_twice_is_refused(here: Path) -> None:
    listed = (here / "list.toml").read_text()
    (here / "list.toml").write_text(listed + listed.replace("tiny-words", "Tiny_Words"))
    with pytest.raises(Refusal, match=r"names tiny-words twice"):
        find(named(here))


def test_lists_may_share_a_package(section: Section, here: Path) -> None:
    write_wheel(here / "wheels", FILES)
    (here / "other.toml").write_text((here / "list.toml").read_text())
    sources = [{"source": named(here), "weight": 1}]
    sources += [{"source": f"packages:{here / 'other.toml'}", "weight": 1}]
    assert len(open_sources(section(sources=sources))) == 2


def test_no_more_tokens_are_planned_than_the_files_can_hold(section: Section, here: Path) -> None:
    write_wheel(here / "wheels", FILES)
    wanted = section(named(here))
    (bound,) = most_tokens(wanted)
    info = prepare(wanted, here / "cache").info
    assert bound is not None and info.train_tokens + info.holdout_tokens <= bound
    (here / "wheels" / WHEEL).unlink()
    assert most_tokens(wanted) == [None]
