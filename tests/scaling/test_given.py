"""A pipe that a user names is waited for, and not without a word."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.cli.join.devices import DeviceOptions
from models.devices import SHIPPED
from scaling.data.packages import find
from scaling.data.sources import open_sources
from scaling.data.tokenizer import vocabulary
from scaling.store import waiting
from scaling.store.records import Refusal
from scaling.study import DataSection, read_study, study_bytes
from scaling.tasks.jsonl import read_items

QUIET = 0.1


def fed(path: Path, *parts: bytes) -> threading.Thread:
    """Feeds a pipe: waits before it opens it, and before each part."""

    def feed() -> None:
        time.sleep(4 * QUIET)
        with path.open("wb", buffering=0) as pipe:
            for part in parts:
                time.sleep(4 * QUIET)
                pipe.write(part)

    writer = threading.Thread(target=feed)
    writer.start()
    return writer


def test_a_study_from_a_slow_pipe_is_read_and_waiting_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "SILENCE", QUIET)
    os.mkfifo(path := tmp_path / "study")
    writer = fed(path, b"name =", b' "x"\n')
    assert study_bytes(path) == b'name = "x"\n'
    writer.join()
    said = capsys.readouterr().err
    assert said.startswith(f"waiting: {path} has not ended") and said.count("\n") == 1


def test_of_a_file_that_is_there_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "SILENCE", 60)
    (tmp_path / "study.toml").write_text("x")
    before = threading.active_count()
    assert study_bytes(tmp_path / "study.toml") == b"x"
    while threading.active_count() > before:  # the note ends with the reading
        time.sleep(0.01)
    assert not capsys.readouterr().err


def test_devices_of_ones_own_come_from_a_pipe_for_all_that_are_named(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "mine")
    writer = fed(path, SHIPPED.read_bytes().replace(b"[h200]", b"[mine]"))
    found = DeviceOptions(device=("mine", "l4"), devices=path).named()
    assert [each.name for each in found] == ["mine", "l4"]
    writer.join()


@pytest.mark.parametrize(
    "read", [read_study, lambda path: DeviceOptions(("x",), devices=path).named()]
)
def test_an_endless_device_is_refused(read: Callable[[Path], object]) -> None:
    with pytest.raises(Refusal, match=r"larger than 1,048,576 bytes"):
        read(Path("/dev/zero"))


def given(**fields: object) -> DataSection:
    return DataSection(**{"sequence_length": 8, "holdout_fraction": 0.2, **fields})


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(read_items, id="tasks"),
        pytest.param(lambda path: vocabulary(given(source="sotu", tokenizer=str(path))), id="bpe"),
        pytest.param(lambda path: find(f"packages:{path}"), id="packages"),
        pytest.param(lambda path: open_sources(given(source=str(path))), id="corpus"),
    ],
)
def test_a_pipe_is_refused_where_other_processes_read_the_input_again(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    os.mkfifo(path := tmp_path / "a.jsonl")
    with pytest.raises(Refusal, match=r"no regular file|is no file"):
        read(path)
