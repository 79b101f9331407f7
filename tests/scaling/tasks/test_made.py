"""Task windows are made once, read like text, and are those that a run always had."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.data.corpus import Corpus
from scaling.store import records
from scaling.store.records import Refusal
from scaling.tasks import made, making
from scaling.tasks.made import MadeWindows, MixedBatches, made_windows
from scaling.tasks.making import windows_made_beside
from scaling.tasks.mix import TaskMix, TaskSpec
from scaling.tasks.task import Item
from scaling.tasks.windows import TaskWindows

COPY, ADD = TaskSpec("copy", {"length": 10}, 5.0), TaskSpec("addition", {"digits": 1}, 2.0)
MIX = TaskMix(7, (COPY, ADD), (0, 4), 32)
Make = Callable[..., MadeWindows]


@pytest.fixture
def make(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """The windows of `MIX`, four to a file."""
    monkeypatch.setattr(made, "FILE_TOKENS", 4 * 65)

    def make(mix: TaskMix = MIX, sequence_length: int = 64, seed: int = 0) -> MadeWindows:
        return made_windows(mix, corpus, sequence_length, seed, tmp_path / "cache")

    return make


def files(windows: MadeWindows) -> list[str]:
    return sorted(file.name.partition("-")[0] for file in windows.folder.iterdir())


def no_more(patch: pytest.MonkeyPatch) -> None:
    def window(*_: Any) -> Any:
        raise AssertionError("a window was made")

    patch.setattr(TaskWindows, "window", window)


def test_the_windows_of_the_reference_study_are_the_bits_that_it_was_trained_on(make: Make) -> None:
    rows = make(sequence_length=128).windows.rows(0, 700)
    # As printed by the version that trained results/reference/emergence.
    assert hashlib.sha256(rows.tobytes()).hexdigest().startswith("b21b173c90f239bf")


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 4), (3, 2), (5, 9), (8, 4)])
def test_they_are_those_of_their_places_across_files(make: Make, first: int, count: int) -> None:
    windows = make()
    rows = windows.rows(first, count)
    assert rows.dtype == np.int32 and (rows == windows.windows.rows(first, count)).all()


def test_they_are_made_once_and_a_longer_run_adds_to_them(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = make().rows(0, 8)
    assert files(make()) == ["000000000", "000000001"]
    with monkeypatch.context() as patch:
        no_more(patch)
        assert (make().rows(0, 8) == short).all()
        with pytest.raises(AssertionError, match="a window was made"):
            make().rows(0, 9)
    assert (make().rows(0, 9)[:8] == short).all()
    assert files(make()) == ["000000000", "000000001", "000000002"]


def test_a_batch_has_the_windows_of_its_step(make: Make, corpus: Corpus) -> None:
    text = corpus.batches(64, 1, 0)
    batches = MixedBatches(text, make(), 3)
    found = batches.span(2, 2)
    assert found.shape == (2, 4, 65)
    assert (found[:, :1] == text.span(2, 2)).all()
    assert (found[:, 1:].reshape(6, 65) == make().rows(6, 6)).all()


@pytest.mark.parametrize("bit", [0, 77, 8 * 65 * 4 - 1])
def test_a_damaged_file_is_made_again(
    make: Make, capsys: pytest.CaptureFixture[str], bit: int
) -> None:
    rows = make().rows(0, 4)
    (file,) = make().folder.iterdir()
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    assert (make().rows(0, 4) == rows).all()
    assert "it has changed since it was written; it is made again" in capsys.readouterr().err
    make().rows(0, 4)
    assert not capsys.readouterr().err


def test_what_they_are_a_function_of_names_their_folder_and_nothing_else(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = TaskMix(2, (COPY, ADD, TaskSpec("recall", {}, 0.0)), (1,), 8, 3)
    assert make(asked).folder == make().folder
    others = [
        make(seed=1),
        make(sequence_length=32),
        make(TaskMix(7, (COPY,), (0, 4), 32)),
        make(TaskMix(7, (ADD, COPY), (0, 4), 32)),
        make(TaskMix(7, (COPY, TaskSpec("addition", {"digits": 1}, 3.0)), (0, 4), 32)),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(made, "_code", lambda: "of another version")
        others.append(make())
    assert len({each.folder for each in [make(), *others]}) == 1 + len(others)


def test_a_full_disk_is_refused_with_its_reason_and_what_to_change(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(Refusal, match=r"No space left on device.* SCALING_CACHE names the folder"):
        make().rows(0, 1)
    assert list(make().folder.iterdir()) == []


def test_no_window_with_an_item_for_evaluation_is_made(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Item, "held_out", property(lambda item: item.prompt != "never"))
    with pytest.raises(Refusal, match="every item is for evaluation"):
        make().rows(0, 1)


def test_a_process_makes_many_files_beside_the_run_which_waits_for_them(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = made_windows(MIX, corpus, 64, 0, tmp_path)
    batches = MixedBatches(corpus.batches(64, 1, 0), windows, 7)
    expected = windows.windows.rows(windows.per_file - 3, 6)
    monkeypatch.setattr(making, "MANY_FILES", 2)
    steps = 1 + windows.per_file // 7
    with windows_made_beside(batches, MIX, corpus, 0, steps):
        no_more(monkeypatch)
        assert (windows.rows(windows.per_file - 3, 6) == expected).all()
    assert files(windows) == ["000000000", "000000001"]
    assert not windows.others_make()


def test_few_files_or_files_that_are_there_start_no_process(
    make: Make, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def popen(*_: Any, **__: Any) -> Any:
        raise AssertionError("a process was started")

    monkeypatch.setattr(making.subprocess, "Popen", popen)
    batches = MixedBatches(corpus.batches(64, 1, 0), make(), 4)
    for first, last in ((0, making.MANY_FILES - 1), (5, 5)):
        with windows_made_beside(batches, MIX, corpus, first, last):
            pass
    with pytest.raises(AssertionError, match="a process was started"):
        windows_made_beside(batches, MIX, corpus, 0, making.MANY_FILES).__enter__()
    make().rows(0, 4 * making.MANY_FILES)
    with windows_made_beside(batches, MIX, corpus, 0, making.MANY_FILES):
        pass


def test_the_process_stops_when_the_run_that_asked_is_gone(
    make: Make, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making.signal, "signal", lambda *_: None)
    asked = {
        "mix": {"sequences": 7, "tasks": [{"task": "copy"}], "shots": [0], "items": 4},
        **{"corpus": [corpus.info.fingerprint, str(corpus.folder.parent)]},
        **{"sequence_length": 64, "seed": 0, "cache": str(tmp_path / "cache"), "files": [0, 3]},
    }
    making.main(json.dumps(asked), str(os.getppid() + 1))
    assert not (tmp_path / "cache").exists()
    making.main(json.dumps(asked), str(os.getppid()))
    mix = TaskMix(7, (TaskSpec("copy"),), (0,), 4)
    assert files(make(mix)) == ["000000000", "000000001", "000000002"]
