"""A log may be anything by the time it is read, and what cannot be printed stops nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scaling.launch.output import LOGS, TAIL_BYTES, Unbroken, log_tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / LOGS).mkdir()
    return tmp_path / LOGS / "a.log"


def test_the_last_lines_of_a_huge_log_are_read_from_its_end(log: Path, tmp_path: Path) -> None:
    with log.open("wb") as file:
        file.seek(10**12)  # sparse: reading it all would take hours
        file.write(b"\nfirst\n\nsecond \xff\nthird\nlast\n")
    said = log_tail(tmp_path, "a.log")
    assert said.endswith("second � | third | last") and len(said) < TAIL_BYTES


def test_a_line_without_an_end_is_cut(log: Path, tmp_path: Path) -> None:
    log.write_bytes(b"x" * 10**6)
    assert len(log_tail(tmp_path, "a.log")) < 2 * TAIL_BYTES


def test_a_log_that_cannot_be_read_is_said(log: Path, tmp_path: Path) -> None:
    assert "nothing could be written to" in log_tail(tmp_path, "a.log")
    os.mkfifo(log)  # nobody writes to it: reading would wait for ever
    assert "is no file" in log_tail(tmp_path, "a.log")
    log.unlink()
    (tmp_path / "other").write_text("a secret")
    log.symlink_to(tmp_path / "other")
    assert "cannot be read" in log_tail(tmp_path, "a.log")
    assert "a secret" not in log_tail(tmp_path, "../other")
    assert log_tail(tmp_path, "") == "it kept no log"
    log.unlink()
    log.touch()
    assert "is empty" in log_tail(tmp_path, "a.log")


def test_a_log_whose_folder_is_gone_is_told_with_the_folder(tmp_path: Path) -> None:
    assert (
        log_tail(tmp_path / "gone", "a.log") == f"{tmp_path / 'gone'} is gone, and its log with it"
    )


def test_a_full_disk_under_a_log_stops_nothing() -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        stream = Unbroken(full)
        print("a line", file=stream)
        print("another", file=stream)
        assert stream.lost is not None and "No space" in str(stream.lost)
