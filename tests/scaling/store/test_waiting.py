"""What another process holds, or what stands in the place of a file, ends no command for ever."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scaling.store import claims, waiting
from scaling.store.claims import Beginning, Observer, claimed, newest
from scaling.store.exclusive import alone_in
from scaling.store.folder import Folder
from scaling.store.holding import CHANGING, SHARED, changing, holding
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal
from scaling.store.run_record import run_folders


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """A lock as another process has it: of another opening of the file."""
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield file
    finally:
        os.close(file)


WAYS = [
    pytest.param(holding, SHARED, id="holding"),
    pytest.param(changing, CHANGING, id="changing"),
    pytest.param(alone_in, ".", id="alone_in"),
]


@pytest.mark.parametrize(("way", "name"), WAYS)
def test_who_has_a_lock_is_waited_for_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], way, name
) -> None:
    monkeypatch.setattr(waiting, "SILENCE", 0.1)
    with locked(tmp_path / name) as file:
        threading.Timer(0.4, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with way(tmp_path):
            said = capfd.readouterr().err
    assert said.count("\n") == 1 and f"fuser {tmp_path / name}" in said, said


@pytest.mark.parametrize(("way", "name"), WAYS)
def test_who_keeps_a_lock_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way, name
) -> None:
    monkeypatch.setattr(waiting, "WAIT_SECONDS", 0.1)
    with (
        locked(tmp_path / name),
        pytest.raises(Refusal, match=r"another process has had this lock for 0.1 s"),
        way(tmp_path),
    ):
        pass


@pytest.mark.parametrize("name", [SHARED, CHANGING])
def test_a_pipe_in_the_place_of_a_lock_blocks_nobody(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with holding(tmp_path) as hold, changing(tmp_path):
        assert hold.is_alone()


def test_a_pipe_in_the_place_of_a_claim_is_taken_over_and_counted_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the highest number that six digits have, with a heart that is a pipe too."""
    folder = tmp_path / "claims"
    folder.mkdir()
    os.mkfifo(folder / "999999.json")
    os.mkfifo(folder / "999999.beat")
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.1)
    observer = Observer()
    observer.owner(tmp_path)
    while observer.owner(tmp_path) is not None:
        threading.Event().wait(0.02)
    with claimed(tmp_path, Beginning(0)) as mine:
        assert mine.generation > 1_000_000
        assert newest(tmp_path) == mine
        os.mkfifo(folder / f"{mine.generation + 1}.beat")  # nobody reads it
    assert newest(tmp_path) == mine


def test_a_run_whose_record_cannot_be_looked_at_is_not_left_out(tmp_path: Path) -> None:
    run = tmp_path / "runs" / ("a" * 12)
    run.mkdir(parents=True)
    assert run_folders(tmp_path) == []
    (run / "run.json").symlink_to(run / "run.json")  # an error, as of a folder that is locked
    assert run_folders(tmp_path) == [run]
    with pytest.raises(Refusal, match=r"cannot read .*run\.json"):
        Folder(tmp_path).record(run.name)


def test_an_empty_name_of_the_cache_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("SCALING_CACHE", "")
    assert cache_folder() == Path("/somewhere/.cache/scaling-laws")


def test_without_a_home_the_cache_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SCALING_CACHE")
    monkeypatch.setattr(Path, "expanduser", nowhere)
    with pytest.raises(Refusal, match=r"there is no home folder.*Set SCALING_CACHE"):
        cache_folder()


@pytest.mark.parametrize("name", ["SCALING_CACHE", "HOME"])
def test_a_cache_that_depends_on_the_working_directory_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALING_CACHE", "")
    monkeypatch.setenv(name, "some/where")
    with pytest.raises(Refusal, match=rf"{name} = 'some/where' puts the cache at .*from / on"):
        cache_folder()
