"""What .ci/run says and returns where its steps do nothing; and which tests each target selects."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script, in which every step of it is a command that does nothing."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    for step in (".ci/other-python", ".venv/bin/python", "bin/make"):
        file = tmp_path / step
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('#!/bin/sh\ntest "$1" != "$FAILS" || exit 3\n')
        file.chmod(0o755)
    return tmp_path


def run(checkout: Path, fails: str) -> tuple[int, list[str]]:
    """The exit code, and the steps of the table at the end."""
    found = subprocess.run(
        [checkout / ".ci/run"],
        env={"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", "FAILS": fails},
        capture_output=True,
        text=True,
        check=False,
    )
    _, table = found.stdout.split("minutes  step\n")
    assert found.stderr == ""
    return found.returncode, re.findall(r"(?m)^ +\d+\.\d  (.*)$", table)


def test_the_table_has_every_step_and_the_whole(checkout: Path) -> None:
    code, steps = run(checkout, fails="")
    written = re.findall(r"(?m)^run (.*)$", (ROOT / ".ci" / "run").read_text())
    assert len(written) > 10
    assert (code, steps) == (0, [*written, "in all"])


def test_a_step_that_fails_ends_the_run_with_its_code_and_the_table(checkout: Path) -> None:
    code, steps = run(checkout, fails="types")
    assert (code, steps) == (3, ["make install", "make lint", "make types  FAILED", "in all"])


def test_only_their_own_target_selects_tests_that_start_servers() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = dict(re.findall(r"(?m)^(test[\w-]*|faults):.*\n((?:\t.*\n)+)", makefile))
    assert {*targets} == {
        "test",
        "test-slow",
        "faults",
        "test-servers",
        "test-slurm",
        "test-extras",
    }
    assert "-m servers" in targets["test-servers"] and "-m servers" in targets["test-slurm"]
    for name in ("test", "test-slow", "faults"):
        assert re.search(r'-m "(not )?slow and not servers"', targets[name]), name
