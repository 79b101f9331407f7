"""Whatever asks `scaling run` to stop, and whenever, it ends as interrupted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from experiments.cli import __main__ as command_line
from experiments.cli.__main__ import INTERRUPTED, main
from experiments.cli.join import plan as planning
from scaling.launch import launcher
from scaling.launch.stops import STOPS
from scaling.store import table
from scaling.store.records import Refusal


@pytest.fixture
def run(
    write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], int]:
    """`scaling run` of a tiny study; its exit code."""
    words = ["scaling", "run", write_study(), "--results", tmp_path / "results"]
    monkeypatch.setattr(sys, "argv", [*map(str, words), "--max-hours", "1", "--workers", "1"])
    return main


def signalled(number: int) -> Callable[..., None]:
    return lambda *_: os.kill(os.getpid(), number)


def test_a_signal_while_the_command_is_imported_interrupts(
    run: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the process would have died"))
    monkeypatch.setattr(command_line, "import_module", signalled(signal.SIGTERM))
    try:
        assert run() == INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_while_the_grid_is_planned_interrupts(
    run: Callable[[], int], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = signal.signal(number, lambda *_: pytest.fail("the process would have died"))
    monkeypatch.setattr(planning, "plan_study", signalled(number))
    try:
        assert run() == INTERRUPTED
    finally:
        signal.signal(number, before)


def test_a_signal_while_the_table_is_collected_interrupts(
    run: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the process would have died"))
    monkeypatch.setattr(launcher, "launch", lambda *_: [])
    monkeypatch.setattr(table, "publish_table", signalled(signal.SIGTERM))
    try:
        assert run() == INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("stopped", [launcher.TimeUp, KeyboardInterrupt])
def test_a_table_that_cannot_be_written_does_not_hide_that_the_launch_was_stopped(
    run: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stopped: type[BaseException],
) -> None:
    def stop(*_: Any) -> NoReturn:
        raise stopped

    def full(*_: Any) -> NoReturn:
        raise Refusal("cannot write runs.parquet: No space left on device")

    monkeypatch.setattr(launcher, "launch", stop)
    monkeypatch.setattr(table, "publish_table", full)
    assert run() == INTERRUPTED
    assert "No space left on device" in capsys.readouterr().err
