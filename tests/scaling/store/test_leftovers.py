"""What a killed process left of a file goes, and what a living one writes stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling.store import leftovers as module
from scaling.store.claims import claimed
from scaling.store.exclusive import create, draft
from scaling.store.holding import changing
from scaling.store.leftovers import leftovers, sweep
from scaling.store.records import replacing, write_bytes

HEX = "0123456789abcdef" * 2


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left is taken for left at once."""
    monkeypatch.setattr(module, "OLD_SECONDS", 0.0)


def killed(code: str, *arguments: object) -> None:
    """Run Python that ends as by `kill -9` when it calls `die`."""
    begin = (
        "import os, sys; from pathlib import Path; from scaling.store import exclusive, records\n"
        "die = lambda *_, **__: os._exit(9)\n"
    )
    command = [sys.executable, "-c", begin + code, *map(str, arguments)]
    assert subprocess.run(command, check=False).returncode == 9


@pytest.mark.usefixtures("at_once")
def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    killed("os.fsync = die; records.write_bytes(Path(sys.argv[1]), b'half')", tmp_path / "a")
    (left,) = tmp_path.iterdir()
    assert leftovers(tmp_path) == [left]
    assert leftovers(tmp_path, "b") == []
    with replacing(tmp_path / "b") as file:
        file.write(b"some")
        file.flush()
        (tmp_path / f".notes.{HEX[1:]}").write_text("of the user")
        sweep(tmp_path)
        assert {each.name[:3] for each in tmp_path.iterdir()} == {".b.", ".no"}
        file.write(b" more")
    assert (tmp_path / "b").read_bytes() == b"some more"


def test_a_file_that_was_only_just_opened_is_not_taken_for_left(tmp_path: Path) -> None:
    (tmp_path / f".a.{HEX}").touch()
    (tmp_path / f".b.{HEX}").mkdir()
    (tmp_path / f".c.{HEX}").symlink_to(tmp_path / "d")
    (tmp_path / "d").write_text("mine")
    sweep(tmp_path)
    assert leftovers(tmp_path) == [] and len([*tmp_path.iterdir()]) == 4


@pytest.mark.usefixtures("at_once")
def test_whoever_replaces_the_plan_or_the_table_removes_what_others_left(tmp_path: Path) -> None:
    for name in ("runs.parquet", "study.toml"):
        (tmp_path / f".{name}.{HEX}").write_text("half")
    with changing(tmp_path):
        assert not list(tmp_path.glob(".*.toml.*")) and not list(tmp_path.glob(".*.parquet.*"))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", ["create", "draft"])
def test_whoever_claims_a_run_removes_what_others_left(tmp_path: Path, how: str) -> None:
    name = {"create": "claims/000001.json", "draft": "run.json"}[how]
    killed(f"os.link = die; exclusive.{how}(Path(sys.argv[1]), [1])", tmp_path / name)
    assert [each for each in tmp_path.rglob(".*") if each.is_file()]
    with claimed(tmp_path):
        assert not [each for each in tmp_path.rglob(".*") if each.is_file()]
    assert create(tmp_path / "claims" / "000009.json", {}) and draft(tmp_path / "run.json", {})
    assert not list(tmp_path.rglob(".*"))
    write_bytes(tmp_path / "run.json", b"")


def test_what_a_writer_on_a_host_with_locks_of_its_own_writes_stays(tmp_path: Path) -> None:
    living, left = tmp_path / f".a.{HEX}", tmp_path / f".b.{HEX}"
    for path in (living, left):
        path.write_text("half")  # which nobody locks, as is seen from here
    before = time.time() - module.OLD_SECONDS - 60
    os.utime(left, (before, before))
    assert leftovers(tmp_path) == [left]
    sweep(tmp_path)
    assert [*tmp_path.iterdir()] == [living]


def test_whether_a_file_is_left_is_told_without_the_right_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, opened = tmp_path / f".a.{HEX}", Path.open

    def of_another_user(path: Path, mode: str = "r") -> object:
        if "w" in mode or "+" in mode:
            raise PermissionError
        return opened(path, mode)

    left.write_text("half")
    monkeypatch.setattr(module, "OLD_SECONDS", 0.0)
    monkeypatch.setattr(Path, "open", of_another_user)
    assert leftovers(tmp_path) == [left]
