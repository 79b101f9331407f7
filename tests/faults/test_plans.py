"""Two launches of one study whose file is edited in between, as processes that know nothing of
each other: one plan comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaling.store.manifest import read_manifest

Survived = Callable[[str, int], None]
Make = Callable[..., Any]
ASKED = "tokens = [3072, 6144]"


def begun(grid: Any) -> Any:
    """A launch that trains."""
    process = grid.launch(workers=1)
    while not list(grid.folder.glob("runs/*/attempts/*/checkpoints/8")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    return process


@pytest.mark.slow
def test_a_launch_that_adds_a_budget_while_another_trains(
    make: Make, tmp_path: Path, survived: Survived
) -> None:
    survived("a budget added while another launch trains", 1)
    more = (ASKED, "tokens = [3072, 4608, 6144, 8192]")
    truth = make(tmp_path / "truth", more)
    assert set(truth.train()) == {"completed"}
    first = begun(make(tmp_path / "grid"))
    edited = make(tmp_path / "grid", more)
    second = edited.launch(workers=1)
    for process in (first, second):
        code, said = edited.finish(process)
        assert code == 0, said
    edited.assert_whole(truth)


@pytest.mark.slow
def test_a_launch_that_drops_a_budget_while_another_trains(
    make: Make, undisturbed: Any, tmp_path: Path, survived: Survived
) -> None:
    survived("a budget dropped while another launch trains", 1)
    grid = make(tmp_path)
    study, _ = grid.study.read_bytes(), grid.plan  # before the file is edited
    first = begun(grid)
    code, said = grid.finish(make(tmp_path, (ASKED, "tokens = [3072]")).launch(workers=1))
    assert code == 2 and "leaves runs of that one out" in said
    assert read_manifest(grid.folder).study_sha256[:12] in said
    code, said = grid.finish(first)
    assert code == 0, said
    assert (grid.folder / "study.toml").read_bytes() == study
    grid.assert_whole(undisturbed)
